"""`channels=world` on one machine: it trains, and a death costs the world but not the run."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest

from tests.e2e.running import SMALL, acceerl, events, kill, process, start, status, updates, wait_for

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(290)]
WORLD = [*SMALL, "channels=world", "evaluator.before=false", "evaluator.after=false", "name=a",
         "learner.checkpoint_every=2"]  # fmt: skip


def test_a_world_trains_to_its_end_in_good_order(tmp_path: Path) -> None:
    done = acceerl("train", *WORLD, "learner.max_updates=6", "inference.instances=2", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    run = tmp_path / "runs/a"
    assert status(run)["state"] == "done" and updates(run) == 6
    assert not any(row["restarts"] for row in status(run)["processes"])
    for role, index in (("inference", 0), ("inference", 1), ("rollout", 0), ("rollout", 1)):
        assert "leaves: the supervisor asked to stop" in (run / f"logs/attempt_1/{role}.{index}.log").read_text()


def test_a_dead_rank_restarts_the_world_from_the_checkpoint(tmp_path: Path) -> None:
    job = start("train", *WORLD, cwd=tmp_path)
    run = tmp_path / "runs/a"
    wait_for("a checkpoint", lambda: any(event["updates"] for event in events(run, "learner", "checkpoint")))
    kill(run, "rollout", 1)
    wait_for("restarts of all", lambda: all(row["restarts"] == 1 for row in status(run)["processes"]))
    saved = events(run, "learner", "checkpoint")[-1]["updates"]
    wait_for("updates after that", lambda: process(run, "learner")["pid"] and updates(run) >= saved + 3)
    job.send_signal(signal.SIGTERM)
    assert job.wait(90) == 75, (tmp_path / "stdout.txt").read_text()
    said = (tmp_path / "stdout.txt").read_text()
    assert "rollout[1] ended: Killed (signal 9)" in said.replace("Killed (signal 9) ", "Killed (signal 9)")
    assert "learner[0] ended: cannot go on without rollout[1]" in said
    assert len(events(run, "learner", "first_update")) == 1, "the learner began again instead of resuming"
    last = events(run, "learner", "checkpoint")[-1]["updates"]
    assert status(run)["state"] == "stopped" and status(run)["counters"]["updates"] == last >= saved + 3


def test_guests_are_refused(tmp_path: Path) -> None:
    done = acceerl("train", *WORLD, "rollout.processes=0", cwd=tmp_path)
    assert done.returncode == 2 and "needs channels=mpi" in done.stderr
