"""USR2, requeue, resume, again and again: each attempt goes on exactly where the one before it was told to leave.

Two cycles; more with the environment variable ACCEERL_CYCLES. What an attempt has loaded is read from files alone: the
last one is told, in config.yaml, that it has nothing left to train, and saves what it loaded.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from acceerl.stores import checkpoint
from tests.e2e.running import updates
from tests.slurm.clusters import wait
from tests.slurm.trainings import Training

CYCLES = int(os.environ.get("ACCEERL_CYCLES", "2"))
pytestmark = [pytest.mark.slurm, pytest.mark.slow, pytest.mark.timeout(120 + 90 * CYCLES)]


def test_cycles_of_usr2_and_requeue_lose_nothing(training: Training, tmp_path: Path, record_property: Any) -> None:
    job, before, done = training.submit("learner.keep=50", "replay.capacity=5000"), checkpointless(), 0
    for cycle in range(1, CYCLES + 1):
        record_property(f"seconds to training, attempt {cycle}", training.trains(attempt=cycle, more=5))
        if cycle > 1:
            log = (training.run / f"logs/attempt_{cycle}/learner.0.log").read_text()
            assert f"at update {done}" in log and updates(training.run) > done
        done = interrupted(training, job)
        state = newest(training)
        assert state["counters"]["updates"] == done == training.saved()[-1], "an update was lost on USR2"
        goes_on(before, state)
        before = state
    kept = shutil.copytree(checkpoint.latest(training.run / "checkpoints"), tmp_path / "kept")  # type: ignore[type-var]
    nothing_left_to_train(training.run / "config.yaml", done)
    training.cluster.wait_for_state(job, "COMPLETED", 120)
    assert training.status["attempt"] == CYCLES + 1
    assert training.cluster.job(job)["Restarts"] == str(CYCLES) and training.job == job
    loaded, saved = newest(training), checkpoint.load(kept)
    assert_same(loaded["trainer"], saved["trainer"], "trainer")
    assert loaded["counters"]["updates"] == updates(training.run) == done
    assert loaded["replay"]["ids"][: len(saved["replay"]["ids"])] == saved["replay"]["ids"]


def checkpointless() -> dict[str, Any]:
    return {"counters": {"updates": 0, "env_steps": 0, "decisions": 0, "episodes": 0}, "replay": {"ids": []}}


def interrupted(training: Training, job: int) -> int:
    """USR2; returns the updates that status.json says were made."""
    training.cluster.ask("scancel", "--batch", "--signal=USR2", str(job))
    wait(lambda: training.status["state"] == "queued", 40, training.said)
    return int(training.status["counters"]["updates"])


def newest(training: Training) -> dict[str, Any]:
    path = checkpoint.latest(training.run / "checkpoints")
    assert path is not None
    return checkpoint.load(path)


def goes_on(before: dict[str, Any], after: dict[str, Any]) -> None:
    """Counters grew, the replay holds what it held, and the optimiser has stepped once for each update of the run."""
    for name in before["counters"].keys() & {"updates", "env_steps", "decisions"}:
        assert after["counters"][name] > before["counters"][name], name
    assert set(before["replay"]["ids"]) <= set(after["replay"]["ids"])
    steps = {int(state["step"]) for state in after["trainer"]["optimiser"]["state"].values()}
    assert max(steps) == after["counters"]["updates"]


def nothing_left_to_train(file: Path, done: int) -> None:
    config = yaml.safe_load(file.read_text())
    config["learner"]["max_updates"] = done
    beside = file.with_suffix(".beside")
    beside.write_text(yaml.safe_dump(config))
    beside.replace(file)


def assert_same(one: Any, other: Any, where: str) -> None:
    """Bit for bit, however deep."""
    if isinstance(one, torch.Tensor):
        assert torch.equal(one, other), where
    elif isinstance(one, dict):
        assert one.keys() == other.keys(), where
        for key in one:
            assert_same(one[key], other[key], f"{where}.{key}")
    elif isinstance(one, (list, tuple)):
        assert len(one) == len(other), where
        for i, (a, b) in enumerate(zip(one, other, strict=True)):
            assert_same(a, b, f"{where}.{i}")
    else:
        assert one == other, where
