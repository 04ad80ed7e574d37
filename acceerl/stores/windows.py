"""Windows for behaviour cloning and world models: an observation and the control steps after it, at random."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from acceerl.stores.reader import Trajectories
from acceerl.types import Observation, ObservationBatch


@dataclass(frozen=True)
class WindowBatch:
    """N windows; step c of window i counts where `c < valid[i]`, past it the last action is repeated."""

    observations: ObservationBatch
    actions: np.ndarray  # float32 [N, C, D], the expert's clean labels where the file has them
    valid: np.ndarray  # int64 [N], steps before the episode's end, 1 to C

    @classmethod
    def joined(cls, batches: Sequence[WindowBatch]) -> WindowBatch:
        """Batches of equal shapes, one after the other."""
        seen = [batch.observations for batch in batches]
        observations = ObservationBatch(
            {name: np.concatenate([o.images[name] for o in seen]) for name in seen[0].images},
            np.concatenate([o.proprio for o in seen]),
            tuple(words for o in seen for words in o.instructions),
        )
        return cls(
            observations, np.concatenate([b.actions for b in batches]), np.concatenate([b.valid for b in batches])
        )


class Windows:
    """Every (observation, next `chunk` actions) of some trajectories, read from disk as asked for.

    A window starts at each kept observation. Raises ValueError when `chunk` < 1 or there is no window.
    """

    def __init__(self, trajectories: Trajectories, chunk: int) -> None:
        if chunk < 1 or not len(trajectories):
            raise ValueError(f"windows of {chunk} steps over {len(trajectories)} episodes: both must be at least 1")
        self.trajectories, self.chunk = trajectories, chunk
        rows = [-(-entry.steps // entry.stride) for entry in trajectories.entries]
        self._ends = np.cumsum(rows)  # of each episode in the flat index

    def __len__(self) -> int:
        return int(self._ends[-1])

    def __getitem__(self, index: int) -> WindowBatch:
        return self.read([index])

    def read(self, indices: Sequence[int] | np.ndarray) -> WindowBatch:
        """The windows at flat indices, in that order; disk is read in file order, which is faster."""
        where = [self.locate(int(index)) for index in indices]
        order = sorted(range(len(where)), key=where.__getitem__)
        read = {i: self._one(*where[i]) for i in order}
        windows = [read[i] for i in range(len(where))]
        actions = [np.pad(acts, ((0, self.chunk - len(acts)), (0, 0)), mode="edge") for _, acts in windows]
        return WindowBatch(
            ObservationBatch.stack([observation for observation, _ in windows]),
            np.stack(actions),
            np.array([len(acts) for _, acts in windows]),
        )

    def locate(self, index: int) -> tuple[int, int]:
        """Episode and control step of a flat index."""
        if not 0 <= index < len(self):
            raise IndexError(index)
        episode = int(np.searchsorted(self._ends, index, side="right"))
        row = index - (int(self._ends[episode - 1]) if episode else 0)
        return episode, row * self.trajectories.entries[episode].stride

    def batches(self, size: int, rng: np.random.Generator) -> Iterator[WindowBatch]:
        """One shuffled pass over every window; a last batch that is not full is left out unless it is the only one."""
        order = rng.permutation(len(self))
        for start in range(0, max(len(self) - size, 0) + 1, size):
            yield self.read(order[start : start + size])

    def _one(self, episode: int, t: int) -> tuple[Observation, np.ndarray]:
        stop = min(t + self.chunk, self.trajectories.entries[episode].steps)
        return self.trajectories.observation(episode, t), self.trajectories.actions(episode, t, stop)
