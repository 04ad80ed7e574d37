"""What the report says about dreams: the gap to reality, and how many real steps a success cost, against other runs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from acceerl.jobs.report.charts import Chart, Line
from acceerl.jobs.report.records import Records
from acceerl.jobs.success import wilson
from acceerl.runtime.rundir import Run
from acceerl.stores.reader import open_trajectories

GOAL = 0.8  # success whose price in real steps is told


@dataclass(frozen=True)
class Progress:
    """Evaluation success of one run over the real control steps that its training had played by then."""

    name: str
    steps: np.ndarray  # float64 [n], online
    success: np.ndarray
    episodes: np.ndarray
    offline: int  # control steps of the recorded trajectories that its world model learnt from

    def to_goal(self) -> float:
        """Online control steps until evaluation success was GOAL or more, linear between two rounds; NaN: never."""
        reached = np.flatnonzero(self.success >= GOAL)
        if not len(reached):
            return float("nan")
        i = int(reached[0])
        if i == 0:
            return float(self.steps[0])
        (x0, x1), (y0, y1) = self.steps[i - 1 : i + 1], self.success[i - 1 : i + 1]
        return float(x0 + (GOAL - y0) / (y1 - y0) * (x1 - x0))


def progress(run: Run, records: Records, rounds: Sequence[dict[str, Any]]) -> Progress:
    """Versions become control steps by the episodes that ended around them."""
    episodes = [e for e in records.events["episode"] if {"env_steps", "updates"} <= e.keys()]
    updates, steps = (np.array([0, *(e[key] for e in episodes)], float) for key in ("updates", "env_steps"))
    rows = sorted(rounds, key=lambda e: e["version"])
    versions = np.array([e["version"] for e in rows], float)
    order = np.argsort(updates, kind="stable")
    return Progress(
        run.name,
        np.interp(versions, updates[order], np.maximum.accumulate(steps[order])),
        np.array([e["success"] for e in rows], float),
        np.array([e["episodes"] for e in rows], float),
        _offline(run),
    )


def _offline(run: Run) -> int:
    data = run.config().world.data
    if not run.config().world_model or not data or not Path(data).exists():
        return 0
    return sum(entry.steps for entry in open_trajectories(data).entries)


def efficiency_charts(runs: Sequence[Progress]) -> list[Chart]:
    """Success over real steps, counted without and with the recorded ones."""
    note = f"Evaluation states, actions greedy, 95 % intervals. {prices(runs)}"
    charts = [Chart("Success over online steps", [_line(r, 0) for r in runs], "online control steps", note, True)]
    if any(r.offline for r in runs):
        both = [_line(r, r.offline) for r in runs]
        charts.append(Chart("The same, recorded steps counted too", both, "online and recorded steps", "", True))
    return charts


def prices(runs: Sequence[Progress]) -> str:
    """What each run paid for the goal, and the ratio of the dearest to the cheapest."""
    costs = {r.name: r.to_goal() for r in runs}
    told = [f"{name}: {cost:,.0f}" if np.isfinite(cost) else f"{name}: not reached" for name, cost in costs.items()]
    known = [cost for cost in costs.values() if np.isfinite(cost)]
    ratio = f" ({max(known) / max(min(known), 1.0):.1f}x)" if len(known) > 1 else ""
    return f"Online control steps to {GOAL:.0%}: {'; '.join(told)}{ratio}."


def _line(run: Progress, before: int) -> Line:
    bounds = np.array([wilson(s * n, n) for s, n in zip(run.success, run.episodes, strict=True)]).reshape(-1, 2)
    return Line(run.steps + before, run.success, run.name, bounds[:, 0], bounds[:, 1])


def dream_charts(records: Records) -> list[Chart]:
    """Imagined against real success on the same contexts, and what the world model's training looks like."""
    compared = records.events["comparison"]
    x = records.active([e["time"] for e in compared]) / 60
    lines = [Line(x, np.array([e[key] for e in compared], float), key, dots=True) for key in ("imagined", "real")]
    note = "Whole episodes dreamt from starts whose real end is known; the distance is what imagination gets wrong."
    charts = [Chart("Success in dreams and in reality", lines, "minutes", note, percent=True)]
    for title, gauge in (("Picture loss", "picture_loss"), ("Success loss", "success_loss"), ("Horizon", "horizon")):
        role = "dreamer" if gauge == "horizon" else "world_model"
        when, value = records.gauge(role, gauge)
        charts.append(Chart(title, [Line(when / 60, value)], "minutes"))
    return [chart for chart in charts if chart]
