"""A dev cluster in a test's hands: start it, talk to its Slurm, wait for what should happen."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

SCRIPT = Path(__file__).parents[2] / "slurm" / "devcluster"


class Cluster:
    """`slurm/devcluster` in one folder; `up` raises with its words when Slurm cannot run here."""

    def __init__(self, folder: Path, *options: str) -> None:
        self.folder, self.options = folder, options
        outside = {k: v for k, v in os.environ.items() if not k.startswith(("SLURM_", "SBATCH_"))}
        self.env = outside | {"SLURM_CONF": str(folder / "slurm.conf")}

    def up(self) -> str:
        done = self.command("up", *self.options)
        assert done.returncode == 0, f"{done.stderr}\n(leave these tests out with: pytest -m 'not slurm')"
        return done.stdout

    def command(self, *words: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, str(SCRIPT), "--folder", str(self.folder), *words]
        return subprocess.run(command, capture_output=True, text=True, timeout=120)

    def ask(self, *words: str) -> str:
        """Stdout of a Slurm command."""
        done = subprocess.run(words, capture_output=True, text=True, timeout=60, env=self.env)
        assert done.returncode == 0, f"{' '.join(words)}: {done.stdout}{done.stderr}"
        return done.stdout.strip()

    def submit(self, folder: Path, script: str) -> int:
        """Sends a batch script (its #SBATCH lines included), runs in `folder`; gives the job's id."""
        file = folder / "job.sh"
        file.write_text(f"#!/bin/bash\n{script}")
        return int(self.ask("sbatch", "--parsable", f"--chdir={folder}", str(file)).split(";")[0])

    def job(self, job: int) -> dict[str, str]:
        """What Slurm knows of a job; of a heterogeneous one, its first component."""
        line = self.ask("scontrol", "show", "job", "--oneliner", str(job)).splitlines()[0]
        return dict(word.split("=", 1) for word in line.split() if "=" in word)

    def wait_for_state(self, job: int, state: str, seconds: float) -> None:
        wait(lambda: self.job(job)["JobState"] == state, seconds, lambda: f"{state}: {self.job(job)}")

    def node_states(self) -> dict[str, str]:
        lines = self.ask("sinfo", "--noheader", "--Node", "--partition=all", "--format=%N %T").splitlines()
        return dict(line.split(None, 1) for line in lines)

    def wait_for_idle(self, seconds: float = 60) -> None:
        states = self.node_states
        wait(lambda: set(states()) and set(states().values()) == {"idle"}, seconds, lambda: f"idle nodes: {states()}")

    def processes(self, node: str) -> list[str]:
        """Command lines of all that runs on a node, except its slurmd."""
        return list(self._running(node).values())

    def sweep(self) -> None:
        """Kills what still runs: Slurm forgets steps of a node that was written off and came back (seen with 22.05)."""
        for node in self.node_states():
            for pid in self._running(node):
                with suppress(ProcessLookupError):
                    os.kill(int(pid), signal.SIGKILL)

    def _running(self, node: str) -> dict[str, str]:
        own = (self.folder / "ns" / f"{node}.uts").stat().st_ino
        lines = {pid: command_line(pid) for pid in os.listdir("/proc") if pid.isdigit() and namespace(pid) == own}
        return {pid: line for pid, line in lines.items() if line and not line.startswith("slurmd ")}


def namespace(pid: str) -> int:
    try:
        return os.stat(f"/proc/{pid}/ns/uts").st_ino
    except (FileNotFoundError, ProcessLookupError, PermissionError):
        return 0


def command_line(pid: str) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_text().replace("\0", " ").strip()
    except (FileNotFoundError, ProcessLookupError, PermissionError):
        return ""


def wait(happened: Callable[[], object], seconds: float, what: Callable[[], str]) -> float:
    """Seconds until `happened`; fails after the deadline and says what was waited for."""
    start = time.monotonic()
    while not happened():
        assert time.monotonic() < start + seconds, f"waited {seconds} s for {what()}"
        time.sleep(0.2)
    return time.monotonic() - start
