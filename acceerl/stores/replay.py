"""The learner's memory: whole segments, drawn by decision count, each also on disk once so that a run resumes.

`RateLimiter` is pure arithmetic. `Replay` holds the segments of one learner rank; one thread may insert while others
sample and save. The disk side is `spool.Spool`.
"""

from __future__ import annotations

import heapq
import math
import threading
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path
from typing import Any

import numpy as np

from acceerl.stores.spool import Spool
from acceerl.types import Segment


@dataclass
class RateLimiter:
    """Keeps sampled / inserted decisions near `samples_per_insert`, within `slack_decisions` sampled ones.

    It throttles whichever side is ahead and can never stop both: below `min_size` inserting is allowed, above it
    the two bounds overlap (as in Reverb's SampleToInsertRatio, but on the state before the call, so that a large
    batch cannot deadlock it).

    >>> limiter = RateLimiter(samples_per_insert=2, slack_decisions=10, min_size=5)
    >>> limiter.can_sample()
    False
    >>> limiter.inserted += 64
    >>> limiter.can_sample(), limiter.can_insert()
    (True, False)
    """

    samples_per_insert: float = 1.0
    slack_decisions: float = math.inf
    min_size: int = 1
    inserted: int = 0  # decisions, since the run began
    sampled: int = 0

    def __post_init__(self) -> None:
        if self.samples_per_insert <= 0 or self.slack_decisions < 0 or self.min_size < 1:
            raise ValueError(f"{self}: samples_per_insert > 0, slack_decisions >= 0 and min_size >= 1 are needed")

    @property
    def surplus(self) -> float:
        """Decisions that sampling is behind, counted from the first `min_size` inserted."""
        return (self.inserted - self.min_size) * self.samples_per_insert - self.sampled

    def repace(self, samples_per_insert: float) -> None:
        """Another pace from now on; nobody is ahead or behind.

        >>> limiter = RateLimiter(samples_per_insert=8, inserted=100)
        >>> limiter.repace(2)
        >>> limiter.surplus
        0
        """
        self.samples_per_insert = samples_per_insert
        self.sampled = round((self.inserted - self.min_size) * samples_per_insert)

    def can_insert(self) -> bool:
        return self.inserted < self.min_size or self.surplus <= self.slack_decisions

    def can_sample(self) -> bool:
        return self.inserted >= self.min_size and self.surplus >= -self.slack_decisions


class Replay:
    """Up to `capacity_segments` segments; the oldest leaves when one more arrives.

    A pass draws every segment once before any of them again. `order="uniform"` shuffles each pass;
    `order="fresh"` draws the least used first, oldest first among equals. With `max_uses` a segment leaves after
    that many draws. `spool=None` keeps nothing on disk: `ids()` is then empty. Replays of several ranks share a spool
    folder, each with its `lane` (see `spool.Spool`).
    """

    def __init__(
        self,
        capacity_segments: int,
        spool: Path | None,
        seed: int,
        limiter: RateLimiter | None = None,
        order: str = "uniform",
        max_uses: int | None = None,
        lane: tuple[int, int] = (0, 1),
    ) -> None:
        if order not in ("uniform", "fresh"):
            raise ValueError(f"replay order {order!r} is unknown: choose uniform or fresh")
        self.limiter = limiter or RateLimiter()
        self.evicted = 0  # segments that left because the replay was full
        self._capacity, self._order, self._max_uses = capacity_segments, order, max_uses
        self._spool = Spool(spool, lane=lane) if spool else None
        self._rng = np.random.default_rng(seed)
        self._lock = threading.RLock()
        self._held: dict[int, _Held] = {}  # by arrival, so that the first is the oldest
        self._queue: list[tuple[int, float, int]] = []  # heap of (uses, tie-break, key); keys that left are skipped
        self._next_key, self._pass, self._decisions, self._fresh = 0, 0, 0, 0

    def __len__(self) -> int:
        return len(self._held)

    @property
    def decisions(self) -> int:
        """How many decisions are held."""
        return self._decisions

    @property
    def fresh(self) -> int:
        """How many decisions are held that were never drawn."""
        return self._fresh

    def can_insert(self) -> bool:
        """False while the learner is too far behind; an empty replay always takes more."""
        return not self._held or self.limiter.can_insert()

    def can_sample(self) -> bool:
        return bool(self._held) and self.limiter.can_sample()

    def insert(self, segment: Segment) -> None:
        """Adds a segment. Raises OSError when the spool's disk is full."""
        spooled = self._spool.append(segment) if self._spool else -1
        with self._lock:
            self._add(segment, spooled, self._pass if self._order == "uniform" else 0)
            self.limiter.inserted += len(segment)

    def count_elsewhere(self, inserted: int, sampled: int) -> None:
        """Tells the limiter what other ranks inserted and drew, so that it paces them all together."""
        with self._lock:
            self.limiter.inserted += inserted
            self.limiter.sampled += sampled

    def sample(self, n_decisions: int) -> list[Segment]:
        """Whole segments until they hold at least `n_decisions`; fewer only if `max_uses` emptied the replay.

        Raises ValueError when nothing is held: ask `can_sample` first.
        """
        with self._lock:
            if not self._held:
                raise ValueError("the replay is empty: sample when can_sample() says so")
            drawn: list[Segment] = []
            missing = n_decisions
            while missing > 0 and self._held:
                drawn.append(self._draw())
                missing -= len(drawn[-1])
            self.limiter.sampled += n_decisions - missing
            return drawn

    def ids(self) -> list[int]:
        """Spool ids of the segments held, for a checkpoint; when it returns they are on the disk."""
        return [int(i) for i in self.state_dict()["ids"]]

    def state_dict(self) -> dict[str, Any]:
        """Plain ints and lists: ids, uses, the limiter's counters, the log in hand. Synchronises the spool."""
        log = self._spool.current if self._spool else 0  # read first: what is inserted meanwhile lies there or later
        with self._lock:
            held = [(item.spooled, item.uses) for item in self._held.values() if item.spooled >= 0]
            counters = {"inserted": self.limiter.inserted, "sampled": self.limiter.sampled}
        if self._spool:
            self._spool.flush()
        return {"ids": [i for i, _ in held], "uses": [uses for _, uses in held], **counters, "logs": [log]}

    def restore(self, state: dict[str, Any]) -> None:
        """Reads a `state_dict`'s segments back from the spool, of several lanes one after another.

        Raises ValueError when one is not there.
        """
        if self._spool is None:
            raise ValueError("a replay without a spool restores nothing: give it the run's spool folder")
        with self._lock:
            for spooled, uses in zip(state["ids"], state["uses"], strict=True):
                self._add(self._spool.read(spooled), spooled, uses)
            self._pass = min(state["uses"], default=0)
            self.limiter.inserted, self.limiter.sampled = state["inserted"], state["sampled"]

    def retain(self, ids: Iterable[int], logs: Sequence[int]) -> None:
        """Removes spool files that nobody needs; one rank does it for all.

        `ids`: what any rank holds and what the kept checkpoints name. `logs`: of each lane the log that was in hand
        before that was asked; it and later ones stay.
        """
        if self._spool:
            self._spool.retain(ids, logs)

    def close(self) -> None:
        """Writes what waits for the spool and ends its thread."""
        if self._spool:
            self._spool.close()

    def _add(self, segment: Segment, spooled: int, uses: int) -> None:
        if len(self._held) >= self._capacity:
            self._leave(next(iter(self._held)))
            self.evicted += 1
        self._held[self._next_key] = _Held(segment, spooled, uses)
        self._decisions += len(segment)
        self._fresh += len(segment) * (uses == 0)
        self._enqueue(self._next_key)
        self._next_key += 1

    def _draw(self) -> Segment:
        key = heapq.heappop(self._queue)[2]
        while key not in self._held:
            key = heapq.heappop(self._queue)[2]
        item = self._held[key]
        self._pass = item.uses  # who arrives now joins the running pass
        self._fresh -= len(item.segment) * (item.uses == 0)
        item.uses += 1
        if item.uses == self._max_uses:
            self._leave(key)
        else:
            self._enqueue(key)
        return item.segment

    def _enqueue(self, key: int) -> None:
        tie = self._rng.random() if self._order == "uniform" else 0.0
        heapq.heappush(self._queue, (self._held[key].uses, tie, key))

    def _leave(self, key: int) -> None:
        item = self._held.pop(key)
        self._decisions -= len(item.segment)
        self._fresh -= len(item.segment) * (item.uses == 0)


def merged(states: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """The states of all ranks' replays as one, in turns, so that old segments stay before young ones."""
    pairs = [list(zip(state["ids"], state["uses"], strict=True)) for state in states]
    turns = [pair for row in zip_longest(*pairs) for pair in row if pair is not None]
    logs = [log for state in states for log in state["logs"]]
    return {**states[0], "ids": [i for i, _ in turns], "uses": [uses for _, uses in turns], "logs": logs}


def part_of(state: dict[str, Any], rank: int, ranks: int) -> dict[str, Any]:
    """What one of `ranks` restores of a merged state, whoever held it before."""
    return {**state, "ids": state["ids"][rank::ranks], "uses": state["uses"][rank::ranks]}


@dataclass
class _Held:
    segment: Segment
    spooled: int  # id in the spool, -1 without one
    uses: int
