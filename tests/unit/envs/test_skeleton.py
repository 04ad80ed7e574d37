"""SkeletonEnv: large float observations, episodes of a fixed length, and a state that restores."""

from __future__ import annotations

import numpy as np
import pytest

from acceerl.envs.skeleton import SkeletonEnv
from acceerl.protocols import Env

IDLE = np.zeros(3, np.float32)


@pytest.fixture
def env() -> SkeletonEnv:
    env = SkeletonEnv(side=8, limit=5)
    env.reset(0, 3, 0)
    return env


def test_observations_are_floats_with_the_channel_first(env: SkeletonEnv):
    assert isinstance(env, Env)
    seen = env.observe()
    assert (seen.images["front"].dtype, seen.images["front"].shape) == (np.float32, (3, 8, 8))
    assert (seen.proprio.dtype, seen.proprio.shape) == (np.float32, (7,))


def test_the_limit_truncates(env: SkeletonEnv):
    results = [env.step(IDLE) for _ in range(5)]
    assert [r.truncated for r in results] == [False] * 4 + [True]
    assert not any(r.terminated for r in results)


def test_steps_change_what_is_seen_and_states_restore_it(env: SkeletonEnv):
    before, state = env.observe(), env.state()
    env.step(IDLE)
    assert not np.array_equal(env.observe().images["front"], before.images["front"])
    env.set_state(state)
    assert np.array_equal(env.observe().images["front"], before.images["front"])


@pytest.mark.parametrize(("task", "state"), [(1, 0), (0, -1), (0, 5000)])
def test_unknown_episodes_are_refused(env: SkeletonEnv, task: int, state: int):
    with pytest.raises(ValueError):
        env.reset(task, state, 0)
