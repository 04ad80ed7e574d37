"""`acceerl bench store`: windows a second from our trajectory files against robomimic's way, sizes, and kills.

A window is `frames` observations of two cameras in a row, with the actions between them. The peer reads the same
windows of the same file; each turn reads with one after the other, so that other work on the machine hits all alike.
"""

from __future__ import annotations

import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import numpy as np

from acceerl.bench import store_kills
from acceerl.bench.options import option
from acceerl.bench.result import Result
from acceerl.bench.store_episodes import made_up, rendered
from acceerl.bench.store_reading import Ours, Peer, Raw, Reader, Slices
from acceerl.runtime.memory import keep_freed_memory
from acceerl.stores.plain import write_plain
from acceerl.stores.schema import Episode
from acceerl.stores.writer import TrajectoryWriter

COMPRESSIONS = ("gzip", "blosc2")
FIGURES = {
    "store.windows_per_s": "random windows a second from our shards, gzip",
    "store.blosc2_windows_per_s": "the same from shards compressed with Blosc2",
    "store.peer_windows_per_s": "the same windows of the same gzip file, read as robomimic reads",
    "store.over_peer": "ratio of the first and the third; median over turns",
    "store.own_peer_windows_per_s": "the peer on a file as its own scripts write: gzip, chunks that HDF5 chooses",
    "store.over_own_peer": "ratio of our rate on our file and that",
    "store.flat_peer_windows_per_s": "the peer on LIBERO's uncompressed layout, which fits into memory here",
    "store.raw_windows_per_s": "decompressing the same frames from memory, and nothing else, on one core",
    "store.share_of_raw": "ratio of the first and that; median over turns",
    "store.size_over_libero": "bytes of our gzip file over LIBERO's uncompressed layout of the same episodes",
    "store.blosc2_size_over_libero": "the same with Blosc2",
    "store.write_mb_per_s": "megabytes of frames a second that a writer takes, gzip, each episode safe on return",
    "store.blosc2_write_mb_per_s": "the same with Blosc2",
    "store.kills": "SIGKILLs of a writer at random moments",
    "store.kills_broken": "faults found in what was published, after every kill and at the end",
    "store.kills_lost": "most episodes that one kill took besides the one in hand",
    "store.kills_missing": "episodes of the target that are missing or double at the end",
}


@dataclass(frozen=True)
class Options:
    images: str = option("made_up", "or of a simulator, with random actions", choices=("made_up", "tabletop", "libero"))
    episodes: int = option(10, "of them", least=1)
    steps: int = option(120, "control steps of each", least=2)
    image_size: int = option(128, "pixels a side", least=8)
    frames: int = option(16, "of a window", least=2)
    windows: int = option(30, "read in each turn", least=1)
    turns: int = option(5, "of reading, one reader after the other", least=1)
    peer: str = option("", "a Python that has robomimic; empty: h5py slices, which is what robomimic does for a window")
    kills: int = option(0, "of a writer, besides", least=0)


def run(options: Options) -> Result:
    if options.frames > options.steps:
        raise ValueError(f"frames={options.frames} is more than steps={options.steps}: no window fits")
    with tempfile.TemporaryDirectory(prefix="acceerl-bench-") as name:
        folder, result = Path(name), Result()
        episodes = _episodes(options)
        for compression in COMPRESSIONS:
            rate = _write(folder / compression, episodes, compression)
            result.figures[f"store.{_prefix(compression)}write_mb_per_s"] = rate
            result.rows.append({"what": f"write, {compression}", "mb_per_s": round(rate, 1)})
        write_plain(folder / "own.hdf5", episodes)
        write_plain(folder / "flat.hdf5", episodes, "none")
        _sizes(result, folder)
        _read(result, folder, options, sorted(episodes[0].images))
        if options.kills:
            _kill(result, folder / "kills", options.kills)
    return result


def _prefix(compression: str) -> str:
    return "" if compression == "gzip" else f"{compression}_"


def _episodes(options: Options) -> list[Episode]:
    if options.images == "made_up":
        return [made_up(i, options.steps, options.image_size) for i in range(options.episodes)]
    return rendered(options.images, options.episodes, options.steps, options.image_size)


def _write(folder: Path, episodes: list[Episode], compression: str) -> float:
    """10^6 bytes of frames a second, from the first episode to the published shard."""
    began = time.perf_counter()
    with TrajectoryWriter(folder, {"env_name": "none"}, {}, "bench", compression) as writer:
        for episode in episodes:
            writer.write(episode)
    size = sum(frames.nbytes for episode in episodes for frames in episode.images.values())
    return size / 1e6 / (time.perf_counter() - began)


def _shard(folder: Path, compression: str) -> Path:
    return next((folder / compression).glob("*.hdf5"))


def _sizes(result: Result, folder: Path) -> None:
    flat = (folder / "flat.hdf5").stat().st_size
    for compression in COMPRESSIONS:
        share = _shard(folder, compression).stat().st_size / flat
        result.figures[f"store.{_prefix(compression)}size_over_libero"] = share
        result.rows.append({"what": f"size, {compression}", "over_libero": round(share, 3)})


def _read(result: Result, folder: Path, options: Options, cameras: list[str]) -> None:
    keep_freed_memory()  # as jobs that train from windows do
    gzip, keys = _shard(folder, "gzip"), [*(f"{name}_rgb" for name in cameras), "proprio"]

    def peer(path: Path) -> Reader:
        return Peer(options.peer, path, options.frames, keys) if options.peer else Slices(path, options.frames, keys)

    readers: dict[str, Reader] = {
        "ours": Ours(gzip, options.frames), "raw": Raw(gzip, options.frames), "peer": peer(gzip),
        "ours, blosc2": Ours(_shard(folder, "blosc2"), options.frames), "peer, own file": peer(folder / "own.hdf5"),
        "peer, uncompressed": peer(folder / "flat.hdf5"),
    }  # fmt: skip
    rates: dict[str, list[float]] = {kind: [] for kind in readers}
    try:
        for turn in range(options.turns + 1):
            windows = _windows(options, turn)
            for kind, reader in readers.items():
                took = reader.seconds(windows)
                if turn:  # the first turn opens files and fills the cache of the disk
                    rates[kind].append(len(windows) / took)
    finally:
        for reader in readers.values():
            reader.close()
    result.rows += [{"what": f"read, {kind}", "windows_per_s": round(median(v), 1)} for kind, v in rates.items()]
    result.figures |= {
        "store.windows_per_s": median(rates["ours"]),
        "store.blosc2_windows_per_s": median(rates["ours, blosc2"]),
        "store.peer_windows_per_s": median(rates["peer"]),
        "store.over_peer": _ratio(rates, "ours", "peer"),
        "store.own_peer_windows_per_s": median(rates["peer, own file"]),
        "store.over_own_peer": _ratio(rates, "ours", "peer, own file"),
        "store.flat_peer_windows_per_s": median(rates["peer, uncompressed"]),
        "store.raw_windows_per_s": median(rates["raw"]),
        "store.share_of_raw": _ratio(rates, "ours", "raw"),
    }


def _windows(options: Options, turn: int) -> list[tuple[str, int]]:
    """Demos and first frames, anew in each turn."""
    rng = np.random.default_rng(turn)
    demos = rng.integers(options.episodes, size=options.windows)
    starts = rng.integers(options.steps - options.frames + 1, size=options.windows)
    return [(f"demo_{demo}", int(start)) for demo, start in zip(demos, starts, strict=True)]


def _ratio(rates: dict[str, list[float]], one: str, other: str) -> float:
    return median(a / b for a, b in zip(rates[one], rates[other], strict=True))


def _kill(result: Result, folder: Path, kills: int) -> None:
    outcome = store_kills.drill(folder, kills, target=4 * kills)
    result.figures |= {
        "store.kills": outcome.kills,
        "store.kills_broken": outcome.broken,
        "store.kills_lost": outcome.lost_most,
        "store.kills_missing": outcome.missing + outcome.double,
    }
    result.rows.append({"what": "kills", "kills": outcome.kills, "lost": outcome.lost_most, "broken": outcome.broken})
