"""When a process that ended is started again, and when that is given up. The clock is the test's own."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from acceerl.config import Supervisor as RestartRules
from acceerl.launch import lives
from acceerl.launch.lives import LONGEST_BACKOFF, Child
from acceerl.runtime.placement import Row

PATIENT = RestartRules(crash_limit=1000)


@pytest.fixture
def die(monkeypatch):
    """`die(child, lived, rules)`: starts a life when it is due, ends it after `lived` seconds, tells what follows."""
    clock = SimpleNamespace(now=1000.0)
    monkeypatch.setattr(lives, "time", SimpleNamespace(monotonic=lambda: clock.now))

    def die(child: Child, lived: float, rules: RestartRules = PATIENT) -> float | str:
        child.started = clock.now = max(clock.now, child.due)
        clock.now += lived
        if child.crashed(rules):
            return "hopeless"
        child.again(child.backoff(rules))
        return child.due - clock.now

    return die


@pytest.fixture
def child():
    return Child(Row("rollout", 1, 1), 0)


def test_who_is_killed_at_work_starts_again_at_once_however_often(die, child):
    assert [die(child, 14.0) for _ in range(20)] == [0.0] * 20


def test_who_dies_at_the_start_waits_longer_and_longer(die, child):
    assert [die(child, 2.0) for _ in range(8)] == [1.0, 2.0, 4.0, 8.0, 16.0, 32.0, LONGEST_BACKOFF, LONGEST_BACKOFF]


def test_a_useful_life_forgives_the_useless_ones_before(die, child):
    assert [die(child, lived) for lived in (1.0, 1.0, 30.0, 1.0)] == [1.0, 2.0, 0.0, 1.0]


@pytest.mark.parametrize("lived", [0.1, 9.0, 14.0, 50.0])
def test_a_crash_loop_ends_the_run_however_long_its_lives_within_the_window(die, child, lived):
    told = [die(child, lived, RestartRules()) for _ in range(5)]
    assert told[-1] == "hopeless" and "hopeless" not in told[:-1]


def test_lives_longer_than_the_window_are_no_loop(die, child):
    assert [die(child, 61.0, RestartRules()) for _ in range(20)] == [0.0] * 20
