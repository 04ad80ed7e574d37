"""`acceerl bench env`: control steps a second of one environment in one process, with and without rendering."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from acceerl.bench import env_libero
from acceerl.bench.options import option
from acceerl.bench.result import Result
from acceerl.envs.libero.install import missing
from acceerl.protocols import Env

NAMES = ("tabletop", "latency", "libero")
CHUNK = 8  # control steps of a decision
_AT = "{,_64px,_256px}"  # nothing: at 128 pixels
FIGURES = {
    "env.{tabletop,latency,libero}.state_steps_per_s": "control steps a second without looking (no rendering)",
    "env.tabletop.fast_steps_per_s": "control steps a second, rendered at every decision, 8 steps apart",
    "env.tabletop.exact_steps_per_s": "control steps a second, rendered at every step",
    "env.{tabletop,latency,libero}.make_s": "seconds to make the environment and begin its first episode",
    "env.{tabletop,latency,libero}.reset_s": "seconds to begin another episode of the same task; median",
    f"env.libero.exact_steps_per_s{_AT}": "render=exact, two cameras at every decision, one core; median",
    f"env.libero.fast_steps_per_s{_AT}": "the same with render=fast",
    f"env.libero.stock_steps_per_s{_AT}": "LIBERO's own OffScreenRenderEnv stepping the same actions",
    f"env.libero.{{exact,fast}}_over_stock{_AT}": "ours over LIBERO's own, measured in turn; median of the ratios",
    f"env.libero.exact_over_vector{_AT}": "two processes of ours over LIBERO's SubprocVectorEnv of two",
    f"env.libero.vector_steps_per_s{_AT}": "LIBERO's SubprocVectorEnv of two processes",
    f"env.libero.soft_reset_s{_AT}": "seconds to reach a published initial state, without picture and waiting steps",
    "env.libero.memory_mb": "resident memory of one process of ours after episodes=N",
    "env.libero.memory_growth": "its growth since the largest of the first 30 episodes, as a share",
    f"env.libero.stock_reset_s{_AT}": "LIBERO's own reset to the same state",
}


@dataclass(frozen=True)
class Options:
    envs: tuple[str, ...] = option(NAMES, "which ones, comma-separated", choices=NAMES)
    seconds: float = option(3.0, "of each measurement", least=0.1)
    image_size: int = option(128, "pixels a side of tabletop's cameras", least=16)
    sizes: tuple[str, ...] = option(("128", "256"), "pixels a side of LIBERO's cameras", choices=("64", "128", "256"))
    episodes: int = option(0, "of LIBERO to watch a process's memory over; 0: none", least=0)
    rounds: int = option(3, "turns that LIBERO's own environment and ours take", least=1)


def run(options: Options) -> Result:
    result = Result()
    for name in options.envs:
        why = missing() if name == "libero" else ""
        if why:
            result.rows.append({"env": name, "what": f"left out: {why}"})
            continue
        _measure(result, name, options)
        if name == "libero":
            _compare_libero(result, options)
    return result


def _compare_libero(result: Result, options: Options) -> None:
    for size in map(int, options.sizes):
        env_libero.compare(result, size, options.seconds, options.rounds)
        env_libero.compare_vectors(result, size, options.seconds, options.rounds)
    if options.episodes:
        env_libero.watch_memory(result, int(options.sizes[0]), options.episodes)


def _measure(result: Result, name: str, options: Options) -> None:
    began = time.perf_counter()
    env = _MAKERS[name](options)
    try:
        env.reset(0, env.spec.train_states[0], 0)
        made = time.perf_counter() - began
        pace = {"state": 0} | ({"fast": CHUNK, "exact": 1} if env.spec.cameras else {})
        rates = {mode: steps_per_s(env, options.seconds, every) for mode, every in pace.items()}
        again = float(np.median([_reset(env, seed) for seed in range(5)]))
    finally:
        env.close()
    for mode, rate in rates.items():
        result.figures[f"env.{name}.{mode}_steps_per_s"] = rate
        result.rows.append({"env": name, "what": _WHAT[mode], "steps_per_s": round(rate, 1)})
    result.figures |= {f"env.{name}.make_s": made, f"env.{name}.reset_s": again}
    result.rows.append({"env": name, "what": "make, reset", "make_s": round(made, 3), "reset_s": round(again, 4)})


_WHAT = {"state": "no rendering", "fast": f"rendered every {CHUNK} steps", "exact": "rendered every step"}


def steps_per_s(env: Env, seconds: float, every: int) -> float:
    """Random actions, a new episode where one ends; `every`: steps between two observations, 0 for none.

    Resets are not counted as time: their price has a figure of its own.
    """
    rng = np.random.default_rng(0)
    actions = rng.uniform(-1, 1, (256, env.spec.action_dim)).astype(np.float32)
    spent, steps = 0.0, 0
    while spent < seconds:
        began = time.perf_counter()
        for _ in range(CHUNK):
            result = env.step(actions[steps % len(actions)])
            steps += 1
            if every and steps % every == 0:
                env.observe()
            if result.terminated or result.truncated:
                break
        spent += time.perf_counter() - began
        if result.terminated or result.truncated:
            env.reset(0, env.spec.train_states[steps % len(env.spec.train_states)], steps)
    return steps / spent


def _reset(env: Env, seed: int) -> float:
    began = time.perf_counter()
    env.reset(0, env.spec.train_states[seed], seed)
    return time.perf_counter() - began


def _tabletop(options: Options) -> Env:
    from acceerl.envs.tabletop import TabletopEnv

    return TabletopEnv(image_size=options.image_size)


def _latency(_: Options) -> Env:
    from acceerl.envs.latency import LatencyEnv

    return LatencyEnv(mean_ms=0.0)  # what is left is the price of a step that takes no time


def _libero(_: Options) -> Env:
    from acceerl.envs.libero import LiberoEnv

    return LiberoEnv(cameras=())  # pictures: env_libero.py


_MAKERS: dict[str, Callable[[Any], Env]] = {"tabletop": _tabletop, "latency": _latency, "libero": _libero}
