"""All six roles with real processes: pretraining from HDF5, dreams that train the policy, and deaths among them."""

from __future__ import annotations

import json
import signal
from pathlib import Path

import pytest

from acceerl.launch.cli import main
from tests.e2e.running import acceerl, events, kill, process, start, status, updates, wait_for

pytestmark = [pytest.mark.e2e, pytest.mark.beside, pytest.mark.timeout(400)]
TINY = ["env=tabletop", "policy=tiny", "world_model=regression", "env.image_size=32", "world_model.channels=8",
        "world_model.blocks=1", "world_model.condition=32", "success_model.channels=8", "success_model.members=2",
        "world_model.precision=float32", "start=", "rollout.processes=1", "rollout.envs=2", "learner.batch=32",
        "learner.micro_batch=32", "inference.max_batch=2", "learner.checkpoint_every=5", "evaluator.before=false",
        "evaluator.after=false", "dreamer.batch=8", "dreamer.horizon=3", "replay.samples_per_insert=8",
        "pretrain.body_steps=100", "pretrain.success_steps=20"]  # fmt: skip


@pytest.fixture(scope="module")
def pretrained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with data/ and runs/world, whose models have learnt next to nothing."""
    folder = tmp_path_factory.mktemp("imagination")
    made = acceerl("collect", "env=tabletop", "env.image_size=32", "collect.episodes=24", "collect.noise=1.0",
                   "collect.noise_share=0.5", "collect.to=data", cwd=folder)  # fmt: skip
    assert made.returncode == 0, made.stderr
    trained = acceerl("pretrain", "world_model", *TINY, "name=world", "pretrain.data=data", "pretrain.steps=6",
                      "pretrain.batch=8", "pretrain.held_out=0.2", cwd=folder)  # fmt: skip
    assert trained.returncode == 0, trained.stderr
    return folder


def test_pretraining_judges_both_models_on_held_out_episodes(pretrained: Path) -> None:
    quality = json.loads((pretrained / "runs/world/quality.json").read_text())
    assert quality["episodes"] >= 3
    for name in ("psnr.1", "ssim.8", "changed_over_copying.8", "success_pr_auc", "false_endings"):
        assert quality[name] == quality[name], f"{name} is not a number"
    assert len(list((pretrained / "runs/world/videos").glob("imagined_*.mp4"))) == min(4, quality["episodes"])


def test_a_policy_trains_on_dreams_alone_and_survives_deaths(pretrained: Path) -> None:
    job = start("train", *TINY, "name=a", "world.start=runs/world/world.pt", "world.data=data", cwd=pretrained)
    run = pretrained / "runs/a"
    wait_for("two updates", lambda: updates(run) >= 2, 180)
    kill(run, "dreamer")
    wait_for("the dreamer's restart", lambda: process(run, "dreamer")["restarts"] == 1)
    wait_for("a checkpoint of the world model", lambda: events(run, "world_model", "checkpoint"))
    kill(run, "world_model")
    wait_for("the world model's restart", lambda: process(run, "world_model")["restarts"] == 1)
    reached = updates(run)
    wait_for("updates after both", lambda: updates(run) >= reached + 3, 180)
    job.send_signal(signal.SIGTERM)
    assert job.wait(120) == 75, (pretrained / "stdout.txt").read_text()
    counters = status(run)["counters"]
    assert status(run)["state"] == "stopped"
    assert counters["env_steps"] > 0
    assert "resumed from" in (run / "logs/attempt_1/world_model.0.log").read_text()


def test_success_inside_the_dream_stands_beside_the_real_one(pretrained: Path) -> None:
    done = acceerl("evaluate", *TINY, "in=world_model", "world.start=runs/world/world.pt", "evaluator.episodes=10",
                   "start=random", "evaluator.envs=4", "name=inside", cwd=pretrained)  # fmt: skip
    assert done.returncode == 0, done.stderr
    [row] = json.loads((pretrained / "runs/inside/evaluation/imagined.json").read_text())["policies"]
    assert row["episodes"] == 10 and 0 <= row["imagined"] <= 1 and 0 <= row["real"] <= 1


def test_the_speed_of_pretrained_models_is_measured_as_they_are(pretrained: Path) -> None:
    """Frames of 32 pixels do not fit the models that the benchmark makes by itself."""
    done = acceerl("bench", "imagine", "start=runs/world/world.pt", "batches=1,8", "seconds=0.1", "rounds=1",
                   "json=speed.json", cwd=pretrained)  # fmt: skip
    assert done.returncode == 0, done.stderr
    figures = json.loads((pretrained / "speed.json").read_text())["figures"]
    ahead = figures["imagine.regression.steps_per_s"] / figures["imagine.regression.frames_per_s"]
    assert ahead == pytest.approx(8), "a frame of these models covers a chunk"
    assert figures["imagine.regression.frames_per_s_at_8"] > 0


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["env.image_size=64"], "set env.image_size"),
        (["pretrain.held_out=2"], "pretrain.held_out must be between 0 and 1"),
        (["pretrain.data=nowhere"], "no such file or folder"),
        (["world_model.stride=3"], "must divide policy.chunk"),
        (["world_model.proprio=false"], "reads 8 entries of proprioception"),
        (["pretrain.ticks=40"], "pretrain.ticks needs 41: lower it"),
        (["world_model.context=40"], "world_model.context needs 40: lower it"),
    ],
)
def test_what_does_not_fit_gets_one_line(
    pretrained: Path, words: list[str], says: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(pretrained)
    assert main(["pretrain", "world_model", *TINY, "pretrain.data=data", "pretrain.steps=1", *words]) == 2
    said = capsys.readouterr().err
    assert says in said and "Traceback" not in said
