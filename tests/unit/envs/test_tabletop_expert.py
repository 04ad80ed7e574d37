"""The tabletop's expert solves every task; told the wrong task, or shown the wrong scene, it must fail."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from acceerl.envs.tabletop import SUITES, TabletopEnv, TabletopExpert
from acceerl.protocols import Expert

LANGUAGE = ("spatial", "object", "goal")
ENOUGH = 30  # steps in which the expert solves any task of these suites


@pytest.fixture(params=SUITES)
def env(request: pytest.FixtureRequest) -> TabletopEnv:
    return TabletopEnv(request.param)


def finish(env: TabletopEnv, act: Callable[[], np.ndarray]) -> bool:
    """Plays from where the env is to the end of the episode."""
    while True:
        result = env.step(act())
        if result.terminated or result.truncated:
            return env.success


def test_is_an_expert(env: TabletopEnv) -> None:
    assert isinstance(TabletopExpert(env), Expert)


@pytest.mark.parametrize("task", range(10))
def test_solves_every_task(env: TabletopEnv, task: int) -> None:
    for init_state in (env.spec.train_states[task], env.spec.eval_states[task]):
        env.reset(task, init_state, seed=task)
        assert finish(env, TabletopExpert(env).act), f"{env.suite} task {task} init_state {init_state}"


def test_actions_are_within_bounds_and_a_function_of_the_state() -> None:
    env = TabletopEnv("spatial")
    env.reset(2, 5, 0)
    expert, state = TabletopExpert(env), env.state()
    first = [_step(env, expert) for _ in range(12)]
    env.set_state(state)
    again = TabletopExpert(env)
    np.testing.assert_array_equal([_step(env, again) for _ in range(12)], first)
    assert np.abs(first).max() <= 1


def _step(env: TabletopEnv, expert: TabletopExpert) -> np.ndarray:
    action = expert.act()
    env.step(action)
    return action


def test_recovers_from_noise_on_the_executed_actions() -> None:
    env, rng = TabletopEnv("spatial"), np.random.default_rng(0)
    expert = TabletopExpert(env)

    def noisy() -> np.ndarray:
        return expert.act() + np.append(rng.normal(0, 0.3, 6), 0)

    solved = 0
    for task in range(10):
        env.reset(task, task, seed=0)
        solved += finish(env, noisy)
    assert solved >= 9


def test_grasps_again_what_it_dropped() -> None:
    env = TabletopEnv("spatial")
    env.reset(0, 0, 0)
    expert = TabletopExpert(env)
    held = 0
    while held < 3:
        _step(env, expert)
        held += env.world.holding("red bowl")
    for _ in range(3):
        env.step(np.array([0, 0, 1, 0, 0, 0, -1], np.float32))
    assert not env.world.between("red bowl")
    assert finish(env, expert.act)


@pytest.mark.parametrize("suite", LANGUAGE)
def test_a_deaf_expert_fails(suite: str) -> None:
    """It sees the scene but was told one of the ten tasks at random: all 100 pairs, so chance is 10 % exactly."""
    env = TabletopEnv(suite, step_limit=ENOUGH)
    solved = 0
    for task in range(10):
        for told in range(10):
            env.reset(task, 10 * task + told, seed=0)
            solved += finish(env, TabletopExpert(env, told=SUITES[suite].tasks[told]).act)
    assert 10 <= solved <= 12


@pytest.mark.parametrize("suite", LANGUAGE)
def test_a_blind_expert_fails(suite: str) -> None:
    """It hears the instruction but acts for another layout, which is the best guess without an image."""
    env, imagined = TabletopEnv(suite, step_limit=ENOUGH), TabletopEnv(suite)
    solved = 0
    for i in range(40):
        env.reset(i % 10, i, seed=0)
        imagined.reset(i % 10, 1000 + i, seed=0)
        expert = TabletopExpert(imagined)
        solved += finish(env, lambda expert=expert: _step(imagined, expert))
    assert solved <= 8
