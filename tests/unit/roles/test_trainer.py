"""One update's optimiser step: the fast form computes what the plain one does, and takes any checkpoint's state."""

import copy

import numpy as np
import torch

from acceerl.config import Algo, Learner
from acceerl.policies import MlpPolicy
from acceerl.protocols import PolicySpec
from acceerl.roles.trainer import Trainer

SPEC = PolicySpec(chunk=2, action_dim=2, bins=5, cameras=(), image_size=(0, 0), proprio=6)


def trainer() -> Trainer:
    return Trainer(MlpPolicy(SPEC, hidden=[8]), Algo(), Learner(lr=1e-2, weight_decay=0.1, warmup=1), seed=0)


def step(optimiser: torch.optim.Optimizer, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    for group in optimiser.param_groups:
        for parameter in group["params"]:
            parameter.grad = torch.randn(parameter.shape, generator=generator)
    optimiser.step()


def entries(policy: MlpPolicy) -> np.ndarray:
    return np.concatenate([p.detach().numpy().ravel() for p in policy.parameters()])


def test_the_fused_step_is_the_plain_one():
    fused, plain = trainer(), trainer()
    groups = [{**group, "fused": False, "foreach": False} for group in plain.optimiser.param_groups]
    reference = torch.optim.AdamW(groups, foreach=False)
    for seed in range(10):
        step(fused.optimiser, seed)
        step(reference, seed)
    assert fused.optimiser.param_groups[0]["fused"]
    np.testing.assert_allclose(entries(fused.policy), entries(plain.policy), atol=1e-6)


def test_a_checkpoint_of_the_plain_step_goes_on_with_the_fused_one():
    before, after = trainer(), trainer()
    step(before.optimiser, 0)
    state = copy.deepcopy(before.state_dict())
    for group in state["optimiser"]["param_groups"]:
        group["fused"] = None
    after.load_state_dict(state)
    assert all(group["fused"] for group in after.optimiser.param_groups)
    for each in (before, after):
        step(each.optimiser, 1)
    assert np.array_equal(entries(before.policy), entries(after.policy))
