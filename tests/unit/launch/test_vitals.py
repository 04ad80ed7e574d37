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


def test_a_learner_that_resumes_at_500_updates_has_not_made_them_now():
    now = time.time()
    fresh = Record("rollout", 0, 1, last_heartbeat=now - 1, counters={"counters": {}})
    assert fed(fresh, record(now, 500))["rate"] is None
