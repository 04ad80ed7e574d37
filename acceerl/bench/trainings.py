"""One training of a bench: `acceerl train` as users start it, its counters at two moments, and its end."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, TypeVar

from acceerl.runtime.mpiexec import tethered
from acceerl.runtime.rundir import Run
from acceerl.runtime.stop import STOPPED

Value = TypeVar("Value")
START_S, LEAVE_S = 180.0, 120.0
QUIET = (
    "evaluator.before=false",
    "evaluator.after=false",
    "learner.checkpoint_every=1e9",
    "learner.max_updates=1000000000",
)


@dataclass(frozen=True)
class Rates:
    """Per second, over a window of a running training."""

    env_steps: float
    decisions: float
    updates: float


class Training:
    """A training in a process of its own, in a run directory below `folder`. Ended when the `with` block is left."""

    def __init__(self, folder: Path, name: str, overrides: Sequence[str]) -> None:
        self.run, self.log = Run(folder / name), folder / f"{name}.log"
        words = [sys.executable, "-m", "acceerl", "train", f"runs={folder}", f"name={name}", *QUIET, *overrides]
        self.began = time.time()
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                tethered(words, "SIGTERM"), stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT,
                env={**os.environ, "PYTHONUNBUFFERED": "1"}, start_new_session=True,
            )  # fmt: skip

    def __enter__(self) -> Training:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.stop()

    def rates(self, warmup: float, seconds: float) -> Rates:
        """Waits for two updates and the warm-up, then counts for at least `seconds`.

        Counters come with heartbeats, once a second: a window of 20 s is known to about 2 %.
        """
        self.until(lambda: self._counters().get("updates", 0) >= 2 or None, "two updates", START_S)
        time.sleep(warmup)
        before, began = self._fresh(0.0)
        after, ended = self._fresh(began + seconds)
        took = ended - began
        return Rates(*((after[name] - before[name]) / took for name in ("env_steps", "decisions", "updates")))

    def pids(self, role: str) -> list[int]:
        """Of the role's processes."""
        return [p["pid"] for p in self.run.status()["processes"] if p["role"] == role and p["pid"]]

    def supervisor(self) -> int:
        return int(self.run.status()["supervisor"]["pid"])

    def first_update_s(self) -> float:
        """Seconds from the command to the first update."""
        return float(self._lines("learner", "first_update")[0]["time"]) - self.began

    def samples_per_update(self) -> float:
        """Mean decisions of a batch, over the whole run; call it after `stop`."""
        counters = [line["counters"] for line in self._lines("learner") if "counters" in line][-1]
        return float(counters["samples"] / counters["updates"])

    def stop(self) -> None:
        """Asks for a checkpoint and the end. Raises RuntimeError when it ended otherwise."""
        if self.process.poll() is None:
            self.ask()
        try:
            code = self.process.wait(LEAVE_S)
        except subprocess.TimeoutExpired:
            self.process.kill()  # its processes follow it
            code = self.process.wait()
        if code != STOPPED:
            raise RuntimeError(f"the training {self.run.path} ended with {code}:\n{self._words()}")

    def ask(self) -> None:
        self.process.terminate()

    def until(self, look: Callable[[], Value | None], what: str, seconds: float) -> Value:
        deadline = time.monotonic() + seconds
        while (value := look()) is None:
            if self.process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"the bench waited in vain for {what} of {self.run.path}:\n{self._words()}")
            time.sleep(0.02)
        return value

    def _fresh(self, earliest: float) -> tuple[dict[str, int], float]:
        """The next status that the supervisor writes after `earliest` (time.time()): counters, and its time."""
        known = self._time()

        def look() -> tuple[dict[str, int], float] | None:
            status = self.run.status()
            now = status["supervisor"]["time"]
            return (status["counters"], now) if now != known and now >= earliest else None

        return self.until(look, "a status", max(0.0, earliest - time.time()) + 30)

    def _time(self) -> float:
        return float(self.run.status()["supervisor"]["time"])

    def _counters(self) -> dict[str, int]:
        return dict(self.run.status().get("counters", {}))

    def _lines(self, role: str, event: str = "") -> list[dict[str, Any]]:
        lines = [json.loads(text) for text in self.run.metrics(role, 0).read_text().splitlines()]
        return [line for line in lines if not event or line.get("event") == event]

    def _words(self) -> str:
        return "\n".join(self.log.read_text(errors="replace").strip().splitlines()[-20:])


class OnSlurm(Training):
    """The same with launch=slurm: the process here waits for the job, and ends with the training's exit code."""

    def ask(self) -> None:
        """`acceerl stop`; a job that does not heed it, or has not begun, is cancelled."""
        words = [sys.executable, "-m", "acceerl", "stop", str(self.run.path)]
        if subprocess.run(words, capture_output=True, timeout=LEAVE_S, check=False).returncode:
            job = json.loads((self.run.path / "slurm" / "job.json").read_text())["job"]
            subprocess.run(["scancel", job], timeout=LEAVE_S, check=False)
