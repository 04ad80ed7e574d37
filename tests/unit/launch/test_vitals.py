"""Rates and waits over a window: smooth over heartbeats, apart between lives, honest about silence."""

from __future__ import annotations

import time

import pytest

from acceerl.launch import vitals
from acceerl.launch.vitals import Vitals
from acceerl.runtime.registry import Record

KEY = ("rollout", 0)


def record(at, count, life=1, waiting=0.5, role="rollout"):
    counters = {"counters": {"env_steps": count}, "waiting": {"inference": waiting}, "rss_mb": 100.0}
    return Record(role, 0, life, last_heartbeat=at, counters=counters)


def fed(*records):
    seen = Vitals()
    for one in records:
        seen.take({KEY: one})
    return seen.row(KEY, records[-1])


def test_a_rate_spans_the_window_and_waits_are_means():
    now = time.time()
    row = fed(record(now - 4, 100, waiting=0.2), record(now - 2, 100, waiting=0.4), record(now, 180, waiting=0.6))
    assert row == {"rate": 20.0, "of": "env_steps", "waiting": {"inference": 0.4}, "memory_mb": 100.0}


def test_a_heartbeat_that_was_seen_already_counts_once():
    now = time.time()
    row = fed(record(now - 2, 0, waiting=0.0), record(now, 10, waiting=1.0), record(now, 10, waiting=1.0))
    assert (row["rate"], row["waiting"]) == (5.0, {"inference": 0.5})


def test_a_new_life_begins_anew():
    now = time.time()
    assert fed(record(now - 4, 100), record(now - 2, 900), record(now, 3, life=2))["rate"] is None


def test_a_process_that_fell_silent_slows_down(monkeypatch):
    monkeypatch.setattr(vitals, "WINDOW", 20.0)
    long_ago = time.time() - 120
    assert fed(record(long_ago - 10, 0), record(long_ago, 100))["rate"] == pytest.approx(0.9, abs=0.1)


def test_what_is_not_running_has_no_rate():
    seen = Vitals()
    seen.take({KEY: record(time.time(), 5)})
    assert seen.row(KEY, None) == {"rate": None, "of": "env_steps", "waiting": {}, "memory_mb": None}


def ranks(at, updates, life=1, alive=True):
    """Rank 0 counts, rank 1 beats half a second later."""
    first = Record("learner", 0, life, last_heartbeat=at, counters={"counters": updates}, alive=alive)
    waiting = {"counters": {}, "waiting": {"batches": 0.5}, "rss_mb": 7.0}
    return {
        ("learner", 0): first,
        ("learner", 1): Record("learner", 1, life, last_heartbeat=at + 0.5, counters=waiting),
    }


def test_every_learner_rank_has_the_rate_of_the_updates_that_all_make_together():
    now, seen = time.time(), Vitals()
    for at, updates in ((now - 10, 500), (now - 5, 510), (now - 0.5, 519)):
        records = ranks(at, {"updates": updates})
        seen.take(records)
    rows = [seen.row(key, record) for key, record in records.items()]
    assert [row["rate"] for row in rows] == [2.0, 2.0]
    assert rows[1] == {"rate": 2.0, "of": "updates", "waiting": {"batches": 0.5}, "memory_mb": 7.0}


def test_a_rank_does_not_count_what_the_life_before_of_rank_0_made():
    now, seen = time.time(), Vitals()
    seen.take(ranks(now - 3, {"updates": 500}))
    for at, updates, alive in (
        (now - 2, {"updates": 500}, False),
        (now - 1, {}, True),
        (now - 0.5, {"updates": 480}, True),
    ):
        records = ranks(at, updates, life=2, alive=alive)
        seen.take(records)
    assert seen.row(("learner", 1), records["learner", 1])["rate"] is None


def test_a_learner_that_resumes_at_500_updates_has_not_made_them_now():
    now = time.time()
    fresh = Record("rollout", 0, 1, last_heartbeat=now - 1, counters={"counters": {}})
    assert fed(fresh, record(now, 500))["rate"] is None
