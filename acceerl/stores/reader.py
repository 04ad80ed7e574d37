"""Reads HDF5 trajectories, ours, LIBERO's and robomimic's, as the same `Episode`; start here to train on a file.

Others' files differ in alignment and orientation (layouts.py). Here every transition is (observation, the action that
followed it, the next observation) with images right side up, so a LIBERO demo of T rows is an episode of T - 1 steps:
nothing was seen before its first action.
"""

from __future__ import annotations

from collections import Counter, OrderedDict
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from acceerl.stores import index, layouts
from acceerl.stores.layouts import Layout
from acceerl.stores.opening import RESTORE, first_line, shards_of
from acceerl.stores.rows import OpenFile, Rows
from acceerl.stores.schema import Episode, observation_rows
from acceerl.types import Observation

T = TypeVar("T")
MAX_FILES = 64  # held open by one process; limits on open files are low on some clusters
MAX_DEMOS = 4096  # of these, places and small arrays are kept


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

    @property
    def rows(self) -> int:
        """Observations, without the final one."""
        return observation_rows(self.steps, self.stride)

    @property
    def cameras(self) -> tuple[str, ...]:
        return tuple(name for _, name in self.layout.cameras)

    @property
    def where(self) -> str:
        """For people."""
        return f"{self.path}: {self.demo}"


def open_trajectories(
    paths: str | Path | Iterable[str | Path], fresh: bool = False, broken: bool = False
) -> Trajectories:
    """Indexes a file, a folder of shards, or several of them; `fresh` looks at the files whatever the cache says.

    Raises ValueError naming the file, what is wrong with it and what to do; with `broken` only when it cannot be
    opened at all, and demos that cannot be read have no steps and stand in `problems`.

    >>> open_trajectories("/nowhere.hdf5")
    Traceback (most recent call last):
    ValueError: /nowhere.hdf5: no such file or folder: check the path
    """
    several = [paths] if isinstance(paths, (str, Path)) else list(paths)
    shards = [shard for path in several for shard in shards_of(Path(path))]
    found = [(shard, index.index_of(shard, fresh)) for shard in shards]
    trajectories = Trajectories([(shard, of.layout, demo) for shard, of in found for demo in of.demos])
    if not broken and trajectories.problems:
        i, problems = next(iter(trajectories.problems.items()))
        entry, (field, message) = trajectories.entries[i], problems[0]
        where = f"{entry.demo} {field}".strip()
        raise ValueError(f"{entry.path}: {where}: {message}: `acceerl data import` can leave it out")
    return trajectories


class Trajectories:
    """A lazy list of episodes. Copies in forked or spawned workers open their own files.

    `len(t)` episodes; `t[i]` reads one; `t.entries[i]` says what it is; `t.observation`, `t.frames`, `t.proprio`,
    `t.actions` and `t.executed` read parts.
    """

    def __init__(self, demos: list[tuple[Path, Layout, index.Demo]]) -> None:
        self._where = demos
        self.entries = [_entry(*demo) for demo in demos]
        self.problems = {i: demo.problems for i, (_, _, demo) in enumerate(demos) if demo.problems}
        self._files: OrderedDict[Path, OpenFile] = OrderedDict()
        self._demos: OrderedDict[int, _Demo] = OrderedDict()

    def __len__(self) -> int:
        return len(self.entries)

    def __getitem__(self, i: int) -> Episode:
        return self._guarded(i, lambda: self._whole(i))

    def chosen(self, which: Iterable[int]) -> Trajectories:
        """The same, of these episodes only."""
        return Trajectories([self._where[i] for i in which])

    def relaid(self, layout: Layout) -> Trajectories:
        """The same, read as another layout says."""
        return Trajectories([(path, layout, demo) for path, _, demo in self._where])

    def turned(self, flip: str) -> Trajectories:
        """The same, with the images of files in LIBERO's own layouts turned as `flip` says; all others stay."""
        turn = {layout: replace(layout, flip=flip) for _, layout, _ in self._where if layout.kind in layouts.LIBERO}
        return Trajectories([(path, turn.get(layout, layout), demo) for path, layout, demo in self._where])

    def shapes(self, i: int) -> dict[str, tuple[int, ...]]:
        """Of one row: by camera (H, W, 3), of `proprio` and of `actions`."""
        _, layout, demo = self._where[i]
        places = demo.datasets
        size = sum(places[f"obs/{key}"].shape[0] for key in layout.proprio)
        return {
            **{name: places[f"obs/{key}"].shape for key, name in layout.cameras},
            "proprio": (size,),
            "actions": places["actions"].shape,
        }

    def dtypes(self, i: int) -> dict[str, np.dtype]:
        """By h5 path below the demo, as the file has them."""
        return {name: np.dtype(located.dtype) for name, located in self._where[i][2].datasets.items()}

    def observation(self, i: int, t: int) -> Observation:
        """What was seen before control step `t` of episode `i`; `t` a multiple of its stride."""
        row, rest = divmod(t, self.entries[i].stride)
        assert rest == 0, f"no frame was kept at control step {t}"
        return self._guarded(i, lambda: self._opened(i).observation(row, self.entries[i].instruction))

    def frames(self, i: int, camera: str, start: int, stop: int, step: int = 1) -> np.ndarray:
        """uint8 [n, H, W, 3], observations start, start + step, ... before `stop`; the last one is the final one."""
        return self._guarded(i, lambda: self._opened(i).frames(camera, start, stop, step))

    def proprio(self, i: int) -> np.ndarray:
        """float32 [R + 1, P], the final one too."""
        return self._guarded(i, lambda: self._opened(i).proprio)

    def actions(self, i: int, start: int, stop: int) -> np.ndarray:
        """float32 [stop - start, D]: the expert's clean labels where the file has them, else what was executed."""
        return self._guarded(i, lambda: self._opened(i).labels[start:stop])

    def executed(self, i: int, start: int, stop: int) -> np.ndarray:
        """float32 [stop - start, D]: what the environment executed."""
        return self._guarded(i, lambda: self._opened(i).actions[start:stop])

    def packed(self, i: int, start: int, stop: int) -> list[tuple[int, bytes]]:
        """Bytes that an image has and its compressed bytes, of every camera; for measuring decompression alone."""
        demo = self._opened(i)
        return [part for key, _ in self.entries[i].layout.cameras for part in demo.packed(key, start, stop)]

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
        self._demos.clear()
        while self._files:
            self._files.popitem()[1].close()

    def _guarded(self, i: int, read: Callable[[], T]) -> T:
        try:
            return read()
        except (OSError, KeyError, RuntimeError) as error:
            entry = self.entries[i]
            raise ValueError(f"{entry.path}: {entry.demo} cannot be read ({first_line(error)}): {RESTORE}") from error

    def _whole(self, i: int) -> Episode:
        path, layout, demo = self._where[i]
        return layouts.read_demo(self._file(path).hdf5()["data"][demo.demo], layout)

    def _opened(self, i: int) -> _Demo:
        if i not in self._demos:
            path, layout, demo = self._where[i]
            self._demos[i] = _Demo(self._file(path), layout, demo)
            if len(self._demos) > MAX_DEMOS:
                self._demos.popitem(last=False)
        self._demos.move_to_end(i)
        return self._demos[i]

    def _file(self, path: Path) -> OpenFile:
        if path not in self._files:
            if len(self._files) >= MAX_FILES:
                self._drop_file()
            self._files[path] = OpenFile(path)
        self._files.move_to_end(path)
        return self._files[path]

    def _drop_file(self) -> None:
        path, file = self._files.popitem(last=False)
        self._demos = OrderedDict((i, demo) for i, demo in self._demos.items() if self.entries[i].path != path)
        file.close()

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "_files": OrderedDict(), "_demos": OrderedDict()}


class _Demo:
    """What windows need of one episode: places of the frames, the small arrays at once."""

    def __init__(self, file: OpenFile, layout: Layout, demo: index.Demo) -> None:
        self._cameras, self._flip = {name: key for key, name in layout.cameras}, layout.flip
        self._rows = {name: Rows(file, located) for name, located in demo.datasets.items()}
        self._count, self._final = observation_rows(demo.steps, demo.stride), demo.final
        keys = [self._seen(key, 0, self._count + 1, 1) for key in layout.proprio]
        self.proprio = np.concatenate([rows.astype(np.float32) for rows in keys], axis=-1)
        steps = slice(layout.shift, layout.shift + demo.steps)
        self.actions = self._all("actions")[steps]
        self.labels = self._all("expert_actions")[steps] if "expert_actions" in self._rows else self.actions

    def observation(self, row: int, instruction: str) -> Observation:
        images = {name: self.frames(name, row, row + 1, 1)[0] for name in self._cameras}
        return Observation(images, self.proprio[row], instruction)

    def frames(self, camera: str, start: int, stop: int, step: int) -> np.ndarray:
        if camera not in self._cameras:
            raise KeyError(f"no camera {camera}, but {', '.join(self._cameras)}")
        return layouts.upright(self._seen(self._cameras[camera], start, stop, step), self._flip)

    def packed(self, key: str, start: int, stop: int) -> list[tuple[int, bytes]]:
        return self._rows[f"obs/{key}"].packed(start, stop)

    def _all(self, name: str) -> np.ndarray:
        rows = self._rows[name]
        return rows.read(0, len(rows)).astype(np.float32)

    def _seen(self, key: str, start: int, stop: int, step: int) -> np.ndarray:
        """Rows of an observation; row `_count` is the one after the last action, wherever it is stored."""
        wanted = range(start, stop, step)
        name, last = self._final[key]
        rows = self._rows[f"obs/{key}"]
        if not wanted or wanted[-1] < self._count or (name == f"obs/{key}" and last == self._count):
            return rows.read(start, stop, step)
        after = self._rows[name].read(last, last + 1)
        return np.concatenate([rows.read(start, self._count, step), after]) if len(wanted) > 1 else after


def _entry(path: Path, layout: Layout, demo: index.Demo) -> Entry:
    return Entry(
        path, demo.demo, layout, demo.steps, demo.instruction, demo.task, demo.init_state, demo.seed, demo.success,
        demo.source, demo.stride,
    )  # fmt: skip
