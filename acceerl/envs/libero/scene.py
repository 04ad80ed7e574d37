"""One LIBERO task's simulator: reset, step, render and full state, around robosuite's environment.

robosuite's own `step` updates 31 observables 25 times and renders every camera; here a step is physics only
(bitwise the same states) and cameras are rendered when asked for. A reset is a soft one: it keeps the model,
and equals robosuite's hard reset bitwise because the gripper's memory is cleared as well.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np

from acceerl.envs.libero.install import explained, import_any

CONTROL_HZ = 20
NO_OP = np.array([0, 0, 0, 0, 0, 0, -1.0])  # arm still, gripper opening: LIBERO's own waiting action
_PLACEMENT_TRIES = 20


@contextmanager
def placement_rng(*entropy: int) -> Iterator[None]:
    """Seeds numpy's global generator, which robosuite's placement samplers use, and restores it afterwards."""
    before = np.random.get_state()
    np.random.seed(np.random.SeedSequence(entropy).generate_state(1))
    try:
        yield
    finally:
        np.random.set_state(before)


class Scene:
    """The simulator of one task.

    bddl: the task's BDDL file. rendering: whether to make a GL context.
    Raises ValueError when a mesh or texture is missing, RuntimeError when GL does not start.
    """

    def __init__(self, bddl: str, rendering: bool) -> None:
        self._mujoco = import_any("mujoco")
        with explained(), _explained_assets(bddl), placement_rng(0):
            self._env: Any = _make(bddl, rendering)
        # nobody reads robosuite's observables: dropping them halves a step and leaves the physics as it is
        self._env._observables = {}
        self._substeps = int(self._env.control_timestep / self._env.model_timestep)
        self._robot = self._env.robots[0]
        self._fixtures = [self.sim.model.body_name2id(f.root_body) for f in self._env.fixtures_dict.values()]
        self._size = self._mujoco.mj_stateSize(self._model, self._mujoco.mjtState.mjSTATE_INTEGRATION)

    @property
    def sim(self) -> Any:
        """robosuite's MjSim: `model` and `data` by MuJoCo's names."""
        return self._env.sim

    @property
    def _model(self) -> Any:
        return self.sim.model._model

    @property
    def _data(self) -> Any:
        return self.sim.data._data

    def reset(self, entropy: tuple[int, ...], initial: np.ndarray | None) -> None:
        """Places everything anew with the generator seeded by `entropy`; `initial`, a flattened simulator state
        (float64 [1 + nq + nv]), then overrides all but the fixtures' poses, as in LIBERO's evaluation."""
        with placement_rng(*entropy):
            self._place()
        if initial is not None:
            self.sim.set_state_from_flattened(initial)
        self._refresh()

    def _place(self) -> None:
        """A soft reset. LIBERO's wrapper would retry for ever and swallow every other exception."""
        crowded = import_any("robosuite.utils.errors").RandomizationError
        for _ in range(_PLACEMENT_TRIES):
            # the first step of an episode would depend on the last one of the episode before
            self._robot.gripper.current_action = np.zeros(self._robot.gripper.dof)
            try:
                self._env.reset()
                return
            except crowded as error:
                failure = error
        raise RuntimeError(f"no valid placement in {_PLACEMENT_TRIES} tries: {self._env.bddl_file_name}") from failure

    def _refresh(self) -> None:
        self.sim.forward()
        self._env._post_process()  # the stove's flame and the like are drawn from joint positions

    def step(self, action: np.ndarray) -> bool:
        """One control step of 1/20 s, float64 [7]; returns whether the goal holds. No rendering."""
        env = self._env
        for substep in range(self._substeps):
            self.sim.forward()
            env._pre_action(action, substep == 0)
            self.sim.step()
        succeeded = self.succeeded()
        env._post_process()
        return succeeded

    def succeeded(self) -> bool:
        """Whether LIBERO's goal predicates hold for the positions and contacts computed last."""
        return bool(self._env._check_success())

    def update_kinematics(self) -> None:
        """Computes poses of bodies, cameras and lights from the joint positions, and nothing that physics reads."""
        for stage in (self._mujoco.mj_kinematics, self._mujoco.mj_comPos, self._mujoco.mj_camlight):
            stage(self._model, self._data)

    def render(self, camera: str, size: tuple[int, int]) -> np.ndarray:
        """uint8 [H, W, 3], right side up, of the poses computed last (see `update_kinematics`)."""
        # robosuite never makes its context current again: with two scenes alive it would draw into the other's
        self.sim._render_context_offscreen.gl_ctx.make_current()
        upside_down = self.sim.render(camera_name=camera, height=size[0], width=size[1])
        return np.ascontiguousarray(upside_down[::-1])

    def proprio(self) -> np.ndarray:
        """float32 [8]: end-effector position (m), its orientation as axis-angle (rad), two finger positions (m)."""
        transform = import_any("robosuite.utils.transform_utils")
        data, robot = self.sim.data, self._robot
        orientation = transform.convert_quat(data.get_body_xquat(robot.robot_model.eef_name), to="xyzw")
        fingers = data.qpos[robot._ref_gripper_joint_pos_indexes]
        parts = (data.site_xpos[robot.eef_site_id], transform.quat2axisangle(orientation), fingers)
        return np.concatenate(parts).astype(np.float32)

    def state(self) -> np.ndarray:
        """float64 [n]: MuJoCo's integration state, fixture poses, controller goal, gripper command."""
        flags = self._mujoco.mjtState.mjSTATE_INTEGRATION
        physics = np.empty(self._size)
        self._mujoco.mj_getState(self._model, self._data, physics, flags)
        model, controller = self._model, self._robot.controller
        poses = (model.body_pos[self._fixtures].ravel(), model.body_quat[self._fixtures].ravel())
        gripper = np.broadcast_to(self._robot.gripper.current_action, 2)
        return np.concatenate((physics, *poses, controller.goal_pos, controller.goal_ori.ravel(), gripper))

    def set_state(self, state: np.ndarray) -> None:
        """Restores `state()` exactly. Raises ValueError for a vector of another size."""
        n = len(self._fixtures)
        sizes = (self._size, 3 * n, 4 * n, 3, 9, 2)
        if state.shape != (sum(sizes),):
            raise ValueError(f"a state of this task has {sum(sizes)} entries, got shape {state.shape}")
        physics, pos, quat, goal_pos, goal_ori, gripper = np.split(state, np.cumsum(sizes)[:-1])
        self._model.body_pos[self._fixtures] = pos.reshape(n, 3)
        self._model.body_quat[self._fixtures] = quat.reshape(n, 4)
        self._mujoco.mj_setState(self._model, self._data, physics, self._mujoco.mjtState.mjSTATE_INTEGRATION)
        self._restore_robot(goal_pos.copy(), goal_ori.reshape(3, 3).copy(), gripper.copy())
        self._env._post_process()

    def _restore_robot(self, goal_pos: np.ndarray, goal_ori: np.ndarray, gripper: np.ndarray) -> None:
        controller = self._robot.controller
        controller.goal_pos, controller.goal_ori = goal_pos, goal_ori
        controller.new_update = True  # otherwise it computes with the poses that it read before
        self._robot.gripper.current_action = gripper

    def close(self) -> None:
        """Frees the model and its GL context. The scene must not be used afterwards."""
        context = self.sim._render_context_offscreen
        if context is not None:
            context.gl_ctx.make_current()  # its objects are freed in whatever context is current
        del context
        self._env.close()


@contextmanager
def _explained_assets(bddl: str) -> Iterator[None]:
    try:
        yield
    except (FileNotFoundError, ValueError) as error:
        raise ValueError(f"LIBERO cannot build {bddl}: {error}; are its assets complete?") from error


def _make(bddl: str, rendering: bool) -> Any:
    """robosuite's environment as LIBERO's wrapper makes it, but without cameras as observables and with soft resets."""
    suite = import_any("robosuite")
    problem = import_any("libero.libero.envs.bddl_utils").get_problem_info(bddl)["problem_name"]
    return import_any("libero.libero.envs").TASK_MAPPING[problem](
        bddl,
        robots=["Panda"],
        controller_configs=suite.load_controller_config(default_controller="OSC_POSE"),
        gripper_types="default",
        initialization_noise=None,
        use_camera_obs=False,
        has_offscreen_renderer=rendering,
        control_freq=CONTROL_HZ,
        ignore_done=True,
        hard_reset=False,
    )
