"""Trajectories as robomimic writes and reads them, for comparison only: gzip, HDF5's own chunks, nothing kept.

What `robomimic.utils.dataset.SequenceDataset` does for one item with `hdf5_cache_mode=None`, without the rest of it.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from types import TracebackType

import h5py
import numpy as np

from acceerl.stores.schema import Episode


def write_plain(path: Path, episodes: Iterable[Episode]) -> None:
    """One file: `data/demo_N/{actions, obs/...}`, compressed, in chunks that HDF5 chooses."""
    with h5py.File(path, "w") as file:
        for i, episode in enumerate(episodes):
            demo = file.create_group(f"data/demo_{i}")
            demo["actions"], demo["obs/proprio"] = episode.actions, episode.proprio
            for camera, frames in episode.images.items():
                demo.create_dataset(f"obs/{camera}_rgb", data=frames, chunks=True, compression="gzip")


class PlainWindows:
    """Every (observation, next `chunk` actions) of such a file; ends of episodes are padded with the last action."""

    def __init__(self, path: Path, chunk: int) -> None:
        self.chunk = chunk
        self._file = h5py.File(path, "r")
        demos = sorted(self._file["data"], key=lambda name: int(name.removeprefix("demo_")))
        self._where = [(name, t) for name in demos for t in range(len(self._file[f"data/{name}/actions"]))]

    def __len__(self) -> int:
        return len(self._where)

    def __getitem__(self, index: int) -> tuple[dict[str, np.ndarray], np.ndarray]:
        """Arrays of the observation by key, and actions float32 [chunk, D]."""
        name, t = self._where[index]
        demo = self._file[f"data/{name}"]
        actions = demo["actions"][t : t + self.chunk]
        padded = np.pad(actions, ((0, self.chunk - len(actions)), (0, 0)), mode="edge")
        return {key: demo["obs"][key][t] for key in demo["obs"]}, padded

    def __enter__(self) -> PlainWindows:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._file.close()
