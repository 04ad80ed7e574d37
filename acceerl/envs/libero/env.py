"""LiberoEnv: LIBERO's suites behind the Env protocol. Start here to use LIBERO; then read `scene.py`."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping, Sequence
from types import MappingProxyType

import numpy as np

from acceerl.envs.libero.install import load
from acceerl.envs.libero.painter import RENDERS
from acceerl.envs.libero.scene import NO_OP, Scene
from acceerl.envs.libero.suites import EVAL_STATES, STEP_LIMITS, TRAIN_STATES, Suite
from acceerl.types import EnvSpec, Observation, StepResult

CAMERAS = {"agentview": "agentview", "wrist": "robot0_eye_in_hand"}  # ours -> LIBERO's; LIBERO's own are taken too
_LIBERO_CAMERAS = ("agentview", "robot0_eye_in_hand", "frontview", "birdview", "sideview", "galleryview")
ORIENTATIONS = ("upright", "rotated")
SETTLING_STEPS = 10
_HEADER = 4  # task, initial state, steps, success
_NOTHING = np.zeros((0, 7))


class LiberoEnv:
    """A suite of LIBERO on the real simulator; satisfies `acceerl.protocols.Env`.

    Initial states 0 to 49 are the benchmark's fixed ones, for evaluation only. States 50 to 99,999 are for
    training: placements drawn anew from the task's regions by a generator that the index seeds. The index alone
    decides (fixtures included), LIBERO has no other randomness, so the episode's `seed` changes nothing.
    A reset ends with 10 waiting steps, as in the published evaluations, which do not count as steps.

    Actions are robosuite's: dx dy dz droll dpitch dyaw of the end effector, then the gripper (+1 closes, -1
    opens). Proprioception is position (3, m), axis-angle (3, rad) and finger positions (2, m).
    States, rewards and success are those of LIBERO's own OffScreenRenderEnv bit by bit, and so are, with
    `render=exact`, the pixels.

    suite: libero_spatial, libero_object, libero_goal, libero_10 or libero_90. image_size: pixels, one number or H, W.
    cameras: of agentview and wrist, or LIBERO's own names. render: `exact`, or `fast`, without multisampling and
    reflections: other pixels, for training that does not start from a policy of exact ones.
    orientation: `upright`, LIBERO's rows reversed; `rotated`, LIBERO's images turned by 180 degrees, as policies of
    the OpenVLA family are trained: upright and mirrored left to right.
    assets: folder of LIBERO's meshes, by default $ACCEERL_LIBERO_ASSETS. scenes: how many tasks' simulators stay
    built (seconds each); the least recently used goes.
    step_limit: control steps per episode, by default the published 220, 280, 300, 520 or 400.

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
        render: str = "exact",
        orientation: str = "upright",
    ) -> None:
        _check(suite, cameras, scenes)
        _choose("render", render, RENDERS)
        _choose("orientation", orientation, ORIENTATIONS)
        self._assets, self._capacity, self._render, self._mirrored = assets, scenes, render, orientation == "rotated"
        self.suite = Suite(suite, load(assets))
        height, width = (image_size, image_size) if isinstance(image_size, int) else image_size
        self._spec = _spec(self.suite, tuple(cameras), (height, width), step_limit or STEP_LIMITS[suite])
        self._scenes: OrderedDict[int, Scene] = OrderedDict()
        self._header = np.zeros(_HEADER)
        self._scene: Scene | None = None

    @property
    def spec(self) -> EnvSpec:
        return self._spec

    @staticmethod
    def longest_episode(suite: str = "libero_spatial", step_limit: int | None = None, **_: object) -> int:
        """Control steps, by the settings alone: who plans memory has no simulator."""
        return step_limit or STEP_LIMITS.get(suite, max(STEP_LIMITS.values()))

    def reset(self, task: int, init_state: int, seed: int) -> None:
        """Starts an episode, see the class for what the indices mean; `seed` is unused.

        Raises ValueError when `task` or `init_state` is outside the spec.
        """
        if not 0 <= task < self._spec.n_tasks:
            raise ValueError(f"{self.suite.name} has tasks 0 to {self._spec.n_tasks - 1}, got {task}")
        if init_state not in EVAL_STATES and init_state not in TRAIN_STATES:
            raise ValueError(f"LIBERO's initial states are 0 to {TRAIN_STATES.stop - 1}, got {init_state}")
        scene = self._enter(task)
        fixed = self.suite.initial_states(task)[init_state] if init_state in EVAL_STATES else None
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
            self._scenes[task] = Scene(self.suite.bddl(task), self._spec.image_size, self._render)
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

    def step_chunk(self, actions: np.ndarray) -> list[StepResult]:
        """Executes the rows of `actions`, [C, 7], until the episode ends; one result for each executed row."""
        results: list[StepResult] = []
        for action in actions:
            results.append(self.step(action))
            if results[-1].terminated or results[-1].truncated:
                break
        return results

    def observe(self) -> Observation:
        """Renders every camera (tens of ms each on a CPU) and reads proprioception; physics is left as it is.

        Both are what stock robosuite's last step returns, one or two of its 25 simulator steps before its end.
        """
        scene, names = self.scene, self._spec.cameras
        pictures = scene.look([CAMERAS.get(name, name) for name in names]) if names else []
        if self._mirrored:
            pictures = [np.ascontiguousarray(picture[:, ::-1]) for picture in pictures]
        images = dict(zip(names, pictures, strict=True))
        return Observation(images, scene.proprio(), self._spec.instructions[int(self._header[0])])

    @property
    def success(self) -> bool:
        return bool(self._header[3])

    def state(self) -> np.ndarray:
        """float64 [n]: task, initial state, steps, success, then the simulator with its controller (scene.py)."""
        return np.concatenate((self._header, self.scene.state()))

    def set_state(self, state: np.ndarray) -> None:
        """Restores `state()` exactly, another task's too (its simulator is built where it is not alive).

        Raises ValueError when `state` is not one of this suite.
        """
        state = np.asarray(state, np.float64)
        if state.ndim != 1 or len(state) <= _HEADER or state[0] not in range(self._spec.n_tasks):
            raise ValueError(f"not a state of {self.suite.name}: shape {state.shape}")
        self._enter(int(state[0])).set_state(state[_HEADER:])
        self._header[:] = state[:_HEADER]

    def set_simulator_state(
        self,
        task: int,
        state: np.ndarray,
        fixtures: Mapping[str, Sequence[float]] = MappingProxyType({}),
        taken: np.ndarray = _NOTHING,
    ) -> None:
        """Goes into a state as LIBERO's published files hold them, float64 [1 + nq + nv], to be looked at.

        fixtures: body -> position and quaternion of what such states leave out; without them it stands where the
        task's first reset puts it. taken: the actions before, [N, 7], from which the gripper's command follows. The
        rest of the controller begins here, so that a step from here is near the one that was made, but not equal.
        Raises ValueError for a task or a state of another suite.
        """
        if not 0 <= task < self._spec.n_tasks:
            raise ValueError(f"{self.suite.name} has tasks 0 to {self._spec.n_tasks - 1}, got {task}")
        self._enter(task).show((task, 0), state, fixtures, taken)
        self._header[:] = task, 0, 0, 0

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


def _choose(key: str, value: str, choices: Sequence[str]) -> None:
    if value not in choices:
        raise ValueError(f"LIBERO has no {key}={value}: choose from {', '.join(choices)}")


def _spec(suite: Suite, cameras: tuple[str, ...], image_size: tuple[int, int], step_limit: int) -> EnvSpec:
    limits = (step_limit,) * len(suite.instructions)
    return EnvSpec(cameras, image_size, 8, 7, suite.instructions, limits, TRAIN_STATES, EVAL_STATES)
