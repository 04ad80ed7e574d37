"""A real training to be broken: started as a user does, sampled while it runs, and ended whatever happens."""

from __future__ import annotations

import os
import signal
import subprocess
import threading
import time
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any

import psutil

from acceerl.runtime.stop import KEEPER
from tests.e2e.running import events, process, start, status, updates, wait_for

# Small enough that every role gets its share of two cores.
COMMON = [
    "evaluator.before=false", "evaluator.after=false", "learner.checkpoint_every=10", "inference.max_batch=12",
]  # fmt: skip
WORLDS = {
    "tabletop": [
        "experiment=tabletop_spatial", "rollout.processes=3", "rollout.envs=4", "learner.batch=64",
        "learner.micro_batch=64", "inference.max_wait_ms=20",
    ],
    "latency": [
        "env=latency", "+env.limit=40", "env.camera=32", "rollout.processes=4", "rollout.envs=2", "learner.batch=32",
        "learner.micro_batch=32",
    ],
}  # fmt: skip
UP_S = 150.0  # seconds that a process may take to its announcement on a busy machine


class Training:
    """`with Training(folder, "latency", "seed=1") as training:` runs `acceerl train` there; leaving kills what is left.

    `samples` holds a `(time, status)` for every status.json that the supervisor has written meanwhile.
    """

    def __init__(self, folder: Path, world: str, *overrides: str) -> None:
        self.folder, self.run = folder, folder / "runs" / "drill"
        folder.mkdir(parents=True, exist_ok=True)
        self.samples: list[tuple[float, dict[str, Any]]] = []
        self.keepers: list[int] = []
        self.job = self._start("name=drill", *WORLDS[world], *COMMON, *overrides)
        self._over = threading.Event()
        self._sampler = threading.Thread(target=self._sample, name="sampler", daemon=True)
        self._sampler.start()

    def __enter__(self) -> Training:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._over.set()
        if self.job.poll() is None:
            self.job.kill()  # the processes follow their keeper
            self.job.wait()
        for stray in self.strays():
            with suppress(psutil.NoSuchProcess):
                stray.kill()

    def resume(self, *overrides: str) -> None:
        """Starts `acceerl train resume=RUN` after the job has ended."""
        assert self.job.poll() is not None, "it still runs"
        self.job = self._start(f"resume={self.run}", *overrides)

    def stop(self, seconds: float = 100.0) -> int:
        """SIGTERM, and the exit code."""
        self.job.send_signal(signal.SIGTERM)
        return self.job.wait(seconds)

    def finish(self, more: int = 3) -> int:
        """Stops the training, resumes it for a few updates and lets it end by itself; returns that exit code."""
        code = self.stop()
        assert code == 75, f"the stopped training left with {code}: {self.said()}"
        self.resume(f"learner.max_updates={self.saved() + more}")
        return self.job.wait(UP_S + 100)

    def up(self, more: int = 1) -> None:
        """Waits until every process has announced itself and then for `more` updates."""
        wait_for("every process to announce itself", self._all_there, UP_S)
        before = updates(self.run)
        wait_for(f"{more} updates", lambda: updates(self.run) >= before + more, UP_S)

    def pid(self, role: str, index: int = 0) -> int:
        """The role's own process, once it has announced itself."""
        return int(wait_for(f"{role}[{index}]", lambda: self._row(role, index)["pid"], UP_S))

    def kill(self, role: str, index: int = 0) -> float:
        """SIGKILL; returns when."""
        os.kill(self.pid(role, index), signal.SIGKILL)
        return time.time()

    def replaced(self, role: str, index: int, restarts: int, seconds: float = UP_S) -> None:
        """Waits for the announcement of a life after the `restarts`-th."""
        wait_for(
            f"another {role}[{index}]",
            lambda: (row := self._row(role, index))["restarts"] > restarts and row["pid"],
            seconds,
        )

    def restarts(self, role: str, index: int = 0) -> int:
        return int(self._row(role, index)["restarts"])

    def checkpoints(self) -> list[dict[str, Any]]:
        """The learner's events: `time` and `updates` of each."""
        return events(self.run, "learner", "checkpoint")

    def saved(self) -> int:
        """Updates of the newest checkpoint."""
        return max((int(e["updates"]) for e in self.checkpoints()), default=0)

    def said(self) -> str:
        """What the supervisor has printed."""
        return (self.folder / "stdout.txt").read_text()

    def strays(self) -> list[psutil.Process]:
        """Living processes that a keeper of this training started, or that name its run directory."""
        return [p for p in psutil.process_iter() if p.pid != os.getpid() and self._ours(p)]

    def _ours(self, candidate: psutil.Process) -> bool:
        with suppress(psutil.NoSuchProcess, psutil.AccessDenied, ProcessLookupError):
            if candidate.status() == psutil.STATUS_ZOMBIE or candidate.uids().real != os.getuid():
                return False
            return candidate.environ().get(KEEPER) in map(str, self.keepers) or str(self.run) in candidate.cmdline()
        return False

    def _start(self, *overrides: str) -> subprocess.Popen[str]:
        job = start("train", *overrides, cwd=self.folder)
        self.keepers.append(job.pid)
        return job

    def _row(self, role: str, index: int) -> dict[str, Any]:
        assert self.job.poll() is None, f"the training has ended: {self.said()}"
        return process(self.run, role, index)

    def _all_there(self) -> bool:
        assert self.job.poll() is None, f"the training has ended: {self.said()}"
        rows = status(self.run).get("processes", [])
        return status(self.run).get("attempt") == len(self.keepers) and all(row["pid"] for row in rows)

    def _sample(self) -> None:
        latest = 0.0
        while not self._over.wait(0.2):
            now = status(self.run)
            if now and now["supervisor"]["time"] > latest:
                latest = now["supervisor"]["time"]
                self.samples.append((latest, now))
