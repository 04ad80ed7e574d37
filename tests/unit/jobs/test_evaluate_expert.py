"""`evaluate evaluator.by=expert` on the embedded suite: the table, the states that it plays, and what it refuses."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from acceerl.config import Config
from acceerl.jobs import evaluate
from acceerl.jobs.build import make_env
from acceerl.jobs.evaluate_expert import plan
from acceerl.launch.compose import compose
from acceerl.runtime.rundir import Run


def config(folder: Path, *overrides: str) -> Config:
    return compose("evaluate", ["env=tabletop", "env.image_size=16", "evaluator.by=expert", "evaluator.episodes=20",
                                "evaluator.videos=1", f"runs={folder}", *overrides])  # fmt: skip


def test_the_table_of_the_expert_and_one_film(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    chosen = config(tmp_path)
    run = Run.create(chosen)
    assert evaluate.run(chosen, run) == 0
    assert "success 100.0 %" in capsys.readouterr().out
    scores = json.loads((run.path / "evaluation/expert.json").read_text())
    assert scores["episodes"] == 20 and [row["episodes"] for row in scores["tasks"]] == [2] * 10
    assert [path.name for path in run.videos.iterdir()] == ["expert-task0-state100000-success.mp4"]


@pytest.mark.parametrize("states", ["evaluation", "training"])
def test_task_by_task_on_the_states_asked_for(tmp_path: Path, states: str) -> None:
    spec = make_env(config(tmp_path)).spec
    episodes = plan(config(tmp_path, f"evaluator.states={states}"), spec)
    assert [a.task for a in episodes] == [task for task in range(10) for _ in range(2)]
    assert {a.init_state for a in episodes} <= set(
        getattr(spec, f"{'eval' if states == 'evaluation' else 'train'}_states")
    )
    assert len({(a.task, a.init_state) for a in episodes}) == 20


def test_a_policy_is_scored_on_evaluation_states_only(tmp_path: Path) -> None:
    chosen = config(tmp_path, "policy=tiny", "evaluator.by=policy", "evaluator.states=training", "start=random")
    with pytest.raises(ValueError, match=r"evaluator\.states=training"):
        evaluate.run(chosen, Run.create(chosen))


@pytest.mark.parametrize("inside", ["env", "world_model"])
def test_whoever_forgets_the_policy_is_told(tmp_path: Path, inside: str) -> None:
    chosen = config(tmp_path, "policy=tiny", "evaluator.by=policy", f"evaluator.inside={inside}")
    with pytest.raises(ValueError, match="evaluate without start= plays random weights: give start=FILE, or start=ran"):
        evaluate.run(chosen, Run.create(chosen))
