"""`bench policy`: its figures at tiny size, and the operations that they are counted in against torch's own count."""

from __future__ import annotations

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from acceerl.bench import policy
from acceerl.bench.result import about
from acceerl.policies.openvla_oft import flops
from acceerl.policies.openvla_oft.network import random_network
from acceerl.policies.openvla_oft.prompts import Prompts, made_up_encoder
from acceerl.policies.openvla_oft.shape import SHAPES

pytestmark = pytest.mark.needs("transformers")


def test_operations_are_those_that_torch_counts():
    shape = SHAPES["tiny"]
    network, _ = random_network(shape, torch.float32, 0)
    prompts = Prompts(made_up_encoder, 56).batch(["go on"], torch.device("cpu"))
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        network(torch.zeros(1, 1, 6, 224, 224), prompts, 56)
    dense = sum(n for op, n in counter.get_flop_counts()["Global"].items() if "mm" in str(op))
    assert flops.forward(shape, 1, prompts.ids.shape[1]) == dense
    assert flops.update(shape, 1, 60, full=True) == 1.5 * flops.update(shape, 1, 60, full=False)


def test_seven_billion_parameters_are_five_teraflop_a_decision():
    """14 GFLOP a token (two a weight) over some 350 tokens, vision beside."""
    assert 4.5e12 < flops.forward(SHAPES["7b"], 1, 100) < 5.5e12


def test_every_figure_is_there_and_documented():
    result = policy.run(policy.Options(batch=1, segment=1, segments=1, rounds=1))
    assert set(result.figures) == set(policy.FIGURES) - {"policy.gpu_gb"}
    assert all(value > 0 and about(name, policy.FIGURES) for name, value in result.figures.items())
    assert [row["what"] for row in result.rows] == ["peak", "acting", "acting, eager", "learning"]
