"""LiberoExpert: solves LIBERO's tasks from privileged state, goal by goal. Start here; then goals.py and moves.py."""

from __future__ import annotations

import numpy as np

from acceerl.envs.libero.env import LiberoEnv
from acceerl.envs.libero.expert import joints, moves
from acceerl.envs.libero.expert.goals import Goal, goals, met, spot
from acceerl.envs.libero.expert.hand import OPEN
from acceerl.envs.libero.expert.view import View

GRASPS = 2  # that are tried before a flat thing is dragged
FLAT, LEVEL = 0.04, 0.02  # m: the height of such a thing, and the largest step on its way


class LiberoExpert:
    """A scripted solver of LIBERO's tasks; satisfies `acceerl.protocols.Expert`.

    It reads object poses and the task's goal predicates, never the task's name. Call `reset` after `LiberoEnv.reset`.
    """

    def __init__(self, env: LiberoEnv) -> None:
        self._env = env
        self._plan: moves.Move | None = None

    def reset(self) -> None:
        """Forgets the episode."""
        self._plan = None

    def act(self) -> np.ndarray:
        """The next action, float32 [7] in [-1, 1]. Raises ValueError for a goal that no primitive serves."""
        if self._plan is None:
            self._plan = pursue(View(self._env.scene))
        return next(self._plan)


def pursue(view: View) -> moves.Move:
    """Works on the first goal that does not hold, again and again: a failed try starts over from what is there."""
    wanted, attempt = goals(view), 0
    while True:
        goal = next((goal for goal in wanted if not met(view, goal)), None)
        if goal is None:
            yield from moves.wait(view, OPEN, 1)
        elif not (yield from achieve(view, goal, attempt)):
            attempt += 1


def achieve(view: View, goal: Goal, attempt: int) -> moves.Move:
    """One try at a goal."""
    match goal.predicate:
        case "open":
            return (yield from joints.pull(view, goal))
        case "close":
            return (yield from joints.push(view, goal))
        case "turnon" | "turnoff":
            return (yield from joints.twist(view, goal))
    if joints.is_shut(view, goal.where):
        return (yield from joints.pull(view, Goal("open", goal.where)))
    if attempt >= GRASPS and _can_be_towed(view, goal):
        return (yield from moves.tow(view, goal.thing, *spot(view, goal)))
    if not (yield from moves.pick(view, goal.thing, attempt)):
        yield from moves.let_go(view)
        return False
    return (yield from moves.place(view, goal.thing, *spot(view, goal)))


def _can_be_towed(view: View, goal: Goal) -> bool:
    """Is the thing flat, and does it stand as high as the place where it should go?"""
    low, high = view.box(view.geoms(view.body(goal.thing)))
    return bool(abs(low[2] - spot(view, goal)[0][2]) < LEVEL and high[2] - low[2] < FLAT)
