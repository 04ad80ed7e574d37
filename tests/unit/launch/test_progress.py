"""Totals over restarts and attempts, the line for terminals and logs, and TensorBoard's tags."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from acceerl.launch.progress import LogLines, Progress, Totals, latest_gauge, scalars


@dataclass
class Reported:
    counted: dict[str, float]
    incarnation: int = 1
    gauges: dict[str, Any] = field(default_factory=dict)

    @property
    def counters(self) -> dict[str, Any]:
        return {"counters": self.counted, "gauges": self.gauges, "rates": {"n": 2.0}, "waiting": {"learner": 0.5}}


def test_a_restarted_process_loses_no_counts():
    totals = Totals({"env_steps": 1000, "updates": 50})
    totals.take({("rollout", 0): Reported({"env_steps": 80}), ("rollout", 1): Reported({"env_steps": 8})})
    totals.take({("rollout", 0): Reported({"env_steps": 16}, incarnation=2)})
    assert totals.counters()["env_steps"] == 1000 + 80 + 8 + 16
    assert totals.counters()["updates"] == 50


def test_the_learner_speaks_for_updates_and_versions():
    totals = Totals({"updates": 50, "policy_version": 50})
    totals.take({("learner", 0): Reported({"updates": 52})})
    assert (totals.counters()["updates"], totals.counters()["policy_version"]) == (52, 52)


def test_other_learner_ranks_do_not_count_again():
    totals = Totals({"updates": 50})
    totals.take({("learner", 0): Reported({"updates": 52}), ("learner", 1): Reported({"updates": 7})})
    assert totals.counters()["updates"] == 52


def test_only_one_role_counts_each_counter():
    totals = Totals({})
    totals.take({("inference", 0): Reported({"decisions": 5}), ("evaluator", 0): Reported({"env_steps": 5})})
    assert (totals.counters()["decisions"], totals.counters()["env_steps"]) == (5, 0)


def test_gauges_are_means_over_the_processes_that_know_them():
    records = {
        ("learner", 0): Reported({}, gauges={"lag": 1.0}),
        ("learner", 1): Reported({}, gauges={"lag": 3.0, "loss": None}),
    }
    assert latest_gauge(records, "learner", "lag") == 2.0
    assert latest_gauge(records, "learner", "loss") is None
    assert scalars(records) == {"learner/lag": 2.0, "learner/n_per_s": 2.0, "learner/waiting_for_learner": 0.5}


def test_a_gauge_is_remembered_between_two_updates():
    totals = Totals({})
    totals.take({("learner", 0): Reported({}, gauges={"success": 0.5, "lag": 1.0})})
    totals.take({("learner", 0): Reported({})})
    assert (totals.success, totals.lag) == (0.5, 1.0)


def test_a_quiet_log_gets_its_line_all_the_same():
    said: list[str] = []
    LogLines(every=0, say=said.append)(Progress("running", 1, {}))
    assert said[0].endswith("running  updates 0 (0.0/s)  decisions 0 (0.0/s)  env steps 0 (0.0/s)")


def test_a_log_gets_one_line_a_minute():
    said: list[str] = []
    show = LogLines(every=60, say=said.append)
    show(Progress("running", 1, {"updates": 40}))
    assert not said, "a resumed run has counters, but nothing happens yet"
    for _ in range(3):
        show(Progress("running", 1, {"updates": 49}, {"updates": 0.9}, success=0.5, lag=1.5, restarts=2))
    (line,) = said
    assert line.endswith("success 50.0 %  lag 1.5  restarts 2")
