"""LiberoEnv against LIBERO's own OffScreenRenderEnv: the same states, rewards and pixels, to the last bit."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing, contextmanager
from typing import Any

import numpy as np
import pytest

from acceerl.envs.libero import LiberoEnv
from acceerl.envs.libero.env import SETTLING_STEPS
from acceerl.envs.libero.install import import_any
from acceerl.envs.libero.scene import NO_OP
from acceerl.envs.libero.shutter import Shutter
from acceerl.envs.libero.stock import pictures, stock_of
from tests.unit.envs.libero_cases import actions, simulator

CHUNK = 8


class Pair:
    """One task in both environments, stepped alike."""

    def __init__(self, suite: str, task: int, size: int) -> None:
        self.ours = LiberoEnv(suite, image_size=size, scenes=1)
        self.task, self.stock, self.looking = task, stock_of(self.ours, task), True

    def reset(self, init_state: int) -> None:
        fixed = self.ours.suite.initial_states(self.task)[init_state] if init_state in range(50) else None
        self.stock.reset((self.task, init_state), fixed)
        self.leave_out_unseen_pictures()
        with self.unseen():
            for _ in range(SETTLING_STEPS):
                self.stock.step(NO_OP)
        self.ours.reset(self.task, init_state, 0)
        for poses in ("body_pos", "body_quat"):  # of fixtures
            ours, theirs = (getattr(sim.model, poses) for sim in (self.ours.scene.sim, self.stock.env.sim))
            np.testing.assert_array_equal(ours, theirs)
        np.testing.assert_array_equal(self.ours.scene.sim.get_state().flatten(), self.stock.state())

    def leave_out_unseen_pictures(self) -> None:
        """Stock draws at every step, which takes minutes; its timers are left as they are."""
        sim, size = self.stock.env.sim, self.ours.spec.image_size
        draw, blank = sim.render, np.zeros((*size, 3), np.uint8)
        sim.render = lambda **wanted: draw(**wanted) if self.looking else blank

    @contextmanager
    def unseen(self) -> Iterator[None]:
        self.looking = False
        yield
        self.looking = True

    def step(self, action: np.ndarray) -> dict[str, Any]:
        seen, reward, done = self.stock.step(action)
        ours = self.ours.step(action)
        assert (ours.reward, ours.terminated) == (reward, done)
        np.testing.assert_array_equal(self.ours.scene.sim.get_state().flatten(), self.stock.state())
        return seen

    def play(self, chunk: np.ndarray) -> None:
        """One decision; pictures and proprioception are compared at its end."""
        with self.unseen():
            for action in chunk[:-1]:
                self.step(action)
        theirs = self.step(chunk[-1])
        ours = self.ours.observe()
        for camera, picture in pictures(theirs).items():
            np.testing.assert_array_equal(ours.images[camera], picture)
        axis_angle = import_any("robosuite.utils.transform_utils").quat2axisangle(theirs["robot0_eef_quat"])
        proprio = np.concatenate((theirs["robot0_eef_pos"], axis_angle, theirs["robot0_gripper_qpos"]))
        np.testing.assert_array_equal(ours.proprio, proprio.astype(np.float32))

    def close(self) -> None:
        self.ours.close()
        self.stock.close()


@simulator
def test_two_hundred_actions_give_equal_states_rewards_and_pixels() -> None:
    with closing(Pair("libero_spatial", 0, 128)) as pair:
        pair.ours.reset(0, 3, 0)  # another episode first: nothing of it may be left
        pair.ours.step(actions(1)[0])
        pair.reset(7)
        for chunk in actions(200).reshape(-1, CHUNK, 7):
            pair.play(chunk)


@simulator
@pytest.mark.slow
@pytest.mark.parametrize(
    ("suite", "task", "init_state"),
    [("libero_object", 2, 50), ("libero_10", 9, 4), ("libero_90", 66, 50), ("libero_90", 80, 4)],
)
def test_other_suites_are_equal_too(suite: str, task: int, init_state: int) -> None:
    """Fixed initial states and drawn ones; floor, kitchen, living room and study."""
    with closing(Pair(suite, task, 64)) as pair:
        pair.reset(init_state)
        for chunk in actions(24).reshape(-1, CHUNK, 7):
            pair.play(chunk)


@simulator
@pytest.mark.slow
def test_a_stove_that_is_turned_on_burns_at_the_same_instant() -> None:
    """Turning the knob ends the task; the flame shows a control step later, since pictures are taken before its end."""
    with closing(Pair("libero_goal", 7, 64)) as pair:
        pair.reset(50)
        pair.play(actions(CHUNK))
        before = pair.ours.observe().images["agentview"]
        for sim in (pair.stock.env.sim, pair.ours.scene.sim):
            knob = next(name for name in sim.model.joint_names if "stove" in name)
            sim.data.set_joint_qpos(knob, 1.5)
        pair.play(actions(1))
        assert pair.ours.success
        pair.play(actions(CHUNK))
        assert (pair.ours.observe().images["agentview"] != before).any()


@simulator
@pytest.mark.parametrize("forced", [1, 2])
def test_the_shutter_is_robosuites_timer(forced: int) -> None:
    """Over an hour of simulated time: its sums of floats drift from one simulator step to the next."""
    observables = import_any("robosuite.utils.observables")
    taken: list[int] = []
    sensor = observables.sensor(modality="test")(lambda cache: np.array([taken.append(1) or 0.0]))
    timer = observables.Observable(name="picture", sensor=sensor, sampling_rate=20)
    timer.reset()
    for _ in range(forced):
        timer.update(0.002, {}, force=True)
    shutter = Shutter(0.002, 1 / 20)
    shutter.restart(forced)
    for _ in range(25 * 20_000):
        before = len(taken)
        timer.update(0.002, {})
        assert shutter.tick() == (len(taken) > before)
