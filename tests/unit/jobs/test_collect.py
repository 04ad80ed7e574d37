"""What `acceerl collect` says and returns: counts, what is there already, giving up, weights that nobody chose."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from acceerl.config import Config, from_dict, to_dict
from acceerl.jobs import collect
from acceerl.jobs.build import RANDOM
from acceerl.runtime.rundir import Run
from acceerl.types import EnvSpec, Observation, StepResult

SPEC = EnvSpec(("front",), (8, 8), 2, 3, ("task a", "task b"), (2, 2), range(10, 90), range(10))


class Plain:
    """Two tasks of two steps; `solved` ones succeed."""

    spec = SPEC

    def __init__(self, solved: list[int] | None = None) -> None:
        self.solved, self.task, self.steps = solved or [], 0, 0

    def reset(self, task: int, init_state: int, seed: int) -> None:
        self.task, self.steps = task, 0

    def step(self, action: np.ndarray) -> StepResult:
        self.steps += 1
        ended, won = self.steps == 2, self.task in self.solved
        return StepResult(float(ended and won), ended and won, ended and not won)

    def observe(self) -> Observation:
        frame = np.full((8, 8, 3), self.steps, np.uint8)
        return Observation({"front": frame}, np.zeros(2, np.float32), SPEC.instructions[self.task])

    def state(self) -> np.ndarray:
        return np.zeros(1)

    def close(self) -> None:
        """There is nothing to free."""


class Still:
    """An expert that does nothing."""

    def __init__(self, env: Plain) -> None:
        pass

    def reset(self) -> None:
        """It remembers nothing."""

    def act(self) -> np.ndarray:
        return np.zeros(3, np.float32)


def config(folder: Path, solved: tuple[int, ...] = (0, 1), seed: int = 0, **wanted: object) -> Config:
    here = "tests.unit.jobs.test_collect"
    env = {"_target_": f"{here}.Plain", "solved": list(solved)}
    wanted = {"expert": {"_target_": f"{here}.Still"}, "to": str(folder / "shards"), **wanted}
    return from_dict({"seed": seed, "runs": str(folder), "suite": "plain", "env": env, "collect": wanted})


def collected(chosen: Config, capsys: pytest.CaptureFixture[str]) -> tuple[int, list[str]]:
    code = collect.run(chosen, Run.create(chosen))
    return code, capsys.readouterr().out.splitlines()


def test_the_counts_come_and_a_second_start_says_what_is_there(tmp_path, capsys):
    shards = tmp_path / "shards"
    lines = [f"{shards}: 6 episodes, 12 control steps, 100.0 % successful, 1 shard"]
    assert collected(config(tmp_path, episodes=6), capsys) == (0, lines)
    again = f"{shards} holds 6 episodes; asked for 4 episodes of 2 tasks: nothing to do"
    assert collected(config(tmp_path, episodes=4), capsys) == (0, [again, *lines])
    assert collect.planned(config(tmp_path, episodes=9), None).splitlines() == [
        "collect of plain by expert, 1 worker here; no links",
        f"{shards} holds 6 episodes; asked for 9 episodes of 2 tasks: 3 to go",
    ]
    code, (first, _) = collected(config(tmp_path, seed=1, episodes=1, tasks=[1]), capsys)
    assert code == 0
    assert first == f"{shards} holds 6 episodes, 0 of them of seed=1; asked for 1 episode of 1 task: 1 to go"


def test_a_dry_run_counts_what_is_wanted_of_each_class(tmp_path):
    said = collect.planned(config(tmp_path, successes=3, failures=2, parts=2), None)
    assert said.endswith("asked for 3 successes and 2 failures of each of 2 tasks in 2 parts: 6 to go")
    assert not (tmp_path / "shards").exists()


def test_a_collection_without_an_episode_says_what_was_asked_and_why_it_gave_up(tmp_path, capsys):
    shards = tmp_path / "shards"
    assert collected(config(tmp_path, solved=(), successes=2, tries=3, tasks=[1]), capsys) == (1, [
        f"{shards}: no episode; asked for 2 successes and 0 failures of each of 1 task",
        "given up: 'task b' lacks 2 successes and 0 failures after 3 tries for each that is wanted (raise "
        "collect.tries, or vary collect.noise)",
    ])  # fmt: skip
    assert collected(config(tmp_path, solved=(), episodes=4, only_successes=True), capsys) == (1, [
        f"{shards}: no episode; asked for 4 episodes of 2 tasks, successes alone: none succeeded",
    ])  # fmt: skip


def test_what_came_before_it_was_given_up_is_kept(tmp_path, capsys):
    """One try for each that is wanted, and a failure never comes: the tries end with the last success."""
    code, lines = collected(config(tmp_path, successes=2, failures=1, tries=1, tasks=[0]), capsys)
    assert code == 1 and lines[0].endswith("shards: 2 episodes, 4 control steps, 100.0 % successful, 1 shard")
    assert "given up: 'task a' lacks 0 successes and 1 failure" in lines[1]
    code, lines = collected(config(tmp_path, successes=2, failures=0, tries=1, tasks=[0]), capsys)
    assert code == 0 and "nothing to do" in lines[0]


def test_a_start_of_which_every_try_was_played_gives_up_again(tmp_path, capsys):
    wanted = {"successes": 1, "failures": 1, "tries": 1, "tasks": [0]}
    assert collected(config(tmp_path, solved=(), successes=0, failures=2, tries=1, tasks=[0]), capsys)[0] == 0
    code, lines = collected(config(tmp_path, **wanted), capsys)
    assert code == 1 and lines[0].endswith("of each of 1 task: every try was played")
    assert "lacks 1 success and 0 failures" in lines[-1]


def test_a_policy_plays_the_weights_that_somebody_chose(tmp_path):
    chosen = config(tmp_path, by="policy")
    tiny = {"_target_": "acceerl.policies.tiny.TinyPolicy", "chunk": 8, "bins": 256}

    def asked(start: str = "", **policy: object) -> str:
        return collect.planned(from_dict({**to_dict(chosen), "start": start, "policy": {**tiny, **policy}}), None)

    with pytest.raises(
        ValueError, match="by=policy without start= plays random weights: give start=FILE, or start=ran"
    ):
        asked()
    for said in (asked("tabletop_spatial"), asked(RANDOM), asked(checkpoint="folder"), asked(random="tiny")):
        assert said.startswith("collect of plain by policy")


def test_a_file_is_no_folder_for_shards(tmp_path):
    there = tmp_path / "notes.txt"
    there.write_text("mine")
    with pytest.raises(ValueError, match=f"collect.to={there} is a file"):
        collect.planned(config(tmp_path, to=str(there)), None)
    assert there.read_text() == "mine"
