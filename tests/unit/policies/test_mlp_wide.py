"""The wide path of `mlp`: the same numbers and gradients as plain layers, also when parts are accumulated."""

import numpy as np
import torch
from torch.nn import functional as F

from acceerl.policies import mlp
from acceerl.policies.mlp import MlpPolicy
from acceerl.protocols import PolicySpec
from acceerl.types import Observation, ObservationBatch

SPEC = PolicySpec(chunk=2, action_dim=3, bins=5, cameras=("front",), image_size=(6, 6), proprio=4)


def batch(n, seed):
    rng = np.random.default_rng(seed)
    return ObservationBatch.stack(
        [Observation({"front": rng.random((3, 6, 6), np.float32)}, rng.random(4, np.float32), "move") for _ in range(n)]
    )


def gradients(policy, parts):
    policy.zero_grad(set_to_none=True)
    for observations in parts:
        tokens = np.zeros((len(observations), 2, 3), np.int64)
        evaluation = policy.evaluate(observations, tokens)
        (evaluation.logp.sum() + evaluation.values.square().sum()).backward()
    return {name: parameter.grad.clone() for name, parameter in policy.named_parameters()}


def test_gradients_of_accumulated_parts_are_those_of_plain_layers(monkeypatch):
    policy, parts = MlpPolicy(SPEC, (16, 8)), [batch(5, 0), batch(3, 1), batch(4, 2)]
    plain = gradients(policy, parts)
    monkeypatch.setattr(mlp, "WIDE", 50)  # of 112 numbers seen: the first layer counts as wide
    called = []
    monkeypatch.setattr(mlp._Wide, "apply", lambda *args, real=mlp._Wide.apply: called.append(1) or real(*args))
    wide = gradients(policy, parts)
    assert len(called) == len(parts)
    for name, gradient in plain.items():
        torch.testing.assert_close(wide[name], gradient, rtol=1e-5, atol=1e-6)


def test_light_and_heavy_acting_agree_with_evaluate(monkeypatch):
    policy, observations = MlpPolicy(SPEC, (16, 8)), batch(4, 3)
    assert policy.light
    light = policy.act(observations, greedy=True)
    monkeypatch.setattr(mlp, "WIDE", 50)
    assert not policy.light
    heavy = policy.act(observations, greedy=True)
    np.testing.assert_array_equal(light.tokens, heavy.tokens)
    np.testing.assert_allclose(light.logp, heavy.logp, atol=1e-5)
    np.testing.assert_allclose(light.values, heavy.values, atol=1e-5)
    evaluation = policy.evaluate(observations, light.tokens)
    np.testing.assert_allclose(light.logp, evaluation.logp.detach().numpy(), atol=1e-5)


def test_acting_sees_new_memory_and_new_numbers():
    """A version swaps a parameter's memory; an optimiser writes into the one that is there."""
    policy, observations = MlpPolicy(SPEC, (16, 8)), batch(2, 4)
    before = policy.act(observations, greedy=True).values
    with torch.no_grad():
        policy.value_head.bias += 1.0
    np.testing.assert_allclose(policy.act(observations, greedy=True).values, before + 1.0, atol=1e-5)
    policy.value_head.bias.data = policy.value_head.bias.data + 1.0
    np.testing.assert_allclose(policy.act(observations, greedy=True).values, before + 2.0, atol=1e-5)


def test_the_wide_layer_is_a_linear_layer():
    layer, rows = torch.nn.Linear(7, 3), torch.rand(5, 7)
    torch.testing.assert_close(
        mlp._Wide.apply(rows, layer.weight, layer.bias), F.linear(rows, layer.weight, layer.bias)
    )
