"""Reads HDF5 trajectories, ours and LIBERO's published ones, as the same `Episode`; start here to train on a file.

LIBERO's files record `obs[t]` after `actions[t]` and show images upside down. Here every transition is
(observation, the action that followed it, the next observation) with images right side up, so a LIBERO demo of T
rows is an episode of T - 1 steps: nothing was seen before its first action.
"""

from __future__ import annotations

import os
from collections import Counter, OrderedDict
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import h5py
import numpy as np

from acceerl.stores import schema
from acceerl.stores.schema import Episode, Layout
from acceerl.types import Observation

T = TypeVar("T")
MAX_FILES = 64  # held open by one process; limits on open files are low on some clusters
MAX_DEMOS = 4096  # of these, handles and small arrays are kept


@dataclass(frozen=True)
class Entry:
    """Where one episode is and what it is about, known without reading its arrays."""

    path: Path
    demo: str
    layout: Layout
    steps: int
    instruction: str
    task: int
    init_state: int  # -1 where the file does not say, as with task and seed
    seed: int
    success: bool
    source: str
    stride: int  # control steps between two observations


def open_trajectories(paths: str | Path | Iterable[str | Path]) -> Trajectories:
    """Indexes a file, a folder of shards, or several of them.

    Raises ValueError naming the file, what is wrong with it and what to do.

    >>> open_trajectories("/nowhere.hdf5")
    Traceback (most recent call last):
    ValueError: /nowhere.hdf5: no such file or folder: check the path
    """
    several = [paths] if isinstance(paths, (str, Path)) else list(paths)
    shards = [shard for path in several for shard in shards_of(Path(path))]
    return Trajectories([entry for shard in shards for entry in _index(shard)])


def shards_of(path: Path) -> list[Path]:
    """The published files under a path: itself, or the `*.hdf5` of a folder."""
    if not path.is_dir() or path.suffix == ".partial":
        return [path]
    shards = sorted(path.glob("*.hdf5"))
    if not shards:
        left = (
            f", only {len(unfinished(path))} unfinished: run recover on it"
            if unfinished(path)
            else ": collect or import some"
        )
        raise ValueError(f"{path}: holds no .hdf5 file{left}")
    return shards


def unfinished(folder: Path) -> list[Path]:
    return sorted(folder.glob("*.partial"))


class Trajectories:
    """A lazy list of episodes. Copies in forked or spawned workers open their own files.

    `len(t)` episodes; `t[i]` reads one; `t.entries[i]` says what it is; `t.observation`, `t.actions` read parts.
    """

    def __init__(self, entries: list[Entry]) -> None:
        self.entries = entries
        self._files: OrderedDict[Path, h5py.File] = OrderedDict()
        self._demos: OrderedDict[int, _Demo] = OrderedDict()
        self._pid = os.getpid()

    def __len__(self) -> int:
        return len(self.entries)

    def __getitem__(self, i: int) -> Episode:
        return self._guarded(i, lambda: schema.read_demo(self._group(i), self.entries[i].layout))

    def observation(self, i: int, t: int) -> Observation:
        """What was seen before control step `t` of episode `i`; `t` a multiple of its stride."""
        row, rest = divmod(t, self.entries[i].stride)
        assert rest == 0, f"no frame was kept at control step {t}"
        return self._guarded(i, lambda: self._opened(i).observation(row, self.entries[i].instruction))

    def actions(self, i: int, start: int, stop: int) -> np.ndarray:
        """float32 [stop - start, D]: the expert's clean labels where the file has them, else what was executed."""
        return self._guarded(i, lambda: self._opened(i).actions[start:stop])

    def summary(self) -> dict[str, Any]:
        """Counts: episodes, steps, successes, files, and by instruction (episodes, successes)."""
        episodes = Counter(entry.instruction for entry in self.entries)
        solved = Counter(entry.instruction for entry in self.entries if entry.success)
        return {
            "files": len({entry.path for entry in self.entries}),
            "episodes": len(self),
            "steps": sum(entry.steps for entry in self.entries),
            "successes": solved.total(),
            "sources": dict(Counter(entry.source for entry in self.entries)),
            "instructions": {name: {"episodes": n, "successes": solved[name]} for name, n in sorted(episodes.items())},
        }

    def close(self) -> None:
        """Closes the files of this process; reading opens them again."""
        self._own()
        self._demos.clear()
        while self._files:
            self._files.popitem()[1].close()

    def _guarded(self, i: int, read: Callable[[], T]) -> T:
        try:
            return read()
        except (OSError, KeyError, RuntimeError) as error:
            entry = self.entries[i]
            raise ValueError(f"{entry.path}: {entry.demo} cannot be read ({_first_line(error)}): {RESTORE}") from error

    def _opened(self, i: int) -> _Demo:
        self._own()
        if i not in self._demos:
            self._demos[i] = _Demo.open(self._group(i), self.entries[i].layout)
            if len(self._demos) > MAX_DEMOS:
                self._demos.popitem(last=False)
        self._demos.move_to_end(i)
        return self._demos[i]

    def _group(self, i: int) -> h5py.Group:
        self._own()
        path = self.entries[i].path
        if path not in self._files:
            self._files[path] = _open(path)
            if len(self._files) > MAX_FILES:
                self._drop_file()
        self._files.move_to_end(path)
        return self._files[path]["data"][self.entries[i].demo]

    def _drop_file(self) -> None:
        path, file = self._files.popitem(last=False)
        self._demos = OrderedDict((i, demo) for i, demo in self._demos.items() if self.entries[i].path != path)
        file.close()

    def _own(self) -> None:
        """After a fork the parent's handles are not ours to use, nor to close: set them aside."""
        if self._pid != os.getpid():
            self._inherited = (self._files, self._demos)
            self._pid, self._files, self._demos = os.getpid(), OrderedDict(), OrderedDict()

    def __getstate__(self) -> dict[str, Any]:
        return {"entries": self.entries, "_files": OrderedDict(), "_demos": OrderedDict(), "_pid": os.getpid()}


@dataclass(frozen=True)
class _Demo:
    """What windows need of one episode: handles for the frames, the small arrays at once."""

    frames: dict[str, h5py.Dataset]
    proprio: np.ndarray
    actions: np.ndarray
    upside_down: bool

    @classmethod
    def open(cls, demo: h5py.Group, layout: Layout) -> _Demo:
        labels = "expert_actions" if "expert_actions" in demo else "actions"
        return cls(
            {camera: demo["obs"][f"{camera}_rgb"] for camera in schema.cameras_of(demo)},
            schema.proprio_of(demo["obs"], slice(None), layout),
            schema.read_steps(demo, labels, layout),
            layout.upside_down,
        )

    def observation(self, row: int, instruction: str) -> Observation:
        images = {camera: schema.upright(frames[row], self.upside_down) for camera, frames in self.frames.items()}
        return Observation(images, self.proprio[row], instruction)


# Opening and refusing

RESTORE = "the file is damaged: copy or download it again"


def _open(path: Path) -> h5py.File:
    """Opens a published, hence immutable, shard; without locks, which some cluster file systems lack."""
    refusal = wrong_with(path)
    if refusal:
        raise ValueError(f"{path}: {refusal}")
    try:
        return h5py.File(path, "r", locking=False, rdcc_nbytes=0)  # a cache per dataset would add up
    except OSError as error:
        raise ValueError(f"{path}: {_first_line(error)}: {RESTORE}") from error


def wrong_with(path: Path) -> str:
    """Why a path cannot be opened, with the fix; empty when it can."""
    if not path.exists():
        return "no such file or folder: check the path"
    if path.suffix == ".partial":
        return "a shard in progress: close its writer, or recover the folder when the writer has died"
    if path.stat().st_size == 0:
        return "is empty: copy or download it again"
    return "" if h5py.is_hdf5(path) else "is not an HDF5 file: convert it, or name another"


def _first_line(error: BaseException) -> str:
    return str(error).strip("'\"").splitlines()[0]


def _index(path: Path) -> list[Entry]:
    with _open(path) as file:
        try:
            return _entries(path, file)
        except (KeyError, OSError, RuntimeError, AttributeError) as error:
            raise ValueError(f"{path}: a part is missing ({_first_line(error)}): {RESTORE}") from error
        except ValueError as error:
            raise ValueError(f"{path}: {error}") from error


def _entries(path: Path, file: h5py.File) -> list[Entry]:
    layout = schema.layout_of(file["data"]) if "data" in file else None
    if layout is None:
        raise ValueError("HDF5, but neither an acceerl nor a published LIBERO layout: see data/README.md to convert it")
    names = sorted(file["data"], key=schema.number_of)
    if not names:
        raise ValueError("holds no episode: leave it out")
    return [_entry(path, name, file["data"][name], layout) for name in names]


def _entry(path: Path, name: str, demo: h5py.Group, layout: Layout) -> Entry:
    facts = schema.facts_of(demo, layout)
    names = ("instruction", "task", "init_state", "seed", "success", "source")
    known: dict[str, Any] = {key: facts.get(key, -1) for key in names}
    return Entry(path, name, layout, schema.steps_of(demo, layout), **known, stride=schema.stride_of(demo))
