"""What is asked for: four suites of ten tasks, each an instruction and the goals that fulfil it. Pure data.

Every suite is one scene: five items on the five back slots, two places at the two front sides. The initial
state permutes both, so an instruction names something that only the image can locate.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class On:
    """Item `item` rests on place `place`, released."""

    item: str
    place: str


@dataclass(frozen=True)
class Opened:
    """Drawer `part` is pulled out."""

    part: str


@dataclass(frozen=True)
class Pressed:
    """Button cap `part` is down (it stays down)."""

    part: str


Goal = On | Opened | Pressed


@dataclass(frozen=True)
class Task:
    """An instruction, and the goals that must hold at the same time, in the order the expert pursues them."""

    instruction: str
    goals: tuple[Goal, ...]


@dataclass(frozen=True)
class Suite:
    """One scene and its ten tasks."""

    items: tuple[str, ...]  # five, one per slot
    places: tuple[str, ...]  # two, one per side
    marks: tuple[str, ...]  # painted under the items, in the items' order; empty or five
    tasks: tuple[Task, ...]
    step_limit: int  # control steps per episode


_WHERE = {
    "red": "on the red mat",
    "yellow": "inside the yellow ring",
    "blue": "in front of the blue strip",
    "green": "behind the green strip",
    "purple": "on the purple stripe",
}
_GROCERIES = ("tomato soup", "milk", "butter", "grape juice", "lime")


def _spatial() -> Suite:
    tasks = tuple(
        Task(f"pick up the bowl {where} and place it on the {place}", (On(f"{colour} bowl", place),))
        for place in ("plate", "tray")
        for colour, where in _WHERE.items()
    )
    return Suite(tuple(f"{c} bowl" for c in _WHERE), ("plate", "tray"), tuple(f"{c} mark" for c in _WHERE), tasks, 37)


def _object() -> Suite:
    tasks = tuple(
        Task(f"pick up the {item} and place it in the {place}", (On(item, place),))
        for place in ("basket", "bin")
        for item in _GROCERIES
    )
    return Suite(_GROCERIES, ("basket", "bin"), (), tasks, 37)


def _put(item: str, place: str) -> Task:
    top = "top of " if place == "cabinet" else ""
    return Task(f"put the {item} on {top}the {place}", (On(item, place),))


_OPEN = Task("open the drawer", (Opened("drawer"),))
_PRESS = Task("press the button", (Pressed("cap"),))
_FIXTURE_SCENE = ("bowl", "tomato soup", "butter", "cabinet", "button"), ("plate", "tray"), ()


def _goal() -> Suite:
    moves = [_put(item, place) for place in ("plate", "tray") for item in ("bowl", "tomato soup", "butter")]
    moves += [_put("bowl", "cabinet"), _put("tomato soup", "cabinet")]
    return Suite(*_FIXTURE_SCENE, (*moves, _OPEN, _PRESS), 37)


def _long() -> Suite:
    pairs = (
        (_put("bowl", "plate"), _PRESS),
        (_put("bowl", "tray"), _OPEN),
        (_put("tomato soup", "plate"), _put("butter", "tray")),
        (_put("tomato soup", "tray"), _put("butter", "plate")),
        (_put("bowl", "cabinet"), _PRESS),
        (_OPEN, _PRESS),
        (_put("tomato soup", "cabinet"), _put("bowl", "tray")),
        (_put("butter", "tray"), _OPEN),
        (_put("bowl", "plate"), _put("tomato soup", "tray")),
        (_put("tomato soup", "plate"), _PRESS),
    )
    return Suite(*_FIXTURE_SCENE, tuple(_both(first, second) for first, second in pairs), 74)


def _both(first: Task, second: Task) -> Task:
    return Task(f"{first.instruction} and {second.instruction}", first.goals + second.goals)


SUITES: dict[str, Suite] = {"spatial": _spatial(), "object": _object(), "goal": _goal(), "long": _long()}
