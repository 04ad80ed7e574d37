"""Starts, watches and restarts the processes of role groups on one machine. The supervisor decides, a keeper does.

Each process runs under its own `mpiexec -bootstrap fork -n 1`, so that PMI does not matter and one death touches
nobody else. Ending is by process id only, and nothing survives the keeper.
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import psutil

from acceerl.config import Supervisor as RestartRules
from acceerl.launch.lives import Child, Exit, Fall
from acceerl.runtime.mpiexec import tethered, under_mpiexec
from acceerl.runtime.placement import Row
from acceerl.runtime.rundir import Run
from acceerl.runtime.stop import DONE, KEEPER, STOPPED

Command = Callable[[str, int], list[str]]  # role, index -> argv
LIFE = "--- acceerl starts"  # opens the part of a log that belongs to one life of a process


class Keeper:
    """The processes of `rows`. Call `poll` a few times a second; it starts what is due and tells what ended."""

    def __init__(
        self, run: Run, attempt: int, rows: Sequence[Row], rules: RestartRules, command: Command | None = None
    ) -> None:
        self.run, self.attempt, self.rules = run, attempt, rules
        self.command = command or process_command(run)
        self.closing = False  # True: whoever ends now is not started again
        self.falls: dict[str, Fall] = {}  # by role: rows that live together and of which one process has died
        self.children = {(row.role, i): Child(row, i) for row in rows for i in range(row.count)}

    def poll(self) -> list[Exit]:
        """Starts what is due; returns the processes that have ended since the last call."""
        exits = [exit for child, code in self._codes() for exit in self._ended(child, code)]
        exits += [exit for fall in list(self.falls.values()) for exit in self._fallen(fall)]
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
        with path.open("ab") as log:
            log.write(f"{LIFE} {child.name}, life {child.restarts + 1}, "
                      f"at {time.strftime('%H:%M:%S')}\n".encode())  # fmt: skip
            log.flush()
            child.popen = subprocess.Popen(
                tethered(self.command(*child.key)),
                stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT,
                env=environment, start_new_session=True,
            )  # fmt: skip
        child.started, child.due = time.monotonic(), float("inf")

    def _ended(self, child: Child, code: int) -> Iterator[Exit]:
        """Books an end and decides what follows: done, asked to stop, again after a backoff, or a crash loop."""
        child.popen = None
        text = _describe(code, self.log(child))
        if code == STOPPED or (code == DONE and child.row.role == "learner"):
            yield Exit(*child.key, code, text)
        elif child.row.together and not self.closing:  # what follows is decided when all of the row are down
            self.falls.setdefault(child.row.role, Fall(child.row.role)).book(child, code, text)
        elif child.crashed(self.rules):
            yield Exit(*child.key, code, text, hopeless=True)
        else:
            child.again(child.backoff(self.rules))
            yield Exit(*child.key, code, text, again=True)

    def _fallen(self, fall: Fall) -> Iterator[Exit]:
        """Ends the rest of a row that has lost a process, then starts all of it again: one crash, many restarts."""
        row = [child for child in self.children.values() if child.row.role == fall.role]
        rest = [child for child in row if child.running]
        if rest and not self.closing:
            if fall.is_clear():
                fall.doom(rest)
                for child in rest:
                    self.kill(child)
            return
        del self.falls[fall.role]
        culprit = fall.culprit()
        hopeless = culprit.crashed(self.rules)
        for child in () if hopeless else row:
            child.again(culprit.backoff(self.rules))
        yield from fall.exits(hopeless)


def process_command(run: Run) -> Command:
    """The real thing: `mpiexec -bootstrap fork -n 1 python -m acceerl.jobs.process RUN ROLE INDEX`."""

    def command(role: str, index: int) -> list[str]:
        return under_mpiexec([sys.executable, "-m", "acceerl.jobs.process", str(run.path), role, str(index)])

    return command


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
