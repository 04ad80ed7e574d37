"""Two learner ranks and two inference instances, with real processes: one rank's death, and a resume with one rank."""

from __future__ import annotations

import json
import signal
from pathlib import Path

import pytest

from tests.e2e.running import SMALL, acceerl, events, kill, process, start, status, updates, wait_for

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(290)]
RANKS = [*SMALL, "learner.ranks=2", "inference.instances=2", "evaluator.before=false", "evaluator.after=false"]


def counted(run: Path, role: str, index: int, name: str) -> float:
    lines = [json.loads(text) for text in (run / f"metrics/{role}.{index}.jsonl").open()]
    return max((line["counters"].get(name, 0) for line in lines if "counters" in line), default=0)


@pytest.mark.parametrize("schedule", ["sync", "sync_update"])
def test_two_ranks_take_turns_with_inference(tmp_path: Path, schedule: str) -> None:
    """A turn's segments go to both ranks, and the batch is what both hold together."""
    world = ["env=latency", "+env.limit=40", "env.camera=32"]
    keys = [*RANKS, "inference.instances=1", *world, f"schedule={schedule}", "learner.max_updates=4", "name=a"]
    done = acceerl("train", *keys, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    run = tmp_path / "runs/a"
    assert status(run)["state"] == "done" and updates(run) == 4
    assert not any(row["restarts"] for row in status(run)["processes"])


def test_a_training_of_two_ranks_outlives_one_and_goes_on_with_one(tmp_path: Path) -> None:
    job = start("train", "name=a", *RANKS, cwd=tmp_path)
    run = tmp_path / "runs/a"
    wait_for("a checkpoint", lambda: any(event["updates"] for event in events(run, "learner", "checkpoint")))
    kill(run, "learner", 1)
    wait_for("restarts of both", lambda: all(process(run, "learner", rank)["restarts"] == 1 for rank in range(2)))
    saved = events(run, "learner", "checkpoint")[-1]["updates"]
    wait_for("updates after that", lambda: updates(run) >= saved + 3)
    job.send_signal(signal.SIGTERM)
    assert job.wait(90) == 75, (tmp_path / "stdout.txt").read_text()
    assert "cannot go on without learner[1]" in (tmp_path / "stdout.txt").read_text()
    assert len(events(run, "learner", "first_update")) == 1, "the learner began again instead of resuming"
    for rank in range(2):
        assert "leaves: the supervisor asked to stop" in (run / f"logs/attempt_1/learner.{rank}.log").read_text()
    for instance in range(2):
        assert counted(run, "inference", instance, "decisions") > 0, "each instance has its rollouts"
    last = status(run)["counters"]["updates"]
    assert last == events(run, "learner", "checkpoint")[-1]["updates"] >= saved + 3
    done = acceerl("train", "resume=runs/a", "learner.ranks=1", f"learner.max_updates={last + 2}", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert status(run)["state"] == "done" and updates(run) == last + 2
    assert not list(run.rglob("*.partial"))
