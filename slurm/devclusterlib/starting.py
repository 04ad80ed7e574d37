"""How one daemon is started on a node, and how the start of all of them is waited for."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

from . import namespaces
from .plan import Cluster


class Starting:
    """The daemons of a start that is under way: one that ends early ends the wait for all."""

    def __init__(self, cluster: Cluster, deadline: float) -> None:
        self.cluster, self.deadline = cluster, deadline
        self.daemons: dict[str, subprocess.Popen[bytes]] = {}

    def spawn(self, where: str, name: str, command: list[str]) -> None:
        self.daemons[name] = spawn(self.cluster, where, name, command)

    def wait_for(self, happened: Callable[[], bool], complaint: Callable[[], str]) -> None:
        while not happened():
            dead = [name for name, daemon in self.daemons.items() if daemon.poll() is not None]
            if dead or time.monotonic() > self.deadline:
                problem = f"{dead[0]} ended with exit code {self.daemons[dead[0]].poll()}" if dead else complaint()
                raise RuntimeError(f"{problem}; the last lines of the logs:\n{last_words(self.cluster)}")
            time.sleep(0.1)


def holder(cluster: Cluster, name: str) -> Path:
    return cluster.folder / "ns" / name


def log_of(cluster: Cluster, name: str) -> Path:
    return cluster.folder / "log" / f"{name}.log"


def spawn(cluster: Cluster, where: str, name: str, command: list[str]) -> subprocess.Popen[bytes]:
    """Starts a daemon on a node, in a session of its own; its words go to log/NAME.log."""
    with log_of(cluster, name).open("ab") as log:
        return subprocess.Popen(
            [*namespaces.entering(holder(cluster, where)), *command],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            env=environment(cluster),
            start_new_session=True,
            cwd=cluster.folder,
        )


def environment(cluster: Cluster) -> dict[str, str]:
    """Without the Slurm job that this may run in; /usr/sbin is where Debian keeps the daemons."""
    kept = {key: value for key, value in os.environ.items() if not key.startswith(("SLURM_", "SBATCH_"))}
    return kept | {
        "SLURM_CONF": str(cluster.conf),
        "PATH": f"{os.environ.get('PATH', '/usr/bin:/bin')}:/usr/sbin:/sbin",
    }


def last_words(cluster: Cluster, lines: int = 5) -> str:
    """The end of each log, for a cluster that does not start."""
    ends = {file.name: file.read_text(errors="replace").splitlines()[-lines:] for file in logs(cluster)}
    return "\n".join(f"{name}: {line}" for name, end in ends.items() for line in end)


def logs(cluster: Cluster) -> list[Path]:
    return sorted((cluster.folder / "log").glob("*.log"))
