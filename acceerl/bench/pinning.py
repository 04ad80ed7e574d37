"""Gives the learner of a training a core of its own and the other cores to everybody else."""

from __future__ import annotations

import os
from pathlib import Path

from acceerl.bench.trainings import START_S, Training


def first_core() -> int:
    return min(os.sched_getaffinity(0))


def other_cores() -> set[int]:
    """Raises ValueError on a machine that has one core."""
    others = os.sched_getaffinity(0) - {first_core()}
    if not others:
        raise ValueError("the regime learner of bench train needs two cores: leave it out of regimes=")
    return others


def pin_beside(training: Training) -> None:
    """Waits until every process is there, then pins all their threads; those that come later inherit it."""
    others = other_cores()
    training.until(lambda: _all_there(training), "all processes", START_S)
    for pid in training.pids("learner"):
        pin(pid, {first_core()})
    for pid in [training.supervisor(), *training.pids("inference"), *training.pids("rollout")]:
        pin(pid, others)


def pin(pid: int, cores: set[int]) -> None:
    """All threads of a process."""
    for task in Path(f"/proc/{pid}/task").iterdir():
        os.sched_setaffinity(int(task.name), cores)


def _all_there(training: Training) -> bool | None:
    rows = training.run.status().get("processes", [])
    return True if rows and all(row["pid"] for row in rows) else None
