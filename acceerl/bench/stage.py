"""Starts the processes of a bench as a keeper does, each under its own mpiexec, and hears what they measured."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any, TypeVar

import psutil

from acceerl.runtime.mpiexec import tethered, under_mpiexec
from acceerl.runtime.registry import Registry
from acceerl.runtime.stop import KEEPER

Key = tuple[str, int]
Value = TypeVar("Value")
LEAVE_S = 10.0


class Stage:
    """The registry and the processes of one measurement; none of them outlives the `with` block.

    Processes report with heartbeats; `heard` reads the latest one.
    """

    def __init__(self) -> None:
        self.folder = tempfile.TemporaryDirectory(prefix="acceerl-bench-")
        self.registry = Registry(self.folder.name)
        self.started: dict[Key, subprocess.Popen[bytes]] = {}

    def __enter__(self) -> Stage:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.registry.request(None, "stop")
        until = time.monotonic() + LEAVE_S
        for process in self.started.values():
            _end(process, until)
        self.registry.wait_closed()
        self.folder.cleanup()

    def start(self, module: str, role: str, index: int, **options: Any) -> None:
        """`python -m MODULE FOLDER ROLE INDEX JSON` with one compute thread; its output is told when it fails."""
        words = [sys.executable, "-m", module, self.folder.name, role, str(index), json.dumps(options)]
        environment = {**os.environ, "OMP_NUM_THREADS": "1", KEEPER: str(os.getpid())}
        with self._log((role, index)).open("wb") as log:
            self.started[role, index] = subprocess.Popen(
                tethered(under_mpiexec(words)), stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT,
                env=environment, start_new_session=True,
            )  # fmt: skip

    def heard(self, key: Key, name: str, seconds: float = 60.0) -> Any:
        """What a process reported as `name`. Raises RuntimeError when it ends, or says nothing for so long."""
        return self.until(lambda: self._reported(key).get(name), f"{key[0]}[{key[1]}] to report {name}", seconds)

    def until(self, look: Callable[[], Value | None], what: str, seconds: float) -> Value:
        deadline = time.monotonic() + seconds
        while (value := look()) is None:
            self._check()
            if time.monotonic() > deadline:
                raise RuntimeError(f"the bench waited {seconds:.0f} s for {what}")
            time.sleep(0.02)
        return value

    def cpu_seconds(self, key: Key) -> float:
        """Processor time that a process has used so far, all threads."""
        times = psutil.Process(self.registry.processes()[key].pid).cpu_times()
        return float(times.user + times.system)

    def _reported(self, key: Key) -> dict[str, Any]:
        record = self.registry.processes().get(key)
        return record.counters if record else {}

    def _check(self) -> None:
        for key, process in self.started.items():
            if process.poll() is not None:
                text = self._log(key).read_text(errors="replace").strip()
                raise RuntimeError(f"{key[0]}[{key[1]}] of the bench ended early ({process.returncode}):\n{text}")

    def _log(self, key: Key) -> Path:
        return Path(self.folder.name) / f"{key[0]}.{key[1]}.log"


def _end(process: subprocess.Popen[bytes], until: float) -> None:
    """Waits for a process that was asked to leave; one that does not is killed with all below it."""
    try:
        process.wait(max(0.1, until - time.monotonic()))
    except subprocess.TimeoutExpired:
        family = psutil.Process(process.pid).children(recursive=True)
        for member in family:
            member.kill()
        process.kill()
        process.wait(LEAVE_S)
