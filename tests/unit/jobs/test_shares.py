"""Shares of a collection: exact counts whatever the number of workers, parts and restarts."""

from __future__ import annotations

from itertools import count
from pathlib import Path

import numpy as np
import pytest

from acceerl.config import Config, from_dict
from acceerl.jobs.shares import TRIES, Share, assignment, missing, of_worker
from acceerl.stores.layouts import Layout
from acceerl.stores.reader import Entry
from acceerl.types import EnvSpec

SPEC = EnvSpec((), (8, 8), 4, 7, ("a", "b", "c"), (9, 9, 9), range(10, 90), range(10))


def config(seed: int = 0, **collect: object) -> Config:
    return from_dict({"seed": seed, "collect": collect})


def entry(task: int, k: int, success: bool, seed: int = 0) -> Entry:
    return Entry(
        Path("shard.hdf5"),
        "demo_0",
        Layout(),
        5,
        SPEC.instructions[task],
        task,
        10,
        seed * TRIES + k,
        success,
        "expert",
        1,
    )


def wins(task: int, k: int) -> bool:
    """A policy that solves two tries of three, in no order."""
    return bool(np.random.default_rng((task, k)).random() < 2 / 3)


def play(config: Config, workers: int, there: list[Entry], until: int = 10**9) -> list[Entry]:
    """A round of workers that take turns and are all killed after `until` episodes were kept."""
    left = missing(config, SPEC, there)
    kept = list(there)
    queues = [_tries(of_worker(left, w, workers)) for w in range(workers)]
    while queues and len(kept) - len(there) < until:
        queue = queues.pop(0)
        for share, k in queue:
            if share.takes(wins(share.task, k)):
                kept.append(entry(share.task, k, wins(share.task, k), config.seed))
            queues.append(queue)
            break
    return kept


def _tries(shares: list[Share]):
    for share in shares:
        for k in share.tries:
            if not share.wanted:
                break
            yield share, k


def counts(entries: list[Entry], task: int) -> tuple[int, int]:
    won = sum(e.success for e in entries if e.task == task)
    return won, sum(e.task == task for e in entries) - won


@pytest.mark.parametrize("workers", [1, 2, 5])
def test_targets_are_met_exactly(workers: int) -> None:
    wanted, kept = config(successes=7, failures=4), []
    for _ in range(6):  # a worker may run out of tries before another: rounds go on
        kept = play(wanted, workers, kept)
    assert [counts(kept, task) for task in range(3)] == [(7, 4)] * 3
    assert not missing(wanted, SPEC, kept)


def test_targets_survive_kills_and_another_number_of_workers() -> None:
    wanted, kept = config(successes=9, failures=3), []
    for workers in (1, 3, 2, 4, 1, 2, 5, 1, 1, 1):
        kept = play(wanted, workers, kept, until=7)
    assert [counts(kept, task) for task in range(3)] == [(9, 3)] * 3
    assert len({(e.task, e.seed) for e in kept}) == len(kept), "no episode twice"


def test_parts_divide_the_targets_without_a_common_episode() -> None:
    kept: list[Entry] = []
    for part in range(4):
        for _ in range(6):
            kept = play(config(successes=6, failures=2, part=part, parts=4), 2, kept)
    assert [counts(kept, task) for task in range(3)] == [(6, 2)] * 3
    assert len({(e.task, e.seed) for e in kept}) == len(kept)


def test_episodes_are_spread_over_tasks_and_played_once() -> None:
    wanted = config(episodes=10)
    kept = play(wanted, 3, play(wanted, 2, [], until=4))
    assert [sum(counts(kept, task)) for task in range(3)] == [4, 3, 3]
    assert len({(e.task, e.seed) for e in kept}) == 10


def test_only_successes_keeps_those_of_the_same_episodes() -> None:
    everything, kept = play(config(episodes=30), 1, []), play(config(episodes=30, only_successes=True), 1, [])
    assert {e.seed for e in kept} == {e.seed for e in everything if e.success}


def test_another_seed_is_another_collection() -> None:
    first = play(config(episodes=6), 1, [])
    assert len(play(config(seed=1, episodes=6), 1, first)) == 12


def test_gives_up_after_so_many_tries() -> None:
    left = missing(config(failures=2, tries=5), SPEC, [])
    assert [len(share.tries) for share in left] == [10] * 3


def test_chosen_tasks() -> None:
    assert [share.task for share in missing(config(tasks=[2, 0]), SPEC, [])] == [0, 2]
    with pytest.raises(ValueError, match=r"collect\.tasks: the suite has tasks 0 to 2, got 3"):
        missing(config(tasks=[3]), SPEC, [])


def test_an_assignment_is_a_training_state_and_depends_on_all_three_numbers() -> None:
    drawn = [assignment(SPEC, seed, task, k) for seed in range(2) for task in range(3) for k in range(5)]
    assert {a.init_state for a in drawn} <= set(SPEC.train_states)
    assert len({(a.task, a.init_state, a.seed) for a in drawn}) == 30
    assert assignment(SPEC, 1, 2, 3) == assignment(SPEC, 1, 2, 3)
    assert next(k for k in count() if assignment(SPEC, 0, 0, k).init_state != drawn[0].init_state)


@pytest.mark.parametrize(
    ("collect", "said"),
    [
        ({"part": 2, "parts": 2}, "collect.part=2 counts from 0 and must be below collect.parts=2"),
        ({"only_successes": True, "failures": 3}, "collect.only_successes=true leaves no room for collect.failures=3"),
        ({"tasks": ["one"]}, r"collect.tasks\[0\] must be a whole number"),
        ({"tries": 0}, "collect.tries must be at least 1"),
        ({"noise_share": 1.5}, "collect.noise_share must be between 0 and 1"),
    ],
)
def test_wrong_keys_say_so(collect: dict[str, object], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        config(**collect)
