"""LiberoEnv: the four LIBERO evaluation suites behind the Env protocol. Start here to use LIBERO."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path

import numpy as np

from acceerl.envs.libero.install import import_any, load
from acceerl.envs.libero.scene import NO_OP, Scene
from acceerl.types import EnvSpec, Observation, StepResult

STEP_LIMITS = {"libero_spatial": 220, "libero_object": 280, "libero_goal": 300, "libero_10": 520}
CAMERAS = {"agentview": "agentview", "wrist": "robot0_eye_in_hand"}  # ours -> LIBERO's; LIBERO's own are taken too
_LIBERO_CAMERAS = ("agentview", "robot0_eye_in_hand", "frontview", "birdview", "sideview", "galleryview")
EVAL_STATES = range(50)
TRAIN_STATES = range(50, 100_000)
SETTLING_STEPS = 10
_HEADER = 4  # task, initial state, steps, success


class LiberoEnv:
    """A suite of LIBERO on the real simulator; satisfies `acceerl.protocols.Env`.

    Initial states 0 to 49 are the benchmark's fixed ones, for evaluation only. States 50 to 99,999 are for
    training: placements drawn anew from the task's regions by a generator that the index seeds. The index alone
    decides (fixtures included), LIBERO has no other randomness, so the episode's `seed` changes nothing.
    A reset ends with 10 waiting steps, as in the published evaluations, which do not count as steps.

    Actions are robosuite's: dx dy dz droll dpitch dyaw of the end effector, then the gripper (+1 closes, -1
    opens). Proprioception is position (3, m), axis-angle (3, rad) and finger positions (2, m).
    Images are right side up and not mirrored: LIBERO's rows reversed. (Policies of the OpenVLA family were
    trained on LIBERO's images turned by 180 degrees, which are ours mirrored left to right.)

    suite: libero_spatial, libero_object, libero_goal or libero_10. image_size: pixels, one number or H, W.
    cameras: of agentview and wrist, or LIBERO's own names. assets: folder of LIBERO's meshes, by default
    $ACCEERL_LIBERO_ASSETS. scenes: how many tasks' simulators stay built (seconds each); the least recently used
    goes. step_limit: control steps per episode, by default the published 220, 280, 300 or 520.

    Raises ValueError for an unknown suite or camera or missing assets, RuntimeError for missing packages or GL.
    """

    def __init__(
        self,
        suite: str = "libero_spatial",
        image_size: int | Sequence[int] = 128,
        cameras: Sequence[str] = ("agentview", "wrist"),
        assets: str = "",
        scenes: int = 2,
        step_limit: int | None = None,
    ) -> None:
        _check(suite, cameras, scenes)
        self._suite, self._assets, self._capacity = suite, assets, scenes
        self._files = _task_files(suite, Path(load(assets).__file__ or "").parent)
        height, width = (image_size, image_size) if isinstance(image_size, int) else image_size
        self._spec = _spec(suite, tuple(cameras), (height, width), step_limit or STEP_LIMITS[suite])
        self._scenes: OrderedDict[int, Scene] = OrderedDict()
        self._header = np.zeros(_HEADER)
        self._scene: Scene | None = None

    @property
    def spec(self) -> EnvSpec:
        return self._spec

    def reset(self, task: int, init_state: int, seed: int) -> None:
        """Starts an episode, see the class for what the indices mean; `seed` is unused.

        Raises ValueError when `task` or `init_state` is outside the spec.
        """
        if not 0 <= task < self._spec.n_tasks:
            raise ValueError(f"{self._suite} has tasks 0 to {self._spec.n_tasks - 1}, got {task}")
        if init_state not in EVAL_STATES and init_state not in TRAIN_STATES:
            raise ValueError(f"LIBERO's initial states are 0 to {TRAIN_STATES.stop - 1}, got {init_state}")
        scene = self._enter(task)
        fixed = _init_states(self._files[task][1])[init_state] if init_state in EVAL_STATES else None
        scene.reset((task, init_state), fixed)
        for _ in range(SETTLING_STEPS):
            succeeded = scene.step(NO_OP)
        self._header[:] = task, init_state, 0, succeeded

    def _enter(self, task: int) -> Scene:
        """The task's simulator, built when it is not alive."""
        if task not in self._scenes:
            while len(self._scenes) >= self._capacity:
                self._scenes.popitem(last=False)[1].close()
            load(self._assets)  # the place of the assets is a global of LIBERO's: another env may have set its own
            self._scenes[task] = Scene(self._files[task][0], rendering=bool(self._spec.cameras))
        self._scenes.move_to_end(task)
        self._scene = self._scenes[task]
        return self._scene

    @property
    def scene(self) -> Scene:
        """The current task's simulator, for privileged reads. Raises ValueError before the first reset."""
        if self._scene is None:
            raise ValueError("LiberoEnv has no episode yet: call reset first")
        return self._scene

    def step(self, action: np.ndarray) -> StepResult:
        """One control step of 1/20 s; reward 1 where the goal holds. Raises ValueError for a wrong shape."""
        if np.shape(action) != (self._spec.action_dim,):
            raise ValueError(f"LIBERO takes {self._spec.action_dim} numbers, got an action of shape {np.shape(action)}")
        succeeded = self.scene.step(np.asarray(action, np.float64))
        self._header[2:] = self._header[2] + 1, succeeded
        limit = self._spec.step_limits[int(self._header[0])]
        return StepResult(float(succeeded), succeeded, not succeeded and self._header[2] >= limit)

    def observe(self) -> Observation:
        """Renders every camera (tens of ms each on a CPU) and reads proprioception; physics is left as it is.

        Both are of the state after the last step; stock robosuite's lag by 2 ms (one simulator step).
        """
        scene = self.scene
        scene.update_kinematics()
        size = self._spec.image_size
        images = {name: scene.render(CAMERAS.get(name, name), size) for name in self._spec.cameras}
        return Observation(images, scene.proprio(), self._spec.instructions[int(self._header[0])])

    @property
    def success(self) -> bool:
        return bool(self._header[3])

    def state(self) -> np.ndarray:
        """float64 [n]: task, initial state, steps, success, then the simulator with controller and gripper."""
        return np.concatenate((self._header, self.scene.state()))

    def set_state(self, state: np.ndarray) -> None:
        """Restores `state()` exactly, another task's too (its simulator is built where it is not alive).

        Raises ValueError when `state` is not one of this suite.
        """
        state = np.asarray(state, np.float64)
        if state.ndim != 1 or len(state) <= _HEADER or state[0] not in range(self._spec.n_tasks):
            raise ValueError(f"not a state of {self._suite}: shape {state.shape}")
        self._enter(int(state[0])).set_state(state[_HEADER:])
        self._header[:] = state[:_HEADER]

    def close(self) -> None:
        """Frees all simulators and GL contexts; the env may be reset again afterwards."""
        while self._scenes:
            self._scenes.popitem()[1].close()
        self._scene = None


def _check(suite: str, cameras: Sequence[str], scenes: int) -> None:
    if suite not in STEP_LIMITS:
        raise ValueError(f"no LIBERO suite {suite!r}: choose one of {', '.join(STEP_LIMITS)}")
    for camera in cameras:
        if camera not in CAMERAS and camera not in _LIBERO_CAMERAS:
            raise ValueError(f"no LIBERO camera {camera!r}: choose of {', '.join((*CAMERAS, *_LIBERO_CAMERAS))}")
    if scenes < 1:
        raise ValueError(f"LIBERO must keep at least one of its scenes, got scenes={scenes}")


@lru_cache
def _tasks(suite: str) -> tuple[tuple[str, str], ...]:
    """(file stem, instruction) of every task, in LIBERO's default order."""
    task_map = import_any("libero.libero.benchmark").task_maps[suite]
    return tuple((task.name, task.language) for task in task_map.values())


def _task_files(suite: str, package: Path) -> list[tuple[str, str]]:
    """(BDDL file, initial states file) of every task."""
    bddl, states = package / "bddl_files" / suite, package / "init_files" / suite
    return [(str(bddl / f"{stem}.bddl"), str(states / f"{stem}.pruned_init")) for stem, _ in _tasks(suite)]


def _spec(suite: str, cameras: tuple[str, ...], image_size: tuple[int, int], step_limit: int) -> EnvSpec:
    instructions = tuple(language for _, language in _tasks(suite))
    limits = (step_limit,) * len(instructions)
    return EnvSpec(cameras, image_size, 8, 7, instructions, limits, TRAIN_STATES, EVAL_STATES)


@lru_cache(maxsize=64)
def _init_states(file: str) -> np.ndarray:
    """float64 [50, 1 + nq + nv]: LIBERO's fixed initial states of one task."""
    # LIBERO pickles numpy arrays with torch, which refuses those by default since 2.6; the files are the package's
    return np.asarray(import_any("torch").load(file, weights_only=False), np.float64)
