"""The main job with real processes, real physics and real pixels, at the smallest size that still is all of it."""

from __future__ import annotations

import re
import signal
from pathlib import Path

import pytest

from acceerl.launch.cli import main
from tests.e2e.running import SMALL, acceerl, events, kill, process, start, status, updates, wait_for

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(400)]


def test_a_training_outlives_a_killed_rollout_and_a_killed_learner(tmp_path: Path) -> None:
    job = start("train", "name=a", "evaluator.before=false", *SMALL, cwd=tmp_path)
    run = tmp_path / "runs/a"
    wait_for("three updates", lambda: updates(run) >= 3)
    kill(run, "rollout", 1)
    wait_for("the rollout's restart", lambda: process(run, "rollout", 1)["restarts"] == 1)
    wait_for("a checkpoint", lambda: events(run, "learner", "checkpoint"))
    kill(run, "learner")
    wait_for("the learner's restart", lambda: process(run, "learner")["restarts"] == 1)
    saved = events(run, "learner", "checkpoint")[-1]["updates"]
    wait_for("updates after both", lambda: updates(run) >= saved + 3)
    job.send_signal(signal.SIGTERM)
    assert job.wait(90) == 75, (tmp_path / "stdout.txt").read_text()
    assert status(run)["state"] == "stopped" and status(run)["attempt"] == 1
    assert len(events(run, "learner", "first_update")) == 1, "the learner began again instead of resuming"
    assert not list(run.rglob("*.partial"))
    resumes_where_it_was(run, tmp_path)


def resumes_where_it_was(run: Path, folder: Path) -> None:
    saved = events(run, "learner", "checkpoint")[-1]["updates"]
    assert saved == status(run)["counters"]["updates"]
    done = acceerl("train", "resume=runs/a", f"learner.max_updates={saved + 3}", cwd=folder)
    assert done.returncode == 0, done.stderr
    assert status(run)["counters"]["updates"] == saved + 3 and status(run)["attempt"] == 2
    assert f"update {saved}" in (run / "logs/attempt_2/learner.0.log").read_text()
    assert len(events(run, "learner", "first_update")) == 1


def in_run_directory(run: Path) -> set[str]:
    """What lies there, but for files that are being written."""
    return {path.name for path in run.iterdir() if not path.name.startswith(".")}


def in_readme() -> set[str]:
    """The words of its list of what a run directory holds."""
    text = (Path(__file__).parents[2] / "README.md").read_text()
    return set(re.split(r"[\s/]+", text.split("A run directory, `runs/NAME/`:", 1)[1].split("```")[1]))


def test_an_operator_watches_lists_and_stops_a_run_that_then_resumes(tmp_path: Path) -> None:
    job = start("train", "name=a", *SMALL, cwd=tmp_path)
    run = tmp_path / "runs/a"
    wait_for("the score before", lambda: status(run).get("state") == "scoring")
    second = acceerl("train", "resume=runs/a", cwd=tmp_path)
    assert second.returncode == 2 and f"is running (process {job.pid}): stop it first" in second.stderr
    wait_for("two updates", lambda: updates(run) >= 2)
    table = acceerl("watch", "runs/a", "once=true", cwd=tmp_path)
    assert table.returncode == 0 and "a  running  attempt 1" in table.stdout
    assert all(name in table.stdout for name in ("learner[0]", "inference[0]", "rollout[0]", "rollout[1]"))
    [line] = acceerl("ps", cwd=tmp_path).stdout.splitlines()[1:]
    assert line.split()[:2] == ["a", "running"] and line.rstrip().endswith(f":{job.pid}")
    assert in_run_directory(run) <= in_readme()
    stopped = acceerl("stop", "runs/a", cwd=tmp_path)
    assert stopped.returncode == 0 and "stopped; last checkpoint: ckpt-" in stopped.stdout, stopped.stderr
    assert job.wait(60) == 75
    assert acceerl("watch", "runs/a", cwd=tmp_path).returncode == 75
    assert acceerl("stop", "runs/a", cwd=tmp_path).returncode == 2
    saved = status(run)["counters"]["updates"]
    more = ["evaluator.after=false", f"learner.max_updates={saved + 1}"]
    assert acceerl("train", "resume=runs/a", *more, cwd=tmp_path).returncode == 0
    assert status(run)["counters"]["updates"] == saved + 1


def test_serial_and_distributed_runs_start_from_the_same_first_update(tmp_path: Path) -> None:
    """Lock-step over one rollout process leaves no freedom: equal seeds must give equal data and equal losses."""
    same = ["schedule=sync", "rollout.processes=1", "rollout.envs=4", "learner.max_updates=2", "evaluator.before=false"]
    for name, channels in (("serial", "inline"), ("distributed", "mpi")):
        overrides = [*SMALL, *same, "evaluator.after=false", f"name={name}", f"channels={channels}"]
        done = acceerl("train", *overrides, cwd=tmp_path)
        assert done.returncode == 0, done.stderr
    [serial] = events(tmp_path / "runs/serial", "learner", "first_update")
    [distributed] = events(tmp_path / "runs/distributed", "learner", "first_update")
    for key in ("decisions", "policy_loss", "value_loss", "kl", "entropy", "return", "grad_norm"):
        assert serial[key] == pytest.approx(distributed[key], rel=1e-5, abs=1e-7), key


@pytest.mark.parametrize(
    ("overrides", "says"),
    [
        (["learner.batchsize=3"], "learner.batch"),
        (["learner.batch=many"], "learner.batch"),
        (["env=tabletopp"], "tabletop"),
        (["inference.instances=3", "rollout.processes=2"], "inference.instances"),
        (["start=nowhere.pt"], "nowhere.pt"),
        (["env=libero", "env.assets=/nowhere"], "assets"),
        (["suite=spatiall"], "spatial"),
        (["resume=runs/none"], "runs/none"),
    ],
)
def test_bad_input_is_one_line_and_no_run(
    overrides: list[str], says: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["train", "name=a", "start=", *overrides]) == 2
    [line] = [text for text in capsys.readouterr().err.splitlines() if text.strip()]
    assert line.startswith("acceerl: error: ") and says in line
