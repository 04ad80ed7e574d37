"""Motion primitives: reach, grasp, lift, carry, place. Each is a generator that yields one action a control step.

They look where things are at every step, so a push or exploration noise is corrected. Those that can fail return
whether they did what they are for; nobody waits longer than `PATIENCE` steps.
"""

from __future__ import annotations

from collections.abc import Generator

import numpy as np

from acceerl.envs.libero.expert import grasps, places
from acceerl.envs.libero.expert.hand import CLOSED, HOME, OPEN, UP, Pose, comfortable, downwards, towards, yaw_of
from acceerl.envs.libero.expert.heights import Grid, highest_along
from acceerl.envs.libero.expert.view import View

Move = Generator[np.ndarray, None, bool]
PATIENCE = 90  # control steps
PULL, PRESS = 0.03, 0.008  # m ahead of and below the hand that a dragging hand heads for
EXACT = 25  # control steps after which a motion may end less exactly
STILL, RESTING = 6e-4, 6  # m within a control step, and for how many of them
CLEAR = 0.025  # m kept above what is passed over
BLOCKED = 0.012  # m above its goal, where a descending hand has hit something
LIFT = 0.06  # m after grasping
NEAR, ALIGNED = 0.008, 0.06  # m and rad


class Stuck:
    """Asked at every step of a motion: has the hand not moved for a while, or has the motion outlasted PATIENCE?"""

    def __init__(self, view: View) -> None:
        self._view, self._at, self._resting, self._steps = view, view.hand, 0, 0

    def __bool__(self) -> bool:
        here, self._steps = self._view.hand, self._steps + 1
        self._resting = self._resting + 1 if np.abs(here - self._at).max() < STILL else 0
        self._at = here
        return self._resting > RESTING or self._steps > PATIENCE

    @property
    def slack(self) -> float:
        """By how much to be less exact, the longer it takes: with noise on the actions, exactness may never come."""
        return max(1.0, self._steps / EXACT)


def wait(view: View, grip: float, steps: int) -> Move:
    pose = Pose(view.hand, view.hand_rotation)
    for _ in range(steps):
        yield towards(view, pose, grip)
    return True


def straight(view: View, pose: Pose, grip: float, speed: float = 1.0, near: float = NEAR) -> Move:
    """To the pose in a straight line; False when something is in the way."""
    stuck = Stuck(view)
    while not stuck:
        away = pose.position - view.hand
        if np.abs(away).max() < near * stuck.slack and _turned(view, pose, stuck.slack):
            return True
        yield towards(view, pose, grip, speed)
    return False


def _turned(view: View, pose: Pose, slack: float) -> bool:
    """Is the hand's rotation within ALIGNED times `slack` of the pose's?"""
    cosine = (np.trace(pose.rotation @ view.hand_rotation.T) - 1) / 2
    return bool(cosine > np.cos(ALIGNED * slack))


def travel(view: View, pose: Pose, grip: float, thing: str = "") -> Move:
    """Up, over everything, and to a pose above its place. `thing`: what is held and must pass over, too."""
    held = view.geoms(view.body(thing)) if thing else set()
    below, radius = _reach_below(view, held)
    goal = pose.position
    cruise = max(goal[2], highest_along(*view.obstacles(held), view.hand, goal, radius) + below + CLEAR)
    stuck = Stuck(view)
    while not stuck:
        away = goal - view.hand
        far = float(np.hypot(*away[:2]))
        if far < 0.01 * stuck.slack and abs(away[2]) < 0.015 * stuck.slack and _turned(view, pose, stuck.slack):
            return True
        height = float(np.clip(goal[2] + 5.0 * (far - 0.015), goal[2], cruise))
        sideways = float(np.clip(1 - (height - view.hand[2] - 0.01) / 0.03, 0, 1))  # none while low
        step = np.array([*(away[:2] * sideways), height - view.hand[2]])
        yield towards(view, Pose(view.hand + step, pose.rotation), grip)
    return False


def _reach_below(view: View, held: set[int]) -> tuple[float, float]:
    """How far the fingers, or what they hold, reach below the hand, and how far around it; m."""
    if not held:
        return grasps.TIP, 0.065
    low, high = view.box(held)
    around = max(np.abs(low[:2] - view.hand[:2]).max(), np.abs(high[:2] - view.hand[:2]).max())
    return max(grasps.TIP, float(view.hand[2] - low[2])), max(0.065, float(around))


def grip(view: View, pose: Pose) -> Move:
    """Closes the fingers, until they rest."""
    for step in range(14):
        before = view.opening
        yield towards(view, pose, CLOSED)
        if step > 3 and before - view.opening < 3e-4:
            return True
    return True


def pick(view: View, thing: str, attempt: int = 0) -> Move:
    """Grasps a thing from above and lifts it; another try takes another grasp. False when it is not held then."""
    geoms = view.geoms(view.body(thing))
    low, high = view.box(geoms)
    own, rest = view.heights(grasps.grid_around(low, high), geoms, high[2])
    choice = grasps.distinct(grasps.plan(own, rest, (low + high) / 2, HOME, view.base))
    if not choice:
        return (yield from wait(view, OPEN, 5)) and False
    pose = choice[attempt % len(choice)].pose
    yield from travel(view, pose.moved(0.03 * UP), OPEN)
    if not (yield from straight(view, pose, OPEN)) and view.hand[2] > pose.position[2] + BLOCKED:
        return False
    yield from grip(view, Pose(view.hand, pose.rotation))
    out = grasps.way_out(own, rest, high[2])
    if out.any():
        yield from straight(view, Pose(view.hand + 0.015 * UP, pose.rotation), CLOSED)
        yield from straight(view, Pose(view.hand + out, pose.rotation), CLOSED, 0.5)
    yield from straight(view, Pose(view.hand + LIFT * UP, pose.rotation), CLOSED, near=0.02)
    return view.holding(geoms)


def place(view: View, thing: str, spot: np.ndarray, room: np.ndarray) -> Move:
    """Carries the held thing to a spot [3] (m; anywhere within +-`room` [2] of it will do) and lets go of it there."""
    geoms = view.geoms(view.body(thing))
    drop = places.plan(view, thing, geoms, spot, room)
    start = yaw_of(view.hand_rotation)
    rotation = downwards(start + drop.turn)

    def above(height: float) -> Pose:
        """Where the hand must be for the thing to be `height` over its place."""
        offset = places.turned(view.hand - view.position(thing), start + drop.turn - yaw_of(view.hand_rotation))
        return Pose(drop.position + height * UP + offset, rotation)

    yield from travel(view, above(0.03), CLOSED, thing)
    stuck = Stuck(view)
    while not stuck:
        if not view.holding(geoms):
            return False
        away = drop.position - view.position(thing)
        if away[2] > -0.006 * stuck.slack and np.abs(away[:2]).max() < 0.015 * stuck.slack:
            break
        yield towards(view, above(0.0), CLOSED, 0.5)
    return (yield from let_go(view))


def tow(view: View, thing: str, spot: np.ndarray, room: np.ndarray) -> Move:
    """Drags what cannot be grasped over the surface that it stands on to a spot: fingers press inside its rim.

    What is dragged follows by itself; what is pushed from behind turns away.
    """
    geoms, here = view.geoms(view.body(thing)), view.position(thing)
    low, high = view.box(geoms)
    surface, _ = view.heights(Grid.over(here, here, 0.01, 0.01), geoms, high[2])
    way = _flat(spot - here)
    rotation = comfortable(downwards(float(np.arctan2(way[0], -way[1]))))
    inside = np.array([*here[:2], surface.values.max() + grasps.TIP])
    yield from travel(view, Pose(inside + 0.03 * UP, rotation), CLOSED)
    yield from straight(view, Pose(inside, rotation), CLOSED)
    stuck = Stuck(view)
    while not stuck and not _within(view, thing, spot, room):
        way = _flat(spot - view.position(thing))
        aside = view.hand - view.position(thing)
        if np.abs(aside)[:2].max() > (high - low)[:2].max() / 2:
            break  # the fingers have slipped over the rim
        aside -= (aside @ way) * way
        aim = view.hand + PULL * way - aside
        aim[2] = inside[2] - PRESS
        yield towards(view, Pose(aim, rotation), CLOSED, 0.6)
    yield from straight(view, Pose(view.hand + LIFT * UP, rotation), CLOSED, near=0.02)
    return _within(view, thing, spot, room)


def _within(view: View, thing: str, spot: np.ndarray, room: np.ndarray) -> bool:
    return bool(np.abs(spot - view.position(thing))[:2].max() <= 0.4 * room.min())


def _flat(way: np.ndarray) -> np.ndarray:
    """Unit vector [3] of the horizontal part."""
    level = way * (1, 1, 0)
    return level / np.linalg.norm(level)


def let_go(view: View) -> Move:
    """Opens the fingers and backs off along them."""
    pose = Pose(view.hand, view.hand_rotation)
    for _ in range(6):
        yield towards(view, pose, OPEN)
    yield from straight(view, pose.moved(-0.08 * pose.rotation[:, 2]), OPEN, near=0.02)
    return True
