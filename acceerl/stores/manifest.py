"""What a folder of shards holds: names, checksums, counts per task. One entry file a shard, merged on reading."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import h5py

from acceerl.stores import files, schema


def publish_shard(beside: Path) -> Path:
    """Gives a closed `shard-*.hdf5.<suffix>` its final name and its manifest entry."""
    final = beside.with_suffix("")
    files.publish(beside, final)
    register(final)
    return final


def register(shard: Path) -> None:
    """Writes the shard's entry: one file a shard, so that concurrent writers cannot lose each other's."""
    entries = shard.parent / "manifest"
    entries.mkdir(exist_ok=True)
    files.write_json(entries / f"{shard.stem}.json", _entry(shard))
    _write_merged(shard.parent)


def manifest(folder: str | Path) -> dict[str, Any]:
    """`{"shards": {name: entry}, "episodes": n, "steps": n}`; an entry has sha256, bytes and counts by task.

    Raises ValueError naming an entry that is damaged.
    """
    paths = sorted(Path(folder).glob("manifest/*.json"))
    shards = {f"{path.stem}.hdf5": _read(path) for path in paths}
    totals = {key: sum(entry[key] for entry in shards.values()) for key in ("episodes", "steps")}
    return {"format": schema.FORMAT, "format_version": schema.FORMAT_VERSION, "shards": shards, **totals}


def _read(path: Path) -> dict[str, Any]:
    try:
        entry = json.loads(path.read_text())
        if isinstance(entry, dict) and entry.keys() >= {"sha256", "episodes", "steps"}:
            return entry
    except ValueError:
        pass
    raise ValueError(f"{path}: is no manifest entry: delete it and run recover on the folder, which writes it again")


def _write_merged(folder: Path) -> None:
    """`manifest.json`. Looks again after replacing it: the writer that is last to replace has then seen every entry."""
    written = None
    while written != (now := manifest(folder)):
        files.write_json(folder / "manifest.json", now)
        written = now


def _entry(shard: Path) -> dict[str, Any]:
    with h5py.File(shard, "r", locking=False) as file:
        demos = [dict(demo.attrs) for demo in file["data"].values()]
    tasks = Counter(str(int(demo["task"])) for demo in demos)
    solved = Counter(str(int(demo["task"])) for demo in demos if demo["success"])
    return {
        "sha256": files.sha256(shard),
        "bytes": shard.stat().st_size,
        "episodes": len(demos),
        "steps": sum(int(demo["num_samples"]) for demo in demos),
        "tasks": {task: {"episodes": count, "successes": solved[task]} for task, count in sorted(tasks.items())},
    }
