"""A training on the dev cluster, submitted as a user does, and what Slurm (not our own logs) says about it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

from acceerl.launch.attempts import record
from acceerl.runtime.rundir import Run
from tests.e2e.running import SMALL, events, process, status, updates
from tests.slurm.clusters import Cluster, wait

ROOT = Path(__file__).parents[2]
PLACED = ["launch=slurm", "site=devcluster", "placement=cluster", "placement.gpu_nodes=2", "evaluator.before=false",
          "evaluator.after=false", "learner.checkpoint_every=3", "slurm.minutes=30", "name=a"]  # fmt: skip
NODES = ("cpu1", "cpu2", "gpu1", "gpu2")


class Training:
    """`acceerl train launch=slurm` in `folder`; `run` is its directory."""

    def __init__(self, cluster: Cluster, folder: Path) -> None:
        self.cluster, self.folder, self.run = cluster, folder, folder / "runs" / "a"

    def submit(self, *overrides: str, resume: bool = False) -> int:
        """The job's id."""
        words = [f"resume={self.run}"] if resume else [*SMALL, *PLACED]
        done = self.acceerl("train", *words, *overrides)
        assert done.returncode == 0, done.stderr
        return self.job

    def acceerl(self, *words: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(self._command(*words), cwd=self.folder, env=self._env(), capture_output=True, text=True,
                              timeout=200)  # fmt: skip

    def start(self, *overrides: str) -> subprocess.Popen[str]:
        """With slurm.wait=true: the process that waits."""
        command = self._command("train", *SMALL, *PLACED, "slurm.wait=true", *overrides)
        return subprocess.Popen(
            command, cwd=self.folder, env=self._env(), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )

    @property
    def job(self) -> int:
        """The newest job that leads the run; 0: none yet."""
        return int(record(Run(self.run))["job"] or 0)

    @property
    def status(self) -> dict[str, Any]:
        return status(self.run)

    def trains(self, attempt: int = 1, more: int = 2, seconds: float = 90) -> float:
        """Waits until `more` updates have been made in an attempt; returns the seconds."""
        begun: list[int] = []

        def on_its_way() -> bool:
            if self.status.get("attempt") != attempt or self.status.get("state") != "running":
                return False
            begun.append(updates(self.run))
            return begun[-1] >= begun[0] + more

        return wait(on_its_way, seconds, lambda: f"{more} updates in attempt {attempt}: {self.status}; {self.said()}")

    def steps(self) -> set[tuple[str, str]]:
        """(role group, node) of every keeper step, from Slurm."""
        lines = self.cluster.ask("squeue", "--steps", "--noheader", "--format=%j %N").splitlines()
        return {(name, node) for name, node in (line.split() for line in lines) if name != "batch"}

    def processes(self) -> list[str]:
        return [line for node in NODES for line in self.cluster.processes(node)]

    def kill(self, role: str, index: int = 0) -> None:
        os.kill(process(self.run, role, index)["pid"], signal.SIGKILL)

    def saved(self) -> list[int]:
        """Updates at every checkpoint."""
        return [int(event["updates"]) for event in events(self.run, "learner", "checkpoint")]

    def said(self) -> str:
        """What the supervisors of all attempts and jobs have printed."""
        return "".join(path.read_text() for path in sorted((self.run / "slurm").glob("*_log.out")))

    def _command(self, *words: str) -> list[str]:
        return [sys.executable, "-m", "acceerl", *words]

    def _env(self) -> dict[str, str]:
        return self.cluster.env | {"PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1"}
