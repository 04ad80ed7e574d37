"""The learner's memory: passes, capacity, uses, the limiter's bounds, and what comes back from the spool."""

from __future__ import annotations

import math
from collections import Counter

import numpy as np
import pytest

from acceerl.stores.replay import RateLimiter, Replay
from tests.unit.stores.examples import segment


def numbers(drawn) -> list[int]:
    return [one.episode for one in drawn]


def filled(count: int, *, capacity: int = 100, decisions: int = 2, **options) -> Replay:
    replay = Replay(capacity, None, seed=0, **options)
    for number in range(count):
        replay.insert(segment(decisions, number=number))
    return replay


def test_a_sample_is_whole_segments_of_at_least_the_decisions_asked_for():
    drawn = filled(10, decisions=3).sample(7)
    assert [len(one) for one in drawn] == [3, 3, 3]


def test_a_pass_draws_each_segment_once_in_another_order_each_time():
    replay = filled(8)
    passes = [numbers(replay.sample(16)) for _ in range(3)]
    assert all(sorted(drawn) == list(range(8)) for drawn in passes)
    assert len(set(map(tuple, passes))) == 3


def test_a_newcomer_joins_the_running_pass():
    replay = filled(4)
    first = numbers(replay.sample(4))
    replay.insert(segment(number=9))
    assert sorted(first + numbers(replay.sample(6))) == [0, 1, 2, 3, 9]


def test_equal_seeds_draw_equally():
    assert numbers(filled(9).sample(30)) == numbers(filled(9).sample(30))


def test_the_oldest_leaves_a_full_replay():
    replay = filled(5, capacity=3)
    assert (len(replay), replay.evicted, replay.decisions) == (3, 2, 6)
    assert sorted(numbers(replay.sample(6))) == [2, 3, 4]


def test_fresh_order_draws_the_unused_first_oldest_first():
    replay = filled(3, order="fresh")
    assert numbers(replay.sample(4)) == [0, 1]
    replay.insert(segment(number=7))
    assert numbers(replay.sample(8)) == [2, 7, 0, 1]


@pytest.mark.parametrize("order", ["uniform", "fresh"])
def test_a_segment_leaves_after_its_uses(order):
    replay = filled(4, order=order, max_uses=2)
    assert Counter(numbers(replay.sample(100))) == dict.fromkeys(range(4), 2)
    assert (len(replay), replay.decisions, replay.can_sample()) == (0, 0, False)
    with pytest.raises(ValueError, match="the replay is empty"):
        replay.sample(1)


def test_what_arrives_after_an_emptied_replay_is_drawn():
    replay = filled(2, max_uses=1)
    replay.sample(4)
    replay.insert(segment(number=5))
    assert numbers(replay.sample(1)) == [5]


def test_counters_count_decisions():
    replay = filled(3, decisions=4)
    replay.sample(5)
    assert (replay.limiter.inserted, replay.limiter.sampled) == (12, 8)


def test_an_unknown_order_names_the_choices():
    with pytest.raises(ValueError, match="choose uniform or fresh"):
        Replay(1, None, 0, order="lifo")


def test_the_limiter_bounds_the_ratio_and_never_stops_both():
    """Greedy sides of every pace: somebody may always go on, and the surplus stays within slack and one step."""
    rng = np.random.default_rng(0)
    for _ in range(200):
        ratio, slack, least = rng.choice([0.5, 1, 2, 8]), float(rng.integers(0, 50)), int(rng.integers(1, 40))
        limiter = RateLimiter(float(ratio), slack, least)
        for _ in range(100):
            grow, batch = int(rng.integers(1, 65)), int(rng.integers(1, 300))
            assert limiter.can_insert() or limiter.can_sample()
            if limiter.can_insert() and (rng.random() < 0.5 or not limiter.can_sample()):
                limiter.inserted += grow
            elif limiter.can_sample():
                limiter.sampled += batch
            assert -slack - 300 <= limiter.surplus + least * ratio
            assert limiter.surplus <= slack + 64 * ratio


def test_the_limiter_waits_for_the_least_size():
    limiter = RateLimiter(samples_per_insert=1, slack_decisions=0, min_size=10)
    limiter.inserted = 9
    assert (limiter.can_insert(), limiter.can_sample()) == (True, False)
    limiter.inserted = 11
    assert (limiter.can_insert(), limiter.can_sample()) == (False, True)
    limiter.sampled = 2
    assert (limiter.can_insert(), limiter.can_sample()) == (True, False)


def test_without_slack_given_nothing_is_throttled():
    limiter = RateLimiter(inserted=5, sampled=10**9)
    assert limiter.can_insert()
    assert limiter.can_sample()
    assert limiter.slack_decisions == math.inf


@pytest.mark.parametrize("numbers", [(0, 1, 1), (1, -1, 1), (1, 1, 0)])
def test_a_limiter_that_would_deadlock_is_refused(numbers):
    with pytest.raises(ValueError, match="are needed"):
        RateLimiter(*numbers)


def test_an_empty_replay_takes_segments_whatever_the_limiter_says():
    replay = filled(2, max_uses=1, limiter=RateLimiter(samples_per_insert=9, slack_decisions=0))
    replay.sample(4)
    assert not replay.limiter.can_insert()
    assert replay.can_insert()


def test_a_replay_resumes_with_segments_uses_and_counters(tmp_path):
    replay = Replay(3, tmp_path, seed=0, order="fresh")
    for number in range(5):
        replay.insert(segment(number=number))
    replay.sample(2)
    state = replay.state_dict()  # and no close: the process is killed here
    again = Replay(3, tmp_path, seed=0, order="fresh")
    again.restore(state)
    assert (again.limiter.inserted, again.limiter.sampled) == (10, 2)
    assert numbers(again.sample(6)) == [3, 4, 2]
    assert again.ids() == state["ids"] == replay.ids()
    again.close()
    replay.close()


def test_a_resumed_pass_goes_on_with_newcomers(tmp_path):
    replay = Replay(10, tmp_path, seed=0)
    for number in range(4):
        replay.insert(segment(number=number))
    first = numbers(replay.sample(4))
    state = replay.state_dict()
    again = Replay(10, tmp_path, seed=1)
    again.restore(state)
    again.insert(segment(number=9))
    assert sorted(first + numbers(again.sample(6))) == [0, 1, 2, 3, 9]
    again.close()
    replay.close()


def test_the_spool_keeps_what_is_held_or_in_a_kept_checkpoint(tmp_path, monkeypatch):
    monkeypatch.setattr("acceerl.stores.spool.LOG_BYTES", 1)
    replay = Replay(2, tmp_path, seed=0)
    for number in range(3):
        replay.insert(segment(number=number))
    saved = replay.state_dict()  # 1 and 2
    for number in range(3, 6):
        replay.insert(segment(number=number))  # 4 and 5 are held
    replay.ids()
    replay.retain([*saved["ids"], *replay.ids()], replay.state_dict()["logs"])
    assert sorted(path.name for path in tmp_path.iterdir()) == [f"log-{k:06d}.bin" for k in (1, 2, 4, 5)]
    replay.close()


def test_restore_needs_a_spool():
    with pytest.raises(ValueError, match="without a spool"):
        filled(0).restore({"ids": [], "uses": [], "inserted": 0, "sampled": 0})
