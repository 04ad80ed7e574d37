"""Starts processes of a play under mpiexec, each in a session of its own, so that a test can kill exactly one."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import pytest

from acceerl.runtime.registry import Registry

ROOT = Path(__file__).parents[2]
MPIEXEC = str(Path(sys.executable).with_name("mpiexec"))


@dataclass
class Launched:
    name: str
    process: subprocess.Popen
    log: Path

    @property
    def text(self) -> str:
        return self.log.read_text()

    @property
    def pid(self) -> int:
        """The Python process' own id, which it prints first (mpiexec stands between)."""
        return int(self.saw("pid ").split("pid ")[1].split()[0])

    def saw(self, text: str, seconds: float = 15.0, times: int = 1) -> str:
        """Waits until the process printed `text` so many times; returns all that it printed."""
        deadline = time.monotonic() + seconds
        while self.text.count(text) < times:
            assert time.monotonic() < deadline, f"{self.name} did not print {text!r} in {seconds} s:\n{self.text}"
            assert self.process.poll() is None or text in self.text, f"{self.name} ended:\n{self.text}"
            time.sleep(0.01)
        return self.text

    def kill(self) -> None:
        os.kill(self.pid, signal.SIGKILL)

    def wait(self, seconds: float) -> int:
        try:
            return self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"{self.name} still runs after {seconds} s:\n{self.text}") from None

    def ended(self, before: "Launched", seconds: float) -> bool:
        """Waits until either of the two ends: was it this one?"""
        deadline = time.monotonic() + seconds
        while self.process.poll() is None and before.process.poll() is None:
            assert time.monotonic() < deadline, f"neither ended in {seconds} s:\n{self.text}\n{before.text}"
            time.sleep(0.02)
        return self.process.poll() is not None

    def must_end_well(self, seconds: float) -> None:
        assert self.wait(seconds) == 0, f"{self.name} failed:\n{self.text}"

    def end(self) -> None:
        if self.process.poll() is not None:
            return
        if "pid " in self.text:  # while mpiexec lives, so does the id of its child
            with suppress(ProcessLookupError):  # the first of a world's ranks may have ended before the others
                os.kill(self.pid, signal.SIGKILL)
        self.process.terminate()
        try:
            self.process.wait(3)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait(3)


class Launcher:
    def __init__(self, run_dir: Path) -> None:
        self.run_dir, self.launched = run_dir, []

    def __call__(self, play: str, role: str, index: int, links: list[str], **options: object) -> Launched:
        arguments = json.dumps(
            {"play": play, "role": role, "index": index, "links": links, "run": str(self.run_dir), **options}
        )
        command = [MPIEXEC, "-bootstrap", "fork", "-n", "1", sys.executable, "-u", "-m", "tests.mpi.plays", arguments]
        return self._start(f"{role}[{index}]", command)

    def _start(self, name: str, command: list[str]) -> Launched:
        log = self.run_dir / f"{name}.{len(self.launched)}.log"
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        with log.open("w") as out:
            process = subprocess.Popen(
                command, stdout=out, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL, cwd=ROOT, env=environment,
                start_new_session=True,
            )  # fmt: skip
        self.launched.append(Launched(name, process, log))
        return self.launched[-1]

    def world(self, plays: list[dict[str, object]], size: int = 0) -> Launched:
        """All plays as the ranks of one MPI_COMM_WORLD, which expect `size` of them."""
        everyone = [{"run": str(self.run_dir), "world": size or len(plays), **play} for play in plays]
        command = [MPIEXEC, "-bootstrap", "fork", "-n", str(len(plays)), sys.executable, "-u", "-m", "tests.mpi.plays"]
        return self._start("world", [*command, json.dumps(everyone)])

    def end(self) -> None:
        for launched in self.launched:
            launched.end()


@pytest.fixture
def registry(tmp_path: Path) -> Iterator[Registry]:
    registry = Registry(tmp_path, grace_s=0.5)
    yield registry
    registry.wait_closed()


@pytest.fixture
def launch(tmp_path: Path, registry: Registry) -> Iterator[Launcher]:
    """`launch(play, role, index, links, **options)` starts one process of a play (tests/mpi/plays.py)."""
    launcher = Launcher(tmp_path)
    yield launcher
    launcher.end()
