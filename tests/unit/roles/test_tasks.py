"""Which task comes next: in proportion to the weights, and seldom another one for the same environment."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest

from acceerl.roles.tasks import EvaluationTasks, TrainingTasks
from acceerl.types import EnvSpec, EpisodeResult

SPEC = EnvSpec(("front",), (2, 2), 1, 2, ("a", "b", "c", "d"), (10,) * 4, range(50), range(50, 60))


def switches(played: list[int]) -> int:
    return sum(a != b for a, b in pairwise(played))


@pytest.mark.parametrize("stint", [1, 8])
def test_tasks_are_played_in_proportion_to_their_weights(stint: int) -> None:
    tasks = TrainingTasks(SPEC, seed=0, stint=stint)
    tasks.weights = np.array([1.0, 2.0, 3.0, 4.0])
    played = [tasks.next(slot).task for _ in range(3_200) for slot in range(5)]
    shares = np.bincount(played, minlength=4) / len(played)
    np.testing.assert_allclose(shares, tasks.weights / 10, atol=0.03)


def test_an_environment_stays_with_a_task_for_its_stint() -> None:
    tasks = TrainingTasks(SPEC, seed=0, stint=8)
    episodes = [(tasks.next("a").task, tasks.next("b").task) for _ in range(800)]
    for played in map(list, zip(*episodes, strict=True)):
        assert switches(played) <= 100
        for begin in range(0, 800, 8):
            assert len(set(played[begin : begin + 8])) == 1


def test_a_stint_of_one_draws_for_each_episode() -> None:
    tasks = TrainingTasks(SPEC, seed=0)
    assert switches([tasks.next(0).task for _ in range(100)]) > 50


def test_new_weights_hold_from_the_next_stint_on() -> None:
    tasks = TrainingTasks(SPEC, seed=0, stint=3)
    first = tasks.next(0).task
    tasks.weights = np.eye(4)[(first + 1) % 4]
    assert [tasks.next(0).task for _ in range(3)] == [first, first, (first + 1) % 4]


def test_evaluators_share_the_tasks_out_and_stay_with_them() -> None:
    tasks = EvaluationTasks(SPEC, 40, lambda version, results: None)
    tasks.swapped(1)
    played: dict[int, list[int]] = {0: [], 1: []}
    states = set()
    while (assignment := tasks.next(slot := len(states) % 2)) is not None:
        played[slot].append(assignment.task)
        states.add((assignment.task, assignment.init_state))
    assert states == {(a.task, a.init_state) for a in tasks.plan}
    assert [switches(each) for each in played.values()] == [1, 1]


def test_a_lost_evaluation_episode_goes_to_whoever_asks_next() -> None:
    tasks = EvaluationTasks(SPEC, 4, lambda version, results: None)
    tasks.swapped(1)
    lost = tasks.next("gone")
    assert lost is not None
    rest = [tasks.next("stays") for _ in range(3)]
    assert tasks.next("stays") is None
    tasks.lost(lost)
    assert tasks.next("stays") == lost
    assert lost not in rest


def test_rounds_of_evaluation_may_be_spaced_in_time():
    now = [0.0]
    tasks = EvaluationTasks(SPEC, 2, lambda version, results: None, every=60.0, clock=lambda: now[0])
    assert tasks.may_swap
    tasks.swapped(3)
    for _ in range(2):
        assignment = tasks.next("a")
        tasks.ended(EpisodeResult(assignment.task, assignment.init_state, True, 5, 3), None)
    now[0] = 59.0
    assert not tasks.may_swap
    now[0] = 60.0
    assert tasks.may_swap
