"""Moves the hand: from a wanted pose to one action of LIBERO's operational-space controller."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from acceerl.envs.libero.expert.view import View

MOVE, TURN = 0.05, 0.5  # m and rad of a full-scale action
GAIN = 2.0  # the controller heads for a goal that moves along with the hand: with 1 it would creep to the end
OPEN, CLOSED = -1.0, 1.0
HOME = np.pi / 2  # rad: the direction in which the hand opens when an episode begins
MIDDLE = HOME + 0.3  # rad: the wrist has room on both sides, and more on this one
UP = np.array([0.0, 0.0, 1.0])


# the Panda's links, m: shoulder over base, wrist over a hand that points down, wrist behind it
_SHOULDER, _WRIST_UP, _WRIST_BACK = 0.333, 0.204, 0.088
STRETCHED = 0.665  # m from shoulder to wrist; at 0.72 the elbow is straight and the controller cannot bend it again


@dataclass(frozen=True)
class Pose:
    """position: float64 [3], m. rotation: float64 [3, 3], columns as in `View.hand_rotation`."""

    position: np.ndarray
    rotation: np.ndarray

    def moved(self, by: np.ndarray) -> Pose:
        return Pose(self.position + by, self.rotation)


def downwards(yaw: float) -> np.ndarray:
    """The rotation of a hand that points down and opens along (cos, sin) of `yaw`, rad."""
    opening, down = np.array([np.cos(yaw), np.sin(yaw), 0.0]), np.array([0.0, 0.0, -1.0])
    return np.column_stack((opening, np.cross(down, opening), down))


def comfortable(rotation: np.ndarray) -> np.ndarray:
    """The same grip [3, 3], or that with the fingers swapped, whichever is nearer to the wrist's middle."""
    swapped = rotation * (-1, -1, 1)
    middle = downwards(MIDDLE)
    return swapped if np.trace(swapped.T @ middle) > np.trace(rotation.T @ middle) else rotation


def yaw_of(rotation: np.ndarray) -> float:
    """Direction in which a hand [3, 3] opens, seen from above, rad from HOME - pi to HOME + pi."""
    angle = np.arctan2(rotation[1, 0], rotation[0, 0])
    return float(HOME + (angle - HOME + np.pi) % (2 * np.pi) - np.pi)


def strain(base: np.ndarray, points: np.ndarray) -> np.ndarray:
    """How far beyond a comfortable reach a hand that points down is at each of points [..., 3], m [...]; 0 within."""
    away = points - base
    out = np.hypot(away[..., 0], away[..., 1]) - _WRIST_BACK
    up = away[..., 2] + _WRIST_UP - _SHOULDER
    return np.maximum(0.0, np.hypot(out, up) - STRETCHED)


def turn(start: np.ndarray, end: np.ndarray) -> np.ndarray:
    """The rotation vector [3], rad, in the world's frame, from one rotation [3, 3] to another."""
    r = end @ start.T
    axis = np.array([r[2, 1] - r[1, 2], r[0, 2] - r[2, 0], r[1, 0] - r[0, 1]])
    sine, cosine = np.linalg.norm(axis) / 2, (np.trace(r) - 1) / 2
    angle = np.arctan2(sine, cosine)
    return axis * (angle / (2 * sine)) if sine > 1e-6 else np.zeros(3)


def towards(view: View, pose: Pose, grip: float, speed: float = 1.0) -> np.ndarray:
    """One action, float32 [7], in a straight line to the pose; `speed` is the largest share of a full-scale move."""
    move = GAIN * (pose.position - view.hand) / MOVE
    rotate = GAIN * turn(view.hand_rotation, pose.rotation) / TURN
    move /= max(1.0, float(np.abs(move).max()) / speed)
    rotate /= max(1.0, float(np.abs(rotate).max()))
    return np.concatenate([move, rotate, [grip]]).astype(np.float32)
