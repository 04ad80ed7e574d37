"""The computed memory of openvla_oft against what torch holds: parameters, and tensors that autograd saves."""

from dataclasses import replace

import pytest
import torch

from acceerl.policies.openvla_oft import lora, memory
from acceerl.policies.openvla_oft.network import ValueHead, empty_network, random_network
from acceerl.policies.openvla_oft.prompts import Prompts
from acceerl.policies.openvla_oft.shape import SHAPES

pytestmark = pytest.mark.needs("transformers")


@pytest.mark.parametrize("name", SHAPES)
def test_parameters_are_counted(name):
    shape = SHAPES[name]
    network = empty_network(shape)
    assert memory.network_parameters(shape) == sum(p.numel() for p in network.parameters())
    dense = [m for m in network.modules() if isinstance(m, torch.nn.Linear)]
    assert memory.adapter_parameters(shape, 32) == sum(32 * (m.in_features + m.out_features) for m in dense)
    width = shape.language.hidden_size
    heads = shape.bins * width + sum(p.numel() for p in ValueHead(width, 1024).parameters())
    assert memory.head_parameters(shape, 1024) == heads


def saved(shape, rows, dtype, checkpointing, rank):
    """Bytes that autograd keeps of a forward pass, without parameters."""
    network, _ = random_network(shape, dtype, 0)
    lora.adapt([("", network)], rank, 16.0, torch.Generator().manual_seed(0))
    prompts = Prompts(lambda _: [1] * (memory.PROMPT - 1), 56).batch(["go"] * rows, torch.device("cpu"))
    own = {p.untyped_storage().data_ptr() for p in network.parameters()}
    kept = {}

    def pack(tensor):
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own and tensor.shape[-1] != rank and tensor.shape[:1] != (rank,):
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        states = network(torch.randn(rows, 1, 6, 224, 224).to(dtype), prompts, 56, not checkpointing)
    assert states.requires_grad
    return sum(kept.values())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("changes", [{}, {"hidden_size": 128}, {"intermediate_size": 300}, {"num_hidden_layers": 6}])
def test_activations_are_those_that_autograd_saves(dtype, changes):
    shape = replace(SHAPES["tiny"], language=replace(SHAPES["tiny"].language, **changes))
    computed = 2 * memory.activation_bytes(shape, 1, 56, 0, dtype.itemsize)
    assert computed == pytest.approx(saved(shape, 2, dtype, False, 8), rel=0.05)


def test_checkpointing_keeps_the_inputs_of_layers():
    shape = SHAPES["tiny"]
    found = saved(shape, 2, torch.bfloat16, True, 8)
    computed = 2 * memory.activation_bytes(shape, 1, 56, 0, 2, checkpointing=True)
    one_layer = 2 * memory._sequence(shape, 1, 56) * memory._llama_token(shape.language, 0, 2)
    assert computed - one_layer == pytest.approx(found, rel=0.1)


def test_a_plan_needs_a_shape(tmp_path):
    numbers = {"learner_rows": 12, "serving_rows": 16}
    plan = memory.plan({"random": "7b", "chunk": 8}, 1, **numbers)
    assert plan["learner"].total == memory.learner_memory(SHAPES["7b"], micro_batch=12).total
    assert plan["inference"].total == memory.inference_memory(SHAPES["7b"], batch=16).total
    with pytest.raises(ValueError, match=r"config\.json is missing"):
        memory.plan({"checkpoint": str(tmp_path)}, 1, **numbers)


def test_the_published_size():
    shape = SHAPES["7b"]
    lora_32 = memory.learner_memory(shape, micro_batch=12)
    assert 14 < lora_32.weights / memory.GB < 16
    assert 20 < lora_32.activations / memory.GB < 35
    recomputed = memory.learner_memory(shape, micro_batch=12, checkpointing=True)
    assert recomputed.activations < lora_32.activations / 6
    full = memory.learner_memory(shape, micro_batch=1, full=True)
    assert full.total > 16 * memory.network_parameters(shape)
    serving = memory.inference_memory(shape, batch=16)
    assert lora_32.weights * 0.95 < serving.total < lora_32.weights + 5 * memory.GB
    assert str(recomputed).startswith(f"{recomputed.total / 1e9:.2f} GB = ")
