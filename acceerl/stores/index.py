"""What a reader must know of a file before it reads: its episodes, and where their rows are. Built once, then cached.

The cache is `index/NAME.idx` beside the data. It holds for the file's size and time of change; where the folder cannot
be written the index is built anew by every process.
"""

from __future__ import annotations

import logging
import os
from pathlib import Path

import h5py
import msgspec

from acceerl.stores import layouts
from acceerl.stores.layouts import Layout
from acceerl.stores.opening import RESTORE, first_line, opened
from acceerl.stores.rows import Located, locate
from acceerl.stores.schema import number_of, observation_rows
from acceerl.stores.structure import odd_ones, structure

log = logging.getLogger(__name__)
VERSION = 3  # of the cache
STEPS = ("actions", "expert_actions", "rewards")


class Demo(msgspec.Struct, frozen=True):
    """One episode of a file: what it is, and its datasets. `final` names the row after the last action."""

    demo: str
    steps: int
    stride: int
    instruction: str
    task: int
    init_state: int
    seed: int
    success: bool
    source: str
    datasets: dict[str, Located]  # by h5 path below the demo
    final: dict[str, tuple[str, int]]  # key under obs -> (h5 path below the demo, row)
    problems: list[tuple[str, str]] = []  # (field, message) of what keeps it from being read


class ShardIndex(msgspec.Struct, frozen=True):
    stamp: tuple[int, int, int]  # version, size, time of change in ns
    layout: Layout
    demos: list[Demo]


def index_of(path: Path, fresh: bool = False) -> ShardIndex:
    """From the cache where that holds, unless `fresh` is asked for. Raises ValueError naming the file and its fault."""
    cache = path.parent / "index" / f"{path.name}.idx"
    found = None if fresh else _cached(cache, path)
    if found is None:
        found = _build(path)
        _keep(cache, found)
    return found


def _cached(cache: Path, path: Path) -> ShardIndex | None:
    try:
        found = msgspec.msgpack.decode(cache.read_bytes(), type=ShardIndex)
        return found if found.stamp == _stamp(path) else None
    except (OSError, msgspec.MsgspecError):
        return None


def _keep(cache: Path, index: ShardIndex) -> None:
    beside = cache.with_name(f".{cache.name}.{os.getpid()}")
    try:
        cache.parent.mkdir(exist_ok=True)
        beside.write_bytes(msgspec.msgpack.encode(index))
        beside.replace(cache)
    except OSError as error:
        log.debug("%s: the index is not kept: %s", cache, error)


def _stamp(path: Path) -> tuple[int, int, int]:
    about = path.stat()
    return VERSION, about.st_size, about.st_mtime_ns


def _build(path: Path) -> ShardIndex:
    with opened(path) as file:
        try:
            stamp = _stamp(path)
            if "data" in file and not len(file["data"]):
                raise ValueError("holds no episode: leave it out")
            layout = layouts.layout_of(path, file["data"]) if "data" in file else None
            if layout is None:
                raise ValueError("HDF5, but of no layout known here (acceerl, LIBERO, robomimic): see data/README.md")
            return ShardIndex(stamp, layout, _demos(file["data"], layout))
        except (KeyError, OSError, RuntimeError, AttributeError) as error:
            raise ValueError(f"{path}: a part is missing ({first_line(error)}): {RESTORE}") from error
        except ValueError as error:
            raise ValueError(f"{path}: {error}") from error


def _demos(data: h5py.Group, layout: Layout) -> list[Demo]:
    names = sorted(data, key=number_of)
    problems = {name: structure(data[name], layout) for name in names}
    problems |= odd_ones(data, [name for name in names if not problems[name]], layout)
    return [_demo(name, data[name], layout, problems[name]) for name in names]


def _demo(name: str, demo: h5py.Group, layout: Layout, problems: list[tuple[str, str]]) -> Demo:
    if problems:
        return Demo(name, 0, 1, "", -1, -1, -1, False, "", {}, {}, problems)
    facts, steps, stride = layouts.facts_of(demo, layout), layouts.steps_of(demo, layout), layouts.stride_of(demo)
    keys = [*(key for key, _ in layout.cameras), *layout.proprio]
    rows = observation_rows(steps, stride)
    final, row = layouts.final_of(demo, layout, rows)
    place = final.name.removeprefix(demo.name).strip("/")
    paths = [*(f"obs/{key}" for key in keys), *(f"{place}/{key}" for key in keys), *STEPS]
    task, init_state, seed = (int(facts.get(key, -1)) for key in ("task", "init_state", "seed"))
    return Demo(
        name, steps, stride, facts["instruction"], task, init_state, seed, facts["success"], facts["source"],
        {path: locate(demo[path]) for path in dict.fromkeys(paths) if path in demo},
        {key: (f"{place}/{key}", row) for key in keys},
    )  # fmt: skip
