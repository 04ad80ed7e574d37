"""GymnasiumEnv: classic control and MuJoCo environments behind the Env protocol, and clear refusals."""

from __future__ import annotations

import importlib.util

import numpy as np
import pytest

from acceerl.envs.gymnasium import GymnasiumEnv

pytestmark = pytest.mark.skipif(importlib.util.find_spec("gymnasium") is None, reason="Gymnasium is not installed")


def test_actions_are_stretched_to_the_bounds() -> None:
    """Pendulum's torque is +-2: full action equals torque 2, idle equals 0."""
    env = GymnasiumEnv("Pendulum-v1")
    env.reset(0, 0, 0)
    env.step(np.ones(1, np.float32))
    assert env._env.unwrapped.last_u == pytest.approx(2)
    env.step(np.zeros(1, np.float32))
    assert env._env.unwrapped.last_u == pytest.approx(0)


def test_the_limit_is_the_registered_one_unless_given() -> None:
    assert GymnasiumEnv("Pendulum-v1").spec.step_limits == (200,)
    assert GymnasiumEnv("Pendulum-v1", step_limit=5).spec.step_limits == (5,)


def test_the_limit_counts_from_a_restored_state() -> None:
    env = GymnasiumEnv("Pendulum-v1", step_limit=3)
    env.reset(0, 0, 0)
    idle = np.zeros(1, np.float32)
    env.step(idle)
    saved = env.state()
    env.step(idle)
    env.set_state(saved)
    assert [env.step(idle).truncated for _ in range(2)] == [False, True]


def test_mujoco_environments_round_trip_exactly() -> None:
    env = GymnasiumEnv("Reacher-v5")
    env.reset(0, 0, 0)
    push = np.array([0.5, -0.5], np.float32)
    env.step(push)
    saved = env.state()
    env.step(push)
    future = env.state()
    env.reset(0, 1, 0)
    env.set_state(saved)
    env.step(push)
    np.testing.assert_array_equal(env.state(), future)


@pytest.mark.parametrize(("id", "why"), [("CartPole-v1", "Box"), ("Nothing-v9", "cannot make")])
def test_what_does_not_fit_is_refused(id: str, why: str) -> None:
    with pytest.raises(ValueError, match=why):
        GymnasiumEnv(id)


def test_a_state_out_of_reach_is_said_so() -> None:
    env = GymnasiumEnv("Pendulum-v1")
    env.reset(0, 0, 0)
    env._env.unwrapped.state = None
    with pytest.raises(ValueError, match="out of reach"):
        env.state()
