"""Runs for supervisor tests: small, with short deadlines, played by `double.py`."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from acceerl.config import from_dict
from acceerl.launch import supervisor
from acceerl.launch.machine import Command
from acceerl.runtime.rundir import Run

HERE = Path(__file__).parent
SHORT: dict[str, Any] = {
    "rollout": {"processes": 2},
    "deadlines": {"drain": 3.0, "heartbeat": 10.0, "connect": 5.0},
    "supervisor": {"backoff": 0.1, "crash_limit": 4, "crash_window": 20.0},
}


@pytest.fixture
def make_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Run]:
    """`make_run(learner="finish", changes={...})`: a run directory whose roles act as told."""
    monkeypatch.setattr(supervisor, "STATUS_EVERY", 0.1)
    monkeypatch.setenv("PYTHONPATH", str(HERE.parents[2]))

    def make(changes: dict[str, Any] | None = None, **script: str) -> Run:
        run = Run.create(from_dict({**SHORT, **(changes or {}), "runs": str(tmp_path), "name": "run"}))
        (run.path / "script.json").write_text(json.dumps(script))
        return run

    return make


@pytest.fixture
def double() -> Callable[[Run], Command]:
    """The command that starts a test double instead of a real process, without mpiexec."""
    return lambda run: lambda role, index: [sys.executable, str(HERE / "double.py"), str(run.path), role, str(index)]
