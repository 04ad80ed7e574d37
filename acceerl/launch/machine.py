"""Starts and ends processes on one machine: the hands of a keeper, here or in a step on another node.

Each process runs under its own `mpiexec -bootstrap fork -n 1`, so that PMI does not matter and one death touches
nobody else. Ending is by process id only, and nothing survives the machine's keeper.
"""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, Protocol

import psutil

from acceerl.runtime.mpiexec import tethered, under_mpiexec
from acceerl.runtime.placement import Row
from acceerl.runtime.rundir import Run
from acceerl.runtime.stop import HOPELESS, KEEPER
from acceerl.runtime.world import without_slurm

Key = tuple[str, int]  # role, index
Command = Callable[[str, int], list[str]]  # role, index -> argv
LIFE = "--- acceerl starts"  # opens the part of a log that belongs to one life of a process


class End(NamedTuple):
    """A process has ended. `why`: it could not even be tried any more, and this says so in whole."""

    key: Key
    code: int
    text: str  # "exit code 1", "Killed (signal 9)"
    why: str = ""


class Frozen(NamedTuple):
    """An mpiexec or proxy that SIGSTOP has stopped."""

    pid: int
    name: str


class Hands(Protocol):
    """What a keeper needs to hold processes, wherever they run. Nothing here waits, except `close`."""

    def ready(self, key: Key) -> bool:
        """Could it be started now? Not while its node is away."""

    def start(self, key: Key, row: Row, life: int) -> None: ...

    def ends(self) -> list[End]:
        """Who has ended since the last call."""

    def kill(self, key: Key) -> None:
        """SIGKILL to the process, and to mpiexec and its proxy around it, by id."""

    def pid(self, key: Key) -> int:
        """The role's own process, 0 when that is not known."""

    def where(self, key: Key) -> str:
        """The node's name."""

    def frozen(self, key: Key) -> Frozen | None:
        """What stands stopped around a process: it silences nobody, but it would never tell of its process' death."""

    def lost(self, key: Key) -> str:
        """Why a process will not come back in this attempt; empty: it may."""

    def cut_off(self) -> str:
        """Why its owner may speak for the run no longer: nobody else hears it. Empty: it may."""

    def close(self, keys: Iterable[Key], deadline: float) -> None:
        """Kills `keys` and whatever else is left, and waits until all are gone (at most `deadline` seconds)."""


@dataclass
class Own:
    """What one process of a machine has for itself."""

    cpus: Sequence[int] = ()  # none: it runs where the keeper may
    environment: dict[str, str] | None = None


class Machine:
    """The processes of this machine. `own` gives a process CPUs and variables of its own.

    `inherited` says what of our environment they get, `pass_fds` which of our open files.
    """

    def __init__(
        self, run: Run, attempt: int, command: Command | None = None, own: Callable[[Key], Own] = lambda _: Own(),
        inherited: Callable[[Mapping[str, str]], dict[str, str]] = without_slurm, pass_fds: Sequence[int] = (),
    ) -> None:  # fmt: skip
        self.run, self.attempt, self.own = run, attempt, own
        self.inherited, self.pass_fds = inherited, pass_fds
        self.command = command or process_command(run)
        self.popen: dict[Key, subprocess.Popen[bytes]] = {}

    def ready(self, key: Key) -> bool:
        return key not in self.popen

    def lost(self, key: Key) -> str:
        del key  # a process of this machine always may come back
        return ""

    def cut_off(self) -> str:
        return ""  # it is its owner's own machine

    def where(self, key: Key) -> str:
        del key
        return socket.gethostname()

    def start(self, key: Key, row: Row, life: int) -> None:
        own = self.own(key)
        environment = row.environment(self.inherited(os.environ)) | (own.environment or {})
        environment |= {KEEPER: str(os.getpid()), "PYTHONUNBUFFERED": "1"}
        path = self.run.log(self.attempt, *key)
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("ab") as log:
            log.write(f"{LIFE} {key[0]}[{key[1]}], life {life}, at {time.strftime('%H:%M:%S')}\n".encode())
            log.flush()
            self.popen[key] = subprocess.Popen(
                tethered(self.command(*key), cpus=own.cpus),
                stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT,
                env=environment, start_new_session=True, pass_fds=self.pass_fds,
            )  # fmt: skip

    def ends(self) -> list[End]:
        ended = [(key, code) for key, popen in self.popen.items() if (code := popen.poll()) is not None]
        for key, _ in ended:
            del self.popen[key]
        return [_end(key, code, self.run.log(self.attempt, *key)) for key, code in ended]

    def kill(self, key: Key) -> None:
        if key in self.popen:
            for process in reversed(_family(self.popen[key].pid)):
                _kill(process)

    def pid(self, key: Key) -> int:
        """The innermost process, below mpiexec and its proxy."""
        family = _family(self.popen[key].pid) if key in self.popen else []
        return family[-1].pid if family else 0

    def frozen(self, key: Key) -> Frozen | None:
        outer = self.popen[key].pid if key in self.popen else 0
        try:
            above = psutil.Process(self.pid(key)).parents() if outer else []
            around = [p for p in above if outer in (p.pid, p.ppid())]
            stopped = next((p for p in around if p.status() == psutil.STATUS_STOPPED), None)
            return Frozen(stopped.pid, stopped.name()) if stopped else None
        except psutil.NoSuchProcess:
            return None

    def close(self, keys: Iterable[Key], deadline: float) -> None:
        del keys  # everything ends
        for key in list(self.popen):
            self.kill(key)
        until = time.monotonic() + deadline
        for key in list(self.popen):
            self._reap(key, until)

    def _reap(self, key: Key, until: float) -> None:
        popen = self.popen.pop(key)
        try:
            popen.wait(timeout=max(0.1, until - time.monotonic()))
        except subprocess.TimeoutExpired:  # in the kernel, say on a dead file server: nobody can end it
            print(f"acceerl: keeper waited in vain for {key[0]}[{key[1]}] (process {popen.pid})", file=sys.stderr)


def process_command(run: Run, mpiexec: str = "") -> Command:
    """The real thing: `mpiexec -bootstrap fork -n 1 python -m acceerl.jobs.process RUN ROLE INDEX`."""

    def command(role: str, index: int) -> list[str]:
        return under_mpiexec([sys.executable, "-m", "acceerl.jobs.process", str(run.path), role, str(index)], mpiexec)

    return command


def _end(key: Key, code: int, log: Path) -> End:
    why = "" if code != HOPELESS else f"{key[0]}[{key[1]}]: {(last_lines(log) or [f'exit code {code}'])[-1]}"
    return End(key, code, describe(code, log), why)


def last_lines(log: Path, count: int = 20) -> list[str]:
    """The end of a log: of its process' last life only, without the banner that mpiexec draws around a death."""
    with log.open("rb") as file:
        file.seek(max(0, log.stat().st_size - 65536))
        text = file.read().decode(errors="replace")
    this_life = text.rsplit(f"{LIFE} ", 1)[-1].partition("\n")[2]
    before_banner = re.split(r"\n=+\n=   BAD TERMINATION", this_life)[0]
    return before_banner.strip().splitlines()[-count:]


def describe(code: int, log: Path) -> str:
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
