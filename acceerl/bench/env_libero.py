"""LIBERO against itself: ours and its own environment step the same actions in turn, A B A B, each in a process.

Both get the better setting of LP_NUM_THREADS, the threads of the software renderer. Single environments are held to
one core, and a figure is per second of its time that they got: other work on the machine then slows neither.
"""

from __future__ import annotations

import json
import os
import select
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from statistics import median
from typing import Any

from acceerl.bench.env_process import VECTOR
from acceerl.bench.result import Result

THREADS = ("0", "2")  # of the renderer; each side keeps the better one
ANSWER_S, EPISODE_S, LEAVE_S = 300.0, 10.0, 15.0
RESETS, WARM_UP = 8, 30  # episodes


class Side:
    """A process that steps one kind of environment when asked."""

    def __init__(self, kind: str, size: int, threads: str, core: int | None) -> None:
        self.kind, self.threads = kind, threads
        self.clock = "seconds" if core is None else "cpu_seconds"
        words = [sys.executable, "-m", "acceerl.bench.env_process", kind, str(size)]
        words += [] if core is None else [str(core)]
        environment = os.environ | {"LP_NUM_THREADS": threads, "OMP_NUM_THREADS": "1"}
        self.process = subprocess.Popen(
            words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
        )

    def ask(self, what: str = "", patience: float = ANSWER_S) -> dict[str, Any]:
        """Raises RuntimeError when the process has ended or says nothing for `patience` seconds."""
        assert self.process.stdin is not None and self.process.stdout is not None
        if what:
            self.process.stdin.write(what + "\n")
            self.process.stdin.flush()
        if not select.select([self.process.stdout], [], [], patience)[0]:
            raise RuntimeError(f"bench env waited {patience:g} s for {self.kind}")
        line = self.process.stdout.readline()
        if not line:
            raise RuntimeError(f"{self.kind} of bench env ended with exit code {self.process.wait()}")
        answer: dict[str, Any] = json.loads(line)
        return answer

    def rate(self, seconds: float) -> float:
        """Control steps a second."""
        answer = self.ask(f"steps {seconds}")
        return float(answer["steps"] / answer[self.clock])

    def close(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.close()  # asks it to leave
        try:
            self.process.wait(LEAVE_S)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()


@contextmanager
def sides(kinds: Sequence[str], size: int, seconds: float, core: int | None) -> Iterator[dict[str, list[Side]]]:
    """One process of each kind with the better of THREADS; several of a kind that is named several times."""
    with ExitStack() as stack:
        started: dict[str, list[Side]] = {}
        for kind in kinds:
            threads = started[kind][0].threads if kind in started else None
            side = (
                _better(stack, kind, size, seconds, core)
                if threads is None
                else _start(stack, kind, size, threads, core)
            )
            started.setdefault(kind, []).append(side)
        yield started


def _start(stack: ExitStack, kind: str, size: int, threads: str, core: int | None) -> Side:
    side = Side(kind, size, threads, core)
    stack.callback(side.close)
    side.ask()
    return side


def _better(stack: ExitStack, kind: str, size: int, seconds: float, core: int | None) -> Side:
    tried = [_start(stack, kind, size, threads, core) for threads in THREADS]
    rates = [side.rate(seconds) for side in tried]
    best = tried[rates.index(max(rates))]
    for side in tried:
        if side is not best:
            side.close()
    return best


def compare(result: Result, size: int, seconds: float, rounds: int) -> None:
    """Ours, exact and fast, against one stock environment, each on the same single core."""
    core = min(os.sched_getaffinity(0))
    with sides(("stock", "exact", "fast"), size, seconds, core) as started:
        one = {kind: processes[0] for kind, processes in started.items()}
        rates = {kind: [side.rate(seconds)] for kind, side in one.items() if rounds}
        for _ in range(rounds - 1):
            for kind, side in one.items():
                rates[kind].append(side.rate(seconds))
        resets = {kind: median(one[kind].ask(f"reset {RESETS}")["seconds"]) for kind in ("stock", "exact")}
    _report(result, size, one, rates, resets)


def _report(
    result: Result, size: int, one: dict[str, Side], rates: dict[str, list[float]], resets: dict[str, float]
) -> None:
    at = "" if size == 128 else f"_{size}px"
    for kind, each in rates.items():
        over = median(a / b for a, b in zip(each, rates["stock"], strict=True))
        result.figures[f"env.libero.{kind}_steps_per_s{at}"] = median(each)
        if kind != "stock":
            result.figures[f"env.libero.{kind}_over_stock{at}"] = over
        result.rows.append({
            "env": "libero", "what": f"{kind}, two {size}-px cameras, one core", "steps_per_s": round(median(each), 1),
            "over_stock": round(over, 2), "LP_NUM_THREADS": one[kind].threads,
        })  # fmt: skip
    for kind, name in (("exact", "soft_reset_s"), ("stock", "stock_reset_s")):
        result.figures[f"env.libero.{name}{at}"] = resets[kind]


def compare_vectors(result: Result, size: int, seconds: float, rounds: int) -> None:
    """Two of our processes, which never wait for each other, against LIBERO's SubprocVectorEnv of two."""
    with sides(("vector", *["exact"] * VECTOR), size, seconds, None) as started:
        pairs = [(_together(started["exact"], seconds), started["vector"][0].rate(seconds)) for _ in range(rounds)]
    ours, theirs = (median(column) for column in zip(*pairs, strict=True))
    over = median(a / b for a, b in pairs)
    at = "" if size == 128 else f"_{size}px"
    result.figures |= {f"env.libero.vector_steps_per_s{at}": theirs, f"env.libero.exact_over_vector{at}": over}
    what = f"exact in {VECTOR} processes, over SubprocVectorEnv of {VECTOR}"
    result.rows.append({"env": "libero", "what": what, "steps_per_s": round(ours, 1), "over_stock": round(over, 2)})


def _together(sides: Sequence[Side], seconds: float) -> float:
    """Steps a second of processes that run at the same time."""
    for side in sides:
        assert side.process.stdin is not None
        side.process.stdin.write(f"steps {seconds}\n")
        side.process.stdin.flush()
    answers = [side.ask() for side in sides]
    return sum(answer["steps"] / answer["seconds"] for answer in answers)


def watch_memory(result: Result, size: int, episodes: int) -> None:
    """How a process grows over episodes of three tasks, of which two have their scene alive at a time."""
    with ExitStack() as stack:
        side = _start(stack, "exact", size, "0", None)
        resident = side.ask(f"episodes {episodes}", ANSWER_S + EPISODE_S * episodes)["resident"]
    grown = resident[-1] / max(resident[:WARM_UP]) - 1
    result.figures |= {"env.libero.memory_mb": resident[-1], "env.libero.memory_growth": grown}
    what = f"{episodes} episodes of three tasks, two scenes alive"
    result.rows.append(
        {"env": "libero", "what": what, "MB": round(resident[-1]), "growth_percent": round(100 * grown, 2)}
    )
