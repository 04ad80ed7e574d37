"""Episodes in memory, images once as uint8: what a world model trains on, from files and from running rollouts.

A `Memory` is a `clips.Source`, so windows are sliced from it on reading, and it draws labelled frames for success
models. Recorded episodes stay; of live ones the oldest leave.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from acceerl.stores.checks import finite
from acceerl.stores.reader import Trajectories
from acceerl.stores.schema import observation_rows


@dataclass(frozen=True, eq=False)
class Kept:
    """One episode, or a part of one; the last row of images and proprioception is what was seen at its end."""

    images: dict[str, np.ndarray]  # camera -> uint8 [rows + 1, H, W, 3]
    proprio: np.ndarray  # float32 [rows + 1, P]
    actions: np.ndarray  # float32 [steps, D], as executed
    stride: int  # control steps between two rows
    instruction: str
    task: int
    init_state: int
    success: bool  # the last row shows it
    where: str
    start: int = 0  # control steps of the episode before the first row
    live: bool = False

    @property
    def steps(self) -> int:
        return len(self.actions)

    @property
    def rows(self) -> int:
        return observation_rows(self.steps, self.stride)

    @property
    def cameras(self) -> tuple[str, ...]:
        return tuple(self.images)

    @property
    def nbytes(self) -> int:
        return sum(a.nbytes for a in (*self.images.values(), self.proprio, self.actions))


class Memory:
    """Recorded episodes and the last `capacity` live ones."""

    def __init__(self, recorded: Sequence[Kept] = (), capacity: int = 200) -> None:
        self.recorded = list(recorded)
        self.live: deque[Kept] = deque(maxlen=capacity)

    @property
    def entries(self) -> list[Kept]:
        return [*self.recorded, *self.live]

    def __len__(self) -> int:
        return len(self.recorded) + len(self.live)

    def __getitem__(self, i: int) -> Kept:
        return self.recorded[i] if i < len(self.recorded) else self.live[i - len(self.recorded)]

    @property
    def nbytes(self) -> int:
        return sum(kept.nbytes for kept in self.entries)

    def add(self, kept: Kept) -> None:
        self.live.append(kept)

    def frames(self, i: int, camera: str, start: int, stop: int, step: int) -> np.ndarray:
        return self[i].images[camera][start:stop:step]

    def proprio(self, i: int) -> np.ndarray:
        return self[i].proprio

    def executed(self, i: int, start: int, stop: int) -> np.ndarray:
        return self[i].actions[start:stop]


def recorded(trajectories: Trajectories, cameras: Sequence[str], beat: Callable[[], None] = lambda: None) -> list[Kept]:
    """Reads whole episodes; `beat` is called after each. Raises ValueError naming the demo that lacks a camera
    or holds NaN.
    """
    for entry in trajectories.entries:
        for name in cameras:
            if name not in entry.cameras:
                raise ValueError(f"{entry.where} has no camera {name}: choose from {', '.join(entry.cameras)}")
    return [_kept(trajectories, i, cameras, beat) for i in range(len(trajectories))]


def _kept(trajectories: Trajectories, i: int, cameras: Sequence[str], beat: Callable[[], None]) -> Kept:
    """In parts, which are read without HDF5: three times as fast as whole episodes."""
    entry = trajectories.entries[i]
    beat()
    return Kept(
        {c: trajectories.frames(i, c, 0, entry.rows + 1) for c in cameras},
        finite(entry, "obs/proprio", trajectories.proprio(i).astype(np.float32)),
        finite(entry, "actions", trajectories.executed(i, 0, entry.steps).astype(np.float32)),
        entry.stride,
        entry.instruction,
        entry.task,
        entry.init_state,
        entry.success,
        entry.where,
    )
