"""The law of the body: step after step, what is not executed changes nothing, each step teaches the same network."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from acceerl.world_models.law import Law
from tests.unit.world_models.worlds import SPEC

WALL = 0.5  # where the body stops: what happens at a step hangs on where the body is at that step


def law(seed: int = 0) -> Law:
    torch.manual_seed(seed)
    return Law(replace(SPEC, context=2))


def walks(n: int, steps: int, seed: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Two ticks of a body that its actions push, but not through the wall; and its true path."""
    generator = torch.Generator().manual_seed(seed)
    before = torch.rand(n, 2, 2, generator=generator) - 0.5
    actions = 0.4 * torch.randn(n, steps, 2, generator=generator)
    body, path = before[:, -1], []
    for step in range(steps):
        body = (body + actions[:, step]).clamp(max=WALL)
        path.append(body)
    return before, actions, torch.stack(path, dim=1)


def test_steps_that_are_not_executed_change_nothing():
    past, actions, _ = walks(3, 4, seed=0)
    path = law()(past, actions, torch.tensor([4, 2, 1]))
    assert path.shape == (3, 4, 2)
    assert torch.equal(path[1, 1], path[1, 3]) and not torch.equal(path[1, 0], path[1, 1])
    assert torch.equal(path[2, 0], path[2, 3])
    other = actions.clone()
    other[1, 2:] = 9.0
    assert torch.equal(law()(past, other, torch.tensor([4, 2, 1]))[1], path[1])


def test_a_step_hangs_on_no_later_action():
    past, actions, _ = walks(3, 4, seed=0)
    other = actions.clone()
    other[:, 2:] += 1.0
    one, two = (law()(past, a, torch.full((3,), 4)) for a in (actions, other))
    assert torch.equal(one[:, :2], two[:, :2]) and not torch.equal(one[:, 2], two[:, 2])


@pytest.mark.parametrize("steps", [4, 8], ids=["as many steps as it learnt from", "twice as many"])
def test_it_learns_what_a_step_does_from_where_the_body_is(steps: int):
    learnt = law()
    optimiser = torch.optim.Adam(learnt.parameters(), lr=2e-3)
    for update in range(800):
        past, actions, path = walks(64, 4, seed=update)
        loss = (learnt(past, actions, torch.full((64,), 4)) - path).abs().mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    past, actions, path = walks(256, steps, seed=10_000)
    error = (learnt(past, actions, torch.full((256,), steps)) - path).abs().mean()
    through = (past[:, -1:] + actions.cumsum(dim=1) - path).abs().mean()
    assert error < 0.3 * through, "a body that knows no wall is off by that much"
