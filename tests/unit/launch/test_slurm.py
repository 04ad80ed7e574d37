"""What is decided around a submission: the check against the cluster, attempts, and what follows an interruption."""

from __future__ import annotations

import os
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from acceerl.config import Config, from_dict
from acceerl.launch import attempts, batch, join, slurm, slurm_queue
from acceerl.launch.slurm_queue import Node
from acceerl.launch.train import prepare, start
from acceerl.runtime.layout import Component
from acceerl.runtime.rundir import Run
from acceerl.runtime.world import Allocation
from tests.unit.launch.fake_slurm import FakeSlurm, het

HERE = Allocation("7", 0, "gpu1", (("gpu1",), ("cpu1",)))


def node(name: str, partition: str, **changes: Any) -> Node:
    given = {"cpus": 8, "memory": 16_000, "gpus": 2 if partition == "gpu" else 0, "state": "idle", "features": ()}
    return Node(name, partition, **{**given, **changes})


KNOWN = [node("gpu1", "gpu"), node("cpu1", "cpu"), node("cpu2", "cpu", state="down*"), node("cpu1", "")]


def config(**groups: Any) -> Config:
    site = {"cpu": {"partition": "cpu"}, "gpu": {"partition": "gpu"}}
    return from_dict({"launch": "slurm", "site": site, **groups})


def test_what_fits_is_let_through_and_waiting_for_a_node_is_said(capsys):
    slurm.check(config(), KNOWN)
    assert capsys.readouterr().err == ""
    slurm.check(config(placement={"cpu_nodes": 2}), KNOWN)
    assert "placement row rollout: only 1 of the 2 nodes that it needs are up" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("groups", "says"),
    [
        ({"site": {"cpu": {"partition": "cpus"}, "gpu": {"partition": "gpu"}}},
         "placement row rollout: site.cpu.partition=cpus is no partition here: choose from cpu, gpu"),
        ({"placement": {"gpus": 3}},
         "placement row inference, learner: needs 1 nodes with 3 CPUs, 9000 MB, 3 GPUs .*lower placement.gpus$"),
        ({"rollout": {"processes": 9}}, "row rollout: needs 1 nodes with 9 CPUs.*lower rollout.processes and "),
        ({"placement": {"rollout_memory": 9000}},
         "18000 MB each, but only 0 of partition cpu have.*; lower placement.rollout_memory or rollout.processes$"),
        ({"placement": {"learner_memory": 40_000}}, "lower placement.learner_memory or placement.inference_memory$"),
        ({"placement": {"gpu_nodes": 2}},
         "needs 2 nodes with 2 CPUs, 6000 MB, 1 GPUs each, but only 1 .*; lower placement.gpu_nodes$"),
    ],
)  # fmt: skip
def test_a_row_that_the_cluster_cannot_hold_is_named(groups, says):
    with pytest.raises(ValueError, match=says):
        slurm.check(config(**groups), KNOWN)


@pytest.mark.parametrize(
    ("groups", "idle"),
    [
        ({}, True),
        ({"placement": {"gpus": 0}}, False),
        ({"learner": {"device": "cuda"}, "inference": {"device": "cuda"}}, False),
        ({"inference": {"device": "cuda"}}, False),
        ({"placement": {"kind": "one_node"}, "site": {"gl": "egl"}}, False),
        ({"placement": {"kind": "cluster"}, "site": {"gl": "egl"}}, True),
    ],
)
def test_gpus_that_nobody_uses_are_told_of(groups, idle, capsys):
    slurm.warn(config(**groups))
    said = capsys.readouterr().err
    assert ("set learner.device=cuda inference.device=cuda, or placement.gpus=0\n" in said) == idle
    assert said.count("\n") == idle


def test_a_guest_that_is_too_large_is_told_the_keys_of_join():
    part = Component("cpu", 1, 9, 18_000, 0)
    with pytest.raises(ValueError, match=r"join: needs 1 nodes with 9 CPUs.* lower processes=$"):
        slurm.check_component("join", part, config().site.cpu, "partition", KNOWN, join.SIZES)


def test_a_site_without_a_default_partition_asks_for_one():
    with pytest.raises(ValueError, match=r"no default partition: set site\.gpu\.partition to one of cpu, gpu"):
        slurm.check(from_dict({"launch": "slurm"}), [n for n in KNOWN if n.partition])


@pytest.fixture
def run(tmp_path: Path) -> Run:
    return Run.create(config(runs=str(tmp_path), name="a"))


def test_attempts_that_save_nothing_come_to_an_end(run):
    attempts.submitted(run, "7", anew=True)
    assert [attempts.begin(run, 2) for _ in range(2)] == ["", ""]
    assert "no progress: 2 attempts in a row ended without a new checkpoint" in attempts.begin(run, 2)
    attempts.submitted(run, "8", anew=True)  # the user tries again
    assert attempts.begin(run, 2) == ""


def test_a_new_checkpoint_is_progress_also_over_successors(run):
    attempts.submitted(run, "7", anew=True)
    for number in range(4):
        assert attempts.begin(run, 1) == ""
        (run.checkpoints / f"ckpt-{number:08}").mkdir(parents=True)
        (run.checkpoints / f"ckpt-{number:08}.partial").mkdir()
        attempts.submitted(run, str(8 + number), anew=False)
    assert attempts.record(run)["job"] == "11"


def test_a_time_limit_that_the_partition_refuses_is_named():
    slurm.check(config(), KNOWN, {"gpu": 240.0, "cpu": float("inf")})
    with pytest.raises(ValueError, match=r"row learner\+inference: slurm.minutes=240 is more than the 60 minutes that "
                       r"site.gpu.partition=gpu allows"):  # fmt: skip
        slurm.check(config(), KNOWN, {"gpu": 60.0, "cpu": 600.0})


@pytest.fixture
def asked(monkeypatch) -> dict[str, Any]:
    """What Slurm says, and what was asked of it."""
    given: dict[str, Any] = {"all_run": True, "refused": "", "asked": []}
    monkeypatch.setattr(slurm_queue, "all_run", lambda job, restarts: given["all_run"])
    monkeypatch.setattr(slurm_queue, "job_state", lambda job: "CANCELLED")
    monkeypatch.setattr(slurm_queue, "requeue", lambda job: given["asked"].append(f"requeue {job}") or given["refused"])
    monkeypatch.setattr(batch, "KILLED_S", 0.0)
    monkeypatch.setattr(batch.os, "_exit", lambda code: given["asked"].append(f"exit {code}"))

    class Follower:
        job_id = "8"

    def submit(config: Config, run: Run, after: str = "") -> Follower:
        given["asked"].append(f"submit after {after}")
        return Follower()

    monkeypatch.setattr(batch, "submit", submit)
    return given


def test_an_interrupted_job_goes_back_into_the_queue(run, asked):
    batch._interrupted(run.config(), run, HERE, "signal SIGUSR2", 75)
    assert asked["asked"][:2] == ["requeue 7", "exit 75"]
    assert (run.status()["state"], run.status()["reason"]) == ("queued", "signal SIGUSR2")


def test_a_job_that_slurm_is_ending_stays_ended(run, asked):
    asked["all_run"] = False  # scancel, the time limit, or Slurm's own requeue
    assert batch._interrupted(run.config(), run, HERE, "signal SIGTERM", 75) == 75
    assert asked["asked"] == []


def test_where_requeue_is_refused_a_successor_waits_for_this_job(run, asked, capsys):
    asked["refused"] = "scontrol: Requested operation is presently disabled for job 7"
    assert batch._interrupted(run.config(), run, HERE, "signal SIGUSR2", 75) == 75
    assert asked["asked"] == ["requeue 7", "submit after 7"]
    assert "requeue refused (scontrol: Requested operation" in capsys.readouterr().err


def test_a_silent_controller_is_asked_again_and_costs_no_attempt(run, asked, monkeypatch):
    answers = [slurm_queue.Unanswered("no contact")] * 2

    def all_run(job: str, restarts: int) -> bool:
        if answers:
            raise answers.pop()
        return True

    monkeypatch.setattr(slurm_queue, "all_run", all_run)
    monkeypatch.setattr(batch, "AGAIN_S", 0.0)
    batch._interrupted(run.config(), run, HERE, "signal SIGUSR2", 75)
    assert asked["asked"][0] == "requeue 7" and not answers


def test_who_was_cut_off_goes_on_only_when_slurm_still_counts_on_it(run, asked, monkeypatch, capsys):
    monkeypatch.setattr(batch, "AGAIN_S", 0.0)
    answers = [slurm_queue.Unanswered("no contact")] * 2

    def all_run(job: str, restarts: int) -> bool:
        if answers:
            raise answers.pop()
        return bool(given["all_run"])

    given = asked
    monkeypatch.setattr(slurm_queue, "all_run", all_run)
    assert batch._reconnected(run, HERE, "nobody answers gpu1") == 1
    assert asked["asked"] == [] and not answers, "it requeues its job"
    asked["all_run"] = False  # requeued by Slurm: the job's other life runs, or will
    batch._reconnected(run, HERE, "nobody answers gpu1")
    assert asked["asked"] == ["exit 1"]
    assert "another attempt leads the run, or will" in capsys.readouterr().err


def test_another_life_of_a_job_is_not_this_one(tmp_path, monkeypatch):
    fake = FakeSlurm(tmp_path)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    fake.says(scontrol=het("RUNNING", "RUNNING").replace("Reason", "Restarts=1 Reason"))
    assert slurm_queue.all_run("7", 1)
    assert not slurm_queue.all_run("7", 0)
    fake.says(scontrol=het("RUNNING", "COMPLETING").replace("Reason", "Restarts=1 Reason"))
    assert not slurm_queue.all_run("7", 1)


def test_without_requeue_and_successor_the_run_waits_for_its_user(run, asked, monkeypatch, capsys):
    def refuse(*_: object, **__: object) -> None:
        raise ValueError("Slurm refused the job: maintenance")

    asked["refused"] = "disabled"
    monkeypatch.setattr(batch, "submit", refuse)
    assert batch._interrupted(run.config(), run, HERE, "signal SIGUSR2", 75) == 75
    assert run.status()["state"] == "stopped"
    assert (
        "no successor either: Slurm refused the job: maintenance; to continue: acceerl train" in capsys.readouterr().err
    )


def test_a_job_that_never_began_is_told_with_the_likely_reason(run, capsys):
    """Its first node did not see the folder of the log, so nobody wrote a word."""
    job = SimpleNamespace(job_id="7", state="FAILED", exit_code=lambda: None,
                          paths=SimpleNamespace(stdout=run.path / "slurm" / "7_0_log.out"))  # fmt: skip
    run.write_status({"state": "queued"})
    assert slurm._outcome(run, job) == 1
    said = f"job 7 ended before attempt 1 began: FAILED; is {run.path} visible on the nodes? runs= must name a folder"
    assert said in capsys.readouterr().out
    assert run.status()["state"] == "failed"


def test_a_queued_run_is_not_submitted_twice(run, monkeypatch):
    attempts.submitted(run, "7", anew=True)
    run.write_status({"state": "queued"})
    monkeypatch.setattr(slurm, "job_state", lambda job: "PENDING")
    with pytest.raises(ValueError, match=r"is queued as job 7 \(PENDING\): scancel 7 first"):
        prepare("train", [f"resume={run.path}"])
    monkeypatch.setattr(slurm, "job_state", lambda job: "CANCELLED")
    assert prepare("train", [f"resume={run.path}"])[1] == run


def test_a_cluster_placement_without_slurm_is_refused():
    with pytest.raises(ValueError, match="placement=cluster is for a cluster: add launch=slurm"):
        start(from_dict({"placement": {"kind": "cluster"}}))
