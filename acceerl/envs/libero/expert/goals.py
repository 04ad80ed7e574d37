"""What to do: a task's goal predicates (BDDL: On, In, Open, Close, Turnon) in an order in which they can be met."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from acceerl.envs.libero.expert.view import View

# what comes first must not undo, or stand in the way of, what comes later
_ORDER = ("open", "turnon", "on", "in", "turnoff", "close")


@dataclass(frozen=True)
class Goal:
    """One predicate: `Goal("on", "akita_black_bowl_1", "plate_1")`; `where` is empty for those of one thing."""

    predicate: str
    thing: str
    where: str = ""


def goals(view: View) -> list[Goal]:
    """The task's goals, in the order to meet them. Raises ValueError for a predicate that no primitive serves."""
    found = [Goal(*state) for state in view.domain.parsed_problem["goal_state"]]
    for goal in found:
        if goal.predicate not in _ORDER:
            known = ", ".join(_ORDER)
            raise ValueError(f"the scripted expert knows no goal {goal.predicate!r} (of {known}): collect by=policy")
    return sorted(found, key=lambda goal: _ORDER.index(goal.predicate))


def met(view: View, goal: Goal) -> bool:
    state = [goal.predicate, goal.thing, goal.where] if goal.where else [goal.predicate, goal.thing]
    return bool(view.domain._eval_predicate(state))


def spot(view: View, goal: Goal) -> tuple[np.ndarray, np.ndarray]:
    """Where the thing should go [3], m, and how far from there [2], m, it may be."""
    centre = view.position(goal.where)
    site: Any = view.domain.object_sites_dict.get(goal.where)
    if site is None:
        return centre, np.full(2, 0.012)
    rotation = view.data.site_xmat[view.site(goal.where)].reshape(3, 3)
    half = np.abs(rotation @ np.asarray(site.size))[:2]
    beside = [other for other in goals(view) if (other.predicate, other.where) == ("on", goal.where)]
    if len(beside) < 2:
        return centre, 0.4 * half
    place = (2 * beside.index(goal) + 1) / len(beside) - 1  # side by side, from -1 to 1 along x
    return centre + np.array([1.2 * place * half[0], 0, 0]), np.array([0.2, 0.4]) * half
