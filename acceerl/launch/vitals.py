"""What every process of a run did of late, for the rows of status.json: `Vitals`.

A heartbeat covers one second, in which a learner may or may not update; so rates and waits are taken over a window.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from acceerl.runtime.registry import Key, Record

MAIN = {"rollout": "env_steps", "evaluator": "env_steps", "inference": "decisions", "learner": "updates",
        "world_model": "updates", "dreamer": "imagined_decisions"}  # fmt: skip
WINDOW = 20.0  # seconds


class _Beat(NamedTuple):
    time: float  # seconds since the epoch
    incarnation: int
    counted: float
    waiting: dict[str, float]


class Vitals:
    """Rates and waiting shares over the heartbeats of the last `WINDOW` seconds, each life of a process apart."""

    def __init__(self) -> None:
        self._beats: dict[Key, deque[_Beat]] = {}

    def take(self, records: Mapping[Key, Record]) -> None:
        for key, record in records.items():
            counted = _counted(record)
            if counted is None and record.role == "learner":  # ranks update together, and rank 0 counts for all
                counted = _counted(records.get(("learner", 0)))
            if counted is not None:
                self._note(key, record, counted)

    def _note(self, key: Key, record: Record, count: float) -> None:
        beats = self._beats.setdefault(key, deque())
        if beats and beats[-1].incarnation != record.incarnation:
            beats.clear()
        if not beats or beats[-1].time != record.last_heartbeat:
            beats.append(_Beat(record.last_heartbeat, record.incarnation, count, record.counters.get("waiting", {})))
        while beats[-1].time - beats[0].time > WINDOW:
            beats.popleft()

    def row(self, key: Key, record: Record | None) -> dict[str, Any]:
        """`rate` of the counter `of` per second, `waiting` {whom: share of time}, `memory_mb`; None: not known yet.

        `record` is None when the process does not run.
        """
        beats = self._beats.get(key, deque())
        ours = list(beats) if record and beats and beats[-1].incarnation == record.incarnation else []
        memory = record.counters.get("rss_mb") if record else None
        return {"rate": _rate(ours), "of": MAIN.get(key[0]), "waiting": _waiting(ours), "memory_mb": memory}


def _counted(record: Record | None) -> float | None:
    """What a living process has counted in this life; None before it counts."""
    counted = record.counters.get("counters", {}).get(MAIN.get(record.role, "")) if record and record.alive else None
    return None if counted is None else float(counted)


def _rate(beats: Sequence[_Beat]) -> float | None:
    if len(beats) < 2:
        return None
    first, last = beats[0], beats[-1]
    until = max(last.time, time.time() - WINDOW)  # a silent process is not as fast as its last words
    return round(max(0.0, (last.counted - first.counted) / max(until - first.time, 1e-6)), 2)


def _waiting(beats: Sequence[_Beat]) -> dict[str, float]:
    whom = sorted({name for beat in beats for name in beat.waiting})
    return {name: round(sum(b.waiting.get(name, 0.0) for b in beats) / len(beats), 3) for name in whom}
