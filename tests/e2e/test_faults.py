"""The drills at a reduced size: every promise is checked, except those that depend on the speed of the machine."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.e2e.drills.cuts import registry_cut
from tests.e2e.drills.kills import each_role, rollouts, supervisor
from tests.e2e.drills.stops import stop_signal

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(600)]


def test_the_learner_does_not_notice_killed_rollouts(tmp_path: Path) -> None:
    assert not rollouts(tmp_path, minutes=0.25, every=5, world="latency").failed()


def test_a_training_outlives_a_kill_of_each_role(tmp_path: Path) -> None:
    assert not each_role(tmp_path, kills=4, minutes=0.4).failed()


def test_nothing_outlives_the_supervisor_and_the_run_resumes(tmp_path: Path) -> None:
    assert not supervisor(tmp_path).failed()


def test_frozen_processes_are_named_and_replaced(tmp_path: Path) -> None:
    assert not stop_signal(tmp_path, targets="rollout,learner,proxy", heartbeat=5).failed()


def test_a_cut_line_to_the_registry_costs_nobody_a_life(tmp_path: Path) -> None:
    assert not registry_cut(tmp_path, outage=3).failed()
