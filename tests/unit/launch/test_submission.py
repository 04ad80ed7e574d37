"""The Job of a het job, with a Slurm that says what the test wants: it ends when the job has, and never hangs."""

from __future__ import annotations

import pickle
import signal
from pathlib import Path

import pytest
from hydra.core.utils import JobReturn, JobStatus
from hydra_plugins.hydra_submitit_launcher.submitit_launcher import SlurmLauncher
from omegaconf import OmegaConf
from submitit.slurm import slurm as stock

from acceerl.launch import slurm_queue, submission
from acceerl.launch.submission import Job, submit
from hydra_plugins.acceerl_slurm.launcher import ArrayLauncher
from tests.unit.launch.fake_slurm import FakeSlurm, het

GONE = ("slurm_load_jobs error: Invalid job id specified", 1)
NO_SACCT = ("Slurm accounting storage is disabled", 1)


@pytest.fixture
def slurm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FakeSlurm:
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", f"{folder}:/usr/bin:/bin")
    monkeypatch.setattr(submission, "LOOK_S", 0.0)
    monkeypatch.setattr(Job, "watcher", submission.Watcher())
    fake = FakeSlurm(folder)
    fake.says(sbatch="Submitted batch job 7", scontrol=het("PENDING", "PENDING"), sacct=NO_SACCT, scancel="", srun="")
    return fake


def double(path: str) -> int:
    return len(path)


@pytest.fixture
def job(slurm: FakeSlurm, tmp_path: Path) -> Job:
    return submit(tmp_path / "folder", "#!/bin/bash\n#SBATCH --nodes=1\n", double, "run")


def finish(job: Job, code: int) -> None:
    job.paths.result_pickle.write_bytes(pickle.dumps(("success", code)))


def test_the_script_is_submitted_as_it_is(job, slurm):
    assert job.paths.submission_file.read_text() == "#!/bin/bash\n#SBATCH --nodes=1\n"
    assert job.submission().result() == 3
    assert [call.split()[0] for call in slurm.calls] == ["sbatch"]


def test_a_job_that_ends_well(job, slurm):
    assert (job.state, job.done()) == ("PENDING", False)
    slurm.says(scontrol=het("RUNNING", "RUNNING"))
    assert (job.state, job.done()) == ("RUNNING", False)
    finish(job, 0)
    slurm.says(scontrol=het("COMPLETED", "COMPLETED"))
    assert (job.state, job.done(), job.result(), job.exit_code()) == ("COMPLETED", True, 0, 0)


def test_jobs_of_the_stock_launcher_are_watched_without_accounting(slurm, tmp_path, monkeypatch):
    """The points of `hydra/launcher=array`: sacct would complain at every look, and never tell of a cancelled one."""
    monkeypatch.setattr(stock.SlurmJob, "watcher", stock.SlurmJob.watcher)
    submission.ask_scontrol()
    point = stock.SlurmJob(tmp_path, "7_0")
    slurm.says(scontrol="JobId=7 ArrayTaskId=0 JobState=RUNNING")
    assert not point.done()
    slurm.says(scontrol="JobId=7 ArrayTaskId=0 JobState=CANCELLED")
    assert point.done()
    assert not any(call.startswith("sacct") for call in slurm.calls)


def test_an_array_tells_where_its_logs_and_its_results_are(monkeypatch, capsys):
    def launch(self, overrides, first):
        made = [JobReturn(overrides=list(words), _return_value=f"runs/x-{k}") for k, words in enumerate(overrides)]
        for k, point in enumerate(made):
            point.hydra_cfg, point.status = OmegaConf.create({"hydra": {"job": {"id": f"7_{k}"}}}), JobStatus.COMPLETED
        return made

    monkeypatch.setattr(SlurmLauncher, "launch", launch)
    monkeypatch.setattr(submission, "ask_scontrol", lambda: None)
    ArrayLauncher(name="acceerl-array", submitit_folder="runs/.submitit/%j").launch([["seed=1"], ["seed=2"]], 0)
    first, *jobs = capsys.readouterr().out.splitlines()
    assert "one array of 2 jobs; queue: squeue --me --array --name=acceerl-array; logs: runs/.submitit/%j" in first
    assert jobs == ["job 7_0: seed=1: runs/x-0", "job 7_1: seed=2: runs/x-1"]


def test_a_job_that_dies_early_is_done_without_a_result(job, slurm):
    slurm.says(scontrol=het("FAILED", "CANCELLED"))
    job.wait()  # the stock one would wait for ever
    assert (job.state, job.exit_code()) == ("FAILED", None)


def test_a_requeued_job_is_not_done(job, slurm):
    slurm.says(scontrol=het("RUNNING", "COMPLETING"))
    assert not job.done(force_check=True)
    slurm.says(scontrol=het("PENDING", "PENDING"))
    assert (job.state, job.done()) == ("PENDING", False)


def test_cancel_goes_to_the_leader(job, slurm):
    job.cancel()
    assert slurm.calls[-1] == "scancel 7"
    slurm.says(scontrol=het("CANCELLED", "CANCELLED"))
    assert job.done(force_check=True) and job.state == "CANCELLED"


@pytest.mark.parametrize(
    ("sacct", "state"),
    [("7+0|TIMEOUT\n7+1|CANCELLED by 0", "TIMEOUT"), (NO_SACCT, slurm_queue.GONE), ("", slurm_queue.GONE)],
)
def test_a_job_that_the_controller_has_forgotten_is_done(job, slurm, sacct, state):
    slurm.says(scontrol=GONE, sacct=sacct)
    job.wait()
    assert job.state == state


def test_a_controller_that_does_not_answer_changes_nothing(job, slurm):
    slurm.says(scontrol=het("RUNNING", "RUNNING"))
    assert job.state == "RUNNING"
    slurm.says(scontrol=("Unable to contact slurm controller (connect failure)", 1))
    assert (job.state, job.done()) == ("RUNNING", False)


def test_the_batch_step_ends_with_the_functions_value_whatever_an_earlier_attempt_left(job, monkeypatch, tmp_path):
    for name, value in {"SUBMITIT_EXECUTOR": "slurm", "SLURM_JOB_ID": "7", "SUBMITIT_FOLDER": ""}.items():
        monkeypatch.setenv(name, value)
    finish(job, 75)
    numbers = (signal.SIGTERM, signal.SIGUSR2, signal.SIGCONT)
    before = [signal.getsignal(number) for number in numbers]
    try:
        assert submission.main(str(tmp_path / "folder")) == 3
    finally:
        for number, handler in zip(numbers, before, strict=True):
            signal.signal(number, handler)
    assert job.exit_code() == 3


def test_slurms_refusal_is_one_line(slurm, tmp_path, capsys):
    slurm.says(sbatch=("sbatch: error: Batch job submission failed: Invalid account or account/partition", 1))
    with pytest.raises(ValueError, match=r"^Slurm refused the job: .*Invalid account") as error:
        submit(tmp_path / "folder", "#!/bin/bash\n", double, "run")
    assert "\n" not in str(error.value)
    assert capsys.readouterr().err == ""


def test_no_slurm_on_this_machine(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ValueError, match="no Slurm on this machine"):
        slurm_queue.nodes()
