"""Finds what is wrong with trajectory files before a training run does; `acceerl data validate` prints it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Protocol

import h5py

from acceerl.stores import checks, files
from acceerl.stores.checks import Finding, Rules
from acceerl.stores.manifest import manifest
from acceerl.stores.opening import BUSY, RESTORE, shards_of, unfinished, wrong_with
from acceerl.stores.reader import Entry, Trajectories, open_trajectories
from acceerl.stores.schema import Episode

Look = Callable[[Episode], list[tuple[str, str]]]  # a further check of a whole episode: (field, message) each


def _nobody(_: int) -> None:
    """The default of whoever wants to hear how far it is."""


def validate(
    path: str | Path,
    rules: Rules | None = None,
    looks: Look | None = None,
    advance: Callable[[int], None] = _nobody,
) -> list[Finding]:
    """Reads everything under a file or folder; returns what is wrong, empty when all is well.

    Checks structure, lengths, types, ranges, NaN, tasks, orientation against the other demos, checksums against the
    manifest; names unfinished shards and files that somebody writes. `advance(1)` is called after each file.
    """
    path = Path(path)
    left = [Finding(str(p), "", "", wrong_with(p)) for p in (unfinished(path) if path.is_dir() else [])]
    try:
        shards = shards_of(path)
    except ValueError as error:
        return [*left, Finding(str(path), "", "", str(error))]
    for shard in shards:
        left += [*checksum(shard), *of_shard(shard, rules or Rules(), looks)]
        advance(1)
    return left


def checksum(shard: Path) -> list[Finding]:
    """Against the manifest; other people's files come without one."""
    try:
        entries = manifest(shard.parent)["shards"]
    except ValueError as error:
        return [Finding(str(shard), "", "manifest", str(error))]
    if not entries or not shard.exists():
        return []
    if shard.name not in entries:
        return [Finding(str(shard), "", "manifest", "has no manifest entry: run recover on the folder")]
    same = files.sha256(shard) == entries[shard.name]["sha256"]
    return [] if same else [Finding(str(shard), "", "sha256", f"differs from the manifest: {RESTORE}")]


def verify(folder: Path) -> list[Finding]:
    """Checksums only: every shard of the manifest is there and unchanged, and no shard is unlisted.

    Raises ValueError when the folder has no manifest.
    """
    entries = manifest(folder)["shards"]
    if not entries:
        raise ValueError(f"{folder}: has no manifest: only folders that acceerl wrote have checksums")
    missing = [Finding(str(folder / name), "", "", "is in the manifest but not there") for name in entries
               if not (folder / name).exists()]  # fmt: skip
    there = sorted({*folder.glob("*.hdf5"), *(folder / name for name in entries)})
    return missing + [finding for shard in there for finding in checksum(shard)]


def of_shard(shard: Path, rules: Rules, looks: Look | None = None) -> list[Finding]:
    """The findings of one file, its checksum apart. A file that changes meanwhile is said to be in use."""
    try:
        before = shard.stat() if shard.exists() else None
        trajectories = open_trajectories(shard, fresh=True, broken=True)
        found = list(_of_demos(trajectories, rules, looks))
        trajectories.close()
    except ValueError as error:
        return [Finding(str(shard), "", "", str(error).removeprefix(f"{shard}: "))]
    after = shard.stat()
    if before and (before.st_size, before.st_mtime_ns) != (after.st_size, after.st_mtime_ns):
        found.insert(0, Finding(str(shard), "", "", BUSY))
    return found


def _of_demos(trajectories: Trajectories, rules: Rules, looks: Look | None) -> Iterator[Finding]:
    whole = []
    for i in range(len(trajectories)):
        found = of_demo(trajectories, i, rules, looks)
        yield from found
        if not found:
            whole.append(i)
    for i, field, message in checks.upside_down(trajectories, whole):
        yield finding(trajectories.entries[i], field, message)


def of_demo(trajectories: Trajectories, i: int, rules: Rules, looks: Look | None = None) -> list[Finding]:
    """The findings of one demo by itself."""
    episode, found = checked(trajectories, i, rules)
    found += [finding(trajectories.entries[i], *problem) for problem in checks.labels(trajectories, i, rules)]
    if episode is not None and not found and looks:
        found = [finding(trajectories.entries[i], *problem) for problem in looks(episode)]
    return found


def finding(entry: Entry, field: str, message: str) -> Finding:
    """Of one demo; images by their names in the file."""
    keys = {f"obs/{name}_rgb": f"obs/{key}" for key, name in entry.layout.cameras}
    return Finding(str(entry.path), entry.demo, keys.get(field, field), message)


class Demos(Protocol):
    """Episodes by number, and what is known of them without reading: `Trajectories`, or a LeRobot data set."""

    @property
    def entries(self) -> list[Entry]: ...

    @property
    def problems(self) -> dict[int, list[tuple[str, str]]]: ...

    def __getitem__(self, i: int) -> Episode: ...


def checked(
    demos: Demos, i: int, rules: Rules, change: Callable[[Episode], Episode] = lambda episode: episode
) -> tuple[Episode | None, list[Finding]]:
    """One demo, `change`d, and what is wrong with it; None when it cannot be read."""
    entry = demos.entries[i]

    def named(problems: list[tuple[str, str]]) -> list[Finding]:
        return [finding(entry, *problem) for problem in problems]

    if i in demos.problems:
        return None, named(demos.problems[i])
    if entry.steps < 1:
        return None, named([("actions", "no steps")])
    try:
        episode = change(demos[i])
    except ValueError as error:
        return None, named([("", str(error).removeprefix(f"{entry.path}: {entry.demo} "))])
    return episode, named(checks.contents(episode, rules))


def listing(path: str | Path) -> str:
    """A file's groups, datasets and attributes, one a line: what `acceerl data inspect` shows."""
    lines: list[str] = []

    def visit(name: str, item: h5py.Group | h5py.Dataset) -> None:
        lines.append(_line(name, item))
        lines.extend(f"{name} @{key} = {item.attrs[key]}" for key in sorted(item.attrs))

    with h5py.File(path, "r", locking=False) as file:
        file.visititems(visit)
    return "\n".join(lines) + "\n"


def _line(name: str, item: h5py.Group | h5py.Dataset) -> str:
    if isinstance(item, h5py.Group):
        return f"{name}/"
    packed = f" one chunk = {item.chunks}, {item.compression}" if item.chunks else ""
    return f"{name} {item.dtype} {item.shape}{packed}"
