"""What every Policy must do, run over each implementation: add a line to `POLICIES` when you add one."""

import numpy as np
import pytest
import torch

from acceerl.policies import MlpPolicy, OpenVlaOftPolicy, TinyPolicy
from acceerl.protocols import Policy, PolicySpec
from acceerl.types import ObservationBatch

SPEC = PolicySpec(chunk=4, action_dim=7, bins=64, cameras=("front", "wrist"), image_size=(32, 32), proprio=5)
POLICIES = {
    "tiny": lambda: TinyPolicy(SPEC, width=32, layers=2, channels=16, waves=16),
    "mlp": lambda: MlpPolicy(SPEC, hidden=[16, 16]),
    "openvla_oft": lambda: OpenVlaOftPolicy(SPEC, random="tiny", rank=4, precision="float32"),
    "openvla_oft_full": lambda: OpenVlaOftPolicy(SPEC, random="tiny", tune="full", precision="float32"),
}
OPENVLA = pytest.mark.needs("transformers")
N = 3


@pytest.fixture(params=[pytest.param(name, marks=OPENVLA if "openvla" in name else ()) for name in POLICIES])
def policy(request):
    torch.manual_seed(0)
    return POLICIES[request.param]()


@pytest.fixture
def seen():
    rng = np.random.default_rng(0)
    images = {name: rng.integers(0, 256, (N, 32, 32, 3), dtype=np.uint8) for name in SPEC.cameras}
    return ObservationBatch(images, rng.normal(size=(N, 5)).astype(np.float32), ("push the cube",) * N)


def test_is_a_policy_and_a_module(policy):
    assert isinstance(policy, Policy)
    assert isinstance(policy, torch.nn.Module)
    assert policy.spec == SPEC


def test_act_returns_the_documented_arrays(policy, seen):
    batch = policy.act(seen, greedy=False)
    shape = (N, SPEC.chunk, SPEC.action_dim)
    assert (batch.tokens.shape, batch.logp.shape, batch.actions.shape, batch.values.shape) == (shape,) * 3 + ((N,),)
    assert (batch.tokens.dtype, batch.logp.dtype, batch.actions.dtype) == (np.int16, np.float32, np.float32)
    assert batch.values.dtype == np.float32
    assert np.abs(batch.actions).max() <= 1
    assert (batch.logp <= 0).all()
    assert batch.tokens.min() >= 0
    assert batch.tokens.max() < SPEC.bins


def test_evaluate_agrees_with_act(policy, seen):
    acted = policy.act(seen, greedy=[True, False, False])
    evaluated = policy.evaluate(seen, acted.tokens)
    assert evaluated.logits.shape == (N, SPEC.chunk, SPEC.action_dim, SPEC.bins)
    assert np.allclose(evaluated.logp.detach().numpy(), acted.logp, atol=1e-3)
    assert np.allclose(evaluated.values.detach().numpy(), acted.values, atol=1e-3)


def test_greedy_takes_the_most_likely_token(policy, seen):
    acted = policy.act(seen, greedy=True)
    best = policy.evaluate(seen, acted.tokens).logits.argmax(dim=-1)
    assert np.array_equal(acted.tokens, best.numpy())


def test_gradients_flow_through_all_three(policy, seen):
    evaluated = policy.evaluate(seen, np.zeros((N, SPEC.chunk, SPEC.action_dim), np.int64))
    assert evaluated.logp.requires_grad
    assert evaluated.logits.requires_grad
    assert evaluated.values.requires_grad


def test_trainable_parameters_have_a_value_head(policy):
    names = [name for name, _ in policy.trainable_parameters()]
    assert any(name.startswith("value") for name in names)
    assert not all(name.startswith("value") for name in names)
    assert set(names) <= {name for name, _ in policy.named_parameters()}


def test_act_leaves_no_graph_and_no_mode_behind(policy, seen):
    policy.train()
    policy.act(seen, greedy=True)
    assert policy.training
    assert all(p.grad is None for p in policy.parameters())
    policy.evaluate(seen, np.zeros((N, SPEC.chunk, SPEC.action_dim), np.int64)).logp.sum().backward()
