"""Initial states: an index to a layout (who stands where, with what jitter). Read this for the train/eval split."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

TRAIN_STATES = range(100_000)
EVAL_STATES = range(100_000, 100_050)

SLOTS = np.array([(x, 0.08) for x in (-0.18, -0.09, 0.0, 0.09, 0.18)])  # m, the back row
SIDES = np.array([(-0.11, -0.11), (0.11, -0.11)])  # m, the front row
HOME = np.array([0.0, 0.14, 0.17])  # m, where the gripper starts: behind the items as the front camera sees it
JITTER = 0.01  # m, half the width of the uniform noise on every position


@dataclass(frozen=True)
class Layout:
    """Positions of one initial state, in metres on the table; every task of a suite shares them."""

    marks: np.ndarray  # float64 [5, 2], the slot of each item, without jitter
    items: np.ndarray  # float64 [5, 2]
    places: np.ndarray  # float64 [2, 2]


def layout(init_state: int) -> Layout:
    """The layout of an index. Training and evaluation indices draw from separate random streams."""
    held_out = init_state in EVAL_STATES
    rng = np.random.default_rng((int(held_out), init_state))
    slots, sides = SLOTS[rng.permutation(len(SLOTS))], SIDES[rng.permutation(len(SIDES))]
    return Layout(slots, slots + _jitter(rng, slots.shape), sides + _jitter(rng, sides.shape))


def home(seed: int) -> np.ndarray:
    """Where the gripper starts, float64 [3] in metres: the only thing an episode's seed decides."""
    return HOME + _jitter(np.random.default_rng(seed % 2**63), HOME.shape)


def _jitter(rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    return rng.uniform(-JITTER, JITTER, shape)
