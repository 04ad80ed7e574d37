"""Run directories: made once, reopened by name of their config.yaml, read back equal."""

from __future__ import annotations

import pytest

from acceerl.config import from_dict
from acceerl.runtime.rundir import Run


def test_a_run_remembers_its_configuration(tmp_path):
    config = from_dict({"runs": str(tmp_path), "name": "blue", "learner": {"lr": 3e-4}, "env": {"_target_": "a.B"}})
    run = Run.create(config)
    assert Run.open(tmp_path / "blue") == run
    assert run.config() == config


def test_a_taken_name_is_refused_and_an_unnamed_run_finds_one(tmp_path):
    Run.create(from_dict({"runs": str(tmp_path), "name": "blue"})).begin_attempt()
    with pytest.raises(ValueError, match=r"blue exists: choose another name=\.\.\., or resume="):
        Run.create(from_dict({"runs": str(tmp_path), "name": "blue"}))
    unnamed = from_dict({"runs": str(tmp_path)})
    assert Run.create(unnamed).path != Run.create(unnamed).path


def test_a_run_that_never_began_gives_its_name_back(tmp_path):
    Run.create(from_dict({"runs": str(tmp_path), "name": "blue", "start": "/mistyped.pt"}))
    assert Run.create(from_dict({"runs": str(tmp_path), "name": "blue"})).config().start == ""


@pytest.mark.parametrize(("runs", "why"), [("file", "it is a file"), ("file/below", "Not a directory")])
def test_where_no_run_can_be_names_the_key(tmp_path, runs, why):
    (tmp_path / "file").touch()
    with pytest.raises(ValueError, match=rf"runs=.*{runs}: no run can be written there \({why}\); name a folder"):
        Run.create(from_dict({"runs": str(tmp_path / runs)}))
    with pytest.raises(ValueError, match="runs=/proc/runs: no run can be written there"):
        Run.create(from_dict({"runs": "/proc/runs"}))


def test_what_is_no_run_says_so(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"is no run directory: it has no config.yaml"):
        Run.open(tmp_path)


def test_a_broken_config_or_status_is_named(tmp_path):
    run = Run.create(from_dict({"runs": str(tmp_path), "name": "blue"}))
    run.config_file.write_text("a: [")
    with pytest.raises(ValueError, match=r"config.yaml is not valid YAML"):
        run.config()
    run.status_file.write_text("{")
    with pytest.raises(ValueError, match=r"status.json is not a JSON object"):
        run.status()


def test_attempts_count_up_and_scores_stay(tmp_path):
    run = Run.create(from_dict({"runs": str(tmp_path), "name": "blue"}))
    assert (run.attempt, run.status(), run.scores()) == (0, {}, {})
    assert [run.begin_attempt() for _ in range(11)] == list(range(1, 12))
    assert run.attempt == 11
    run.write_score("before", 0.5)
    run.write_score("after", 0.75)
    assert run.scores() == {"before": 0.5, "after": 0.75}
    assert not list(run.path.glob("*.partial"))
