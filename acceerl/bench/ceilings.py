"""What a perfect system would reach: env steps a second when nothing but the simulators took time."""

from __future__ import annotations

from acceerl.envs.latency import FAST, SLOW, SLOW_SHARE


def asynchronous(mode: str, envs: int, mean_s: float, cores: int) -> float:
    """Every environment steps all the time; steps that compute share the cores."""
    parallel = min(envs, cores) if mode == "cpu" else envs
    return parallel / mean_s


def lock_step(mode: str, envs: int, mean_s: float, cores: int) -> float:
    """All environments wait for the slowest of each round: envs / E[max of their step times].

    >>> round(lock_step("tail", 8, 0.005, 2))  # 8 / (0.337 * 71.5 ms + 0.663 * 1.5 ms)
    319
    """
    if mode == "cpu":
        return envs / (-(-envs // cores) * mean_s)
    if mode == "constant":
        return envs / mean_s
    nobody_slow = (1 - SLOW_SHARE) ** envs
    return envs / (((1 - nobody_slow) * SLOW + nobody_slow * FAST) * mean_s)
