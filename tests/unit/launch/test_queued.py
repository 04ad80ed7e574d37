"""A run in Slurm's queue: what its readers are told, and how it is stopped when nobody leads it."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
from rich.console import Console

from acceerl.config import from_dict
from acceerl.launch import attempts
from acceerl.launch.leader import whoami
from acceerl.launch.ps import ps
from acceerl.launch.queued import looked_after
from acceerl.launch.stop import stop
from acceerl.launch.watch import watch
from acceerl.runtime.rundir import Run
from tests.unit.launch.fake_slurm import FakeSlurm, het

GONE = ("slurm_load_jobs error: Invalid job id specified", 1)
AWAY = ("slurm_load_jobs error: Unable to contact slurm controller", 1)


@pytest.fixture
def slurm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FakeSlurm:
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", f"{folder}:/usr/bin:/bin")
    fake = FakeSlurm(folder)
    fake.says(scontrol=het("PENDING", "PENDING"), sacct=("Slurm accounting storage is disabled", 1), scancel="")
    return fake


@pytest.fixture
def run(tmp_path: Path) -> Run:
    run = Run.create(from_dict({"runs": str(tmp_path / "runs"), "name": "blue", "launch": "slurm"}))
    attempts.submitted(run, "7", anew=True)
    run.write_status({"state": "queued", "supervisor": whoami(), "attempt": 0})
    return run


def screen() -> Console:
    return Console(file=io.StringIO(), width=200)


def test_a_waiting_job_is_named(run, slurm):
    assert looked_after(run, run.status())["reason"] == "job 7 PENDING"
    assert run.status()["state"] == "queued"


def test_a_job_that_was_cancelled_in_the_queue_is_a_stopped_run(run, slurm):
    slurm.says(scontrol=het("CANCELLED", "CANCELLED"))
    out = screen()
    assert watch(run.path, screen=out) == 75
    assert "job 7 was cancelled before attempt 1 began" in out.file.getvalue()
    assert run.status()["state"] == "stopped"


def test_a_job_that_slurm_has_forgotten_is_a_failed_run(run, slurm):
    slurm.says(scontrol=GONE)
    out = screen()
    ps(run.path.parent, out)
    assert "failed" in out.file.getvalue()
    assert "job 7 ended before attempt 1 began: GONE" in run.status()["error"]


def test_nothing_is_concluded_while_slurm_does_not_answer(run, slurm):
    slurm.says(scontrol=AWAY)
    assert looked_after(run, run.status())["state"] == run.status()["state"] == "queued"


def test_a_run_that_began_meanwhile_is_left_alone(run, slurm):
    slurm.says(scontrol=het("FAILED", "FAILED"))
    waiting = run.status()
    run.write_status({**waiting, "state": "running"})
    assert looked_after(run, waiting)["state"] == "running"


def test_stop_cancels_a_waiting_job(run, slurm, capsys):
    assert stop(run.path) == 0
    assert "scancel 7" in slurm.calls
    assert "was queued: job 7 is cancelled" in capsys.readouterr().out
    assert run.status()["state"] == "stopped"


def test_stop_cancels_a_job_that_scores_on_another_node(run, slurm, capsys, monkeypatch):
    elsewhere = {**whoami(), "host": "gpu1"}
    run.write_status({"state": "scoring", "supervisor": elsewhere})
    monkeypatch.setattr("acceerl.launch.stop._await_end", lambda run: 0)
    assert stop(run.path) == 0
    assert "scancel 7" in slurm.calls
    assert "is scoring on gpu1, with nothing to save: job 7 is cancelled" in capsys.readouterr().out


def test_where_there_is_no_slurm_the_command_is_named(run, monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ValueError, match="is queued: `scancel 7` on the cluster ends it"):
        stop(run.path)
