"""The scripted expert: a feedback law on privileged state, without memory, so that a policy can clone it.

Every action follows from where things are now. A missed grasp, a dropped item or a push by exploration noise
is just another state, and the law goes on from there.
"""

from __future__ import annotations

import numpy as np

from acceerl.envs.tabletop.env import TabletopEnv
from acceerl.envs.tabletop.scene import HALF, OPEN
from acceerl.envs.tabletop.tasks import Goal, On, Opened, Pressed
from acceerl.envs.tabletop.world import MOVE, TURN

CLEAR = 0.10  # m, height at which the pads, and what they hold, pass over everything
REACHED = 0.012  # m, a position is reached
RELEASE = 0.012  # m above its resting height at which an item is let go
CLOSE, OPEN_UP = 1.0, -1.0


class TabletopExpert:
    """Solves the env's current task: `act` gives the next action, float32 [7]."""

    def __init__(self, env: TabletopEnv) -> None:
        self._env = env
        self._world = env.world

    def reset(self) -> None:
        """Nothing to forget: the expert is a function of the state."""

    def act(self) -> np.ndarray:
        goals = self._env.task.goals
        return self._pursue(next((goal for goal in goals if not self._world.holds(goal)), goals[-1]))

    def _pursue(self, goal: Goal) -> np.ndarray:
        match goal:
            case On(item, place):
                return self._place(item, place) if self._world.holding(item) else self._grasp(item)
            case Opened(item) | Pressed(item):
                return self._grasp(item)

    def _grasp(self, item: str) -> np.ndarray:
        target = self._world.position(item)
        offset = np.abs(target - self._world.gripper)
        half_closed = self._world.opening < 1.8 * OPEN
        if offset.max() < (HALF if half_closed else REACHED):
            return self._action(target, CLOSE)
        return self._approach(target, OPEN_UP)

    def _place(self, item: str, place: str) -> np.ndarray:
        target = self._world.surface(place) + (0.0, 0.0, HALF + RELEASE)
        offset = np.abs(target - self._world.position(item))
        if offset[:2].max() < 0.02 and offset[2] < REACHED:
            return self._action(self._world.gripper, OPEN_UP)
        return self._approach(target, CLOSE)

    def _approach(self, target: np.ndarray, grip: float) -> np.ndarray:
        """Straight towards the target at a safe height, sinking once above it; rising first if too low."""
        here = self._world.gripper
        distance = float(np.hypot(*(target - here)[:2]))
        height = float(np.clip(target[2] + 2.0 * (distance - 0.015), target[2], max(CLEAR, target[2])))
        waypoint = np.array([target[0], target[1], height])
        below = height - here[2]
        if below > 0.02:  # first up: sideways motion at this height would sweep things along
            waypoint[:2] = here[:2] + (target - here)[:2] * float(np.clip(1 - below / 0.05, 0, 1))
        return self._action(waypoint, grip)

    def _action(self, waypoint: np.ndarray, grip: float) -> np.ndarray:
        """Towards a waypoint in a straight line, and upright."""
        move = (waypoint - self._world.gripper) / MOVE
        turn = np.clip(-self._world.angles / TURN, -1, 1)
        return np.concatenate([move / max(1.0, np.abs(move).max()), turn, [grip]]).astype(np.float32)
