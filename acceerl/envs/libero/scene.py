"""One LIBERO task's simulator: reset, step, look and full state. Read `env.py` first.

LIBERO's definition of the task is kept (its scene, placements, controller and goal predicates), and so is every bit
of the states and every pixel of the pictures. What differs is what is computed: physics once per simulator step
where robosuite computes it three times, no observables, pictures only when somebody looks, and no new scene at a
reset (placement.py).
"""

from __future__ import annotations

import gc
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np

from acceerl.envs.libero.arm import Arm
from acceerl.envs.libero.install import explained, import_any
from acceerl.envs.libero.painter import Painter
from acceerl.envs.libero.placement import Placement, placement_rng
from acceerl.envs.libero.shutter import Shutter

CONTROL_HZ = 20
NO_OP = np.array([0, 0, 0, 0, 0, 0, -1.0])  # arm still, gripper opening: LIBERO's own waiting action


class Scene:
    """The simulator of one task.

    bddl: the task's BDDL file. size: H, W of pictures. render: `exact` or `fast` (painter.py). A GL context is made
    when somebody looks for the first time.
    Raises ValueError when a mesh or texture is missing, RuntimeError when GL does not start.
    """

    def __init__(self, bddl: str, size: tuple[int, int] = (128, 128), render: str = "exact") -> None:
        self._mujoco, self._size, self._render = import_any("mujoco"), size, render
        with explained(), _explained_assets(bddl), placement_rng(0):
            self._env: Any = _make(bddl)
        self._robot, self._placement = self._env.robots[0], Placement(self._env)
        # force and torque sensors in the wrist, which nobody reads, cost a quarter of the physics
        self._model.opt.disableflags |= int(self._mujoco.mjtDisableBit.mjDSBL_SENSOR)
        self._arm = Arm(self._robot, self._model, self._data)
        self._substeps = int(self._env.control_timestep / self._env.model_timestep)
        self._shutter = Shutter(self._env.model_timestep, 1.0 / CONTROL_HZ)
        self._fingers = np.array(self._robot._ref_gripper_joint_pos_indexes)
        self._flames = _flames(self._env)
        self._seen = self._mujoco.MjData(self._model)  # the poses of the picture that stock would show
        self._seen_fingers, self._seen_flames = np.zeros(2), np.zeros(len(self._flames))
        self._painter: Painter | None = None

    @property
    def sim(self) -> Any:
        """robosuite's MjSim: `model` and `data` by MuJoCo's names."""
        return self._env.sim

    @property
    def domain(self) -> Any:
        """LIBERO's own environment, with the task's goal, objects, fixtures and predicates: for privileged reads."""
        return self._env

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
            self._placement.draw()
        if initial is not None:
            self.sim.set_state_from_flattened(initial)
        self.sim.forward()
        self._arm.restart()
        self._env._post_process()  # the stove's flame is drawn from its knob's position
        self._shutter.restart(1 if initial is None else 2)
        self._capture(self._data.qpos)
        self._seen_fingers = self._data.qpos[self._fingers]

    def show(
        self, entropy: tuple[int, ...], state: np.ndarray, fixtures: Mapping[str, Sequence[float]], taken: np.ndarray
    ) -> None:
        """Puts the simulator into a flattened state, float64 [1 + nq + nv], that others saved without a controller.

        Fixtures stand at `fixtures` (body -> position and quaternion), or else where `entropy` draws them. `taken`,
        float64 [N, 7], are the actions executed before. Raises ValueError for a vector of another size.
        """
        size = 1 + self._model.nq + self._model.nv
        if np.shape(state) != (size,):
            raise ValueError(f"a simulator state of this task has {size} entries, got shape {np.shape(state)}")
        self.reset(entropy, None)
        self._placement.stand(fixtures)
        self.sim.set_state_from_flattened(np.asarray(state, np.float64))
        self.sim.forward()
        self._arm.take_over(taken, self._substeps)
        self._env._post_process()
        self._capture(self._data.qpos)
        self._seen_fingers = self._data.qpos[self._fingers]

    def step(self, action: np.ndarray) -> bool:
        """One control step of 1/20 s, float64 [7]; returns whether the goal holds. No rendering."""
        step1, step2, model, data = self._mujoco.mj_step1, self._mujoco.mj_step2, self._model, self._data
        for substep in range(self._substeps):
            step1(model, data)
            if substep == 0:
                self._arm.command(action)
            self._arm.actuate()
            pictured = self._shutter.tick()
            if pictured:
                self._capture(data.qpos)
            step2(model, data)
            if pictured:
                self._seen_fingers = data.qpos[self._fingers]
        succeeded = self.succeeded()
        self._env._post_process()
        return succeeded

    def _capture(self, qpos: np.ndarray) -> None:
        """Notes what a picture of this instant needs: robosuite's shows the poses from before the integration."""
        self._seen.qpos[:] = qpos
        self._seen_flames = self._model.site_rgba[self._flames, 3]

    def succeeded(self) -> bool:
        """Whether LIBERO's goal predicates hold for the positions and contacts computed last."""
        return bool(self._env._check_success())

    def look(self, cameras: list[str]) -> list[np.ndarray]:
        """uint8 [H, W, 3] each, right side up: what stock robosuite's last step or reset returns."""
        if self._painter is None:
            self._painter = Painter(self._model, self._size, self._render)
        self._pose()
        now = self._model.site_rgba[self._flames, 3]
        self._model.site_rgba[self._flames, 3] = self._seen_flames
        pictures = self._painter.paint(self._seen, cameras)
        self._model.site_rgba[self._flames, 3] = now
        return pictures

    def _pose(self) -> None:
        """Computes poses of bodies, cameras and lights of the last picture, beside the physics."""
        for stage in (self._mujoco.mj_kinematics, self._mujoco.mj_comPos, self._mujoco.mj_camlight):
            stage(self._model, self._seen)

    def proprio(self) -> np.ndarray:
        """float32 [8]: end-effector position (m), its orientation as axis-angle (rad), two finger positions (m).

        Of the same instant as the pictures, as robosuite's observations are.
        """
        transform = import_any("robosuite.utils.transform_utils")
        self._pose()
        hand = self.sim.model.body_name2id(self._robot.robot_model.eef_name)
        orientation = transform.quat2axisangle(transform.convert_quat(self._seen.xquat[hand], to="xyzw"))
        parts = (self._seen.site_xpos[self._robot.eef_site_id], orientation, self._seen_fingers)
        return np.concatenate(parts).astype(np.float32)

    def state(self) -> np.ndarray:
        """float64 [n]: MuJoCo's integration state, fixture poses, controller, and what the last picture shows."""
        physics = np.empty(self._sizes[0])
        self._mujoco.mj_getState(self._model, self._data, physics, self._mujoco.mjtState.mjSTATE_INTEGRATION)
        fixtures, model = self._placement.fixtures, self._model
        poses = (model.body_pos[fixtures].ravel(), model.body_quat[fixtures].ravel())
        robot = (self._arm.goal_ori.ravel(), self._arm.gripper)
        timer = (self._shutter.elapsed, self._shutter.sampled)
        return np.concatenate((physics, *poses, *robot, timer, self._seen.qpos, self._seen_fingers, self._seen_flames))

    @property
    def _sizes(self) -> tuple[int, ...]:
        """Of the parts of `state()`, in its order."""
        n = len(self._placement.fixtures)
        physics = self._mujoco.mj_stateSize(self._model, self._mujoco.mjtState.mjSTATE_INTEGRATION)
        return physics, 3 * n, 4 * n, 9, 2, 2, self._model.nq, 2, len(self._flames)

    def set_state(self, state: np.ndarray) -> None:
        """Restores `state()` exactly. Raises ValueError for a vector of another size."""
        if state.shape != (sum(self._sizes),):
            raise ValueError(f"a state of this task has {sum(self._sizes)} entries, got shape {state.shape}")
        parts = np.split(state, np.cumsum(self._sizes)[:-1])
        physics, pos, quat, goal_ori, gripper, timer, seen, fingers, flames = parts
        fixtures = self._placement.fixtures
        self._model.body_pos[fixtures] = pos.reshape(-1, 3)
        self._model.body_quat[fixtures] = quat.reshape(-1, 4)
        self._mujoco.mj_setState(self._model, self._data, physics, self._mujoco.mjtState.mjSTATE_INTEGRATION)
        self.sim.forward()
        self._env._post_process()
        self._arm.restore(goal_ori.reshape(3, 3), gripper)
        self._shutter.elapsed, self._shutter.sampled = float(timer[0]), bool(timer[1])
        self._seen.qpos[:] = seen
        self._seen_fingers, self._seen_flames = fingers.copy(), flames.copy()

    def close(self) -> None:
        """Frees the model and its GL context. The scene must not be used afterwards."""
        if self._painter is not None:
            self._painter.close()
        self._env.close()
        del self._env, self._robot, self._placement, self._arm, self._seen, self._painter
        gc.collect()  # robosuite's objects point at each other, and hold a hundred megabytes


@contextmanager
def _explained_assets(bddl: str) -> Iterator[None]:
    try:
        yield
    except (FileNotFoundError, ValueError) as error:
        raise ValueError(f"LIBERO cannot build {bddl}: {error}; are its assets complete?") from error


def _flames(env: Any) -> np.ndarray:
    """The sites that LIBERO shows and hides as the state of the scene changes."""
    named = [env.get_object(name).object_properties["vis_site_names"] for name in env.visualization_sites_list]
    return np.array([env.sim.model.site_name2id(site) for sites in named for site, _ in sites.values()], int)


def _make(bddl: str) -> Any:
    """robosuite's environment as LIBERO's wrapper makes it, but without cameras and observables."""
    suite = import_any("robosuite")
    problem = import_any("libero.libero.envs.bddl_utils").get_problem_info(bddl)["problem_name"]
    env = import_any("libero.libero.envs").TASK_MAPPING[problem](
        bddl,
        robots=["Panda"],
        controller_configs=suite.load_controller_config(default_controller="OSC_POSE"),
        gripper_types="default",
        initialization_noise=None,
        use_camera_obs=False,
        has_offscreen_renderer=False,
        control_freq=CONTROL_HZ,
        ignore_done=True,
        hard_reset=False,
    )
    env._observables = {}
    env.visualize(vis_settings=dict.fromkeys(env._visualizations, False))  # as each reset of robosuite's does
    return env
