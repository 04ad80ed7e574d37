"""The placement table: what a configuration becomes, and which are refused by name."""

from __future__ import annotations

import pytest

from acceerl.config import from_dict
from acceerl.runtime import placement


def test_roles_are_counted_and_absent_ones_left_out():
    config = from_dict({"rollout": {"processes": 3}, "inference": {"instances": 2}})
    assert placement.processes(config) == {"learner": 1, "inference": 2, "rollout": 3}
    assert "evaluator" in placement.processes(from_dict({"evaluator": {"processes": 1}}))


def test_every_process_gets_its_threads_and_the_users_environment_wins():
    rows = {row.role: row for row in placement.rows(from_dict({"learner": {"threads": 2}}))}
    learner = rows["learner"].environment({"FI_PROVIDER": "verbs"})
    assert (learner["OMP_NUM_THREADS"], learner["FI_PROVIDER"]) == ("2", "verbs")
    rollout = rows["rollout"].environment({"MUJOCO_GL": "egl"})
    assert (rollout["MUJOCO_GL"], rollout["LP_NUM_THREADS"], rollout["FI_PROVIDER"]) == ("egl", "0", "tcp")


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        (
            {"inference": {"instances": 3}, "rollout": {"processes": 2}},
            "row inference: inference.instances=3",
        ),
        ({"learner": {"threads": 4096}}, "row learner: learner.threads=4096"),
        ({"inference": {"device": "cuda"}}, "row inference: inference.device=cuda"),
        ({"learner": {"device": "cuda:0", "ranks": 2}}, "row learner: learner.device=cuda:0 is one GPU for 2 ranks"),
    ],
)
def test_an_impossible_placement_is_refused_by_row(changes, expected, monkeypatch):
    monkeypatch.setattr(placement, "_has_gpu", lambda: False)
    with pytest.raises(ValueError, match=expected):
        placement.rows(from_dict(changes))


def test_several_learner_ranks_live_and_die_together():
    rows = {row.role: row for row in placement.rows(from_dict({"learner": {"ranks": 2}}))}
    assert (rows["learner"].count, rows["learner"].bond) == (2, "learner")
    assert not any(row.bond for row in placement.rows(from_dict({})))


def test_the_dry_run_prints_one_line_a_role():
    text = placement.table(from_dict({"rollout": {"processes": 3}}))
    assert "rollout        3       1  cpu" in text
