"""A sweep over Slurm jobs: each point submitted once, failures named, the best found, an ended command continued."""

from __future__ import annotations

import json
import pickle
import sys
from pathlib import Path
from types import ModuleType
from typing import Any, ClassVar

import pytest
from hydra.core.config_store import ConfigStore
from hydra.core.plugins import Plugins
from hydra.plugins.sweeper import Sweeper

from acceerl.launch import attempts, points, submission, sweep
from acceerl.launch.submission import Job
from acceerl.runtime.rundir import Run
from tests.unit.launch.fake_slurm import FakeSlurm

SINFO = "g1|gpu|64|256000|gpu:4|idle|a\nc1|cpu|64|256000|(null)|idle|a"
WORDS = ["launch=slurm", "site=devcluster", "learner.lr=1e-4,2e-4,3e-4", "sweep.objective=train.updates"]


@pytest.fixture
def slurm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FakeSlurm:
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", f"{folder}:/usr/bin:/bin")
    for module in (submission, sweep):
        monkeypatch.setattr(module, "LOOK_S", 0.0)
    monkeypatch.setattr(sweep, "EACH_S", 0.0)
    monkeypatch.setattr(Job, "watcher", submission.Watcher())
    fake = FakeSlurm(folder)
    fake.says(sinfo=SINFO, scontrol="JobId=1 JobState=COMPLETED", squeue="")
    return fake


class Cluster:
    """Plays Slurm's part in a submission: runs are numbered from 1, and end as `outcome` says."""

    def __init__(self, outcome: Any) -> None:
        self.outcome, self.submitted = outcome, []

    def __call__(self, folder: Path, text: str, function: Any, argument: str) -> Job:
        run, number = Run(Path(argument)), str(len(self.submitted) + 1)
        self.submitted.append(run.name)
        assert "--array" not in text
        folder.mkdir(parents=True, exist_ok=True)
        job = Job(folder, number)
        code, updates = self.outcome(run)
        job.paths.result_pickle.write_bytes(pickle.dumps(("success", code)))
        counters = {"updates": updates, "policy_version": 0}
        run.write_status({"state": "failed" if code else "done", "counters": counters, "error": "no start file"})
        return job


@pytest.fixture
def cluster(monkeypatch, slurm) -> Any:
    def play(outcome: Any) -> Cluster:
        cluster = Cluster(outcome)
        monkeypatch.setattr(submission, "submit", cluster)
        return cluster

    return play


def ends(run: Run) -> tuple[int, int]:
    """The middle learning rate fails; of the others the larger makes more updates."""
    lr = run.config().learner.lr
    return (2, 0) if lr == 2e-4 else (0, round(lr * 1e5))


def test_failed_points_are_named_and_the_best_is_printed(cluster, tmp_path, capsys):
    played = cluster(ends)
    assert sweep.command([*WORDS, f"runs={tmp_path}", "name=s"]) == 0
    assert played.submitted == ["s-0", "s-1", "s-2"]
    said = capsys.readouterr().out
    assert "s: 2 of 3 points have a result (train.updates, maximize)" in said
    assert "learner.lr=0.0002" in said and "failed: job 2 ended with 2: no start file" in said
    assert f"best: learner.lr=0.0003: 30 ({tmp_path}/s-2)" in said
    assert json.loads((tmp_path / "s" / "sweep.json").read_text())["best"] == "s-2"


@pytest.mark.parametrize("label", ["before", "after"])
def test_an_objective_that_no_point_would_have_is_refused_before_any_is_submitted(cluster, tmp_path, label):
    played = cluster(ends)
    words = [*WORDS, f"runs={tmp_path}", f"sweep.objective=train.success_{label}", f"evaluator.{label}=false"]
    with pytest.raises(
        ValueError, match=rf"evaluator.{label}=false: no point would have it; set evaluator.{label}=true"
    ):
        sweep.command(words)
    assert played.submitted == [] and not list(tmp_path.glob("sweep*"))


def test_the_same_command_again_submits_nothing_twice(cluster, tmp_path, capsys):
    cluster(ends)
    words = [*WORDS, f"runs={tmp_path}"]
    sweep.command(words)
    again = cluster(ends)
    assert sweep.command([*reversed(words), "sweep.direction=minimize"]) == 0
    assert again.submitted == []
    assert "3 of them begun before" in capsys.readouterr().out


def test_more_points_join_a_sweep_of_the_same_name(cluster, tmp_path):
    cluster(ends)
    words = ["launch=slurm", "site=devcluster", "sweep.objective=train.updates", f"runs={tmp_path}", "name=s"]
    sweep.command([*words, "learner.lr=1e-4,3e-4"])
    more = cluster(ends)
    sweep.command([*words, "learner.lr=3e-4,4e-4"])
    assert more.submitted == ["s-2"]


def test_a_job_whose_id_was_never_noted_is_found_by_its_log(cluster, slurm, tmp_path, monkeypatch):
    cluster(ends)
    words = [*WORDS, f"runs={tmp_path}", "name=s"]
    sweep.command(words)
    run = Run(tmp_path / "s-0")
    (attempts.folder(run) / "job.json").unlink()
    slurm.says(squeue="1", scontrol=f"JobId=1 JobState=COMPLETED StdOut={attempts.folder(run)}/1_0_log.out")
    again = cluster(ends)
    sweep.command(words)
    assert again.submitted == [] and attempts.record(run)["job"] == "1"


@pytest.mark.parametrize(
    ("extra", "outcome", "code"), [("sweep.strict=true", ends, 1), ("seed=0", lambda run: (1, 0), 1)]
)
def test_the_exit_code_tells_of_failures_when_asked_or_when_nothing_is_left(cluster, tmp_path, extra, outcome, code):
    cluster(outcome)
    assert sweep.command([*WORDS, f"runs={tmp_path}", extra]) == code


def test_points_that_the_schema_or_the_cluster_refuse_fail_alone(cluster, tmp_path, capsys):
    played = cluster(lambda run: (0, 1))
    words = ["launch=slurm", "site=devcluster", "sweep.objective=train.updates", f"runs={tmp_path}", "name=s"]
    assert sweep.command([*words, "learner.threads=1,0,500"]) == 0
    assert played.submitted == ["s-0"]
    said = capsys.readouterr().out
    assert "failed: learner.threads must be at least 1, got 0" in said
    assert "failed: placement row" in said


def test_no_more_points_are_queued_at_once_than_allowed(cluster, slurm, tmp_path, monkeypatch):
    queued: list[int] = []
    played = cluster(lambda run: queued.append(sum(p.state == "queued" for p in here)) or (0, 1))
    here: list[points.Point] = []
    real = sweep.pick_up
    monkeypatch.setattr(sweep, "pick_up", lambda point: here.append(point) or real(point))
    sweep.command([*WORDS, f"runs={tmp_path}", "sweep.parallel=1"])
    assert len(played.submitted) == 3 and max(queued) == 0  # nobody else was queued at any submission


def test_a_point_without_its_objective_says_what_makes_it(cluster, tmp_path, capsys):
    cluster(ends)
    words = [word for word in WORDS if not word.startswith("sweep.")]
    assert sweep.command([*words, f"runs={tmp_path}"]) == 1
    assert "it has no train.success_after (evaluator.after=true makes train.success_after)" in capsys.readouterr().out


def test_two_commands_do_not_lead_one_sweep(cluster, tmp_path):
    cluster(ends)
    words = [*WORDS, f"runs={tmp_path}", "name=s"]
    sweep.command(words)
    [first] = sweep._led.values()
    with first.alone(), pytest.raises(ValueError, match="is led by another process"):
        sweep.command(words)


def test_a_run_of_that_name_is_not_overwritten(cluster, tmp_path):
    (tmp_path / "s").mkdir()
    (tmp_path / "s" / "config.yaml").touch()
    with pytest.raises(ValueError, match="is a run: choose another name"):
        sweep.command([*WORDS, f"runs={tmp_path}", "name=s"])


def test_which_sweeps_are_submitted():
    assert sweep.wanted(["launch=slurm", "seed=1,2"])
    assert sweep.wanted([sweep.LAUNCHER])
    assert not sweep.wanted(["seed=1,2"])
    assert not sweep.wanted(["launch=slurm", "launch=local", "seed=1,2"])
    assert not sweep.wanted(["launch=slurm", "hydra/launcher=basic"])
    assert not sweep.wanted(["no.such=1"])


def test_the_launcher_is_for_launch_slurm(tmp_path):
    with pytest.raises(ValueError, match="add launch=slurm"):
        sweep.command(["seed=1,2", f"runs={tmp_path}"])


class Adaptive(Sweeper):
    """Asks for points one after the other, and reads what each gave, as Optuna's sweeper does."""

    gave: ClassVar[list[float | str]] = []

    def setup(self, *, hydra_context: Any, task_function: Any, config: Any) -> None:
        self.launcher = Plugins.instance().instantiate_launcher(
            hydra_context=hydra_context, task_function=task_function, config=config
        )

    def sweep(self, arguments: list[str]) -> None:
        for number, lr in enumerate(("1e-4", "2e-4", "3e-4")):
            [made] = self.launcher.launch([[*arguments, f"learner.lr={lr}"]], number)
            try:
                self.gave.append(made.return_value)
            except sweep.PointFailed as error:
                self.gave.append(str(error))


def test_a_sweeper_gets_objectives_and_an_error_for_a_failed_point(cluster, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(Adaptive, "__module__", "hydra_plugins.adaptive")  # Hydra takes plug-ins from there only
    home = ModuleType("hydra_plugins.adaptive")
    home.Adaptive = Adaptive  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "hydra_plugins.adaptive", home)
    monkeypatch.setattr(Adaptive, "gave", [])
    Plugins.instance().register(Adaptive)
    node = {"_target_": "hydra_plugins.adaptive.Adaptive"}
    ConfigStore.instance().store(group="hydra/sweeper", name="adaptive", node=node)
    played = cluster(ends)
    words = [word for word in WORDS if not word.startswith("learner.lr")]
    assert sweep.command([*words, f"runs={tmp_path}", "name=s", "hydra/sweeper=adaptive"]) == 0
    assert Adaptive.gave == [10.0, "s-1: job 2 ended with 2: no start file", 30.0]
    assert played.submitted == ["s-0", "s-1", "s-2"]
    assert "best: learner.lr=3e-4: 30" in capsys.readouterr().out
