"""Trackers: what they are told, what a resumed run continues, and that a bad one never stops or slows a training.

The doubles are in tracker_doubles.py; the tests at the end use the real packages, offline, where they are installed.
"""

from __future__ import annotations

import math
import sys
import time
from importlib import import_module
from pathlib import Path

import pytest

from acceerl.config import from_dict
from acceerl.runtime import trackers
from acceerl.runtime.rundir import Run, read_json
from acceerl.runtime.trackers import Tracking
from tests.unit.runtime.tracker_doubles import ENTITIES, FakeMlflow, FakeWandb


@pytest.fixture
def wandb(monkeypatch):
    double = FakeWandb()
    monkeypatch.setitem(sys.modules, "wandb", double)
    return double


@pytest.fixture
def mlflow(monkeypatch):
    double = FakeMlflow()
    monkeypatch.setitem(sys.modules, "mlflow", double)
    monkeypatch.setitem(sys.modules, "mlflow.entities", ENTITIES)
    return double


@pytest.fixture
def make(tmp_path):
    def configured(tracker, **changes):
        return from_dict({"runs": str(tmp_path), "name": "blue", "tracker": tracker, **changes})

    return configured


def track(config, values=({"learner/loss": 0.5},), state="done"):
    """One attempt of a run: what was said on stderr, and the Tracking."""
    said: list[str] = []
    run = run_of(config)
    tracking = Tracking(run if run.path.exists() else Run.create(config), config, said.append)
    for step, point in enumerate(values):
        tracking.scalars(point, step)
    tracking.close(state)
    return said, tracking


def run_of(config):
    return Run(Path(config.runs) / config.name)


def test_without_a_tracker_nothing_happens(make):
    said, tracking = track(make("none"))
    assert (said, tracking._thread) == ([], None)


def test_wandb_gets_config_scalars_and_the_end(wandb, make):
    config = make("wandb", tracking={"project": "arms", "entity": "lab", "uri": "https://wandb.lab"})
    said, _ = track(config, [{"learner/loss": 0.5, "learner/kl": math.nan}, {"learner/loss": 0.25}], "stopped")
    (init,) = wandb.inits
    assert (init["project"], init["entity"], init["name"], init["id"]) == ("arms", "lab", "blue", None)
    assert init["settings"].base_url == "https://wandb.lab"
    assert init["config"]["learner"]["lr"] == config.learner.lr
    assert [(p["updates"], p["learner/loss"]) for p in wandb.logged] == [(0, 0.5), (1, 0.25)]
    assert "learner/kl" not in wandb.logged[0]
    assert wandb.finished == [0]
    assert said == ["wandb: https://example.org/run"]


def test_a_resumed_run_continues_its_tracker_run(wandb, mlflow, make):
    for state in ("stopped", "done"):
        track(make("wandb"), state=state)
    assert [init["id"] for init in wandb.inits] == [None, "fresh-id"]
    for state in ("stopped", "done"):
        track(make("mlflow"), state=state)
    assert mlflow.made == ["blue in number of acceerl"]
    assert mlflow.statuses == ["fresh-id KILLED", "fresh-id RUNNING", "fresh-id FINISHED"]
    assert read_json(run_of(make("mlflow")).tracker_file) == {"wandb": "fresh-id", "mlflow": "fresh-id"}


def test_mlflow_gets_flat_parameters_and_metrics_with_their_steps(mlflow, make):
    track(make("mlflow", seed=7), [{"run/updates": 1.0}, {"run/updates": 2.0}], "failed")
    assert mlflow.params["seed"] == "7"
    assert mlflow.params["learner.lr"] == "0.0001"
    assert [(m.key, m.value, m.step) for m in mlflow.metrics] == [("run/updates", 1.0, 0), ("run/updates", 2.0, 1)]
    assert mlflow.statuses == ["fresh-id FAILED"]


def test_a_tracker_that_blocks_holds_nobody_up_and_its_losses_are_told_once(wandb, make, monkeypatch):
    monkeypatch.setattr(trackers, "QUEUE", 4)
    monkeypatch.setattr(trackers, "CLOSE_S", 0.2)
    wandb.gate.clear()
    began = time.monotonic()
    said, tracking = track(make("wandb"), [{"x": 1.0}] * 50)
    assert time.monotonic() - began < 10, "the training waited for its tracker"
    assert 50 - 4 - 1 <= tracking.dropped <= 50
    assert [text for text in said if "training goes on without it" in text] == [
        "wandb fails, training goes on without it (it takes no more points)"]  # fmt: skip
    assert "did not finish within 0 s; leaving it behind with" in said[-1]
    wandb.gate.set()


def test_a_tracker_that_fails_later_is_told_once_and_tried_again(wandb, make):
    wandb.broken = ConnectionError("the network\n is down")
    said, tracking = track(make("wandb"), [{"x": 1.0}] * 3)
    assert said[1:] == [
        "wandb fails, training goes on without it (ConnectionError: the network is down)",
        "wandb has missed 3 points; TensorBoard and metrics/ hold them",
    ]
    assert tracking.dropped == 3
    assert wandb.finished == [0]


def test_a_tracker_that_never_begins_loses_its_points_only(wandb, make, monkeypatch):
    monkeypatch.setattr(wandb, "init", lambda **_: 1 / 0)
    said, tracking = track(make("wandb"), [{"x": 1.0}] * 2)
    assert "ZeroDivisionError" in said[0]
    assert tracking.dropped == 2


@pytest.mark.parametrize("tracker", ["wandb", "mlflow"])
def test_a_missing_package_is_refused_with_its_extra(tracker, make, monkeypatch):
    monkeypatch.setitem(sys.modules, tracker, None)
    with pytest.raises(ValueError, match=rf"tracker={tracker}: .*: pip install 'acceerl\[{tracker}\]'"):
        trackers.check(make(tracker))
    trackers.check(make("none"))


def test_wandb_without_credentials_is_refused_before_it_could_ask(wandb, make):
    wandb.mode = "online"
    with pytest.raises(ValueError, match="not logged in: `wandb login`, or WANDB_MODE=offline"):
        trackers.check(make("wandb"))
    wandb.logged_in = True
    trackers.check(make("wandb"))


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"tracker": "wandb", "channels": "inline"}, "channels=inline has none"),
        ({"tracker": "wandb", "tracking": {"project": ""}}, "tracking.project must not be empty"),
        ({"tracker": "mlflow", "tracking": {"entity": "lab"}}, "tracking.entity is wandb's"),
        ({"tracker": "neptune"}, "choose from none, wandb, mlflow"),
    ],
)
def test_what_a_tracker_cannot_do_is_refused(changes, says):
    with pytest.raises(ValueError, match=says):
        from_dict(changes)


@pytest.mark.tracker("wandb")
def test_the_real_wandb_takes_it_offline(make, monkeypatch, tmp_path):
    monkeypatch.setenv("WANDB_MODE", "offline")
    config = make("wandb")
    trackers.check(config)
    for state in ("stopped", "done"):
        said, tracking = track(config, [{"learner/loss": 0.5}, {"learner/loss": math.inf}], state)
        assert (tracking.dropped, len(said)) == (0, 1)
    folders = list((tmp_path / "blue" / "wandb").glob("offline-run-*"))
    number = read_json(tmp_path / "blue" / "tracker.json")["wandb"]
    assert folders and all(folder.name.endswith(number) for folder in folders)


@pytest.mark.tracker("mlflow")
def test_the_real_mlflow_takes_it_into_files(make, monkeypatch, tmp_path):
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    uri = (tmp_path / "mlruns").as_uri()
    config = make("mlflow", tracking={"uri": uri})
    trackers.check(config)
    for state in ("stopped", "done"):
        said, tracking = track(config, [{"learner/loss": 0.5}, {"learner/loss": 0.25}], state)
        assert (tracking.dropped, len(said)) == (0, 1)
    client = import_module("mlflow").MlflowClient(tracking_uri=uri)
    number = read_json(tmp_path / "blue" / "tracker.json")["mlflow"]
    assert [(m.value, m.step) for m in client.get_metric_history(number, "learner/loss")] == [(0.5, 0), (0.25, 1)] * 2
    assert client.get_run(number).data.params["learner.lr"] == str(config.learner.lr)
    assert client.get_run(number).info.status == "FINISHED"
