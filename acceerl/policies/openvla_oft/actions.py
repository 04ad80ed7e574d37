"""From the network's tokens to what a robot does, and back for imitation; by the statistics of the training data.

Token t of 256 is the t-th lowest action (in the vocabulary the action tokens run the other way). The two highest tokens
mean the same action: 256 edges have 255 centres between them. Actions in the data are scaled so that their 1 and 99 %
quantiles become -1 and 1; the gripper is not, it is 1 for open and 0 for closed there, and -1 and 1 in LIBERO.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from acceerl.policies.openvla_oft.shape import read_json

STATISTICS = "dataset_statistics.json"
TINY = 1e-8  # keeps the scale of an action that never changed above zero


@dataclass(frozen=True)
class ActionScale:
    """How each of D action dimensions was scaled, arrays of [D]; `constant`: it never moved in the data."""

    low: np.ndarray
    high: np.ndarray
    scaled: np.ndarray
    constant: np.ndarray
    gripper: bool  # is the last dimension one?
    bins: int

    def decode(self, tokens: np.ndarray) -> np.ndarray:
        """Actions as in the training data, float64 [..., D], of tokens [..., D]."""
        edges = np.linspace(-1, 1, self.bins)
        centres = (edges[:-1] + edges[1:]) / 2.0
        unit = centres[np.clip(tokens, 0, self.bins - 2)]
        return np.where(self.scaled, 0.5 * (unit + 1) * (self.high - self.low + TINY) + self.low, unit)

    def to_env(self, tokens: np.ndarray) -> np.ndarray:
        """Actions for the environment, float32 [..., D] in [-1, 1]: the gripper wide open or closed."""
        actions = self.decode(tokens)
        if self.gripper:
            actions[..., -1] = -np.sign(2 * actions[..., -1] - 1)
        return np.clip(actions, -1.0, 1.0).astype(np.float32)

    def encode(self, actions: np.ndarray) -> np.ndarray:
        """Tokens, int64 [..., D], that imitate the environment's actions."""
        told = np.array(actions, np.float64)
        if self.gripper:
            told[..., -1] = 1 - np.clip(told[..., -1], 0, 1)
        unit = np.clip(2 * (told - self.low) / (self.high - self.low + TINY) - 1, -1, 1)
        unit = np.where(self.constant, 0.0, np.where(self.scaled, unit, np.clip(told, -1, 1)))
        return np.digitize(unit, np.linspace(-1, 1, self.bins)) - 1


def plain_scale(dims: int, bins: int) -> ActionScale:
    """Of random weights: actions as they come out."""
    ones = np.ones(dims)
    return ActionScale(-ones, ones, np.zeros(dims, bool), np.zeros(dims, bool), gripper=False, bins=bins)


def read_scale(folder: Path, key: str, inside: Mapping[str, Any], dims: int, bins: int, gripper: bool) -> ActionScale:
    """The scale of data set `key`, from the checkpoint's statistics or, without that file, from its config.json.

    `key` may be empty where there is one data set only. Raises ValueError naming the keys that there are.
    """
    path = folder / STATISTICS
    found = read_json(path, "") if path.exists() else dict(inside)
    if not found:
        raise ValueError(f"{path} is missing and config.json has no norm_stats: actions cannot be scaled")
    chosen = key or (next(iter(found)) if len(found) == 1 else "")
    if chosen not in found:
        raise ValueError(f"policy.statistics={key!r} is not in {path}: choose from {', '.join(sorted(found))}")
    return _scale(found[chosen].get("action", {}), f"{path}, {chosen}", dims, bins, gripper)


def _scale(action: Mapping[str, Any], at: str, dims: int, bins: int, gripper: bool) -> ActionScale:
    if "q01" not in action or "q99" not in action or len(action["q01"]) != dims:
        raise ValueError(f"{at}: needs q01 and q99 of {dims} action dimensions; is it of another robot?")
    low, high = (np.array(action[name], np.float64) for name in ("q01", "q99"))
    scaled = np.array(action.get("mask", [True] * dims), bool)
    constant = np.equal(action["min"], action["max"]) if {"min", "max"} <= action.keys() else np.zeros(dims, bool)
    return ActionScale(low, high, scaled, constant, gripper, bins)
