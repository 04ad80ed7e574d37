"""Where to grasp: searches a height map for places where open fingers fit around a thing and would hold it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from acceerl.envs.libero.expert.hand import Pose, downwards, strain
from acceerl.envs.libero.expert.heights import Grid, Heights

TIP = 0.009  # m from the controlled point to the finger tips
PALM = 0.028  # m from the controlled point up to the palm
HALF = 0.040  # m from the centre to an open finger
FINGER, PALM_SIZE = (0.020, 0.011), (0.105, 0.032)  # m: thickness and half width; half lengths of the palm
MARGIN = 0.002  # m kept from what a finger goes down beside
DEEP = 0.030  # m that finger tips reach below the top of what they grasp, where there is room
OUT = 0.03  # m between a thing and what it comes out from under
SHALLOW = 0.009  # m; less is no grasp
CELL = 0.005
YAWS = np.arange(12) * np.pi / 12
_COLUMNS = (-0.008, 0.0, 0.008)  # across the pads, m


@dataclass(frozen=True)
class Grasp:
    """The hand's pose when the fingers close, and how bad it is."""

    pose: Pose
    cost: float


def plan(own: Heights, rest: Heights, centre: np.ndarray, yaw: float, base: np.ndarray) -> list[Grasp]:
    """Grasps from above, the best first.

    own, rest: heights of the thing and of everything else, on one grid. centre [3], m: where its weight is taken to
    be. yaw, rad: the middle of the wrist's range; hands turned less are better. base [3], m: of the robot.
    """
    everything = own.over(rest)
    spots = own.grid.cells()[own.values > -1].reshape(-1, 2)
    grasps: list[Grasp] = []
    for angle in YAWS:
        grasps += _at_angle(own, everything, spots, centre, _nearest(float(angle), yaw), yaw)
    return sorted(grasps, key=lambda grasp: grasp.cost + 150 * float(strain(base, grasp.pose.position)))


def distinct(grasps: list[Grasp]) -> list[Grasp]:
    """The best of each place and direction: what to try one after the other."""
    kept: list[Grasp] = []
    for grasp in grasps:
        if not any(_alike(grasp.pose, other.pose) for other in kept):
            kept.append(grasp)
    return kept


def _alike(a: Pose, b: Pose) -> bool:
    return bool(np.linalg.norm(a.position - b.position) < 0.02 and abs(a.rotation[:, 0] @ b.rotation[:, 0]) > 0.85)


def _nearest(angle: float, yaw: float) -> float:
    """The same opening direction, by the shorter turn."""
    return yaw + (angle - yaw + np.pi / 2) % np.pi - np.pi / 2


def _at_angle(
    own: Heights, everything: Heights, spots: np.ndarray, centre: np.ndarray, angle: float, yaw: float
) -> list[Grasp]:
    along, across = np.array([np.cos(angle), np.sin(angle)]), np.array([-np.sin(angle), np.cos(angle)])

    def patch(s: np.ndarray, t: np.ndarray) -> np.ndarray:
        """Points [spots, s, t, 2] around each spot."""
        offsets = s[:, None, None] * along + t[None, :, None] * across
        return spots[:, None, None] + offsets

    thick, wide = FINGER
    beside = np.concatenate([np.arange(-HALF - thick, -HALF, CELL), np.arange(HALF, HALF + thick + CELL, CELL)])
    # rays between the cells may pass a thin rim: one cell more than the fingers need
    floor = everything.at(patch(beside, np.arange(-wide - CELL, wide + CELL + 1e-9, CELL))).max((1, 2)) + MARGIN
    between = np.arange(-HALF + CELL / 2, HALF, CELL / 2)
    profile = own.at(patch(between, np.array(_COLUMNS)))  # [spots, s, columns]
    top = profile[:, :, 1].max(1)
    tip = np.maximum(floor, top - DEEP)
    over_palm = everything.at(patch(np.arange(-PALM_SIZE[0], PALM_SIZE[0] + CELL, 2 * CELL),
                                    np.arange(-PALM_SIZE[1], PALM_SIZE[1] + CELL, 2 * CELL))).max((1, 2))  # fmt: skip
    tip = np.maximum(tip, over_palm - TIP - PALM + MARGIN)
    left, right, hit = _edges(profile, between, tip + TIP)
    middle, width = (left[:, 1] + right[:, 1]) / 2, right[:, 1] - left[:, 1]
    slope = (np.abs(left[:, 2] - left[:, 0]) + np.abs(right[:, 2] - right[:, 0])) / (_COLUMNS[2] - _COLUMNS[0])
    good = hit[:, 1] & (top - tip >= SHALLOW) & (width < 2 * HALF - 0.012) & (slope < 1.2)
    far = np.linalg.norm(spots + middle[:, None] * along - centre[:2], axis=1)
    cost = (
        np.abs(middle) / 0.02 + slope + far / 0.04 + 0.3 * np.abs(angle - yaw) - 2 * np.minimum(top - tip, DEEP) / DEEP
        + 0.5 * (~hit[:, 0]).astype(float) + 0.5 * (~hit[:, 2]).astype(float)
    )  # fmt: skip
    return [
        Grasp(Pose(np.array([*spots[k], tip[k] + TIP]), downwards(angle)), float(cost[k])) for k in np.flatnonzero(good)
    ]


def way_out(own: Heights, rest: Heights, top: float) -> np.ndarray:
    """How to move a thing [3], m, before it can go up: out from under what is above its `top`. Zeros: it is free."""
    mine, cells = own.values > -1, own.grid.cells()
    under = mine & (rest.values > top)
    if not under.any() or under[mine].all():
        return np.zeros(3)
    way = cells[mine].mean(0) - cells[under].mean(0)
    way /= max(float(np.linalg.norm(way)), 1e-9)
    shift = (cells[under] @ way).max() - (cells[mine] @ way).min() + OUT
    return np.array([*(shift * way), 0.0])


def _edges(profile: np.ndarray, s: np.ndarray, level: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Where the thing begins and ends between the fingers at a level, [spots, columns], and whether it is there."""
    inside = profile > level[:, None, None]
    hit: np.ndarray = np.asarray(inside.any(1))
    left = np.where(hit, s[inside.argmax(1)], 0.0)
    right = np.where(hit, s[len(s) - 1 - inside[:, ::-1].argmax(1)], 0.0)
    return left, right, hit


def grid_around(low: np.ndarray, high: np.ndarray) -> Grid:
    """The grid that `plan` needs around a thing's box."""
    return Grid.over(low, high, PALM_SIZE[0] + 0.02, CELL)
