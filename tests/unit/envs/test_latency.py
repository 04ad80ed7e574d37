"""LatencyEnv: its times are the promised ones, repeat with the seed, and its pole falls without control."""

from __future__ import annotations

import time

import numpy as np
import pytest

from acceerl.envs.latency import LatencyEnv

PUSH = np.ones(1, np.float32)


@pytest.mark.parametrize("mode", ["constant", "tail", "cpu"])
def test_mean_time_is_the_asked_one(mode: str) -> None:
    env = LatencyEnv(mean_ms=5, mode=mode, limit=200_000)
    assert env.times(0, 0, 0).mean() == pytest.approx(5e-3, rel=0.02)


def test_tail_has_one_slow_step_in_twenty() -> None:
    times = LatencyEnv(mean_ms=10, mode="tail", limit=100_000).times(0, 0, 0)
    assert set(np.round(times, 6)) == {3e-3, 143e-3}
    assert (times > 0.1).mean() == pytest.approx(0.05, abs=0.005)


def test_times_repeat_with_the_seed_only() -> None:
    env, other = LatencyEnv(mode="tail"), LatencyEnv(mode="tail")
    np.testing.assert_array_equal(env.times(0, 3, 1), other.times(0, 3, 1))
    assert not np.array_equal(env.times(0, 3, 1), env.times(0, 3, 2))


@pytest.mark.parametrize("clock", [("constant", time.perf_counter), ("cpu", time.thread_time)])
def test_a_step_spends_its_time(clock: tuple) -> None:
    mode, now = clock
    env = LatencyEnv(mean_ms=20, mode=mode)
    env.reset(0, 0, 0)
    start = now()
    env.step(PUSH)
    assert 0.02 <= now() - start < 0.2


def test_the_pole_falls_and_that_is_no_success() -> None:
    env = LatencyEnv(mean_ms=0, limit=200)
    env.reset(0, 0, 0)
    outcomes = []
    while not outcomes or not outcomes[-1].truncated:
        outcomes.append(env.step(PUSH))
    assert len(outcomes) < 30
    assert not env.success


def test_the_picture_shows_the_pole() -> None:
    env = LatencyEnv(mean_ms=0, camera=16)
    env.reset(0, 0, 0)
    image = env.observe().images["front"]
    assert image.shape == (16, 16, 3)
    assert (image.max(-1) == 255).sum() == 16


def test_unknown_modes_are_refused() -> None:
    with pytest.raises(ValueError, match="constant, tail, cpu"):
        LatencyEnv(mode="burst")
    with pytest.raises(ValueError, match="negative"):
        LatencyEnv(mean_ms=-1)
