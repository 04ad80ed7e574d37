"""The train flow around the processes: scores before and after, resuming, and the last line."""

from __future__ import annotations

import json
import os
import signal

import pytest

from acceerl.config import from_dict
from acceerl.jobs import evaluate
from acceerl.launch import machine, train
from acceerl.launch.leader import whoami
from acceerl.runtime.rundir import Run
from acceerl.runtime.stop import DONE, STOPPED

ENV = {"_target_": "acceerl.envs.latency.LatencyEnv"}


@pytest.fixture
def flow(tmp_path, monkeypatch):
    """Plays a training whose processes are imagined; `flow.codes` is what supervising returns, in turn."""

    class Flow:
        def __init__(self):
            self.codes, self.scored = [DONE], []

        def config(self, **changes):
            return from_dict({"runs": str(tmp_path), "name": "blue", "env": ENV, **changes})

    flow = Flow()
    success = {"before": 0.52, "after": 0.715}
    monkeypatch.setattr(
        evaluate, "score", lambda c, r, w, label, leave: flow.scored.append((label, w)) or success[label]
    )

    def supervise(run, config, show, **_):
        code = flow.codes.pop(0)
        run.write_status({"state": {DONE: "done", STOPPED: "stopped"}.get(code, "failed"), "supervisor": whoami()})
        return code

    monkeypatch.setattr(train, "supervise", supervise)
    return flow


def test_the_last_line_compares_before_and_after(flow, capsys, tmp_path):
    assert train.train(flow.config(json=str(tmp_path / "out.json"))) == DONE
    assert capsys.readouterr().out.splitlines()[-1] == "success before RL 52.0 %, after RL 71.5 %"
    assert flow.scored == [("before", None), ("after", tmp_path / "blue" / "policy.pt")]
    figures = json.loads((tmp_path / "out.json").read_text())["figures"]
    assert figures["train.success_after"] == 0.715


def test_a_file_for_figures_that_cannot_be_is_refused_before_anything_is_made(flow, tmp_path):
    with pytest.raises(ValueError, match="give a file in a folder that exists"):
        train.train(flow.config(json=str(tmp_path / "nowhere" / "out.json")))
    assert not flow.scored
    assert not (tmp_path / "blue").exists()


def test_a_stopped_run_says_how_to_go_on_and_resumes_without_scoring_before_again(flow, capsys, tmp_path):
    flow.codes = [STOPPED, DONE]
    assert train.train(flow.config()) == STOPPED
    assert f"to continue: acceerl train resume={tmp_path / 'blue'}" in capsys.readouterr().out
    config, resumed = train.prepare("train", [f"resume={tmp_path / 'blue'}", "learner.max_updates=7"])
    assert train.train(config, resumed) == DONE
    assert [label for label, _ in flow.scored] == ["before", "after"]
    assert Run.open(tmp_path / "blue").config().learner.max_updates == 7


def test_a_crash_is_not_scored(flow):
    flow.codes = [1]
    assert train.train(flow.config()) == 1
    assert [label for label, _ in flow.scored] == ["before"]


def test_a_running_run_is_not_resumed(flow, tmp_path):
    run = Run.create(flow.config())
    run.write_status({"state": "running", "supervisor": whoami()})
    with pytest.raises(ValueError, match=f"is running \\(process {os.getpid()}\\): stop it first"):
        train.prepare("train", [f"resume={run.path}"])


def test_an_impossible_placement_is_refused_before_anything_is_made(flow, tmp_path):
    with pytest.raises(ValueError, match="placement row inference"):
        train.train(flow.config(inference={"instances": 9}))
    assert not (tmp_path / "blue").exists()


def test_a_missing_mpiexec_is_refused_before_anything_is_made(flow, tmp_path, monkeypatch):
    monkeypatch.setattr(machine.sys, "executable", str(tmp_path / "python"))
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(FileNotFoundError, match="no mpiexec found"):
        train.train(flow.config())
    assert not (tmp_path / "blue").exists()


def test_a_signal_between_the_scores_is_heard_where_it_is_asked_for_and_not_before():
    """Raised from a handler it would be lost wherever Python runs a callback, say while it forks."""
    with train._told_to_leave() as leave:
        leave()  # nobody has asked
        os.kill(os.getpid(), signal.SIGTERM)
        with pytest.raises(SystemExit, match=str(STOPPED)):
            leave()


def test_a_second_signal_does_not_wait():
    with train._told_to_leave():
        os.kill(os.getpid(), signal.SIGINT)
        with pytest.raises(SystemExit, match=str(STOPPED)):
            os.kill(os.getpid(), signal.SIGINT)


def test_a_checkpoint_that_cannot_be_loaded_is_refused_before_processes_start(flow, tmp_path):
    """Unscored trainings too: a learner and an inference that restart five times each are no error message."""
    policy = {"_target_": "acceerl.policies.openvla_oft.OpenVlaOftPolicy", "chunk": 8, "bins": 256,
              "checkpoint": str(tmp_path / "nowhere")}  # fmt: skip
    env = {"_target_": "acceerl.envs.tabletop.TabletopEnv", "image_size": 16}
    with pytest.raises(ValueError, match=r"nowhere/config\.json is missing"):
        train.train(flow.config(policy=policy, env=env, evaluator={"before": False}))
