"""The law of the body: step after step, what is not executed changes nothing, each step teaches the same network."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from acceerl.world_models.law import Law, pinball
from tests.unit.world_models.worlds import SPEC

MIDDLE = 0.5  # of luck
WALL = 0.5  # where the body stops: what happens at a step hangs on where the body is at that step


def law(seed: int = 0) -> Law:
    torch.manual_seed(seed)
    return Law(replace(SPEC, context=2))


def told(of: Law, past: torch.Tensor, actions: torch.Tensor, executed: torch.Tensor | None = None) -> torch.Tensor:
    """The path that middling luck makes."""
    n, steps, _ = actions.shape
    return of(past, actions, torch.full((n,), steps) if executed is None else executed, torch.full((n,), MIDDLE))


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
    path = told(law(), past, actions, torch.tensor([4, 2, 1]))
    assert path.shape == (3, 4, 2)
    assert torch.equal(path[1, 1], path[1, 3]) and not torch.equal(path[1, 0], path[1, 1])
    assert torch.equal(path[2, 0], path[2, 3])
    other = actions.clone()
    other[1, 2:] = 9.0
    assert torch.equal(told(law(), past, other, torch.tensor([4, 2, 1]))[1], path[1])


def test_a_step_hangs_on_no_later_action():
    past, actions, _ = walks(3, 4, seed=0)
    other = actions.clone()
    other[:, 2:] += 1.0
    one, two = (told(law(), past, a) for a in (actions, other))
    assert torch.equal(one[:, :2], two[:, :2]) and not torch.equal(one[:, 2], two[:, 2])


@pytest.mark.parametrize("steps", [4, 8], ids=["as many steps as it learnt from", "twice as many"])
def test_it_learns_what_a_step_does_from_where_the_body_is(steps: int):
    learnt = law()
    optimiser = torch.optim.Adam(learnt.parameters(), lr=2e-3)
    for update in range(800):
        past, actions, path = walks(64, 4, seed=update)
        loss = (told(learnt, past, actions) - path).abs().mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    past, actions, path = walks(256, steps, seed=10_000)
    error = (told(learnt, past, actions) - path).abs().mean()
    through = (past[:, -1:] + actions.cumsum(dim=1) - path).abs().mean()
    assert error < 0.3 * through, "a body that knows no wall is off by that much"


def test_the_pinball_loss_is_least_at_the_level_and_the_absolute_error_in_the_middle():
    outcomes = torch.tensor([0.0, 1.0, 2.0, 3.0, 4.0])
    guesses = torch.linspace(-1, 5, 61)
    for level, best in ((0.1, 0.0), (0.5, 2.0), (0.7, 3.0), (0.9, 4.0)):
        luck = torch.full((61,), level)
        losses = pinball(outcomes - guesses[:, None], luck).mean(dim=1)
        assert guesses[losses.argmin()] == pytest.approx(best, abs=0.051), level
    error = torch.randn(7, 3)
    torch.testing.assert_close(pinball(error, torch.full((7,), 0.5)), error.abs())


def test_luck_gives_each_outcome_as_often_as_it_happens():
    """A gate that nobody sees lets three walks in ten through: as many draws of luck must say so, and no draw half."""
    learnt, generator = law(), torch.Generator().manual_seed(0)
    optimiser = torch.optim.Adam(learnt.parameters(), lr=2e-3)
    for update in range(1200):
        past, actions, path = walks(64, 4, seed=update)
        opens = torch.rand(64, 1, 1, generator=generator) < 0.3
        luck = torch.rand(64, generator=generator)
        error = torch.where(opens, path + 2, path) - learnt(past, actions, torch.full((64,), 4), luck)
        loss = pinball(error, luck).mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    past, actions, path = walks(400, 4, seed=10_000)
    with torch.no_grad():
        ends = learnt(past, actions, torch.full((400,), 4), torch.rand(400, generator=generator))[:, -1]
    beyond = (ends - path[:, -1]).mean(dim=1)
    through, before = beyond > 1.5, beyond < 0.5
    assert 0.2 < through.float().mean() < 0.4
    assert (through | before).float().mean() > 0.85
