"""How a process learns that it must leave, and how it is ended when it cannot notice. Every process uses both.

Exit codes speak to the keeper: `DONE`, `STOPPED` (asked to leave), `STUCK` (ended by its watchdog), `LOST` (its
group has lost a process; not its own fault), `HOPELESS` (starting it again would not help); all others are crashes.
"""

from __future__ import annotations

import ctypes
import faulthandler
import os
import select
import signal
import sys
import threading
import time
from collections.abc import Callable
from types import FrameType

DONE, STUCK, LOST, HOPELESS, STOPPED = 0, 70, 71, 72, 75
KEEPER = "ACCEERL_KEEPER"  # environment variable: process id of the keeper that started this process
_SIGNALS = (signal.SIGTERM, signal.SIGUSR2, signal.SIGINT)
_PR_SET_PDEATHSIG = 1


class StopFlag:
    """Has this process been told to leave? `reason` says by whom; the first reason stays.

    Plain attributes instead of a threading.Event: a signal handler that calls `Event.set` while the main
    thread holds the event's lock would wait for itself for ever.
    """

    def __init__(self) -> None:
        self.reason = ""
        self._set = False

    def set(self, reason: str) -> None:
        if not self._set:
            self.reason, self._set = reason, True

    def is_set(self) -> bool:
        return self._set

    def wait(self, seconds: float) -> bool:
        """Sleeps for at most `seconds`, less when the flag is set meanwhile (noticed within 50 ms)."""
        end = time.monotonic() + seconds
        while not self._set and (left := end - time.monotonic()) > 0:
            time.sleep(min(0.05, left))
        return self._set

    def install(self) -> StopFlag:
        """Sets the flag on SIGTERM, SIGUSR2 and SIGINT, however often they come. Main thread only."""
        for number in _SIGNALS:
            signal.signal(number, self._on_signal)
        return self

    def _on_signal(self, number: int, _frame: FrameType | None) -> None:
        self.set(f"signal {signal.Signals(number).name}")


class Watchdog:
    """Ends the process with a named line and all stacks when no `beat()` came for `seconds`.

    For loops that can hang inside a library call which releases the GIL but never returns (MPI's Accept and
    Connect on a peer that was killed in the act).

    >>> watchdog = Watchdog(90, "rollout[3] main loop").start()
    >>> watchdog.beat()
    >>> watchdog.close()
    """

    def __init__(self, seconds: float, name: str, end: Callable[[int], None] = os._exit) -> None:
        self.seconds, self.name = seconds, name
        self._end = end
        self._last = time.monotonic()
        self._closed = threading.Event()

    def start(self) -> Watchdog:
        self.beat()
        threading.Thread(target=self._watch, name=f"watchdog of {self.name}", daemon=True).start()
        return self

    def beat(self) -> None:
        self._last = time.monotonic()

    def close(self) -> None:
        self._closed.set()

    def _watch(self) -> None:
        while not self._closed.wait(min(1.0, self.seconds / 4)):
            silent = time.monotonic() - self._last
            if silent > self.seconds:
                self._bite(silent)
                return

    def _bite(self, silent: float) -> None:
        print(f"acceerl: watchdog: {self.name} did not beat for {silent:.0f} s "
              f"(limit {self.seconds:g} s); its stacks follow", file=sys.stderr, flush=True)  # fmt: skip
        faulthandler.dump_traceback(all_threads=True)
        self._end(STUCK)


def die_with_keeper() -> None:
    """Makes this process end when its keeper is gone, even by SIGKILL. Call it first thing in a process.

    Two ropes, since mpiexec and its proxy stand between the keeper and this process: the kernel kills us when
    our parent dies, and a thread follows the keeper named in the environment (none there: no second rope).
    """
    parent = os.getppid()
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:  # it died before the kernel knew our wish
        os._exit(STUCK)
    if KEEPER in os.environ:
        follow(int(os.environ[KEEPER]))


def follow(pid: int) -> None:
    """A daemon thread that ends this process as soon as process `pid` (on this machine) has ended."""
    try:
        handle = os.pidfd_open(pid)
    except ProcessLookupError:
        _orphaned(pid)
    threading.Thread(target=_await_end, args=(handle, pid), name=f"follows {pid}", daemon=True).start()


def _await_end(handle: int, pid: int) -> None:
    poll = select.poll()
    poll.register(handle, select.POLLIN)
    while not poll.poll(60_000):
        continue
    _orphaned(pid)


def _orphaned(pid: int) -> None:
    print(f"acceerl: the keeper (process {pid}) is gone; leaving", file=sys.stderr, flush=True)
    os._exit(STUCK)
