"""The arithmetic of the drills: gaps between updates, throughput after a kill, success, memory. Pure functions.

They read what a run wrote about itself (metrics/*.jsonl) or what `Training` sampled of its status.json. Times are
seconds since the epoch.
"""

from __future__ import annotations

import itertools
import json
import math
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np


def lines(run: Path, role: str = "*") -> Iterable[dict[str, Any]]:
    """Every line of the metrics of a role, file by file."""
    for path in sorted((run / "metrics").glob(f"{role}.*.jsonl")):
        for text in path.read_text().splitlines():
            yield json.loads(text)


def episodes(run: Path) -> list[dict[str, Any]]:
    """The learner's episode events in order of time; each names the number of updates then."""
    return sorted((e for e in lines(run, "learner") if e.get("event") == "episode"), key=lambda e: e["time"])


def update_times(run: Path) -> list[float]:
    """When each update was over, as seen by the first episode booked after it.

    Late by the time to the next episode at most: with tens of episodes an update, a few hundredths of it. Several
    updates between two episodes count as one.
    """
    events = episodes(run)
    return [after["time"] for before, after in itertools.pairwise(events)
            if after["updates"] != before["updates"]]  # fmt: skip


def gaps(times: Sequence[float], began: float, ended: float) -> dict[str, float]:
    """Longest and median distance of the `times` between two moments, in seconds; silence at either end counts."""
    inside = [began, *(t for t in times if began < t < ended), ended]
    between = np.diff(np.asarray(inside))
    return {"longest_gap_s": float(between.max()), "median_gap_s": float(np.median(between))}


@dataclass(frozen=True)
class Rates:
    """A counter's growth: `rate[i]` per second from `times[i]` on, over `span` seconds."""

    times: np.ndarray
    rate: np.ndarray

    @classmethod
    def of(cls, times: Sequence[float], values: Sequence[float], span: float = 4.0) -> Rates:
        at, counted = np.asarray(times), np.asarray(values, float)
        starts = at[at + span <= at[-1]]
        grown = np.interp(starts + span, at, counted) - np.interp(starts, at, counted)
        return cls(starts, grown / span)

    def between(self, begin: float, end: float) -> np.ndarray:
        return self.rate[(self.times >= begin) & (self.times < end)]

    def back_after(self, moment: float, at_least: float, until: float) -> float | None:
        """Seconds from `moment` to the first span with the rate; None when there was none that began by `until`."""
        good = (self.times >= moment) & (self.times < until) & (self.rate >= at_least)
        return float(self.times[good][0] - moment) if good.any() else None


def success_break(run: Path, moments: Sequence[float], window: int = 100) -> float:
    """The worst fall of the success rate over a moment, in standard errors of the difference; 0 when none fell.

    Compares the last `window` episodes before each moment with the first `window` after it.
    """
    events = episodes(run)
    falls = [_fall(events, moment, window) for moment in moments]
    return max([0.0, *falls])


def _fall(events: list[dict[str, Any]], moment: float, window: int) -> float:
    before = [e["success"] for e in events if e["time"] < moment][-window:]
    after = [e["success"] for e in events if e["time"] >= moment][:window]
    if not before or not after:
        return 0.0
    n, m = len(before), len(after)
    p = (sum(before) + sum(after) + 1) / (n + m + 2)  # one won and one lost more, so that the error is never 0
    return (sum(before) / n - sum(after) / m) / math.sqrt(p * (1 - p) * (1 / n + 1 / m))


@dataclass(frozen=True)
class Growth:
    """How a process' resident memory went after warm-up."""

    name: str
    seconds: float
    first_mb: float  # median of the first third
    last_mb: float  # median of the last third
    slope_mb_per_min: float

    @property
    def share(self) -> float:
        """Last third over first third, minus 1."""
        return self.last_mb / self.first_mb - 1

    @property
    def fitted_share(self) -> float:
        """What the line through all points gained from its begin to its end, over its begin."""
        return self.slope_mb_per_min * self.seconds / 60 / self.first_mb


def memory(run: Path, warm_up: float = 120.0) -> list[Growth]:
    """One Growth for each process life that lasted at least twice as long as `warm_up` seconds."""
    lives: dict[str, list[tuple[float, float]]] = defaultdict(list)
    for line in lines(run):
        if "rss_mb" in line:
            lives[f"{line['role']}.{line['index']}.{line['pid']}"].append((line["time"], line["rss_mb"]))
    long = {name: points for name, points in lives.items() if points[-1][0] - points[0][0] >= 2 * warm_up}
    return [_growth(name, points, warm_up) for name, points in sorted(long.items())]


def _growth(name: str, points: list[tuple[float, float]], warm_up: float) -> Growth:
    warm = [(time, mb) for time, mb in points if time >= points[0][0] + warm_up]
    times, mb = np.array(warm).T
    third = max(1, len(mb) // 3)
    slope = float(np.polyfit((times - times[0]) / 60, mb, 1)[0]) if len(mb) > 1 else 0.0
    role = ".".join(name.split(".")[:2])
    return Growth(role, float(times[-1] - times[0]), median(mb[:third]), median(mb[-third:]), slope)
