"""What every Env promises, as one suite over all of them; the environments are listed in env_factories.py."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import pytest

from acceerl.protocols import Env
from tests.contract.env_factories import ENVS


@pytest.fixture(scope="module", params=ENVS)
def make(request: pytest.FixtureRequest) -> Callable[[], Env]:
    return request.param


@pytest.fixture(scope="module")
def env(make: Callable[[], Env]) -> Iterator[Env]:
    env = make()
    yield env
    env.close()


def actions(env: Env, n: int) -> np.ndarray:
    return np.random.default_rng(0).uniform(-1, 1, (n, env.spec.action_dim)).astype(np.float32)


def start(env: Env, which: int = 0, task: int = 0) -> None:
    env.reset(task, env.spec.train_states[which], seed=0)


def play(env: Env, chunk: np.ndarray) -> np.ndarray:
    """States after each action, [n, state]."""
    states = []
    for action in chunk:
        env.step(action)
        states.append(env.state())
    return np.array(states)


def test_is_an_env(env: Env) -> None:
    assert isinstance(env, Env)


def test_spec_is_usable(env: Env) -> None:
    spec = env.spec
    assert spec.n_tasks > 0
    assert min(spec.step_limits) > 0
    assert all(spec.instructions)
    assert len(set(spec.instructions)) == spec.n_tasks
    assert len(spec.train_states) > 0
    assert len(spec.eval_states) > 0
    assert not set(spec.train_states) & set(spec.eval_states)


def test_observation_matches_the_spec(env: Env) -> None:
    last = env.spec.n_tasks - 1
    start(env, task=last)
    observation = env.observe()
    assert tuple(observation.images) == env.spec.cameras
    for image in observation.images.values():
        assert image.dtype == np.uint8
        assert image.shape == (*env.spec.image_size, 3)
    assert observation.proprio.dtype == np.float32
    assert observation.proprio.shape == (env.spec.proprio,)
    assert np.isfinite(observation.proprio).all()
    assert observation.instruction == env.spec.instructions[last]


def test_observations_do_not_share_memory(env: Env) -> None:
    start(env)
    before = env.observe()
    kept = {name: image.copy() for name, image in before.images.items()}
    proprio = before.proprio.copy()
    play(env, actions(env, 3))
    env.observe()
    for name, image in before.images.items():
        np.testing.assert_array_equal(image, kept[name])
    np.testing.assert_array_equal(before.proprio, proprio)


def test_observing_changes_nothing(env: Env) -> None:
    start(env)
    play(env, actions(env, 2))
    before = env.state()
    env.observe()
    np.testing.assert_array_equal(env.state(), before)


@pytest.mark.parametrize("task", [-1, 10_000])
def test_unknown_task_is_refused(env: Env, task: int) -> None:
    with pytest.raises(ValueError, match="task"):
        env.reset(task, env.spec.train_states[0], seed=0)


@pytest.mark.parametrize("init_state", [-1, 10**9])
def test_unknown_init_state_is_refused(env: Env, init_state: int) -> None:
    with pytest.raises(ValueError, match="init"):
        env.reset(0, init_state, seed=0)


def test_equal_episodes_under_equal_actions(env: Env) -> None:
    chunk = actions(env, 5)
    start(env)
    first = play(env, chunk)
    start(env, which=1)
    play(env, chunk[::-1])
    start(env)
    np.testing.assert_array_equal(play(env, chunk), first)


def test_two_instances_agree(env: Env, make: Callable[[], Env]) -> None:
    other = make()
    start(env)
    start(other)
    np.testing.assert_array_equal(play(env, actions(env, 3)), play(other, actions(env, 3)))
    other.close()


def test_init_states_differ(env: Env) -> None:
    start(env)
    first = env.state()
    start(env, which=1)
    assert not np.array_equal(env.state(), first)


def test_evaluation_states_can_be_started(env: Env) -> None:
    for init_state in (env.spec.eval_states[0], env.spec.eval_states[-1]):
        env.reset(0, init_state, seed=0)
        assert not env.success


def test_state_round_trip_continues_exactly(env: Env) -> None:
    chunk = actions(env, 5)
    start(env)
    play(env, chunk[:2])
    saved, proprio = env.state(), env.observe().proprio
    assert saved.dtype == np.float64
    future = play(env, chunk[2:])
    start(env, which=1)
    env.set_state(saved)
    np.testing.assert_array_equal(env.state(), saved)
    np.testing.assert_array_equal(env.observe().proprio, proprio)
    np.testing.assert_array_equal(play(env, chunk[2:]), future)


def test_state_is_a_snapshot(env: Env) -> None:
    start(env)
    state = env.state()
    kept = state.copy()
    play(env, actions(env, 2))
    np.testing.assert_array_equal(state, kept)


def test_the_step_limit_truncates(env: Env) -> None:
    start(env)
    idle = np.zeros(env.spec.action_dim, np.float32)
    results = [env.step(idle) for _ in range(env.spec.step_limits[0])]
    assert not any(result.terminated or result.truncated for result in results[:-1])
    assert results[-1].truncated
    assert not results[-1].terminated
    assert not env.success


def test_close_twice(make: Callable[[], Env]) -> None:
    env = make()
    start(env)
    env.observe()
    env.close()
    env.close()
