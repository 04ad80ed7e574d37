"""`acceerl bench store`: random windows a second from our trajectory files, against a plain robomimic-style file.

The episodes are made up on the fly: smooth frames with something that moves and a little noise, which compress about
as rendered ones do.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from acceerl.bench.options import option
from acceerl.bench.result import Result
from acceerl.stores.plain import PlainWindows, write_plain
from acceerl.stores.reader import open_trajectories
from acceerl.stores.schema import Episode
from acceerl.stores.windows import Windows
from acceerl.stores.writer import TrajectoryWriter

CAMERAS = ("front", "wrist")
CHUNK = 8  # actions of a window
COMPRESSIONS = ("gzip", "blosc2")
FIGURES = {
    "store.windows_per_s": "random windows a second (two frames, 8 actions) from our shards, gzip",
    "store.blosc2_windows_per_s": "the same from shards compressed with Blosc2",
    "store.peer_windows_per_s": "the same windows from a plain file: gzip, chunks=True, read as robomimic reads",
    "store.over_peer": "ratio of the first and the third; median over turns",
    "store.write_mb_per_s": "megabytes of frames a second that a writer takes, gzip, each episode safe on return",
    "store.blosc2_write_mb_per_s": "the same with Blosc2",
}


@dataclass(frozen=True)
class Options:
    episodes: int = option(20, "made up", least=1)
    steps: int = option(120, "control steps of each", least=1)
    image_size: int = option(128, "pixels a side", least=8)
    windows: int = option(200, "read in each turn", least=1)
    turns: int = option(5, "of reading, the kinds of files one after another", least=1)


def run(options: Options) -> Result:
    with tempfile.TemporaryDirectory(prefix="acceerl-bench-") as name:
        folder, result = Path(name), Result()
        episodes = [made_up(i, options.steps, options.image_size) for i in range(options.episodes)]
        for compression in COMPRESSIONS:
            rate = _write(folder / compression, episodes, compression)
            result.figures[f"store.{_prefix(compression)}write_mb_per_s"] = rate
            result.rows.append({"what": f"write, {compression}", "mb_per_s": round(rate, 1)})
        write_plain(folder / "plain.hdf5", episodes)
        _read(result, folder, options)
    return result


def _prefix(compression: str) -> str:
    return "" if compression == "gzip" else f"{compression}_"


def made_up(number: int, steps: int, size: int) -> Episode:
    """An episode whose frames compress like rendered ones."""
    rng = np.random.default_rng(number)
    images = {camera: _frames(rng, steps + 1, size) for camera in CAMERAS}
    done = np.arange(steps) == steps - 1
    proprio = rng.standard_normal((steps + 1, 8)).astype(np.float32)
    return Episode(
        {camera: frames[:-1] for camera, frames in images.items()}, proprio[:-1],
        rng.uniform(-1, 1, (steps, 7)).astype(np.float32), done.astype(np.float32), done.astype(np.uint8),
        {camera: frames[-1] for camera, frames in images.items()}, proprio[-1], "do something", terminated=True,
    )  # fmt: skip


def _frames(rng: np.random.Generator, count: int, size: int) -> np.ndarray:
    """uint8 [count, size, size, 3]: a shaded table with a square that wanders over it."""
    shade = np.linspace(40, 200, size)[:, None, None] + np.linspace(0, 40, size)[None, :, None] + np.arange(3) * 5
    frames = np.repeat(shade[None], count, axis=0) + (rng.random((count, size, size, 1)) < 0.05)
    side = max(1, size // 6)
    path = np.cumsum(rng.integers(-2, 3, (count, 2)), axis=0) % (size - side)
    for frame, (row, column) in zip(frames, path, strict=True):
        frame[row : row + side, column : column + side] = (200, 30, 30)
    return frames.astype(np.uint8)


def _write(folder: Path, episodes: list[Episode], compression: str) -> float:
    """10^6 bytes of frames a second, from the first episode to the published shard."""
    began = time.perf_counter()
    with TrajectoryWriter(folder, {"env_name": "none"}, {}, "bench", compression) as writer:
        for episode in episodes:
            writer.write(episode)
    size = sum(frames.nbytes for episode in episodes for frames in episode.images.values())
    return size / 1e6 / (time.perf_counter() - began)


def _read(result: Result, folder: Path, options: Options) -> None:
    ours = {kind: open_trajectories(folder / kind) for kind in COMPRESSIONS}
    with PlainWindows(folder / "plain.hdf5", CHUNK) as plain:
        readers: dict[str, Callable[[int], Any]] = {k: Windows(t, CHUNK).__getitem__ for k, t in ours.items()}
        readers["plain"] = plain.__getitem__
        rates: dict[str, list[float]] = {kind: [] for kind in readers}
        for turn in range(options.turns):
            indices = np.random.default_rng(turn).integers(len(plain), size=options.windows)
            for kind, read in readers.items():
                rates[kind].append(_rate(read, indices))
    for trajectories in ours.values():
        trajectories.close()
    result.rows += [{"what": f"read, {k}", "windows_per_s": round(median(v), 1)} for k, v in rates.items()]
    result.figures |= {
        "store.windows_per_s": median(rates["gzip"]),
        "store.blosc2_windows_per_s": median(rates["blosc2"]),
        "store.peer_windows_per_s": median(rates["plain"]),
        "store.over_peer": median(a / b for a, b in zip(rates["gzip"], rates["plain"], strict=True)),
    }


def _rate(read: Callable[[int], Any], indices: np.ndarray) -> float:
    began = time.perf_counter()
    for index in indices:
        read(int(index))
    return len(indices) / (time.perf_counter() - began)
