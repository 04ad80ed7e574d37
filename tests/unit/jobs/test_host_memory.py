"""What a process takes of its node's memory, and that one which was promised less is refused before it is submitted."""

from __future__ import annotations

import json

import pytest

from acceerl.config import Config
from acceerl.jobs import host_memory
from acceerl.launch.compose import compose
from tests.unit.policies import openvla_recipe as recipe

PICTURE = 256 * 256 * 3


def config(*words: str, suite: str = "spatial") -> Config:
    return compose("train", [f"experiment=libero_{suite}_openvla_oft", "launch=slurm", *words])


@pytest.fixture
def checkpoint(tmp_path) -> str:
    (tmp_path / "config.json").write_text(json.dumps(recipe.config()))
    return f"policy.checkpoint={tmp_path}"


@pytest.mark.parametrize(("suite", "decisions"), [("spatial", 28), ("10", 64)])
def test_the_papers_replay_fits_what_the_experiment_asks_for(suite, decisions, checkpoint):
    made = config(checkpoint, suite=suite)
    assert host_memory.needed(made)["learner"]["replay"] == 1000 * (decisions + 1) * PICTURE
    host_memory.check(made)
    assert [line.split()[2] for line in host_memory.lines(made)] == ["learner", "inference"]


def test_a_replay_that_slurm_would_kill_the_learner_for_is_refused(checkpoint):
    with pytest.raises(ValueError) as refused:
        host_memory.check(config(checkpoint, "placement.learner_memory=4000"))
    said = str(refused.value)
    assert said.startswith("placement row learner: needs 6,7") and said.endswith("raise it, or lower replay.capacity")
    host_memory.check(config(checkpoint, "placement.learner_memory=4000", "learner.ranks=4"))
    host_memory.check(config(checkpoint, "placement.learner_memory=4000", "replay.capacity=300"))


def test_short_episodes_take_little_and_of_unknown_ones_nothing_is_said():
    tabletop = compose("train", ["launch=slurm", "replay.capacity=5000"])
    assert host_memory.needed(tabletop)["learner"]["replay"] == 5000 * (5 + 1) * 2 * 64 * 64 * 3
    unknown = compose("train", ["launch=slurm", "env=latency", "policy=mlp", "replay.capacity=1000000"])
    assert host_memory.needed(unknown)["learner"]["replay"] == 0


def test_weights_that_are_copied_while_they_are_made_count():
    made = config("policy.random=7b", "policy.tune=full")
    said = r"row learner: needs 36,\d\d\d MB of its node \(5,702 replay \+ 29,\d\d\d policy \+ 1,000 libraries\)"
    with pytest.raises(ValueError, match=said):
        host_memory.check(made)
    half = config("policy.random=7b", "placement.learner_memory=30000")
    with pytest.raises(
        ValueError, match=r"row inference: needs 16,\d\d\d MB .*placement\.inference_memory=6000 .*raise it$"
    ):
        host_memory.check(half)


def test_a_small_policy_and_this_machine_are_left_alone():
    host_memory.check(compose("train", ["launch=slurm", "learner.device=cuda"]))
    host_memory.check(config("launch=local", "policy.random=7b"))
    assert host_memory.lines(config("launch=local")) == []
