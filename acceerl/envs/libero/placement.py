"""Where things stand when an episode begins: LIBERO's own samplers on a scene that is kept.

LIBERO's wrapper builds the whole scene again at each reset (1.1 s), retries for ever and swallows every exception.
This makes the same draws in the same order and reaches the same state, in milliseconds.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np

from acceerl.envs.libero.install import import_any

TRIES = 20


@contextmanager
def placement_rng(*entropy: int) -> Iterator[None]:
    """Seeds numpy's global generator, which robosuite's placement samplers use, and restores it afterwards."""
    before = np.random.get_state()
    np.random.seed(np.random.SeedSequence(entropy).generate_state(1))
    try:
        yield
    finally:
        np.random.set_state(before)


class Placement:
    """Draws placements for one scene. Fixtures move by the model's body poses, everything else by joints.

    env: LIBERO's, as it was built; its poses and colours are what each reset starts from.
    """

    def __init__(self, env: Any) -> None:
        self._mujoco, self._env, self._robot = import_any("mujoco"), env, env.robots[0]
        self._model, self._data = env.sim.model._model, env.sim.data._data
        self.fixtures = [env.sim.model.body_name2id(f.root_body) for f in env.fixtures_dict.values()]
        self._crowded = import_any("robosuite.utils.errors").RandomizationError
        # drawers and knobs: each of LIBERO's hard resets lists them once more and draws for all; as in its first reset
        self._joints = list(env.object_property_initializers) * 2
        model = self._model
        self._built = [(a, a.copy()) for a in (model.body_pos, model.body_quat, model.site_rgba)]
        # LIBERO's samplers add a region's place in the simulator to its fixture's new place: right only while fixtures
        # are at the origin, where a model that was just built has them.
        (_, positions), (_, orientations), _ = self._built
        positions[self.fixtures], orientations[self.fixtures] = 0, (1, 0, 0, 0)

    def draw(self) -> None:
        """Sets joints and fixtures; positions are computed by the next forward pass.

        Raises RuntimeError when LIBERO's regions have no room for the objects.
        """
        for _ in range(TRIES):
            try:
                return self._draw()
            except self._crowded as error:
                failure = error
        raise RuntimeError(f"no valid placement in {TRIES} tries: {self._env.bddl_file_name}") from failure

    def stand(self, places: Mapping[str, Sequence[float]]) -> None:
        """Puts fixtures where they are told to, by the names of their bodies: position (m), quaternion."""
        for body in self.fixtures:
            if place := places.get(self._env.sim.model.body_id2name(body)):
                self._model.body_pos[body], self._model.body_quat[body] = place[:3], place[3:]

    def _draw(self) -> None:
        """What `hard_reset` and BDDLBaseDomain._reset_internal do to the simulator's state."""
        env, data, robot = self._env, self._data, self._robot
        for array, built in self._built:
            array[:] = built
        self._mujoco.mj_resetData(self._model, data)
        np.random.randn(len(robot.init_qpos))  # robosuite's noise on the arm, of magnitude 0 in LIBERO
        data.qpos[robot._ref_joint_pos_indexes] = robot.init_qpos
        data.qpos[robot._ref_gripper_joint_pos_indexes] = robot.gripper.init_qpos
        for joints in self._joints:
            env.object_states_dict[joints.name].set_joint(joints.sample())
        self._mujoco.mj_kinematics(self._model, data)  # of the sites that things are put on; everything overlaps yet
        placed = env.placement_initializer.sample()
        placed = env.conditional_placement_initializer.sample(env.sim, placed)
        placed = env.conditional_placement_on_objects_initializer.sample(placed)
        for position, orientation, thing in placed.values():
            self._put(thing, position, orientation)

    def _put(self, thing: Any, position: Any, orientation: Any) -> None:
        if thing.name in self._env.fixtures_dict:
            body = self._env.sim.model.body_name2id(thing.root_body)
            self._model.body_pos[body], self._model.body_quat[body] = position, orientation
        else:
            pose = np.concatenate([np.array(position), np.array(orientation)])
            self._env.sim.data.set_joint_qpos(thing.joints[-1], pose)
