"""What a run wrote about itself, as time series: reads RUN/metrics/*.jsonl once, whatever its processes lived through.

Counters begin again in each process, processes come and go, and a run may lie still between two attempts. So every
counter is a cumulative curve per process, rates are differences of their sum, and time is *active* time: pauses
longer than `PAUSE_S` without a line from anyone are cut out.
"""

from __future__ import annotations

import json
from collections import defaultdict
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

PAUSE_S = 60.0
# Counters that a restored learner continues instead of starting at 0 (see jobs: they name states, not work done).
CONTINUED = {"updates", "policy_version"}

Process = tuple[str, int, int]  # role, index, pid


@dataclass
class Curve:
    """Times (seconds since the epoch) and values, in the order of writing."""

    times: list[float] = field(default_factory=list)
    values: list[float] = field(default_factory=list)

    def add(self, time: float, value: float) -> None:
        self.times.append(time)
        self.values.append(value)


@dataclass
class Records:
    """Everything that the report needs from the metrics; `read` makes it."""

    counters: dict[str, dict[Process, Curve]] = field(default_factory=lambda: defaultdict(lambda: defaultdict(Curve)))
    gauges: dict[tuple[str, str], Curve] = field(default_factory=lambda: defaultdict(Curve))  # (role, name)
    seconds: dict[str, float] = field(default_factory=lambda: defaultdict(float))  # role -> process-seconds
    lived: dict[tuple[str, int], float] = field(default_factory=lambda: defaultdict(float))  # the same by process
    waited: dict[tuple[str, str], float] = field(default_factory=lambda: defaultdict(float))  # (role, whom) -> seconds
    rss_mb: dict[str, float] = field(default_factory=lambda: defaultdict(float))  # role -> largest process
    events: dict[str, list[dict[str, Any]]] = field(default_factory=lambda: defaultdict(list))
    processes: dict[Process, float] = field(default_factory=dict)  # -> time of its first line
    unreadable: int = 0  # lines that a kill tore apart
    _clock: tuple[np.ndarray, np.ndarray] = field(default_factory=lambda: (np.zeros(1), np.zeros(1)))

    @classmethod
    def read(cls, folder: Path) -> Records:
        """All files of the folder; a missing folder is an empty run."""
        records = cls()
        for path in sorted(folder.glob("*.jsonl")):
            with path.open(errors="replace") as lines:
                for text in lines:
                    records._take(text)
        records._settle()
        return records

    @property
    def duration(self) -> float:
        """Active seconds."""
        return float(self._clock[1][-1])

    def active(self, times: Any) -> np.ndarray:
        """Seconds since the epoch -> active seconds since the first line."""
        return np.interp(times, *self._clock)

    def total(self, role: str, counter: str) -> float:
        """What all processes of a role counted together; for updates and versions, the highest reached."""
        ends = [curve.values[-1] for curve in self._curves(role, counter)]
        if not ends:
            return 0.0
        return max(ends) if counter in CONTINUED else sum(ends)

    def rate(self, role: str, counter: str, bins: int = 60) -> tuple[np.ndarray, np.ndarray]:
        """Middles of equal spans of the active time in which anyone counted, and counts per second in each.

        Both are empty without data.
        """
        curves = self._curves(role, counter)
        times = self.active([t for c in curves for t in (c.times[0], c.times[-1])])
        if not curves or times.max() <= times.min():
            return np.zeros(0), np.zeros(0)
        edges = np.linspace(times.min(), times.max(), bins + 1)
        done = sum((np.interp(edges, self.active(c.times), c.values) for c in curves), np.zeros(bins + 1))
        return (edges[1:] + edges[:-1]) / 2, np.diff(done) / np.diff(edges)

    def gauge(self, role: str, name: str) -> tuple[np.ndarray, np.ndarray]:
        """Active seconds and values of a gauge over all processes of a role, in order of time."""
        curve = self.gauges.get((role, name), Curve())
        order = np.argsort(curve.times, kind="stable")
        return self.active(np.array(curve.times)[order]), np.array(curve.values)[order]

    def restarts(self, role: str, attempts: int) -> int:
        """Processes of a role beyond one for each index and attempt: those that replaced a dead one."""
        mine = [process for process in self.processes if process[0] == role]
        return max(0, len(mine) - attempts * len({index for _, index, _ in mine}))

    def _curves(self, role: str, counter: str) -> list[Curve]:
        return [curve for (of, _, _), curve in self.counters[counter].items() if of == role]

    def _take(self, text: str) -> None:
        try:
            line = json.loads(text)
            who = (str(line["role"]), int(line["index"]), int(line.get("pid", 0)))
            self._book(who, float(line["time"]), line)
        except (ValueError, KeyError, TypeError, AttributeError):
            self.unreadable += 1

    def _book(self, who: Process, time: float, line: dict[str, Any]) -> None:
        self.processes.setdefault(who, time)
        if "event" in line:
            self.events[line["event"]].append(line)
            return
        seconds = float(line.get("seconds", 0.0))
        self.seconds[who[0]] += seconds
        self.lived[who[:2]] += seconds
        self.rss_mb[who[0]] = max(self.rss_mb[who[0]], line.get("rss_mb") or 0.0)
        for whom, share in line.get("waiting", {}).items():
            self.waited[who[0], whom] += (share or 0.0) * seconds
        for name, value in line.get("gauges", {}).items():
            if value is not None:
                self.gauges[who[0], name].add(time, value)
        for name, value in line.get("counters", {}).items():
            self._count(self.counters[name][who], name, time, seconds, value)

    def _count(self, curve: Curve, name: str, time: float, seconds: float, value: float) -> None:
        if not curve.times:
            curve.add(time - seconds, value if name in CONTINUED else 0.0)
        curve.add(time, value)

    def _settle(self) -> None:
        """Sorts events, lets continued counters begin where the process before stopped, and sets the clock."""
        for events in self.events.values():
            events.sort(key=lambda line: line["time"])
        for name in CONTINUED & self.counters.keys():
            _chain(list(self.counters[name].items()))
        times = [t for curves in self.counters.values() for c in curves.values() for t in c.times]
        times += [line["time"] for events in self.events.values() for line in events]
        times += [t for curve in self.gauges.values() for t in curve.times]
        if times:
            ticks = np.unique(times)
            steps = np.diff(ticks, prepend=ticks[0])
            self._clock = ticks, np.cumsum(np.where(steps > PAUSE_S, 0.0, steps))


def _chain(curves: list[tuple[Process, Curve]]) -> None:
    reached: dict[tuple[str, int], float] = defaultdict(float)
    for (role, index, _), curve in sorted(curves, key=lambda item: item[1].times[0]):
        curve.values[0] = min(reached[role, index], curve.values[1])
        reached[role, index] = max(reached[role, index], curve.values[-1])
