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

from acceerl.stores import files, schema
from acceerl.stores.manifest import manifest
from acceerl.stores.schema import Episode, Layout
from acceerl.types import Observation

T = TypeVar("T")
MAX_OPEN = 64  # shards held open by one process; job limits on open files are low


@dataclass(frozen=True)
class Entry:
    """Where one episode is and what it is about, known without reading its arrays."""

    path: Path
    demo: str
    layout: Layout
    steps: int
    instruction: str
    task: int
    success: bool
    source: str


@dataclass(frozen=True)
class Finding:
    """One thing wrong with a file; `demo` and `field` are empty when it concerns the whole file."""

    file: str
    demo: str
    field: str
    message: str


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
    if not path.is_dir():
        return [path]
    shards = sorted(path.glob("*.hdf5"))
    if not shards:
        left = f", only {len(_left(path))} unfinished: run recover on it" if _left(path) else ": collect or import some"
        raise ValueError(f"{path}: holds no .hdf5 file{left}")
    return shards


def _left(folder: Path) -> list[Path]:
    return sorted(folder.glob("*.partial"))


class Trajectories:
    """A lazy list of episodes. Copies in forked or spawned workers open their own files.

    `len(t)` episodes; `t[i]` reads one; `t.entries[i]` says what it is; `t.observation`, `t.actions` read parts.
    """

    def __init__(self, entries: list[Entry]) -> None:
        self.entries = entries
        self._files: OrderedDict[Path, h5py.File] = OrderedDict()
        self._pid = os.getpid()

    def __len__(self) -> int:
        return len(self.entries)

    def __getitem__(self, i: int) -> Episode:
        return self._read(i, schema.read_demo)

    def observation(self, i: int, t: int) -> Observation:
        """What was seen before control step `t` of episode `i`; `t` a multiple of its decision stride."""
        return self._read(i, lambda demo, layout: _observation(demo, layout, t, self.entries[i].instruction))

    def actions(self, i: int, start: int, stop: int, clean: bool = True) -> np.ndarray:
        """float32 [stop - start, D]; `clean` prefers the expert's labels over the noisy actions executed."""

        def read(demo: h5py.Group, layout: Layout) -> np.ndarray:
            name = "expert_actions" if clean and "expert_actions" in demo else "actions"
            return schema.read_steps(demo, name, layout, start, stop)

        return self._read(i, read)

    def stride(self, i: int) -> int:
        """Control steps between two observations of episode `i`."""
        return self._read(i, lambda demo, _: schema.stride_of(demo))

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
        for file in self._handles().values():
            file.close()
        self._files.clear()

    def _read(self, i: int, read: Callable[[h5py.Group, Layout], T]) -> T:
        entry = self.entries[i]
        try:
            return read(self._file(entry.path)["data"][entry.demo], entry.layout)
        except (OSError, KeyError, RuntimeError) as error:
            raise ValueError(f"{entry.path}: {entry.demo} cannot be read ({_first_line(error)}): {RESTORE}") from error

    def _file(self, path: Path) -> h5py.File:
        handles = self._handles()
        if path not in handles:
            handles[path] = _open(path)
            if len(handles) > MAX_OPEN:
                handles.popitem(last=False)[1].close()
        handles.move_to_end(path)
        return handles[path]

    def _handles(self) -> OrderedDict[Path, h5py.File]:
        if self._pid != os.getpid():  # forked: the parent's handles are not ours to use or to close
            self._pid, self._inherited, self._files = os.getpid(), self._files, OrderedDict()
        return self._files

    def __getstate__(self) -> dict[str, Any]:
        return {"entries": self.entries, "_files": OrderedDict(), "_pid": os.getpid()}


def _observation(demo: h5py.Group, layout: Layout, t: int, instruction: str) -> Observation:
    row, rest = divmod(t, schema.stride_of(demo))
    assert rest == 0, f"no frame was kept at control step {t}"
    images = {camera: schema.frames_of(demo["obs"], camera, row, layout) for camera in schema.cameras_of(demo)}
    return Observation(images, schema.proprio_of(demo["obs"], row, layout), instruction)


# Opening and refusing

RESTORE = "the file is damaged: copy or download it again"


def _open(path: Path) -> h5py.File:
    """Opens a published, hence immutable, shard; without locks, which some cluster file systems lack."""
    wrong = _wrong(path)
    if wrong:
        raise ValueError(f"{path}: {wrong}")
    try:
        return h5py.File(path, "r", locking=False)
    except OSError as error:
        raise ValueError(f"{path}: {_first_line(error)}: {RESTORE}") from error


def _wrong(path: Path) -> str:
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
    names = sorted(file["data"], key=lambda name: int(name.removeprefix("demo_")))
    if not names:
        raise ValueError("holds no episode: leave it out")
    return [_entry(path, name, file["data"][name], layout) for name in names]


def _entry(path: Path, name: str, demo: h5py.Group, layout: Layout) -> Entry:
    facts = schema.facts_of(demo, layout)
    wanted = {key: facts.get(key, -1) for key in ("instruction", "task", "success", "source")}
    return Entry(path, name, layout, schema.steps_of(demo, layout), **wanted)


def validate(path: str | Path) -> list[Finding]:
    """Reads everything under a file or folder; returns what is wrong, empty when all is well.

    Checks structure, lengths, dtypes, NaN, checksums against the manifest, and names unfinished shards.
    """
    path = Path(path)
    unfinished = [Finding(str(p), "", "", _wrong(p)) for p in (_left(path) if path.is_dir() else [])]
    try:
        shards = shards_of(path)
    except ValueError as error:
        return [*unfinished, Finding(str(path), "", "", str(error))]
    return unfinished + [finding for shard in shards for finding in (*_check_sum(shard), *_check_shard(shard))]


def _check_sum(shard: Path) -> list[Finding]:
    entries = manifest(shard.parent)["shards"]
    if not entries or not shard.exists():  # LIBERO's files come without a manifest
        return []
    if shard.name not in entries:
        return [Finding(str(shard), "", "manifest", "has no manifest entry: run recover on the folder")]
    same = files.sha256(shard) == entries[shard.name]["sha256"]
    return [] if same else [Finding(str(shard), "", "sha256", f"differs from the manifest: {RESTORE}")]


def _check_shard(shard: Path) -> list[Finding]:
    try:
        trajectories = open_trajectories(shard)
    except ValueError as error:
        return [Finding(str(shard), "", "", str(error))]
    return [finding for i in range(len(trajectories)) for finding in _check_demo(trajectories, i)]


def _check_demo(trajectories: Trajectories, i: int) -> list[Finding]:
    entry = trajectories.entries[i]
    try:
        problems = trajectories[i].problems()
    except ValueError as error:
        problems = [f": {error}"]
    return [Finding(str(entry.path), entry.demo, *problem.split(": ", 1)) for problem in problems]
