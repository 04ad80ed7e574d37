"""Slurm's commands as one small program on PATH, for tests without a cluster.

The state file holds, by command, what it prints and its exit code; each call is noted beside it.
"""

from __future__ import annotations

import json
from pathlib import Path

PROGRAM = """#!/usr/bin/env python3
import json, pathlib, sys
name, folder = pathlib.Path(sys.argv[0]).name, pathlib.Path({folder!r})
with (folder / "calls").open("a") as calls:
    calls.write(" ".join([name, *sys.argv[1:]]) + "\\n")
said = json.loads((folder / "says.json").read_text())[name]
print(said[0], file=sys.stderr if said[1] else sys.stdout)
sys.exit(said[1])
"""
NAMES = ("sbatch", "srun", "scontrol", "sacct", "scancel", "sinfo", "squeue")


class FakeSlurm:
    """`slurm.says(scontrol="JobState=RUNNING")`; a pair gives an exit code: `("error", 1)`."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._said: dict[str, tuple[str, int]] = {}
        for name in NAMES:
            (folder / name).write_text(PROGRAM.format(folder=str(folder)))
            (folder / name).chmod(0o755)

    def says(self, **texts: str | tuple[str, int]) -> None:
        self._said |= {name: (text, 0) if isinstance(text, str) else text for name, text in texts.items()}
        (self.folder / "says.json").write_text(json.dumps(self._said))

    @property
    def calls(self) -> list[str]:
        path = self.folder / "calls"
        return path.read_text().splitlines() if path.exists() else []


def het(*states: str) -> str:
    """`scontrol show job -o` of a het job."""
    return "\n".join(f"JobId={7 + k} HetJobId=7 HetJobOffset={k} JobName=x JobState={state} Reason=None NodeList=n{k}"
                     for k, state in enumerate(states))  # fmt: skip
