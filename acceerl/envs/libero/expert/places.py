"""Where to let go: finds the lowest place near a spot where a held thing, and the hand that holds it, have room."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from acceerl.envs.libero.expert import grasps
from acceerl.envs.libero.expert.hand import MIDDLE, strain, yaw_of
from acceerl.envs.libero.expert.heights import Grid, Heights
from acceerl.envs.libero.expert.view import View

ABOVE = 0.006  # m between the thing and what it will stand on, when let go
CELL = 0.008
WRIST = 2.0  # rad that the hand may be turned away from MIDDLE
TURNS = np.array([0, 1, -1, 2, -2, 3, -3]) * np.pi / 6


@dataclass(frozen=True)
class Drop:
    """position [3], m: of the thing's body when it is let go. turn, rad: how far it is turned about the vertical."""

    position: np.ndarray
    turn: float


@dataclass(frozen=True)
class _Shape:
    """A held thing, relative to its body, m: cells [n, 2], its foot below, the hand [3], where it opens along [2]."""

    cells: np.ndarray
    foot: float
    hand: np.ndarray
    opening: np.ndarray


def turned(offset: np.ndarray, angle: float) -> np.ndarray:
    """Offsets [..., 2 or 3] turned about the vertical."""
    cosine, sine = np.cos(angle), np.sin(angle)
    x, y = offset[..., 0], offset[..., 1]
    return np.stack([cosine * x - sine * y, sine * x + cosine * y, *np.moveaxis(offset[..., 2:], -1, 0)], -1)


def plan(view: View, thing: str, geoms: set[int], spot: np.ndarray, room: np.ndarray) -> Drop:
    """The best drop within +-`room` [2], m, of a spot [3]: low, near the spot, and without much turning."""
    low, high = view.box(geoms)
    body, hand = view.position(thing), view.hand
    own, _ = view.heights(Grid.over(low, high, 0.0, CELL), geoms, high[2])
    opening = view.hand_rotation[:2, 0]
    cells = own.grid.cells()[own.values > -1] - body[:2]
    shape = _Shape(cells, float(body[2] - low[2]), hand - body, opening / np.linalg.norm(opening))
    margin = float(np.abs(cells).max() + np.abs(hand - body)[:2].max() + grasps.PALM_SIZE[0] + room.max())
    _, rest = view.heights(Grid.over(spot[:2], spot[:2], margin, CELL), geoms, max(spot[2], high[2]))
    best, least = Drop(np.array([*spot[:2], high[2]]), 0.0), np.inf
    for angle in TURNS[np.abs(yaw_of(view.hand_rotation) + TURNS - MIDDLE) < WRIST]:
        for shift in _shifts(room):
            centre = spot[:2] + shift
            height = _lowest(rest, centre, angle, shape)
            away = float(strain(view.base, np.array([*centre, height]) + turned(hand - body, float(angle))))
            cost = height + 2 * away + 0.3 * float(np.linalg.norm(shift)) + 0.004 * abs(angle)
            if cost < least:
                best, least = Drop(np.array([*centre, height + ABOVE]), float(angle)), cost
    return best


def _shifts(room: np.ndarray) -> np.ndarray:
    """Candidates [n, 2] around a spot."""
    steps = np.linspace(-1, 1, 5)
    return np.stack(np.meshgrid(steps * room[0], steps * room[1]), -1).reshape(-1, 2)


def _lowest(rest: Heights, centre: np.ndarray, angle: float, thing: _Shape) -> float:
    """The lowest height of the body, m, at which neither the thing nor the hand is inside anything."""
    hand = thing.hand
    stands = float(rest.at(centre + turned(thing.cells, angle)).max()) + thing.foot
    along = turned(thing.opening, angle)
    across = np.array([-along[1], along[0]])
    grasp = centre + turned(hand[:2], angle)
    fingers = float(rest.at(grasp + _rectangle(along, across, grasps.HALF + grasps.FINGER[0], grasps.FINGER[1])).max())
    palm = float(rest.at(grasp + _rectangle(along, across, *grasps.PALM_SIZE)).max())
    return max(stands, fingers + grasps.TIP - hand[2], palm - grasps.PALM - hand[2])


def _rectangle(along: np.ndarray, across: np.ndarray, long: float, wide: float) -> np.ndarray:
    s, t = np.meshgrid(np.arange(-long, long + CELL, CELL), np.arange(-wide, wide + CELL, CELL))
    return s.reshape(-1, 1) * along + t.reshape(-1, 1) * across
