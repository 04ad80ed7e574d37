"""`acceerl data inspect|validate PATH`: what HDF5 trajectories hold, and whether they are whole."""

from __future__ import annotations

from acceerl.stores.reader import open_trajectories
from acceerl.stores.validate import validate as findings

PROBLEMS_FOUND = 1  # exit code


def inspect(path: str) -> int:
    """Prints counts and one row an instruction. Raises ValueError naming an unreadable file."""
    trajectories = open_trajectories(path)
    summary = trajectories.summary()
    trajectories.close()
    sources = ", ".join(f"{count} by {source}" for source, count in summary["sources"].items())
    print(f"{path}: {summary['files']} files, {summary['episodes']} episodes ({sources}), {summary['steps']:,} steps")
    print(f"{'episodes':>8} {'success':>8}  instruction")
    for name, row in summary["instructions"].items():
        print(f"{row['episodes']:>8} {100 * row['successes'] / row['episodes']:>6.1f} %  {name}")
    return 0


def validate(path: str) -> int:
    """Prints one line a problem. Returns 0 when there is none, else 1."""
    found = findings(path)
    for f in found:
        where = " ".join(part for part in (f.demo, f.field) if part)
        print(f"{f.file}: {where + ': ' if where else ''}{f.message}")
    print(f"{path}: {len(found)} problems" if found else f"{path}: all is well")
    return PROBLEMS_FOUND if found else 0
