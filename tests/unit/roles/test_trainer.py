"""One update's optimiser step: the fast form computes what the plain one does, and takes any checkpoint's state."""

import copy

import numpy as np
import pytest
import torch

from acceerl.algo.batch import micro_batches
from acceerl.config import Algo, Learner
from acceerl.policies import MlpPolicy
from acceerl.protocols import PolicySpec
from acceerl.roles.trainer import Trainer
from acceerl.types import Assignment, ObservationBatch, Segment

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


def paid(policy: MlpPolicy, reward: float) -> Segment:
    """32 decisions of this policy; each earns the reward and some noise."""
    rng = np.random.default_rng(0)
    seen = rng.standard_normal((33, 6)).astype(np.float32)
    chosen = policy.act(ObservationBatch({}, seen[:32], ("",) * 32), False)
    return Segment(
        assignment=Assignment(0, 0, 0), episode=0, start=0, instruction="", images={}, proprio=seen,
        tokens=chosen.tokens, logp=chosen.logp, values=chosen.values,
        rewards=(reward + rng.standard_normal(32)).astype(np.float32), executed=np.full(32, 2, np.int16),
        versions=np.zeros(32, np.int64), terminated=True, truncated=False,
    )  # fmt: skip


@pytest.mark.parametrize(("normalise", "least", "most"), [("batch", 0.0, 1e-4), ("lagged", 3.0, 1e9)])
def test_rewards_that_shift_between_updates_encourage_nothing_as_a_whole(normalise: str, least: float, most: float):
    """At a ratio of 1 the policy loss is minus the mean of the normalised advantages."""
    algo = Algo(gamma=0.0, kl_coef=0.0, normalise=normalise)  # type: ignore[arg-type]
    learning = Trainer(MlpPolicy(SPEC, hidden=[8]), algo, Learner(lr=0.0, value_lr=0.0, warmup=1), seed=0)
    for update, reward in enumerate((0.0, 5.0)):
        stats = learning.update(micro_batches([paid(learning.policy, reward)], 64), update)
    assert least <= abs(stats["policy_loss"]) <= most


def test_the_policys_rate_warms_up_when_its_turn_comes():
    numbers = Learner(lr=1.0, value_lr=0.5, warmup=4, value_warmup=6)
    learning = Trainer(MlpPolicy(SPEC, hidden=[8]), Algo(), numbers, seed=0)
    rates = []
    for update in range(12):
        rates.append([group["lr"] for group in learning.optimiser.param_groups])
        learning.update(micro_batches([paid(learning.policy, 0.0)], 64), update)
    policy, value = np.array(rates).T
    assert policy[6:11].tolist() == [0.25, 0.5, 0.75, 1.0, 1.0] and value[:5].tolist() == [0.125, 0.25, 0.375, 0.5, 0.5]
