"""Trajectories as robomimic and LIBERO write and read them, for comparison only: whole sequences through h5py.

What `robomimic.utils.dataset.SequenceDataset` does for one item with `hdf5_cache_mode=None`, and no more; and
LIBERO's published layout, contiguous, with nothing compressed.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from types import TracebackType

import h5py
import numpy as np

from acceerl.stores.schema import Episode


def write_plain(path: Path, episodes: Iterable[Episode], compression: str = "gzip") -> None:
    """One file: `data/demo_N/{actions, obs/...}`. gzip: compressed, in chunks that HDF5 chooses, as robomimic's scripts
    write; none: as LIBERO published, every number as float64."""
    options = {"chunks": True, "compression": "gzip"} if compression == "gzip" else {}
    with h5py.File(path, "w") as file:
        for i, episode in enumerate(episodes):
            demo = file.create_group(f"data/demo_{i}")
            demo.attrs["num_samples"] = len(episode)
            demo["actions"], demo["obs/proprio"] = episode.actions.astype(np.float64), episode.proprio
            demo["rewards"], demo["dones"] = episode.rewards.astype(np.uint8), episode.dones
            if episode.states is not None:
                demo["states"] = episode.states
            for camera, frames in episode.images.items():
                demo.create_dataset(f"obs/{camera}_rgb", data=frames, **options)


class PlainSequences:
    """`frames` observations in a row of such a file or of ours, read as robomimic reads: by name, one slice a key."""

    def __init__(self, path: Path, frames: int, keys: Sequence[str]) -> None:
        self.frames, self.keys = frames, tuple(keys)
        self._file = h5py.File(path, "r", swmr=True, libver="latest")

    def read(self, demo: str, start: int) -> dict[str, np.ndarray]:
        """Arrays [frames, ...] by key, and `actions`."""
        stop = start + self.frames
        names = {key: f"data/{demo}/{key}" for key in ("actions", *(f"obs/{key}" for key in self.keys))}
        return {key: self._file[name][start:stop] for key, name in names.items()}

    def __enter__(self) -> PlainSequences:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._file.close()
