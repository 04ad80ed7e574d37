"""openvla_oft besides its numbers: folders in and out, what is trained, and one clear line for each wrong input."""

import json
import os
import shutil
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from acceerl.policies import load_policy, save_policy
from acceerl.policies.openvla_oft import OpenVlaOftPolicy, checkpoint
from acceerl.policies.openvla_oft.network import empty_network
from acceerl.policies.openvla_oft.shape import SHAPES
from acceerl.protocols import PolicySpec
from acceerl.types import ObservationBatch
from tests.unit.policies import openvla_recipe as recipe

pytestmark = [pytest.mark.needs("transformers"), pytest.mark.needs("tokenizers"), pytest.mark.needs("safetensors")]
SPEC = PolicySpec(chunk=8, action_dim=7, bins=256, cameras=("agentview",), image_size=(64, 64), proprio=0)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return recipe.write(tmp_path_factory.mktemp("openvla") / "checkpoint")


@pytest.fixture
def copy(folder, tmp_path):
    """A checkpoint to spoil; its large files are links."""
    shutil.copytree(folder, tmp_path / "copy", copy_function=os.link)
    return tmp_path / "copy"


def make(folder, **kwargs):
    return OpenVlaOftPolicy(SPEC, checkpoint=str(folder), **{"rank": 2, "precision": "float32", **kwargs})


def seen(n=2, size=64):
    pictures = np.stack([recipe.picture(i, size) for i in range(n)])
    words = tuple(recipe.instruction(i) for i in range(n))
    return ObservationBatch({"agentview": pictures}, np.zeros((n, 0), np.float32), words)


def evaluate(policy):
    return policy.evaluate(seen(), np.full((2, 8, 7), 9))


def stir(policy, only="", by=0.05):
    """Other values for all that is trained."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, parameter in policy.trainable_parameters():
            if only in name:
                parameter += by * torch.randn(parameter.shape, generator=generator)


def edit(path, **changes):
    content = json.loads(path.read_text()) | changes
    path.unlink()  # not the original, to which it is linked
    path.write_text(json.dumps(content))


def test_load_save_load_gives_every_tensor_bit_by_bit(folder, tmp_path):
    make(folder).export(tmp_path / "out")
    ours, original = checkpoint.Shards(tmp_path / "out"), checkpoint.Shards(folder)
    assert ours.files == original.files
    assert set(ours.files) == set(recipe.shapes())
    for name in original.files:
        assert torch.equal(ours.tensor(name).view(torch.int32), original.tensor(name).view(torch.int32))
    for name in ("config.json", "dataset_statistics.json", "preprocessor_config.json", "tokenizer.json"):
        assert (tmp_path / "out" / name).read_bytes() == (folder / name).read_bytes()
    assert not list((tmp_path / "out").glob("*.partial"))
    again = make(tmp_path / "out")
    assert torch.equal(evaluate(again).logits, evaluate(make(folder)).logits)


def test_bfloat16_survives_the_way_through(folder, tmp_path):
    from safetensors.torch import save_file

    shutil.copytree(folder, tmp_path / "bf16")
    for path in (tmp_path / "bf16").glob("*.safetensors"):
        whole = checkpoint._open(path)
        save_file({name: whole.get_tensor(name).bfloat16() for name in whole.keys()}, path)  # noqa: SIM118
    policy = make(tmp_path / "bf16", precision="bfloat16")
    assert policy.network.projector.fc1.weight.dtype == torch.bfloat16
    policy.export(tmp_path / "out")
    before, after = checkpoint.Shards(tmp_path / "bf16"), checkpoint.Shards(tmp_path / "out")
    assert all(torch.equal(before.tensor(n).view(torch.int16), after.tensor(n).view(torch.int16)) for n in before.files)


def test_a_single_file_is_a_checkpoint_too(folder, tmp_path):
    single = recipe.write(tmp_path / "single", shards=1)
    (single / "model-00001-of-00001.safetensors").rename(single / "model.safetensors")
    (single / "model.safetensors.index.json").unlink()
    assert torch.equal(evaluate(make(single)).logits, evaluate(make(folder)).logits)


def test_what_was_trained_is_in_the_folder_that_is_written(folder, tmp_path):
    policy = make(folder)
    stir(policy)
    policy.export(tmp_path / "out")
    trained, written, untrained = (evaluate(p).logits for p in (policy, make(tmp_path / "out"), make(folder)))
    assert torch.allclose(trained, written, atol=1e-3)
    assert not torch.allclose(trained, untrained, atol=1e-1)


def test_adapters_go_out_and_come_in_as_peft_writes_them(folder, tmp_path):
    policy = make(folder)
    stir(policy, only="lora", by=0.02)
    policy.export_adapter(tmp_path / "adapter")
    assert json.loads((tmp_path / "adapter" / "adapter_config.json").read_text())["r"] == 2
    names = checkpoint._open(tmp_path / "adapter" / "adapter_model.safetensors").keys()
    assert "base_model.model.vision_backbone.featurizer.blocks.0.attn.qkv.lora_A.weight" in names
    merged = make(folder, adapter=str(tmp_path / "adapter"))
    assert torch.allclose(evaluate(merged).logits, evaluate(policy).logits, atol=1e-3)
    merged.export(tmp_path / "out")
    assert torch.allclose(evaluate(make(tmp_path / "out")).logits, evaluate(policy).logits, atol=1e-3)


def test_an_adapter_of_peft_is_merged_into_head_and_convolution_too(folder, tmp_path):
    """peft 0.11's `all-linear` adapts both, besides layers that OpenVLA never runs."""
    from safetensors.torch import save_file

    patches, head = "vision_backbone.featurizer.patch_embed.proj", "language_model.lm_head"
    shapes = {patches: ((2, 3, 14, 14), (32, 2, 1, 1)), head: ((2, 64), (32064, 2))}
    shapes["vision_backbone.fused_featurizer.attn_pool.q"] = ((2, 48), (48, 2))
    shapes["vision_backbone.featurizer.blocks.2.attn.qkv"] = ((2, 32), (96, 2))
    parts = {f"base_model.model.{name}.lora_{factor}.weight": torch.randn(shape) * 0.2
             for name, both in shapes.items() for factor, shape in zip("AB", both, strict=True)}  # fmt: skip
    checkpoint.write_adapter(tmp_path / "adapter", parts, 2, 1.0)
    expected = make(folder)
    scaled = {n: parts[f"base_model.model.{n}.lora_B.weight"].flatten(1) / 2
              @ parts[f"base_model.model.{n}.lora_A.weight"].flatten(1) for n in (patches, head)}  # fmt: skip
    with torch.no_grad():
        convolution = expected.network.get_submodule(patches).weight
        convolution += scaled[patches].view_as(convolution)
        expected.action_rows += scaled[head][32000 - 256 : 32000].flip(0)
    merged = make(folder, adapter=str(tmp_path / "adapter"))
    assert torch.allclose(evaluate(merged).logits, evaluate(expected).logits, atol=1e-3)
    assert not torch.allclose(evaluate(merged).logits, evaluate(make(folder)).logits, atol=0.1)
    save_file({}, tmp_path / "adapter" / "adapter_model.safetensors")
    with pytest.raises(ValueError, match=r"holds no adapter of this model \(none at all\)"):
        make(folder, adapter=str(tmp_path / "adapter"))
    checkpoint.write_adapter(
        tmp_path / "adapter", {"base_model.model.layers.0.q.lora_A.weight": torch.ones(2, 2)}, 2, 1
    )
    with pytest.raises(ValueError, match=r"holds no adapter of this model \(layers\.0\.q\)"):
        make(folder, adapter=str(tmp_path / "adapter"))


def test_every_dense_layer_has_an_adapter_and_the_rest_is_frozen(folder):
    policy = make(folder)
    dense = [n for n, m in policy.network.named_modules() if isinstance(m, torch.nn.Linear)]
    trained = {name for name, _ in policy.trainable_parameters()}
    adapters = {f"network.{name}.lora_{factor}" for name in dense for factor in "AB"}
    values = {name for name in trained if name.startswith("value")}
    assert len(dense) == 2 * 2 * 4 + 3 + 3 * 7  # two blocks of each tower, projector, three layers
    assert trained == adapters | values | {"action_rows"}
    assert set(policy.state_dict()) == trained


def test_gradients_reach_adapters_head_and_value_and_the_value_trains_nothing_else(folder):
    policy = make(folder)
    stir(policy)
    found = evaluate(policy)
    found.values.sum().backward()
    assert {n for n, p in policy.named_parameters() if p.grad is not None} == {
        n for n, _ in policy.trainable_parameters() if n.startswith("value")
    }
    evaluate(policy).logp.sum().backward()
    assert all(p.grad is not None and p.grad.any() for n, p in policy.trainable_parameters())
    assert all(p.grad is None for p in policy.parameters() if not p.requires_grad)


def test_recomputed_activations_give_the_same_gradients(folder):
    kept, recomputed = make(folder), make(folder, checkpointing=True)
    for policy in (kept, recomputed):
        stir(policy)
        evaluate(policy).logp.sum().backward()
    for (name, a), (_, b) in zip(kept.trainable_parameters(), recomputed.trainable_parameters(), strict=True):
        assert a.grad is None or torch.allclose(a.grad, b.grad, rtol=1e-4, atol=1e-6), name


def test_full_fine_tuning_trains_everything_that_counts(folder, tmp_path):
    policy = make(folder, tune="full", precision="bfloat16")
    assert all(p.dtype == torch.float32 and p.requires_grad for p in policy.parameters())
    evaluate(policy).logp.sum().backward()
    stir(policy)
    policy.export(tmp_path / "out")
    again = make(tmp_path / "out", tune="full", precision="bfloat16")
    assert torch.equal(evaluate(again).logits, evaluate(policy).logits)


def test_a_policy_file_holds_what_was_trained(folder, tmp_path):
    policy = make(folder)
    stir(policy)
    save_policy(tmp_path / "policy.pt", policy)
    assert (tmp_path / "policy.pt").stat().st_size < 2e6  # the model has 17 MB
    loaded, _ = load_policy(tmp_path / "policy.pt", SPEC)
    assert torch.equal(evaluate(loaded).logits, evaluate(policy).logits)
    with pytest.raises(RuntimeError, match="1 missing and 0 unexpected tensors, action_rows the first"):
        policy.load_state_dict({n: t for n, t in policy.state_dict().items() if n != "action_rows"})


def test_bfloat16_is_near_float32(folder):
    exact, near = (F.log_softmax(evaluate(make(folder, precision=p)).logits, -1) for p in ("float32", "bfloat16"))
    assert (exact - near).abs().mean() < 0.2


def test_several_cameras_follow_one_another(folder):
    both = replace(SPEC, cameras=("agentview", "wrist"))
    policy = OpenVlaOftPolicy(both, checkpoint=str(folder), precision="float32", rank=2)
    one = seen()
    two = ObservationBatch(one.images | {"wrist": one.images["agentview"][::-1]}, one.proprio, one.instructions)
    assert policy.pixels(two.images, torch.device("cpu")).shape == (2, 2, 6, 224, 224)
    assert policy.act(two, greedy=True).tokens.shape == (2, 8, 7)


def test_imitated_tokens_are_those_that_act_as_told(folder):
    scale = make(folder).scale
    tokens = np.tile(np.arange(256)[:, None], (1, 7))
    tokens[:, 6] = np.where(tokens[:, 6] < 190, 127, 255)  # closed and open as the data have them
    acted = scale.to_env(tokens)
    inside = (np.abs(scale.decode(tokens)[:, :6]) <= 1).all(axis=1) & (tokens[:, 0] < 255)
    assert np.array_equal(scale.encode(acted)[inside], tokens[inside])
    assert set(acted[:, 6]) == {-1.0, 1.0}


def test_a_seven_billion_checkpoint_has_the_published_names_and_sizes():
    network = empty_network(SHAPES["7b"])
    sizes = {name: tuple(p.shape) for name, p in network.named_parameters()}
    assert all(p.device.type == "meta" for p in network.parameters())
    assert len(sizes) == 32 * 9 + 2 + 6 + (23 * 14 + 5) + (26 * 12 + 3)
    assert sizes["language_model.model.layers.31.mlp.down_proj.weight"] == (4096, 11008)
    assert sizes["vision_backbone.featurizer.blocks.22.ls2.scale_factor"] == (1024,)
    assert sizes["vision_backbone.fused_featurizer.blocks.25.mlp.fc1.weight"] == (4304, 1152)
    assert sizes["projector.fc1.weight"] == (8704, 2176)
    # published: 7,541,237,184 with the words' head, the last blocks, their norms and SigLIP's pooling
    unused = 32064 * 4096 + _block(1024, 4096, scaled=True) + _block(1152, 4304) + 2 * (1024 + 1152)
    unused += 1152 + 4 * 1152**2 + 4 * 1152 + 2 * 1152 + 2 * 1152 * 4304 + 4304 + 1152
    assert sum(p.numel() for p in network.parameters()) + unused == 7_541_237_184


def _block(width, mlp, scaled=False):
    return 4 * width**2 + 4 * width + 4 * width + 2 * width * mlp + mlp + width + (2 * width if scaled else 0)


MEMORY = """
import resource, sys, torch
from acceerl.policies.openvla_oft import checkpoint
from acceerl.policies.openvla_oft.language import LanguageModel
from acceerl.policies.openvla_oft.shape import Language
with torch.device("meta"):
    module = torch.nn.ModuleDict({"language_model": LanguageModel(Language(8000, 512, 1408, 6, 8, 8))})
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
checkpoint.load(module, checkpoint.Shards(__import__("pathlib").Path(sys.argv[1])), torch.float32)
total = sum(p.double().sum() for p in module.parameters())  # every page is read
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024)
"""


@pytest.mark.slow
def test_loading_holds_the_model_once(tmp_path):
    from safetensors.torch import save_file

    from acceerl.policies.openvla_oft.language import LanguageModel
    from acceerl.policies.openvla_oft.shape import Language

    with torch.device("meta"):
        names = {n: p.shape for n, p in LanguageModel(Language(8000, 512, 1408, 6, 8, 8)).named_parameters()}
    save_file({f"language_model.{n}": torch.ones(s) for n, s in names.items()}, tmp_path / "model.safetensors")
    size = (tmp_path / "model.safetensors").stat().st_size
    command = [sys.executable, "-c", MEMORY, str(tmp_path)]
    run = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert run.returncode == 0, run.stderr
    assert int(run.stdout) <= 1.2 * size


WRONG = [
    (lambda f: edit(f / "config.json", model_type="llava"), "a checkpoint of model_type 'llava'"),
    (lambda f: edit(f / "config.json", timm_model_ids=["a", "b"]), "vision towers"),
    (lambda f: edit(f / "config.json", n_action_bins=128), "set policy.bins=128"),
    (lambda f: (f / "config.json").unlink(), "config.json is missing: policy.checkpoint must be a folder"),
    (lambda f: (f / "model-00002-of-00002.safetensors").unlink(), "model-00002-of-00002.safetensors is missing"),
    (lambda f: edit(f / "model.safetensors.index.json", weight_map={}), "lacks .* copy the checkpoint again"),
    (lambda f: (f / "model.safetensors.index.json").unlink(), "holds no weights"),
    (lambda f: (f / "tokenizer.json").unlink(), "tokenizer.json is missing: copy the tokenizer"),
    (lambda f: (f / "preprocessor_config.json").unlink(), "preprocessor_config.json is missing"),
    (lambda f: (f / "dataset_statistics.json").unlink(), "dataset_statistics.json is missing and config.json has no"),
    (lambda f: edit(f / "dataset_statistics.json", other={}), "choose from libero_spatial_no_noops, other"),
]


@pytest.mark.parametrize(("spoil", "words"), WRONG)
def test_a_wrong_checkpoint_gets_one_clear_line(copy, spoil, words):
    spoil(copy)
    with pytest.raises(ValueError, match=words) as caught:
        make(copy)
    assert "\n" not in str(caught.value)


def test_a_cut_shard_and_a_broken_tokenizer_are_named(copy):
    cut = copy / "model-00001-of-00002.safetensors"
    content = cut.read_bytes()[:5000]
    cut.unlink()
    cut.write_bytes(content)
    with pytest.raises(ValueError, match=r"model-00001-of-00002\.safetensors is broken"):
        make(copy)
    (copy / "tokenizer.json").unlink()
    (copy / "tokenizer.json").write_text("{}")
    with pytest.raises(ValueError, match=r"tokenizer\.json is not a tokenizer file"):
        make(copy)


def test_a_tensor_of_another_shape_is_named(copy):
    language = recipe.config()["text_config"] | {"intermediate_size": 95}
    edit(copy / "config.json", text_config=language)
    with pytest.raises(ValueError, match=r"mlp\.gate_proj\.weight is \(96, 64\), by config.json it were \(95, 64\)"):
        make(copy)


@pytest.mark.parametrize(
    ("kwargs", "words"),
    [
        ({"statistics": "bridge"}, "policy.statistics='bridge' is not in .*: choose from libero_spatial_no_noops"),
        ({"tune": "half"}, "policy.tune=half is not known: choose from lora, full"),
        ({"precision": "int4"}, "policy.precision=int4"),
        ({"rank": 0}, "policy.rank=0 must be at least 1"),
        ({"temperature": 0.0}, "policy.temperature"),
        ({"adapter": "/nowhere"}, "adapter_config.json is missing"),
        ({"random": "tiny"}, "needs policy.checkpoint"),
    ],
)
def test_a_wrong_setting_gets_one_clear_line(folder, kwargs, words):
    with pytest.raises(ValueError, match=words):
        make(folder, **kwargs)


def test_images_of_another_size_or_kind_are_refused(folder):
    policy = make(folder)
    with pytest.raises(ValueError, match=r"camera 'agentview' shows \(32, 32\) pixels, this policy is for \(64, 64\)"):
        policy.act(seen(size=32), greedy=True)
    floats = ObservationBatch({"agentview": np.zeros((1, 64, 64, 3))}, np.zeros((1, 0)), ("go",))
    with pytest.raises(ValueError, match="takes uint8 images"):
        policy.act(floats, greedy=True)
    with pytest.raises(ValueError, match="square images"):
        OpenVlaOftPolicy(replace(SPEC, image_size=(64, 48)), random="tiny")


@pytest.mark.parametrize("package", ["transformers.models.llama.modeling_llama", "tokenizers", "safetensors"])
def test_a_package_that_is_missing_is_named_with_the_remedy(folder, monkeypatch, package):
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(ValueError, match=rf"needs {package.split('.')[0]} .*pip install 'acceerl\[openvla\]'"):
        make(folder)


def test_random_weights_have_no_folder_to_go_back_to(tmp_path):
    with pytest.raises(ValueError, match="random weights have no checkpoint"):
        OpenVlaOftPolicy(SPEC, random="tiny", rank=2).export(tmp_path)
    with pytest.raises(ValueError, match=r"policy\.random=8b is not known: choose from 7b, tiny"):
        OpenVlaOftPolicy(SPEC, random="8b")
