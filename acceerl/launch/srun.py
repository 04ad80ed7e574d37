"""What all launchers of a supervisor have in common: they die with it, and their environment says where it is."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from acceerl.launch.step import SUPERVISOR
from acceerl.runtime.mpiexec import tethered
from acceerl.runtime.registry_client import REGISTRY
from acceerl.runtime.rundir import Run

Starter = Callable[[Sequence[str], Path, dict[str, str]], "subprocess.Popen[bytes]"]


def popen(words: Sequence[str], log: Path, environment: dict[str, str]) -> subprocess.Popen[bytes]:
    """In a session of its own: what is sent to the supervisor's group is not for it.

    It dies with the supervisor without a word: one that had the time to would cancel its step, and no keeper would be
    left to requeue a job whose supervisor's node is lost.
    """
    with log.open("ab") as file:
        return subprocess.Popen(
            tethered(words), stdin=subprocess.DEVNULL, stdout=file, stderr=subprocess.STDOUT,
            env=environment, start_new_session=True,
        )  # fmt: skip


def addresses(run: Run, supervisor: dict[str, Any]) -> dict[str, str]:
    """Variables that lead to supervisor and registry: a file may stay invisible to other nodes for a minute (NFS)."""
    registry = {**json.loads((run.path / "registry.json").read_text()), "run": str(run.path)}
    return {SUPERVISOR: json.dumps(supervisor), REGISTRY: json.dumps(registry)}
