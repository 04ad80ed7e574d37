"""Primitives for what hangs on a joint: open and close drawers and doors, turn knobs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from acceerl.envs.libero.expert import grasps, moves
from acceerl.envs.libero.expert.goals import Goal, met
from acceerl.envs.libero.expert.hand import CLOSED, HOME, OPEN, UP, Pose, comfortable, downwards, towards, yaw_of
from acceerl.envs.libero.expert.moves import PATIENCE, Move
from acceerl.envs.libero.expert.view import View

_RANGES = {"open": "default_open_ranges", "close": "default_close_ranges", "turnon": "default_turnon_ranges",
           "turnoff": "default_turnoff_ranges"}  # fmt: skip
LOST = 0.15  # m from a handle, where the hand has slipped off
_SLIDE = 2  # MuJoCo's number for a sliding joint


@dataclass(frozen=True)
class Part:
    """A drawer, a door or a knob: what moves on one joint, and the joint's value that a goal wants."""

    view: View
    joint: int
    body: int
    wanted: float

    @property
    def angle(self) -> float:
        """The joint's value, rad or m."""
        return float(self.view.data.qpos[self.view.model.jnt_qposadr[self.joint]])

    @property
    def axis(self) -> np.ndarray:
        """Unit vector [3] in the world's frame, in the sense of the wanted motion."""
        return self.view.data.xaxis[self.joint] * np.sign(self.wanted - self.angle)

    @property
    def slides(self) -> bool:
        return bool(self.view.model.jnt_type[self.joint] == _SLIDE)

    def motion(self, point: np.ndarray) -> np.ndarray:
        """Unit vector [3]: where a point [3], m, of the part goes."""
        if self.slides:
            return self.axis
        way = np.cross(self.axis, point - self.view.data.xanchor[self.joint])
        return way / np.linalg.norm(way)

    def handle(self) -> np.ndarray:
        """float64 [3], m: the centre of the geom that sticks out farthest along the way that the part opens."""
        geoms = sorted(self.view.geoms(self.body))
        points = self.view.data.geom_xpos[geoms]
        if self.slides:
            return points[np.argmax(points @ self._outwards())].copy()
        away = np.linalg.norm(np.cross(points - self.view.data.xanchor[self.joint], self.axis), axis=1)
        return points[np.argmax(away)].copy()

    def _outwards(self) -> np.ndarray:
        """Drawers' joints are zero when closed, and open the way that their range is long."""
        low, high = self.view.model.jnt_range[self.joint]
        return self.view.data.xaxis[self.joint] * (1.0 if abs(high) > abs(low) else -1.0)


def part_of(view: View, predicate: str, name: str) -> Part:
    """The part that a goal on a fixture or on one of its regions moves."""
    site: Any = view.domain.object_sites_dict.get(name)
    owner = view.domain.get_object(site.parent_name if site is not None else name)
    joint = view.joint(str((site if site is not None else owner).joints[0]))
    wanted = float(np.mean(owner.object_properties["articulation"][_RANGES[predicate]]))
    return Part(view, joint, int(view.model.jnt_bodyid[joint]), wanted)


def is_shut(view: View, region: str) -> bool:
    """Does a region belong to a drawer or a door that is not open?"""
    site: Any = view.domain.object_sites_dict.get(region)
    return site is not None and bool(site.joints) and not met(view, Goal("open", region))


def pull(view: View, goal: Goal) -> Move:
    """Opens a drawer: grasps its handle from the front, fingers above and below it, and pulls."""
    part = part_of(view, goal.predicate, goal.thing)
    handle, out = part.handle(), part.motion(part.handle())
    rotation = comfortable(np.column_stack((UP, np.cross(-out, UP), -out)))
    before = Pose(handle + 0.14 * out, rotation)
    yield from moves.travel(view, before, OPEN)
    yield from moves.straight(view, before, OPEN)
    yield from moves.straight(view, Pose(handle, rotation), OPEN, 0.6)
    yield from moves.grip(view, Pose(view.hand, rotation))
    yield from _follow(view, part, goal, rotation)
    yield from moves.let_go(view)
    return met(view, goal)


def push(view: View, goal: Goal) -> Move:
    """Closes a drawer or a door: closed fingers, leaning back so that they lead, push its handle's side home."""
    part = part_of(view, goal.predicate, goal.thing)
    point = part.handle()
    way = part.motion(point)
    rotation = _leaning(way)
    behind = Pose(point - 0.07 * way, rotation)
    yield from moves.travel(view, behind.moved(0.02 * UP), CLOSED)
    yield from moves.straight(view, behind, CLOSED)
    yield from _follow(view, part, goal, rotation)
    yield from moves.straight(view, Pose(view.hand - 0.06 * part.motion(part.handle()), rotation), CLOSED, near=0.02)
    return met(view, goal)


def _leaning(way: np.ndarray) -> np.ndarray:
    """The rotation of a hand that points down and forwards, and opens across the way [3]."""
    across, pointing = np.cross(UP, way), (way - UP) / np.sqrt(2)
    return comfortable(np.column_stack((across, np.cross(pointing, across), pointing)))


def _follow(view: View, part: Part, goal: Goal, rotation: np.ndarray) -> Move:
    """Moves the hand along with the part until the goal is met."""
    stuck = 0
    for _ in range(2 * PATIENCE):
        if met(view, goal) or stuck > 12 or np.linalg.norm(view.hand - part.handle()) > LOST:
            return True
        before = part.angle
        yield towards(view, Pose(view.hand + 0.05 * part.motion(view.hand), rotation), CLOSED)
        stuck = stuck + 1 if abs(part.angle - before) < 2e-4 and view.touching(view.geoms(part.body)) else 0
    return False


def twist(view: View, goal: Goal) -> Move:
    """Turns a knob on a vertical axis: grasps it from above and turns the hand."""
    part = part_of(view, goal.predicate, goal.thing)
    geoms = view.geoms(part.body)
    low, high = view.box(geoms)
    own, rest = view.heights(grasps.grid_around(low, high), geoms, high[2])
    sense = float(np.sign(part.axis[2]))
    # begins turned back, so that the wrist has room
    choice = grasps.plan(own, rest, (low + high) / 2, HOME - 0.5 * sense, view.base)
    if not choice:
        return (yield from moves.wait(view, OPEN, 5)) and False
    pose = choice[0].pose
    yield from moves.travel(view, pose.moved(0.03 * UP), OPEN)
    yield from moves.straight(view, pose, OPEN)
    yield from moves.grip(view, Pose(view.hand, pose.rotation))
    position = view.hand
    for _ in range(PATIENCE):
        if abs(part.angle - part.wanted) < 0.5:  # well within the range: letting go may turn it back a little
            break
        yield towards(view, Pose(position, downwards(yaw_of(view.hand_rotation) + 0.4 * sense)), CLOSED)
    yield from moves.let_go(view)
    return met(view, goal)
