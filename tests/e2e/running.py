"""Starts `acceerl` as a user does, and looks into its run directory. Small: 16 environments would not fit CI."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

SMALL = [
    "start=", "rollout.processes=2", "rollout.envs=2", "learner.batch=32", "learner.micro_batch=32",
    "evaluator.episodes=10", "evaluator.videos=1", "inference.max_batch=4", "learner.checkpoint_every=5",
]  # fmt: skip


def acceerl(job: str, *overrides: str, cwd: Path, timeout: float = 240) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "acceerl", job, *overrides],
        cwd=cwd, env=_environment(), capture_output=True, text=True, timeout=timeout, check=False,
    )  # fmt: skip


def start(job: str, *overrides: str, cwd: Path) -> subprocess.Popen[str]:
    out = (cwd / "stdout.txt").open("a")
    return subprocess.Popen(
        [sys.executable, "-m", "acceerl", job, *overrides],
        cwd=cwd, env=_environment(), stdout=out, stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip


def _environment() -> dict[str, str]:
    root = str(Path(__file__).parents[2])
    return {**os.environ, "PYTHONPATH": root, "PYTHONUNBUFFERED": "1"}


def wait_for(what: str, condition: Callable[[], Any], seconds: float = 120) -> Any:
    """What `condition` returned once it was true. Fails naming `what`."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        value = condition()
        if value:
            return value
        time.sleep(0.2)
    raise AssertionError(f"waited {seconds:.0f} s for {what}")


def status(run: Path) -> dict[str, Any]:
    file = run / "status.json"
    return dict(json.loads(file.read_text())) if file.exists() else {}


def updates(run: Path) -> int:
    return int(status(run).get("counters", {}).get("updates", 0))


def events(run: Path, role: str, name: str) -> list[dict[str, Any]]:
    lines = [json.loads(text) for path in sorted((run / "metrics").glob(f"{role}.*.jsonl")) for text in path.open()]
    return [line for line in lines if line.get("event") == name]


def process(run: Path, role: str, index: int = 0) -> dict[str, Any]:
    """The row of status.json."""
    found = [p for p in status(run)["processes"] if (p["role"], p["index"]) == (role, index)]
    return dict(found[0])


def kill(run: Path, role: str, index: int = 0) -> None:
    """SIGKILL to one process of the run, by the id that status.json gives."""
    os.kill(process(run, role, index)["pid"], signal.SIGKILL)
