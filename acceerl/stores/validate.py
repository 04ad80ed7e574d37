"""Finds what is wrong with trajectory files before a training run does; `acceerl data validate` prints it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import h5py

from acceerl.stores import files
from acceerl.stores.manifest import manifest
from acceerl.stores.reader import RESTORE, Trajectories, open_trajectories, shards_of, unfinished, wrong_with


@dataclass(frozen=True)
class Finding:
    """One thing wrong with a file; `demo` and `field` are empty when it concerns the whole file."""

    file: str
    demo: str
    field: str
    message: str


def validate(path: str | Path) -> list[Finding]:
    """Reads everything under a file or folder; returns what is wrong, empty when all is well.

    Checks structure, lengths, dtypes, NaN, checksums against the manifest, and names unfinished shards.
    """
    path = Path(path)
    left = [Finding(str(p), "", "", wrong_with(p)) for p in (unfinished(path) if path.is_dir() else [])]
    try:
        shards = shards_of(path)
    except ValueError as error:
        return [*left, Finding(str(path), "", "", str(error))]
    return left + [finding for shard in shards for finding in (*_checksum(shard), *_shard(shard))]


def _checksum(shard: Path) -> list[Finding]:
    entries = manifest(shard.parent)["shards"]
    if not entries or not shard.exists():  # LIBERO's files come without a manifest
        return []
    if shard.name not in entries:
        return [Finding(str(shard), "", "manifest", "has no manifest entry: run recover on the folder")]
    same = files.sha256(shard) == entries[shard.name]["sha256"]
    return [] if same else [Finding(str(shard), "", "sha256", f"differs from the manifest: {RESTORE}")]


def _shard(shard: Path) -> list[Finding]:
    try:
        trajectories = open_trajectories(shard)
    except ValueError as error:
        return [Finding(str(shard), "", "", str(error))]
    return [finding for i in range(len(trajectories)) for finding in _demo(trajectories, i)]


def _demo(trajectories: Trajectories, i: int) -> list[Finding]:
    entry = trajectories.entries[i]
    try:
        problems = trajectories[i].problems()
    except ValueError as error:
        problems = [f": {error}"]
    return [Finding(str(entry.path), entry.demo, *problem.split(": ", 1)) for problem in problems]


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
