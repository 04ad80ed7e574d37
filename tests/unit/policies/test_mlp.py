"""The mlp policy: what it is built over, how it samples, and that a policy file carries it."""

import numpy as np
import pytest
import torch

from acceerl.policies import MlpPolicy, load_policy, save_policy
from acceerl.policies.mlp import WIDE, _dense
from acceerl.protocols import PolicySpec
from acceerl.types import ObservationBatch

BLIND = PolicySpec(chunk=2, action_dim=3, bins=5, cameras=(), image_size=(0, 0), proprio=4)
FLOATS = PolicySpec(chunk=4, action_dim=3, bins=11, cameras=("front",), image_size=(8, 8), proprio=7)


def seen(n: int, spec: PolicySpec, *shape: int, dtype: type = np.float32) -> ObservationBatch:
    rng = np.random.default_rng(0)
    images = {c: (255 * rng.random((n, *shape))).astype(dtype) for c in spec.cameras}
    return ObservationBatch(images, rng.normal(size=(n, spec.proprio)).astype(np.float32), ("",) * n)


def test_works_without_cameras():
    acted = MlpPolicy(BLIND).act(seen(3, BLIND), greedy=False)
    assert acted.tokens.shape == (3, 2, 3)
    assert np.isfinite(acted.logp).all()


def test_takes_floats_in_the_order_given():
    policy = MlpPolicy(FLOATS, hidden=[16])
    first = seen(2, FLOATS, 3, 8, 8)
    last = ObservationBatch({"front": first.images["front"].reshape(2, 8, 8, 3)}, first.proprio, first.instructions)
    assert np.array_equal(policy.act(first, True).values, policy.act(last, True).values)


def test_bytes_are_scaled_to_one():
    policy = MlpPolicy(FLOATS, hidden=[16])
    batch = seen(2, FLOATS, 8, 8, 3, dtype=np.uint8)
    scaled = ObservationBatch(
        {"front": (batch.images["front"] / 255).astype(np.float32)}, batch.proprio, batch.instructions
    )
    np.testing.assert_allclose(policy.act(batch, True).values, policy.act(scaled, True).values, rtol=1e-5)


@pytest.mark.parametrize("rows", [1, 2, 3, 14])
def test_a_wide_layer_computes_what_any_layer_does(rows):
    """In float64: sums over so many entries are rounded otherwise on every processor."""
    layer = torch.nn.Linear(2 * WIDE, 6, dtype=torch.float64)
    given = torch.randn(rows, 2 * WIDE, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    expected, computed = layer(given), _dense(layer, given)
    torch.testing.assert_close(computed, expected)
    wanted = torch.autograd.grad(expected.square().sum(), list(layer.parameters()))
    torch.testing.assert_close(torch.autograd.grad(computed.square().sum(), list(layer.parameters())), wanted)


def test_samples_follow_the_probabilities():
    spec = PolicySpec(chunk=1, action_dim=1, bins=3, cameras=(), image_size=(0, 0), proprio=1)
    policy = MlpPolicy(spec, hidden=[4])
    with torch.no_grad():
        policy.head.weight.zero_()
        policy.head.bias.copy_(torch.log(torch.tensor([0.5, 0.3, 0.2])))
    tokens = policy.act(seen(20_000, spec), greedy=False).tokens
    np.testing.assert_allclose(np.bincount(tokens.ravel()) / 20_000, [0.5, 0.3, 0.2], atol=0.02)


def test_equal_seeds_sample_equally():
    policy, batch = MlpPolicy(BLIND), seen(4, BLIND)
    policy.seed(7)
    first = policy.act(batch, False).tokens
    policy.seed(7)
    assert np.array_equal(policy.act(batch, False).tokens, first)


def test_the_value_trains_its_head_alone():
    policy = MlpPolicy(BLIND)
    policy.evaluate(seen(2, BLIND), np.zeros((2, 2, 3), np.int64)).values.sum().backward()
    assert {n for n, p in policy.named_parameters() if p.grad is not None} == {"value_head.weight", "value_head.bias"}


def test_a_policy_file_carries_it(tmp_path):
    policy = MlpPolicy(BLIND, hidden=[8, 16], seed=3)
    save_policy(tmp_path / "p.pt", policy)
    loaded, _ = load_policy(tmp_path / "p.pt", BLIND)
    batch = seen(2, BLIND)
    assert np.array_equal(loaded.act(batch, True).values, policy.act(batch, True).values)


@pytest.mark.parametrize("hidden", [[], [0]])
def test_layers_without_units_are_refused(hidden):
    with pytest.raises(ValueError, match=r"policy\.hidden"):
        MlpPolicy(BLIND, hidden=hidden)
