"""The scripted expert: a feedback law on privileged state, without memory, so that a policy can clone it.

Every action follows from where things are now. A missed grasp, a dropped item or a push by exploration noise
is just another state, and the law goes on from there.
"""

from __future__ import annotations

import numpy as np

from acceerl.envs.tabletop.env import TabletopEnv
from acceerl.envs.tabletop.scene import HALF, OPEN
from acceerl.envs.tabletop.tasks import Goal, On, Opened, Pressed, Task
from acceerl.envs.tabletop.world import MOVE, TURN

CLEAR = 0.10  # m, height at which the pads, and what they hold, pass over everything
REACHED = 0.012  # m, a position is reached
RELEASE = 0.012  # m above its resting height at which an item is let go
PRESS = 0.02  # m above a cap's centre, where closed pads would be deep inside it
CLOSE, OPEN_UP = 1.0, -1.0


class TabletopExpert:
    """Solves the env's current task: `act` gives the next action, float32 [7].

    `told` makes it pursue another task instead: the control for "does the instruction matter". `speed` in (0, 1]
    is the largest share of a full-scale move that it makes: a careful demonstrator, whose imitators run out of
    time and have something to gain from practice. Raises ValueError for a speed outside that.
    """

    def __init__(self, env: TabletopEnv, told: Task | None = None, speed: float = 1.0) -> None:
        if not 0 < speed <= 1:
            raise ValueError(f"the expert's speed must be above 0 and at most 1, got {speed}")
        self._env = env
        self._world = env.world
        self._told = told
        self._speed = speed

    def reset(self) -> None:
        """Nothing to forget: the expert is a function of the state."""

    def act(self) -> np.ndarray:
        goals = (self._told or self._env.task).goals
        return self._pursue(next((goal for goal in goals if not self._world.holds(goal)), goals[-1]))

    def _pursue(self, goal: Goal) -> np.ndarray:
        match goal:
            case On(item, place):
                return self._place(item, place) if self._world.holding(item) else self._grasp(item)
            case Opened(part):
                return self._pull(part) if self._world.holding(part) else self._grasp(part)
            case Pressed(part):
                return self._press(part)

    def _grasp(self, item: str) -> np.ndarray:
        target = self._world.position(item)
        offset = np.abs(target - self._world.gripper)
        half_closed = self._world.opening < 1.8 * OPEN
        if offset.max() < (HALF if half_closed else REACHED):
            return self._action(target, CLOSE)
        return self._approach(item, target, OPEN_UP)

    def _place(self, item: str, place: str) -> np.ndarray:
        target = _above(self._world.surface(place), HALF + RELEASE)
        offset = np.abs(target - self._world.position(item))
        if offset[:2].max() < 0.02 and offset[2] < REACHED:
            return self._action(self._world.gripper, OPEN_UP)
        return self._approach(item, target, CLOSE)

    def _pull(self, part: str) -> np.ndarray:
        return self._action(self._world.position(part) - (0.0, MOVE, 0.0), CLOSE)

    def _press(self, part: str) -> np.ndarray:
        """From above until the cap is all the way down; the fingers close near it, where they catch nothing."""
        target = _above(self._world.position(part), PRESS)
        return self._approach(part, target, CLOSE if np.hypot(*self._away(target)[:2]) < 0.06 else OPEN_UP)

    def _approach(self, item: str, target: np.ndarray, grip: float) -> np.ndarray:
        """Straight towards the target at a safe height, sinking once above it; rising first if too low."""
        away = self._away(target)
        cruise = target[2] + 2.0 * (np.hypot(*away[:2]) - 0.015)  # a funnel: full height until close, then down
        height = np.clip(cruise, target[2], max(self._clearance(item), target[2]))
        too_low = height - self._world.gripper[2] - 0.01
        sideways = np.clip(1 - too_low / 0.01, 0, 1)  # none while low: it would sweep things along
        step = np.array([*(away[:2] * sideways), away[2] + height - target[2]])
        return self._action(self._world.gripper + step, grip)

    def _clearance(self, item: str) -> float:
        """Height at which the pads pass over whatever stands around them, except the item they are after."""
        others = [self._world.position(name) for name in self._env.world.suite.items if name != item]
        tops = [p[2] + HALF for p in others if np.hypot(*self._away(p)[:2]) < 0.08]
        return max(CLEAR, *(top + 0.04 for top in tops)) if tops else CLEAR

    def _away(self, point: np.ndarray) -> np.ndarray:
        return point - self._world.gripper

    def _action(self, waypoint: np.ndarray, grip: float) -> np.ndarray:
        """Towards a waypoint in a straight line, and upright."""
        move = self._away(waypoint) / MOVE
        turn = np.clip(-self._world.angles / TURN, -1, 1)
        return np.concatenate([move / max(1.0, np.abs(move).max() / self._speed), turn, [grip]]).astype(np.float32)


def _above(point: np.ndarray, height: float) -> np.ndarray:
    return np.array([point[0], point[1], point[2] + height])
