"""The drill that freezes: SIGSTOP of one process of each role, which must be named within its deadline and replaced."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import psutil

from tests.e2e.drills.kills import NO_CRASH_LOOP
from tests.e2e.drills.outcome import Outcome
from tests.e2e.drills.training import Training
from tests.e2e.drills.whole import broken_files
from tests.e2e.running import wait_for

MARGIN = 5.0  # seconds from the deadline to the line that names the process: the supervisor looks ten times a second


def stop_signal(
    folder: Path,
    targets: str = "rollout,inference,learner,proxy,mpiexec",
    heartbeat: float = 8.0,
    world: str = "latency",
) -> Outcome:
    """SIGSTOPs one process after the other (`proxy`, `mpiexec`: those around rollout[0]); all are to be replaced."""
    outcome = Outcome("stop_signal")
    with Training(folder, world, NO_CRASH_LOOP, f"deadlines.heartbeat={heartbeat}") as training:
        training.up(3)
        for target in targets.split(","):
            _freeze(outcome, training, target, heartbeat)
        outcome.check("the training goes on and ends with 0", training.finish() == 0)
        outcome.nothing("nothing is left running", [str(p) for p in training.strays()])
        outcome.nothing("no file is broken", broken_files(training.run))
    return outcome


def _freeze(outcome: Outcome, training: Training, target: str, heartbeat: float) -> None:
    role = "rollout" if target in ("proxy", "mpiexec") else target
    before, frozen, said = training.restarts(role), _process(training, target), len(training.said())
    family = _family(frozen)
    os.kill(frozen.pid, signal.SIGSTOP)
    began = time.monotonic()
    names = lambda: f" {role}[0]" in training.said()[said:]  # noqa: E731
    wait_for(f"the supervisor to name {role}[0], whose {target} is stopped", names, 3 * heartbeat + 30)
    named = time.monotonic() - began
    outcome.figures[f"{target}_named_after_s"] = named
    outcome.check(f"a stopped {target} is named within its deadline", named <= heartbeat + MARGIN, timed=True)
    training.replaced(role, 0, before)
    outcome.figures[f"{target}_replaced_after_s"] = time.monotonic() - began
    left = [str(p) for p in family if p.is_running() and p.status() != psutil.STATUS_ZOMBIE]
    outcome.nothing(f"nothing is left of a stopped {target}", left)
    training.up(2)


def _process(training: Training, target: str) -> psutil.Process:
    """The role's own process, or the proxy or the mpiexec around rollout[0]."""
    around = {"proxy": 1, "mpiexec": 2}.get(target, 0)
    own = psutil.Process(training.pid("rollout" if around else target))
    return [own, *own.parents()][around]


def _family(frozen: psutil.Process) -> list[psutil.Process]:
    return [frozen, *frozen.children(recursive=True)]
