"""Starts, watches and restarts the processes of role groups on one machine. The supervisor decides, a keeper does.

Each process runs under its own `mpiexec -bootstrap fork -n 1`, so that PMI does not matter and one death touches
nobody else. Ending is by process id only, and nothing survives the keeper.
"""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import psutil

from acceerl.config import Supervisor as RestartRules
from acceerl.runtime.placement import Row
from acceerl.runtime.rundir import Run
from acceerl.runtime.stop import DONE, KEEPER, STOPPED

Command = Callable[[str, int], list[str]]  # role, index -> argv
LONGEST_BACKOFF = 60.0  # seconds
LIFE = "--- acceerl starts"  # opens the part of a log that belongs to one life of a process

# Runs first in every child: the kernel kills it when its keeper dies, then it becomes mpiexec. In a process of its
# own, since a preexec function may deadlock in a supervisor that has threads.
_TETHER = """
import ctypes, os, signal, sys
ctypes.CDLL(None).prctl(1, signal.SIGKILL)
os.getppid() == int(sys.argv[1]) or os._exit(70)
os.execvp(sys.argv[2], sys.argv[2:])
"""


@dataclass(frozen=True)
class Exit:
    """A process that ended. `asked`: its code says that it was told to leave; `again`: it will be restarted."""

    role: str
    index: int
    code: int
    text: str  # "exit code 1", "Killed (signal 9)"
    again: bool = False
    hopeless: bool = False  # a crash loop

    @property
    def name(self) -> str:
        return f"{self.role}[{self.index}]"


@dataclass
class Child:
    """One process of the table through all its lives."""

    row: Row
    index: int
    popen: subprocess.Popen[bytes] | None = None
    started: float = 0.0  # time.monotonic()
    due: float = 0.0  # when to start next
    restarts: int = 0
    failures: int = 0  # in a row, quickly; drives the backoff
    crashes: deque[float] = field(default_factory=deque)  # their times within the window

    @property
    def key(self) -> tuple[str, int]:
        return self.row.role, self.index

    @property
    def name(self) -> str:
        return f"{self.row.role}[{self.index}]"

    @property
    def running(self) -> bool:
        return self.popen is not None


class Keeper:
    """The processes of `rows`. Call `poll` a few times a second; it starts what is due and tells what ended."""

    def __init__(
        self, run: Run, attempt: int, rows: Sequence[Row], rules: RestartRules, command: Command | None = None
    ) -> None:
        self.run, self.attempt, self.rules = run, attempt, rules
        self.command = command or process_command(run)
        self.closing = False  # True: whoever ends now is not started again
        self.children = {(row.role, i): Child(row, i) for row in rows for i in range(row.count)}

    def poll(self) -> list[Exit]:
        """Starts what is due; returns the processes that have ended since the last call."""
        exits = [self._ended(child, code) for child, code in self._codes()]
        for child in self.children.values():
            if not (self.closing or child.running) and time.monotonic() >= child.due:
                self._start(child)
        return exits

    @property
    def running(self) -> list[Child]:
        return [child for child in self.children.values() if child.running]

    def no_more_starts(self) -> None:
        self.closing = True

    def kill(self, child: Child) -> None:
        """SIGKILL to the process, and to mpiexec and its proxy around it, by id."""
        if child.popen is not None:
            for process in reversed(_family(child.popen.pid)):
                _kill(process)

    def kill_all(self, deadline: float = 10.0) -> None:
        """Kills what still runs and waits until the ids are free again (at most `deadline` seconds)."""
        self.no_more_starts()
        children = self.running
        for child in children:
            self.kill(child)
        until = time.monotonic() + deadline
        for child in children:
            self._reap(child, until)

    def pid(self, child: Child) -> int:
        """The role's own process: the innermost one, below mpiexec and its proxy. 0 when it does not run."""
        return _family(child.popen.pid)[-1].pid if child.popen and psutil.pid_exists(child.popen.pid) else 0

    def stopped(self, child: Child, pid: int) -> psutil.Process | None:
        """The mpiexec or proxy around a role's own process `pid` that SIGSTOP has stopped.

        It silences nobody, so no heartbeat tells; but it would never tell of its process' death either.
        """
        try:
            above = psutil.Process(pid).parents()
            around = [p for p in above if child.popen and (p.pid == child.popen.pid or p.ppid() == child.popen.pid)]
            return next((p for p in around if p.status() == psutil.STATUS_STOPPED), None)
        except psutil.NoSuchProcess:
            return None

    def log(self, child: Child) -> Path:
        return self.run.log(self.attempt, *child.key)

    def _reap(self, child: Child, until: float) -> None:
        assert child.popen is not None
        try:
            child.popen.wait(timeout=max(0.1, until - time.monotonic()))
        except subprocess.TimeoutExpired:  # in the kernel, say on a dead file server: nobody can end it
            print(f"acceerl: keeper waited in vain for {child.name} (process {child.popen.pid})", file=sys.stderr)
        child.popen = None

    def _codes(self) -> Iterator[tuple[Child, int]]:
        for child in self.children.values():
            if child.popen is not None and (code := child.popen.poll()) is not None:
                yield child, code

    def _start(self, child: Child) -> None:
        environment = child.row.environment(dict(os.environ))
        environment |= {KEEPER: str(os.getpid()), "PYTHONUNBUFFERED": "1"}
        path = self.log(child)
        path.parent.mkdir(parents=True, exist_ok=True)
        tether = [sys.executable, "-I", "-S", "-c", _TETHER, str(os.getpid())]
        with path.open("ab") as log:
            log.write(f"{LIFE} {child.name}, life {child.restarts + 1}, "
                      f"at {time.strftime('%H:%M:%S')}\n".encode())  # fmt: skip
            log.flush()
            child.popen = subprocess.Popen(
                [*tether, *self.command(*child.key)],
                stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT,
                env=environment, start_new_session=True,
            )  # fmt: skip
        child.started, child.due = time.monotonic(), float("inf")

    def _ended(self, child: Child, code: int) -> Exit:
        """Books an end and decides what follows: done, asked to stop, again after a backoff, or a crash loop."""
        child.popen = None
        text = _describe(code, self.log(child))
        if code == STOPPED or (code == DONE and child.row.role == "learner"):
            return Exit(*child.key, code, text)
        hopeless = self._book_crash(child)
        if hopeless:
            return Exit(*child.key, code, text, hopeless=True)
        child.restarts += 1
        child.due = time.monotonic() + self._backoff(child)
        return Exit(*child.key, code, text, again=True)

    def _book_crash(self, child: Child) -> bool:
        """True after `crash_limit` crashes within `crash_window` seconds, or in a row of lives shorter than that."""
        now = time.monotonic()
        child.failures = 1 if now - child.started > self.rules.crash_window else child.failures + 1
        child.crashes.append(now)
        while now - child.crashes[0] > self.rules.crash_window:
            child.crashes.popleft()
        return max(child.failures, len(child.crashes)) >= self.rules.crash_limit

    def _backoff(self, child: Child) -> float:
        return min(LONGEST_BACKOFF, self.rules.backoff * 2.0 ** min(child.failures - 1, 16))


def process_command(run: Run) -> Command:
    """The real thing: `mpiexec -bootstrap fork -n 1 python -m acceerl.jobs.process RUN ROLE INDEX`."""
    mpiexec = find_mpiexec()

    def command(role: str, index: int) -> list[str]:
        python = [sys.executable, "-m", "acceerl.jobs.process", str(run.path), role, str(index)]
        return [mpiexec, "-bootstrap", "fork", "-n", "1", *python]

    return command


def find_mpiexec() -> str:
    """The mpiexec of this Python's environment, else of PATH. Raises FileNotFoundError with the fix."""
    beside = Path(sys.executable).with_name("mpiexec")
    found = str(beside) if beside.is_file() else shutil.which("mpiexec")
    if found is None:
        raise FileNotFoundError(
            "no mpiexec found beside python or in PATH: pip install mpich, or load your site's MPICH"
        )
    return found


def last_lines(log: Path, count: int = 20) -> list[str]:
    """The end of a log: of its process' last life only, without the banner that mpiexec draws around a death."""
    with log.open("rb") as file:
        file.seek(max(0, log.stat().st_size - 65536))
        text = file.read().decode(errors="replace")
    this_life = text.rsplit(f"{LIFE} ", 1)[-1].partition("\n")[2]
    before_banner = re.split(r"\n=+\n=   BAD TERMINATION", this_life)[0]
    return before_banner.strip().splitlines()[-count:]


def _describe(code: int, log: Path) -> str:
    """mpiexec reports a signal as a small exit code and names it in its banner, which stands in the log."""
    if code < 0:
        return f"{signal.strsignal(-code)} (signal {-code})"
    if code >= signal.NSIG:
        return f"exit code {code}"
    with log.open("rb") as file:
        file.seek(max(0, log.stat().st_size - 1024))
        banner = re.search(rb"EXIT STRING: (.+ \(signal \d+\))", file.read())
    return banner.group(1).decode() if banner else f"exit code {code}"


def _family(pid: int) -> list[psutil.Process]:
    """A process and all below it, parents first; empty when it has ended."""
    try:
        root = psutil.Process(pid)
        return [root, *root.children(recursive=True)]
    except psutil.NoSuchProcess:
        return []


def _kill(process: psutil.Process) -> None:
    try:
        process.kill()
    except psutil.NoSuchProcess:
        return
