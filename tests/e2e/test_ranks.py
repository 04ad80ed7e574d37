"""Two learner ranks and two inference instances, with real processes: one rank's death, and a resume with one rank."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.e2e.running import SMALL, acceerl, events, kill, process, start, status, updates, wait_for

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(290)]
RANKS = [*SMALL, "learner.ranks=2", "inference.instances=2", "evaluator.before=false", "evaluator.after=false"]


def counted(run: Path, role: str, index: int, name: str) -> float:
    lines = [json.loads(text) for text in (run / f"metrics/{role}.{index}.jsonl").open()]
    return max((line["counters"].get(name, 0) for line in lines if "counters" in line), default=0)


def test_a_training_of_two_ranks_outlives_one_and_goes_on_with_one(tmp_path: Path) -> None:
    job = start("train", "name=a", "learner.max_updates=14", *RANKS, cwd=tmp_path)
    run = tmp_path / "runs/a"
    wait_for("a checkpoint", lambda: any(event["updates"] for event in events(run, "learner", "checkpoint")))
    kill(run, "learner", 1)
    for rank in range(2):
        wait_for("both ranks' restart", lambda rank=rank: process(run, "learner", rank)["restarts"] == 1)
    assert job.wait(200) == 0, (tmp_path / "stdout.txt").read_text()
    assert status(run)["state"] == "done" and status(run)["counters"]["updates"] == 14
    assert len(events(run, "learner", "first_update")) == 1, "the learner began again instead of resuming"
    assert "cannot go on without learner[1]" in (tmp_path / "stdout.txt").read_text()
    for instance in range(2):
        assert counted(run, "inference", instance, "decisions") > 0, "each instance has its rollouts"
    resumed = acceerl("train", "resume=runs/a", "learner.ranks=1", "learner.max_updates=16", cwd=tmp_path)
    assert resumed.returncode == 0, resumed.stderr
    assert updates(run) == 16
    assert not list(run.rglob("*.partial"))
