"""Rollouts of other jobs on a real Slurm: they come, count, and go by scancel and SIGKILL; the training goes on."""

from __future__ import annotations

import json
import os
import signal

import pytest

from tests.e2e.running import process
from tests.slurm.clusters import wait
from tests.slurm.trainings import Training

pytestmark = [pytest.mark.slurm, pytest.mark.slow]
# Steps of 20 ms: rollouts sleep, so that two cores are not the limit.
SLEEPY = ["env=latency", "policy=mlp", "env.mean_ms=20", "env.camera=0", "rollout.envs=1", "placement=one_node",
          "placement.gpu_nodes=1", "placement.learner_memory=2000", "placement.inference_memory=1500",
          "placement.rollout_memory=500"]  # fmt: skip


def join(training: Training, *words: str) -> None:
    done = training.acceerl("join", str(training.run), *words)
    assert done.returncode == 0, done.stderr


def guests(training: Training) -> list[int]:
    """Indices of the joined rollouts that have counted steps."""
    return sorted(p["index"] for p in training.status.get("processes", []) if p.get("joined") and p["rate"])


def share(training: Training, indices: list[int]) -> float:
    """Of these rollouts in the steps that all of them make now: a slow machine slows them alike."""
    rates = {p["index"]: p["rate"] or 0.0 for p in training.status["processes"] if p["role"] == "rollout"}
    return sum(rates[i] for i in indices) / max(sum(rates.values()), 1e-9)


def speed(training: Training, seconds: float = 5.0) -> float:
    """Env steps a second from now on, by the training's own clock."""
    before = training.status
    wait(lambda: training.status["supervisor"]["time"] >= before["supervisor"]["time"] + seconds, 60, training.said)
    after = training.status
    steps = after["counters"]["env_steps"] - before["counters"]["env_steps"]
    return float(steps / (after["supervisor"]["time"] - before["supervisor"]["time"]))


def test_guests_add_to_the_rate_and_leave_without_a_trace(training, record_property):
    """The training has no rollouts of its own, so that no lost CPU node can cost more than rollouts."""
    training.submit(*SLEEPY, "rollout.processes=0")
    wait(lambda: training.status.get("state") == "running", 60, training.said)
    join(training, "processes=2")
    wait(lambda: guests(training) == [0, 1], 60, training.said)
    two = speed(training)
    join(training, "processes=2", "partition=preempt", "minutes=5")
    wait(lambda: guests(training) == [0, 1, 2, 3], 60, training.said)
    four = speed(training)
    assert share(training, [2, 3]) > 0.25, training.status
    second = training.cluster.ask("squeue", "--noheader", "--partition=preempt", "--format=%A")
    training.cluster.ask("scancel", second)
    wait(lambda: guests(training) == [0, 1], 30, training.said)
    again = speed(training)
    record_property("env steps/s of 2, 4 and 2 rollouts", [round(x, 1) for x in (two, four, again)])
    assert min(two, four, again) > 0, "whatever came and went, steps arrived (how many, the machine decides)"
    assert not any(p["restarts"] for p in training.status["processes"])
    assert training.acceerl("stop", str(training.run)).returncode == 0
    wait(lambda: not training.cluster.ask("squeue", "--noheader"), 60, lambda: training.cluster.ask("squeue"))
    assert training.status["state"] == "stopped" and training.status["error"] == ""


def test_killed_guests_come_back_and_an_asked_one_drains_nothing(training):
    training.submit(*SLEEPY, "rollout.processes=1")
    training.trains()
    join(training, "processes=2")
    wait(lambda: guests(training) == [1, 2], 60, training.said)
    os.kill(process(training.run, "rollout", 1)["pid"], signal.SIGKILL)
    os.kill(process(training.run, "rollout", 2)["pid"], signal.SIGTERM)
    wait(lambda: guests(training) == [1] and process(training.run, "rollout", 1)["restarts"] == 1, 60, training.said)
    training.trains(more=3)
    assert training.status["state"] == "running"


def test_a_sweep_of_which_one_point_fails(training):
    """Four jobs, none of them an array; the third environment refuses its argument when it runs."""
    words = [word for word in SLEEPY if not word.startswith("env.mean_ms")]
    words += ["env.mean_ms=1,4,-1,16", "launch=slurm", "site=devcluster", "learner.max_updates=3", "name=s",
              "learner.batch=32", "learner.micro_batch=32", "rollout.processes=1", "sweep.objective=train.updates",
              "evaluator.before=false", "evaluator.after=false"]  # fmt: skip
    done = training.acceerl("train", "-m", *words)
    assert done.returncode == 0, done.stderr
    assert "s: 3 of 4 points have a result" in done.stdout and "best: env.mean_ms=" in done.stdout
    assert "mean_ms must not be negative, got -1" in done.stdout
    told = json.loads((training.folder / "runs" / "s" / "sweep.json").read_text())
    assert sorted(p["state"] for p in told["points"]) == ["done"] * 3 + ["failed"]
    scripts = [path.read_text() for path in (training.folder / "runs").glob("s-*/slurm/*submission.sh")]
    assert len(scripts) == 4 and not any("--array" in text for text in scripts)
    again = training.acceerl("train", "-m", *words)
    assert "4 of them begun before" in again.stdout
    assert len(list((training.folder / "runs").glob("s-*/slurm/*submission.sh"))) == 4
