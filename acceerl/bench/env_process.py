"""One side of the LIBERO comparison in a process of its own: ours or LIBERO's environment, run when it is told to.

    python -m acceerl.bench.env_process SIDE SIZE [CORE]

Each line on stdin asks for something and is answered by one line of JSON: `steps SECONDS`, `reset TIMES`, and of
ours `episodes NUMBER` too.
A process of its own because LP_NUM_THREADS is read once, when the GL library starts.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from acceerl.envs.libero.env import LiberoEnv
from acceerl.envs.libero.stock import Stock, stock_of, vector_of
from acceerl.envs.libero.suites import EVAL_STATES

CHUNK = 8  # control steps of a decision
SIDES = ("exact", "fast", "stock", "vector")
VECTOR = 2  # processes of LIBERO's vector environment
STINT, TASKS = 8, 3  # of the memory measurement
_ACTIONS = np.random.default_rng(0).uniform(-1, 1, (32, CHUNK, 7)).astype(np.float32)


def main() -> None:
    side, size, core = sys.argv[1], int(sys.argv[2]), sys.argv[3:]
    if core:
        os.sched_setaffinity(0, {int(core[0])})
    peer = _vector(size) if side == "vector" else _stock(size) if side == "stock" else Ours(side, size)
    _answer({"ready": True})
    for line in sys.stdin:
        what, number = line.split()
        _answer(getattr(peer, what)(float(number)))
    peer.close()


def _answer(answer: dict[str, Any]) -> None:
    print(json.dumps(answer), flush=True)


def timed(chunk: Callable[[np.ndarray], None], seconds: float, width: int = 1) -> dict[str, Any]:
    """Plays whole decisions, resets apart, for at least `seconds`; `width` environments step at once.

    Seconds of the clock, and of this process's CPU time: on a machine with other work the latter says more.
    """
    began, worked, played = time.perf_counter(), time.process_time(), 0
    while time.perf_counter() - began < seconds:
        chunk(_ACTIONS[played % len(_ACTIONS)])
        played += 1
    cpu, clock = time.process_time() - worked, time.perf_counter() - began
    return {"steps": played * CHUNK * width, "seconds": clock, "cpu_seconds": cpu}


def timed_resets(env: LiberoEnv, reset: Callable[[tuple[int, ...], np.ndarray], Any], times: int) -> dict[str, Any]:
    """Seconds of each reset of task 0, to one published initial state after the other."""
    spent = []
    for state in range(times):
        fixed = env.suite.initial_states(0)[state]
        began = time.perf_counter()
        reset((0, state), fixed)
        spent.append(time.perf_counter() - began)
    return {"seconds": spent}


class Ours:
    """Steps a chunk, looks once."""

    def __init__(self, render: str, size: int) -> None:
        self.env = LiberoEnv(image_size=size, render=render, step_limit=10**9)
        self.env.reset(0, 0, 0)
        self.play(_ACTIONS[0])

    def play(self, chunk: np.ndarray) -> None:
        for action in chunk:  # on past a success, as the peer is
            self.env.step(action)
        self.env.observe()

    def steps(self, seconds: float) -> dict[str, Any]:
        self.env.reset(0, 0, 0)
        return timed(self.play, seconds)

    def reset(self, times: float) -> dict[str, Any]:
        """The part that stock has: without the ten waiting steps that follow."""
        return timed_resets(self.env, self.env.scene.reset, int(times))

    def episodes(self, number: float) -> dict[str, Any]:
        """Resident MB after each of `number` short episodes of three tasks, a stint of eight at a time."""
        resident = []
        for episode in range(int(number)):
            self.env.reset(episode // STINT % TASKS, EVAL_STATES.stop + episode, 0)
            self.play(_ACTIONS[episode % len(_ACTIONS)])
            resident.append(_resident_mb())
        return {"resident": resident}

    def close(self) -> None:
        self.env.close()


def _resident_mb() -> float:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6


class Theirs:
    """LIBERO's OffScreenRenderEnv, which draws at every step."""

    def __init__(self, env: LiberoEnv, stock: Stock) -> None:
        self.env, self.stock = env, stock
        self.reset(1)

    def play(self, chunk: np.ndarray) -> None:
        for action in chunk:
            self.stock.step(action)

    def steps(self, seconds: float) -> dict[str, Any]:
        self.reset(1)
        return timed(self.play, seconds)

    def reset(self, times: float) -> dict[str, Any]:
        return timed_resets(self.env, self.stock.reset, int(times))

    def close(self) -> None:
        self.stock.close()


def _stock(size: int) -> Theirs:
    env = LiberoEnv(image_size=size)
    return Theirs(env, stock_of(env, 0))


class Vector:
    """LIBERO's SubprocVectorEnv: all its processes step, then all are waited for."""

    def __init__(self, env: LiberoEnv) -> None:
        self.env, self.vector = env, vector_of(env, 0, VECTOR)
        self._begin()

    def _begin(self) -> None:
        self.vector.reset()
        self.vector.set_init_state([self.env.suite.initial_states(0)[i] for i in range(VECTOR)])

    def play(self, chunk: np.ndarray) -> None:
        for action in chunk:
            self.vector.step(np.stack([action.astype(np.float64)] * VECTOR))

    def steps(self, seconds: float) -> dict[str, Any]:
        self._begin()
        return timed(self.play, seconds, VECTOR)

    def close(self) -> None:
        self.vector.close()


def _vector(size: int) -> Vector:
    return Vector(LiberoEnv(image_size=size))


if __name__ == "__main__":
    main()
