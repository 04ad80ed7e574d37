"""The drill on a cluster: kills beside a training with launch=slurm, on the dev cluster (its pids are this machine's).

Start one first, and let this shell see it: `sudo slurm/devcluster up && eval "$(slurm/devcluster env)"`.
"""

from __future__ import annotations

import os
import random
import signal
import subprocess
import time
from contextlib import suppress
from pathlib import Path
from types import TracebackType

import psutil

from acceerl.launch.attempts import record
from acceerl.runtime.rundir import Run
from tests.e2e.drills.curves import update_times
from tests.e2e.drills.kills import NO_CRASH_LOOP, kill_and_wait, throughput_returns, updates_go_on
from tests.e2e.drills.outcome import Outcome
from tests.e2e.drills.training import Training
from tests.e2e.drills.whole import broken_files
from tests.e2e.running import acceerl, status, updates, wait_for

PLACED = ("launch=slurm", "site=devcluster", "placement=cluster", "placement.gpu_nodes=2", "slurm.wait=true",
          "slurm.minutes=60")  # fmt: skip
RETURN_S = 15.0  # from a restart to the throughput of before
BACK_S = 60.0  # from the death of inference or learner to the next update
CLEAN_S = 30.0


class OnSlurm(Training):
    """A training that waits here for its job; `job` is the waiting process, and has its exit code."""

    def __init__(self, folder: Path, world: str, *overrides: str) -> None:
        super().__init__(folder, world, *PLACED, *overrides)

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        number = self.slurm_job()
        if number and self.job.poll() is None:
            subprocess.run(["scancel", number], check=False, timeout=60)
        super().__exit__(kind, error, at)

    def slurm_job(self) -> str:
        """The newest job that leads the run; empty: none yet."""
        return str(record(Run(self.run))["job"])

    def restarted(self) -> int:
        """How often Slurm has started the job again."""
        said = subprocess.run(["scontrol", "show", "job", "-o", self.slurm_job()], capture_output=True, text=True,
                              check=True, timeout=60).stdout  # fmt: skip
        return max(int(word.split("=")[1]) for word in said.split() if word.startswith("Restarts="))

    def stop(self, seconds: float = 100.0) -> int:
        """`acceerl stop`, and the exit code that the waiting process carries through."""
        done = acceerl("stop", str(self.run), cwd=self.folder)
        assert done.returncode == 0, done.stderr
        return self.job.wait(seconds)

    def said(self) -> str:
        logs = sorted((self.run / "slurm").glob("*_log.out"))
        return super().said() + "".join(path.read_text() for path in logs)

    def keeper(self, name: str) -> psutil.Process:
        """The keeper step `rollout.1.0`: role group, component, node."""
        for process in psutil.process_iter():
            with suppress(psutil.NoSuchProcess, psutil.AccessDenied):
                words = process.cmdline()
                if "acceerl.launch.step" in words and str(self.run) in words and name in words and "srun" not in words:
                    return process
        raise AssertionError(f"no keeper step {name} of {self.run} runs: {self.said()}")


def cluster(
    folder: Path, minutes: float = 3.0, every: float = 15.0, world: str = "latency", rollouts: int = 4, seed: int = 0
) -> Outcome:
    """On the dev cluster: SIGKILLs rollouts, then a whole keeper step, then inference, then learner."""
    outcome, draw = Outcome("cluster"), random.Random(seed)
    with OnSlurm(folder, world, NO_CRASH_LOOP, f"rollout.processes={rollouts}") as training:
        training.up(3)
        began = time.time()
        time.sleep(2 * every)  # what the throughput is compared with
        kills = [kill_and_wait(training, draw, every) for _ in range(max(1, round(minutes * 60 / every)))]
        kills.append(_kill_step(training, "rollout.1.0", every))
        ended = time.time()
        outcome.check("the learner never restarts for rollouts", training.restarts("learner") == 0)
        samples = list(training.samples)
        for role in ("inference", "learner"):
            _kill_for_updates(outcome, training, role)
        outcome.check("all in the same allocation", training.restarted() == 0 and status(training.run)["attempt"] == 1)
        outcome.check("the training goes on and ends with 0", training.finish() == 0)
        wait_for("its processes to end", lambda: not training.strays(), CLEAN_S)
        outcome.nothing("no file is broken", broken_files(training.run))
        updates_go_on(outcome, update_times(training.run), began, ended)
        throughput_returns(outcome, samples, began, kills, ended, RETURN_S)
    return outcome


def _kill_step(training: OnSlurm, name: str, every: float) -> tuple[float, float]:
    """The keeper of a node's rollouts; they die with it. Returns when it was killed and when all were back."""
    rows = status(training.run)["processes"]
    ours = [row for row in rows if row["role"] == "rollout" and row["host"] == _first_host(rows)]
    os.kill(training.keeper(name).pid, signal.SIGKILL)
    killed = time.time()
    for row in ours:
        training.replaced("rollout", row["index"], row["restarts"])
    back = time.time()
    time.sleep(max(0.0, every - (time.time() - back)))
    return killed, back


def _first_host(rows: list[dict[str, object]]) -> object:
    return next(row["host"] for row in rows if row["role"] == "rollout")


def _kill_for_updates(outcome: Outcome, training: OnSlurm, role: str) -> None:
    """Seconds until the process is there again, and until the learner makes updates again."""
    restarts = training.restarts(role)
    killed = training.kill(role)
    training.replaced(role, 0, restarts)
    outcome.figures[f"{role}_there_after_s"] = time.time() - killed
    before = updates(training.run)
    wait_for(f"updates after the death of {role}", lambda: updates(training.run) > before, 2 * BACK_S)
    took = time.time() - killed
    outcome.figures[f"{role}_training_after_s"] = took
    outcome.check(f"training again within {BACK_S:g} s of the death of {role}", took <= BACK_S, timed=True)
