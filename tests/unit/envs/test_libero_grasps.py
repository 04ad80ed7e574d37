"""Grasps, drops and hand poses on shapes that are drawn by hand: no simulator."""

from __future__ import annotations

import numpy as np
import pytest

from acceerl.envs.libero.expert import grasps, places
from acceerl.envs.libero.expert.hand import downwards, turn
from acceerl.envs.libero.expert.heights import Heights, highest_along

TABLE = 0.9
CENTRE = np.array([0.0, -0.2, 0.92])
BASE = np.array([-0.6, 0.0, 0.9])


def scene(inside: np.ndarray, top: float, rest: np.ndarray | float = TABLE) -> tuple[Heights, Heights]:
    """Heights of a thing that fills the cells `inside` up to `top`, and of the rest."""
    own = np.where(inside, top, -10.0)
    return Heights(GRID, own), Heights(GRID, np.where(np.ones_like(inside), rest, 0.0))


GRID = grasps.grid_around(CENTRE - 0.08, CENTRE + 0.08)
X, Y = np.moveaxis(GRID.cells() - CENTRE[:2], -1, 0)


def opening(grasp: grasps.Grasp) -> np.ndarray:
    return grasp.pose.rotation[:, 0]


def test_a_long_box_is_grasped_across_its_short_side() -> None:
    own, rest = scene((np.abs(X) < 0.025) & (np.abs(Y) < 0.07), 0.95)
    best = grasps.plan(own, rest, CENTRE, np.pi / 2, BASE)[0]
    assert abs(opening(best)[0]) > 0.96, "it opens along y, where the box is too wide"
    np.testing.assert_allclose(best.pose.position[:2], CENTRE[:2], atol=0.01)
    assert 0.95 - grasps.DEEP <= best.pose.position[2] - grasps.TIP <= 0.95 - grasps.SHALLOW


def test_a_bowl_is_grasped_at_its_rim() -> None:
    radius = np.hypot(X, Y)
    own = np.where(radius < 0.06, np.where(radius > 0.053, 0.95, 0.91), -10.0)
    best = grasps.plan(Heights(GRID, own), Heights(GRID, np.full_like(own, TABLE)), CENTRE, 0.0, BASE)[0]
    outwards = best.pose.position[:2] - CENTRE[:2]
    assert np.linalg.norm(outwards) == pytest.approx(0.0565, abs=0.006)
    assert abs(outwards @ opening(best)[:2]) / np.linalg.norm(outwards) > 0.95, "the fingers are not across the rim"


def test_a_wall_beside_a_can_decides_how_it_is_grasped() -> None:
    wall = np.where(np.abs(Y - 0.05) < 0.012, 1.1, TABLE)
    own, rest = scene(np.hypot(X, Y) < 0.03, 0.98, wall)
    assert all(abs(opening(grasp)[0]) > 0.9 for grasp in grasps.plan(own, rest, CENTRE, np.pi / 2, BASE))


@pytest.mark.parametrize(("half", "top"), [(0.05, 0.95), (0.02, 0.908)])
def test_what_is_too_wide_or_too_flat_has_no_grasp(half: float, top: float) -> None:
    own, rest = scene((np.abs(X) < half) & (np.abs(Y) < half), top)
    assert not grasps.plan(own, rest, CENTRE, 0.0, BASE)


def test_the_hand_turns_the_short_way() -> None:
    own, rest = scene((np.abs(X) < 0.07) & (np.abs(Y) < 0.025), 0.95)
    best = grasps.plan(own, rest, CENTRE, -np.pi / 2 + 0.1, BASE)[0]
    assert opening(best)[1] == pytest.approx(-1, abs=0.05), "half a turn away from the nearest grasp"


def test_turn_is_the_rotation_between_two_poses() -> None:
    np.testing.assert_allclose(turn(downwards(0.3), downwards(0.8)), [0, 0, 0.5], atol=1e-9)
    np.testing.assert_allclose(turn(downwards(0.3), downwards(0.3)), np.zeros(3), atol=1e-9)
    assert np.linalg.det(downwards(1.0)) == pytest.approx(1)


def test_the_highest_point_along_a_way() -> None:
    lows, highs = np.array([[0.5, 0.5, 0], [0, 0, 0]]), np.array([[0.505, 0.6, 1.2], [1, 1, 0.9]])
    start, end, aside = np.array([0.0, 0.55, 1]), np.array([1.0, 0.55, 1]), np.array([0.0, 0.2, 0])
    assert highest_along(lows, highs, start, end, 0.05) == 1.2, "a thin wall is missed"
    assert highest_along(lows, highs, start - aside, end - aside, 0.05) == 0.9
    assert highest_along(lows, highs, start - aside, end - aside, 0.2) == 1.2
    assert highest_along(lows, highs, start + 2, end + 2, 0.05) == -np.inf


def test_a_thing_half_under_a_drawer_comes_out_first() -> None:
    drawer = np.where(Y < -0.02, 1.1, TABLE)
    own, rest = scene(np.hypot(X, Y) < 0.05, 0.95, drawer)
    way = grasps.way_out(own, rest, 0.95)
    assert way[1] == pytest.approx(0.03 + grasps.OUT, abs=0.01) and abs(way[0]) < 0.005 and way[2] == 0
    assert not grasps.way_out(*scene(np.hypot(X, Y) < 0.05, 0.95), 0.95).any()


def test_each_try_is_another_grasp() -> None:
    own, rest = scene((np.abs(X) < 0.025) & (np.abs(Y) < 0.07), 0.95)
    found = grasps.plan(own, rest, CENTRE, np.pi / 2, BASE)
    tried = grasps.distinct(found)
    assert 2 <= len(tried) < len(found) and tried[0] is found[0]
    places = np.array([grasp.pose.position for grasp in tried if abs(opening(grasp)[0]) > 0.99])
    gaps = np.linalg.norm(places[:, None] - places[None], axis=-1) + np.eye(len(places))
    assert gaps.min() >= 0.02


def test_grasps_near_the_end_of_the_arm_are_avoided() -> None:
    radius = np.hypot(X, Y)
    own = np.where(radius < 0.06, np.where(radius > 0.053, 0.95, 0.91), -10.0)
    far = CENTRE - (0.74, 0, 0.02)  # the robot stands so that the bowl is at the end of its reach
    best = grasps.plan(Heights(GRID, own), Heights(GRID, np.full_like(own, TABLE)), CENTRE, 0.0, far)[0]
    assert best.pose.position[0] < CENTRE[0] - 0.03, "the arm would have to stretch out"


def test_a_drop_is_as_low_as_hand_and_thing_allow() -> None:
    shape = places._Shape(np.array([[0.0, 0], [0.02, 0], [-0.02, 0]]), 0.03, np.array([0, 0, 0.05]), np.array([1.0, 0]))
    table = Heights(GRID, np.full((len(GRID.xs), len(GRID.ys)), TABLE))
    assert places._lowest(table, CENTRE[:2], 0.0, shape) == pytest.approx(TABLE + 0.03)
    wall = Heights(GRID, np.where(np.abs(X - 0.05) < 0.01, 1.2, TABLE))
    assert places._lowest(wall, CENTRE[:2], 0.0, shape) > 1.1, "the palm would be inside the wall"
    assert places._lowest(wall, CENTRE[:2], np.pi / 2, shape) < 1.0, "turned, it is clear of the wall"
