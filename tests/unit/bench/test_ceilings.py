"""Analytic ceilings against simulations that obviously do what they say."""

from __future__ import annotations

import numpy as np
import pytest

from acceerl.bench import ceilings
from acceerl.envs.latency import LatencyEnv

ENVS, MEAN_S, CORES = 8, 0.005, 2


def step_times(mode: str, steps: int) -> np.ndarray:
    """Seconds [envs, steps], from the environment itself."""
    env = LatencyEnv(mean_ms=1e3 * MEAN_S, mode=mode, limit=steps)
    return np.stack([env.times(0, 0, seed) for seed in range(ENVS)])


@pytest.mark.parametrize("mode", ["constant", "tail"])
def test_lock_step_waits_for_the_slowest(mode: str):
    times = step_times(mode, 20_000)
    simulated = times.size / sum(max(of_round) for of_round in times.T)
    assert ceilings.lock_step(mode, ENVS, MEAN_S, CORES) == pytest.approx(simulated, rel=0.02)


@pytest.mark.parametrize("mode", ["constant", "tail"])
def test_asynchronous_waits_for_nobody(mode: str):
    times = step_times(mode, 20_000)
    simulated = sum(len(of_env) / sum(of_env) for of_env in times)
    assert ceilings.asynchronous(mode, ENVS, MEAN_S, CORES) == pytest.approx(simulated, rel=0.03)


@pytest.mark.parametrize(("envs", "cores"), [(8, 2), (7, 2), (2, 4)])
def test_computing_steps_share_the_cores(envs: int, cores: int):
    rounds, work = 100, list(range(envs))
    seconds = 0.0
    for _ in range(rounds):  # a round of equal jobs: as many at a time as there are cores
        left = list(work)
        while left:
            left, seconds = left[cores:], seconds + MEAN_S
    assert ceilings.lock_step("cpu", envs, MEAN_S, cores) == pytest.approx(rounds * envs / seconds)
    assert ceilings.asynchronous("cpu", envs, MEAN_S, cores) == min(envs, cores) / MEAN_S


def test_the_figure_of_the_issue():
    any_slow = 1 - 0.95**8
    assert ceilings.lock_step("tail", 8, 0.005, 2) == pytest.approx(8 / (any_slow * 71.5e-3 + (1 - any_slow) * 1.5e-3))
