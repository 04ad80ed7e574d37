"""TabletopEnv: one suite of the embedded tabletop behind the Env protocol. Read this file first.

scene.py says what the world looks like, tasks.py what is asked for, layouts.py where things start, world.py
how it moves, cameras.py how it is seen, expert.py how it is solved.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from acceerl.envs.tabletop.cameras import CAMERAS, Cameras
from acceerl.envs.tabletop.layouts import EVAL_STATES, TRAIN_STATES, home, layout
from acceerl.envs.tabletop.tasks import SUITES, Task
from acceerl.envs.tabletop.world import World
from acceerl.types import EnvSpec, Observation, StepResult

PROPRIO = 8
_EPISODE = 4  # entries of a state that are not physics: task, init_state, steps, success


class TabletopEnv:
    """Ten language-conditioned tasks over one scene.

    Actions are float32 [7] in [-1, 1] (outside is clipped): dx dy dz (1 = 3 cm), droll dpitch dyaw (1 = 0.1 rad),
    grip (> 0 closes, else opens). Proprioception is float32 [8]: gripper position in decimetres, roll pitch yaw
    in rad, pad distance in decimetres, 1 if told to close else 0. The reward is 1 at the step that fulfils the
    task, else 0.

    Raises ValueError for an unknown suite or camera.
    """

    def __init__(
        self,
        suite: str = "spatial",
        image_size: int = 64,
        cameras: Sequence[str] = CAMERAS,
        step_limit: int | None = None,
    ) -> None:
        if suite not in SUITES:
            raise ValueError(f"unknown tabletop suite {suite!r}: choose one of {', '.join(SUITES)}")
        if not cameras or not set(cameras) <= set(CAMERAS):
            raise ValueError(f"unknown tabletop cameras {list(cameras)}: choose from {', '.join(CAMERAS)}")
        self.suite = suite
        self.world = World(SUITES[suite])
        self._spec = _spec(suite, image_size, tuple(cameras), step_limit or SUITES[suite].step_limit)
        self._cameras: Cameras | None = None
        self._task = self._init_state = self._steps = 0
        self._success = False

    @property
    def spec(self) -> EnvSpec:
        return self._spec

    @property
    def success(self) -> bool:
        """Whether the task was fulfilled at some step of this episode."""
        return self._success

    @property
    def task(self) -> Task:
        """The episode's task, with its goals."""
        return self.world.suite.tasks[self._task]

    @staticmethod
    def longest_episode(suite: str = "spatial", step_limit: int | None = None, **_: object) -> int:
        """Control steps, by the settings alone: who plans memory has no simulator."""
        return step_limit or (SUITES[suite].step_limit if suite in SUITES else 1)

    def reset(self, task: int, init_state: int, seed: int) -> None:
        """Starts an episode; `init_state` decides the scene, for all tasks alike, `seed` the gripper's start.

        Raises ValueError when `task` or `init_state` is outside the spec.
        """
        self._check("task", task, range(self._spec.n_tasks))
        self._check("init_state", init_state, range(TRAIN_STATES.start, EVAL_STATES.stop))
        self._task, self._init_state, self._steps, self._success = int(task), int(init_state), 0, False
        self.world.reset(layout(self._init_state), home(seed))

    def step(self, action: np.ndarray) -> StepResult:
        """Executes one control step of 0.06 s."""
        self.world.step(np.asarray(action, dtype=np.float64))
        self._steps += 1
        fresh = not self._success and all(self.world.holds(goal) for goal in self.task.goals)
        self._success |= fresh
        out_of_time = self._steps >= self._spec.step_limits[self._task]
        return StepResult(float(fresh), self._success, out_of_time and not self._success)

    def observe(self) -> Observation:
        """Renders; raises RuntimeError, naming the fix, when the GL library is missing."""
        if self._cameras is None:
            self._cameras = Cameras(self.world, self._spec.cameras, self._spec.image_size[0])
        return Observation(self._cameras.render(), self._proprio(), self.task.instruction)

    def state(self) -> np.ndarray:
        """Episode and physics, float64 [n]."""
        episode = (self._task, self._init_state, self._steps, self._success)
        return np.concatenate([episode, self.world.state()])

    def set_state(self, state: np.ndarray) -> None:
        """Restores what `state` returned, on this env or another of the same suite."""
        task, init_state, steps, success = state[:_EPISODE]
        self._task, self._init_state, self._steps, self._success = int(task), int(init_state), int(steps), bool(success)
        self.world.set_state(state[_EPISODE:])

    def close(self) -> None:
        """Gives the GL context back; may be called twice."""
        if self._cameras is not None:
            self._cameras.close()
            self._cameras = None

    def _proprio(self) -> np.ndarray:
        world = self.world
        parts = (world.gripper * 10, world.angles, [world.opening * 10, world.closing])
        return np.concatenate(parts).astype(np.float32)

    def _check(self, name: str, value: int, valid: range) -> None:
        if value not in valid:
            raise ValueError(f"tabletop suite {self.suite!r}: {name} {value} is not in {valid.start}..{valid.stop - 1}")


def _spec(suite: str, image_size: int, cameras: tuple[str, ...], step_limit: int) -> EnvSpec:
    tasks = SUITES[suite].tasks
    return EnvSpec(
        cameras=cameras,
        image_size=(image_size, image_size),
        proprio=PROPRIO,
        action_dim=7,
        instructions=tuple(task.instruction for task in tasks),
        step_limits=(step_limit,) * len(tasks),
        train_states=TRAIN_STATES,
        eval_states=EVAL_STATES,
    )
