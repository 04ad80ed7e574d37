"""Who leads a run, and does it still: the lock that keeps a second one out, and the signs of life that others read.

A run is led from the first moment of `acceerl train` to the last, scoring before and after included. Its leader
holds RUN/lock and renews `supervisor.time` in status.json; whoever reads the file judges by both.
"""

from __future__ import annotations

import fcntl
import os
import socket
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import IO, Any

import psutil

from acceerl.launch.progress import Totals
from acceerl.runtime.rundir import Run
from acceerl.runtime.stop import DONE, STOPPED

FAILED = 1
ENDED = {"done": DONE, "stopped": STOPPED, "failed": FAILED}  # state -> exit code
LED = ("starting", "scoring", "running", "draining")
QUEUED = "queued"  # led by nobody yet: its Slurm job waits, for the first time or between two attempts
STALE_S = 60.0  # a leader renews its status every few seconds; the rest is for slow file servers and skewed clocks
RENEW_S = 5.0


def whoami() -> dict[str, Any]:
    """Which process wrote a status, and when (seconds since the epoch)."""
    return {"host": socket.gethostname(), "pid": os.getpid(), "time": time.time()}


def is_here(status: dict[str, Any]) -> bool:
    """Was it written on this machine, so that its process can be looked at?"""
    return bool(status.get("supervisor", {}).get("host") == socket.gethostname())


def leader(status: dict[str, Any]) -> psutil.Process | None:
    """The process of this machine that wrote the status, if it still lives: a process of that id that is older."""
    owner = status.get("supervisor", {})
    try:
        process = psutil.Process(owner["pid"]) if is_here(status) else None
        ended = process is None or process.status() == psutil.STATUS_ZOMBIE
        return None if ended or process is None or process.create_time() > owner["time"] else process
    except (psutil.NoSuchProcess, KeyError):
        return None


def age(status: dict[str, Any]) -> float:
    """Seconds since the status was written."""
    return max(0.0, time.time() - float(status.get("supervisor", {}).get("time", 0.0)))


def is_led(status: dict[str, Any]) -> bool:
    """Is somebody at work on the run? On another machine that is so as long as the status is fresh."""
    if status.get("state") not in LED:
        return False
    return leader(status) is not None if is_here(status) else age(status) <= STALE_S


def state_of(status: dict[str, Any]) -> str:
    """What to tell a reader: the written state, or `lost` when its leader is gone."""
    state = str(status.get("state", "unknown"))
    return "lost" if state in LED and not is_led(status) else state


def latest(run: Run) -> dict[str, Any]:
    """The status, read once more where its leader is gone: it may have written its last word after the first look."""
    status = run.status()
    return run.status() if state_of(status) == "lost" else status


def refuse_led(run: Run) -> None:
    """Two leaders in one directory would overwrite each other's checkpoints. Raises ValueError naming the first."""
    status = run.status()
    if is_led(status):
        raise ValueError(_busy(run, status))


@contextmanager
def sole_leader(run: Run, patience: float = 0.0) -> Iterator[None]:
    """Holds RUN/lock. The kernel gives it back when this process ends, in whatever way.

    Raises ValueError when another process holds it for `patience` seconds: a file server may keep the lock of a
    node that died. File systems without locks are left to `refuse_led`.
    """
    deadline = time.monotonic() + patience
    with run.lock_file.open("a") as file:
        while not _locked(file, run, last=time.monotonic() >= deadline):
            time.sleep(0.5)
        yield


def _locked(file: IO[str], run: Run, last: bool) -> bool:
    """False: try again. Raises ValueError at the `last` try."""
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        if last:
            raise ValueError(_busy(run, run.status())) from error
        return False
    except OSError:  # no locks here; the status still tells
        if last or not is_led(run.status()):
            refuse_led(run)
            return True
        return False
    return True


def _busy(run: Run, status: dict[str, Any]) -> str:
    owner = status.get("supervisor", {})
    where = "" if is_here(status) else f" on {owner.get('host')}, heard of {age(status):.0f} s ago"
    return f"{run.path} is running (process {owner.get('pid')}{where}): stop it first (acceerl stop {run.path})"


class SignsOfLife:
    """Keeps status.json fresh while no supervisor does: at the start, while scoring, in a serial run.

    A wrong input puts back the status that was there before (none, for a new run), any other end leaves its state.
    """

    def __init__(self, run: Run, state: str, reason: str = "", ends_as: str = "", **fields: Any) -> None:
        self.run, self.ends_as = run, ends_as
        self.before = run.status()
        from_zero = {"attempt": run.attempt, "counters": Totals({}).counters()}
        own = {"error": "", "processes": [], "rates": {}, **fields, "state": state, "reason": reason}
        self.status: dict[str, Any] = from_zero | self.before | own
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._renew, name="signs of life", daemon=True)

    def now(self, state: str, reason: str) -> None:
        self.status |= {"state": state, "reason": reason}
        self._write()

    def __enter__(self) -> SignsOfLife:
        self._write()
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._over.set()
        self._thread.join(RENEW_S)
        if isinstance(error, (ValueError, FileNotFoundError)):
            self._put_back()
        elif isinstance(error, SystemExit):
            self.now("stopped" if error.code == STOPPED else "failed", "asked to stop")
        elif error is not None:
            self.status["error"] = " ".join(f"{type(error).__name__}: {error}".split())
            self.now("failed", self.status["reason"])
        elif self.ends_as:
            self.now(self.ends_as, "")

    def _put_back(self) -> None:
        if self.before:
            self.run.write_status(self.before)
        else:
            self.run.status_file.unlink(missing_ok=True)

    def _renew(self) -> None:
        while not self._over.wait(RENEW_S):
            try:
                self._write()
            except OSError as error:  # a full disk or a file server's hiccup: the next one may do
                print(f"acceerl: {self.run.status_file} was not renewed: {error}", file=sys.stderr, flush=True)

    def _write(self) -> None:
        self.run.write_status({**self.status, "supervisor": whoami()})
