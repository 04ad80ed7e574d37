"""How far a training is: totals over restarts and attempts, rates, the terminal line and TensorBoard's scalars.

Everything here derives from the counters and gauges that processes send with their heartbeats.
"""

from __future__ import annotations

import json
import time
from collections import defaultdict, deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol

Key = tuple[str, int]
SUMMED = {"env_steps": "rollout", "decisions": "inference"}  # counter -> the role that counts it
WINDOW = 20.0  # seconds over which rates are taken


class Reported(Protocol):
    """What this module reads of a registry record."""

    incarnation: int
    counters: dict[str, Any]  # a Meter's snapshot


@dataclass
class Progress:
    """One look at a running training; rates are per second, `success` is 0 to 1 or None before the first episode."""

    state: str
    attempt: int
    counters: dict[str, int]
    rates: dict[str, float] = field(default_factory=dict)
    success: float | None = None
    lag: float | None = None
    restarts: int = 0

    def line(self) -> str:
        """One line for terminals and logs.

        >>> Progress("running", 1, {"updates": 12, "decisions": 3400, "env_steps": 27000}, success=0.5).line()
        'running  updates 12 (0.0/s)  decisions 3,400 (0.0/s)  env steps 27,000 (0.0/s)  success 50.0 %'
        """
        names = (("updates", "updates"), ("decisions", "decisions"), ("env_steps", "env steps"))
        parts = [f"{text} {self.counters.get(k, 0):,} ({self.rates.get(k, 0.0):.1f}/s)" for k, text in names]
        if self.success is not None:
            parts.append(f"success {100 * self.success:.1f} %")
        if self.lag is not None:
            parts.append(f"lag {self.lag:.1f}")
        if self.restarts:
            parts.append(f"restarts {self.restarts}")
        return "  ".join([self.state, *parts])


class Totals:
    """Counters of the run: what earlier attempts reached plus what every process life of this one has counted.

    `updates` and `policy_version` are those of learner rank 0, which a checkpoint restores; they may go back once
    after a crash, as training does.
    """

    def __init__(self, earlier: Mapping[str, int]) -> None:
        self._earlier = dict(earlier)
        self._lives: dict[tuple[str, int, int], dict[str, float]] = {}
        self._learner: dict[str, int] = {k: self._earlier.get(k, 0) for k in ("updates", "policy_version")}
        self._history: deque[tuple[float, dict[str, int]]] = deque()
        self.success: float | None = None  # of recent training episodes, 0 to 1
        self.lag: float | None = None  # policy versions

    def take(self, records: Mapping[Key, Reported]) -> None:
        for (role, index), record in records.items():
            counted = record.counters.get("counters", {})
            self._lives[role, index, record.incarnation] = counted
            if (role, index) == ("learner", 0) and "updates" in counted:
                updates = int(counted["updates"])
                self._learner = {"updates": updates, "policy_version": int(counted.get("policy_version", updates))}
        self.success = _known(latest_gauge(records, "learner", "success"), self.success)
        self.lag = _known(latest_gauge(records, "learner", "lag"), self.lag)
        counters = self.counters()
        if self._history and counters["updates"] < self._history[-1][1]["updates"]:
            self._history.clear()  # the learner went back to a checkpoint
        self._history.append((time.monotonic(), counters))
        while self._history[-1][0] - self._history[0][0] > WINDOW:
            self._history.popleft()

    def counters(self) -> dict[str, int]:
        return {**self._learner, **{name: self._sum(name, role) for name, role in SUMMED.items()}}

    def rates(self) -> dict[str, float]:
        if len(self._history) < 2:
            return {}
        (began, before), (now, after) = self._history[0], self._history[-1]
        return {k: max(0.0, (after[k] - before[k]) / max(now - began, 1e-6)) for k in after}

    def _sum(self, name: str, role: str) -> int:
        counted = sum(c.get(name, 0) for (r, _, _), c in self._lives.items() if r == role)
        return self._earlier.get(name, 0) + int(counted)


def _known(new: float | None, old: float | None) -> float | None:
    """A snapshot holds a gauge only when it was set since the one before."""
    return old if new is None else new


def latest_gauge(records: Mapping[Key, Reported], role: str, name: str) -> float | None:
    """Mean of a gauge over the processes of a role that report it."""
    values = [r.counters.get("gauges", {}).get(name) for (of, _), r in records.items() if of == role]
    known = [v for v in values if v is not None]
    return sum(known) / len(known) if known else None


def scalars(records: Mapping[Key, Reported]) -> dict[str, float]:
    """TensorBoard tags: gauges, rates, waiting shares and memory, each the mean over the processes of a role."""
    sums: dict[str, list[float]] = defaultdict(list)
    for (role, _), record in records.items():
        for tag, value in _tags(record.counters):
            if value is not None:
                sums[f"{role}/{tag}"].append(value)
    return {tag: sum(values) / len(values) for tag, values in sums.items()}


def _tags(snapshot: dict[str, Any]) -> list[tuple[str, float | None]]:
    gauges = list(snapshot.get("gauges", {}).items())
    rates = [(f"{name}_per_s", v) for name, v in snapshot.get("rates", {}).items()]
    waits = [(f"waiting_for_{whom}", v) for whom, v in snapshot.get("waiting", {}).items()]
    memory = [("rss_mb", snapshot["rss_mb"])] if "rss_mb" in snapshot else []
    return gauges + rates + waits + memory


class LastLine:
    """The last report in a metrics file, for runs that had no registry."""

    def __init__(self, path: Path) -> None:
        lines = [json.loads(text) for text in path.read_text().splitlines()] if path.is_file() else []
        self.incarnation = 1
        self.counters: dict[str, Any] = next((line for line in reversed(lines) if "counters" in line), {})


class LogLines:
    """Prints a progress line once a minute, the first one when updates begin; for logs."""

    def __init__(self, every: float = 60.0, say: Callable[[str], None] = print) -> None:
        self._every, self._say = every, say
        self._last, self._began = time.monotonic(), False

    def __call__(self, progress: Progress) -> None:
        now, begins = time.monotonic(), not self._began and progress.rates.get("updates", 0.0) > 0
        if begins or now - self._last >= self._every:
            self._last, self._began = now, self._began or begins
            self._say(f"{time.strftime('%H:%M:%S')} {progress.line()}")

    def __enter__(self) -> LogLines:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        return


class TerminalLine:
    """Keeps one line with a spinner up to date; for terminals."""

    def __init__(self) -> None:
        from rich.console import Console

        self._status = Console(stderr=True).status("starting")

    def __call__(self, progress: Progress) -> None:
        self._status.update(progress.line())

    def __enter__(self) -> TerminalLine:
        self._status.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._status.stop()
