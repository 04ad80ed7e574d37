"""LIBERO's scripted expert on the real simulator: one task of each kind of goal, noise, and what it leaves alone."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import pytest

from acceerl.envs.libero import LiberoEnv
from acceerl.envs.libero.expert import LiberoExpert
from acceerl.envs.libero.expert.goals import Goal, goals, met
from acceerl.envs.libero.expert.view import View
from acceerl.envs.libero.install import missing
from acceerl.protocols import Expert

WHY_NOT = missing()
pytestmark = [pytest.mark.libero, pytest.mark.skipif(bool(WHY_NOT), reason=WHY_NOT)]
FREE, ON_STOVE = 2, 7  # tasks of libero_spatial: a bowl with room around it, and one on a fixture
DRAWER, STOVE = 0, 7  # tasks of libero_goal


@pytest.fixture(scope="module")
def spatial() -> Iterator[LiberoEnv]:
    env = LiberoEnv("libero_spatial", cameras=(), scenes=2)
    yield env
    env.close()


@pytest.fixture(scope="module")
def goal() -> Iterator[LiberoEnv]:
    env = LiberoEnv("libero_goal", cameras=(), scenes=1)
    yield env
    env.close()


def finish(env: LiberoEnv, act: Callable[[], np.ndarray]) -> tuple[bool, list[np.ndarray]]:
    """Plays to the end of the episode; returns whether it was solved, and all actions."""
    actions = []
    while True:
        actions.append(act())
        result = env.step(actions[-1])
        if result.terminated or result.truncated:
            return env.success, actions


@pytest.mark.parametrize(("task", "state"), [(FREE, 0), (ON_STOVE, 0), (ON_STOVE, 60)])
def test_puts_a_bowl_on_the_plate(spatial: LiberoEnv, task: int, state: int) -> None:
    spatial.reset(task, state, 0)
    assert goals(View(spatial.scene)) == [Goal("on", "akita_black_bowl_1", "plate_1")]
    expert = LiberoExpert(spatial)
    assert isinstance(expert, Expert)
    solved, actions = finish(spatial, expert.act)
    assert solved and met(View(spatial.scene), Goal("on", "akita_black_bowl_1", "plate_1"))
    assert np.abs(LiberoExpert(spatial).act()[:3]).max() < 0.05, "it moves although there is nothing to do"
    assert all(a.shape == (7,) and a.dtype == np.float32 and np.abs(a).max() <= 1 for a in actions)


def test_a_resampled_bowl_stands_on_its_fixture(spatial: LiberoEnv) -> None:
    """It hung in the air: LIBERO's sampler counted the stove's place twice when the stove stood somewhere already."""
    for state in (60, 61):
        spatial.reset(ON_STOVE, state, 0)
        assert met(View(spatial.scene), Goal("on", "akita_black_bowl_1", "flat_stove_1_cook_region"))


def test_goes_on_when_some_of_its_actions_are_disturbed(spatial: LiberoEnv) -> None:
    """As `collect.noise=0.5 collect.noise_share=0.15` does."""
    rng = np.random.default_rng(0)
    spatial.reset(FREE, 1, 0)
    expert = LiberoExpert(spatial)

    def noisy() -> np.ndarray:
        hit = rng.random() < 0.15
        return np.clip(expert.act() + hit * np.append(rng.normal(0, 0.5, 6), 0), -1, 1)

    assert finish(spatial, noisy)[0]


def test_the_same_episode_gives_the_same_actions_and_leaves_the_model_alone(spatial: LiberoEnv) -> None:
    expert = LiberoExpert(spatial)

    def begin() -> list[np.ndarray]:
        spatial.reset(FREE, 2, 0)
        expert.reset()
        return [_step(spatial, expert) for _ in range(15)]

    first = begin()
    model = spatial.scene.sim.model._model
    before = model.geom_group.copy(), model.geom_rgba.copy()
    np.testing.assert_array_equal(begin(), first)
    np.testing.assert_array_equal(model.geom_group, before[0])
    np.testing.assert_array_equal(model.geom_rgba, before[1])


def _step(env: LiberoEnv, expert: LiberoExpert) -> np.ndarray:
    action = expert.act()
    env.step(action)
    return action


@pytest.mark.parametrize("task", [DRAWER, STOVE])
def test_opens_a_drawer_and_turns_a_knob(goal: LiberoEnv, task: int) -> None:
    goal.reset(task, 0, 0)
    assert finish(goal, LiberoExpert(goal).act)[0]


def test_a_goal_without_a_primitive_says_so(spatial: LiberoEnv) -> None:
    spatial.reset(FREE, 0, 0)
    problem = spatial.scene.domain.parsed_problem
    kept, problem["goal_state"] = problem["goal_state"], [["up", "plate_1"]]
    try:
        with pytest.raises(ValueError, match="the scripted expert knows no goal 'up'"):
            LiberoExpert(spatial).act()
    finally:
        problem["goal_state"] = kept
