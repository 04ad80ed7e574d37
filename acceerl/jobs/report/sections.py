"""Which curves the report shows, in which order and with which words; the place to add one."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from acceerl.jobs.report.charts import POINTS, Chart, Line
from acceerl.jobs.report.records import Records
from acceerl.jobs.success import wilson

WINDOW = 100  # training episodes that one point of the success curve looks back on
FEWEST = 10  # episodes before there is a point at all

# title, gauges of the learner and their names in the legend, is it a share, note
LEARNING: list[tuple[str, dict[str, str], bool, str]] = [
    ("Loss", {"loss": ""}, False, "Policy + value + KL terms; its level says little, its jumps do."),
    ("Policy loss", {"policy_loss": ""}, False, ""),
    ("Value loss", {"value_loss": ""}, False, "Mean squared error to the returns."),
    ("KL(behaviour ‖ policy)", {"kl": ""}, False, "k3 estimate per token, in nats."),
    ("Policy lag", {"lag": ""}, False, "Versions between the policy that acted and the one in training."),
    ("Fresh and stale tokens", {"lag_fresh": "≤ 2 versions old", "lag_stale": "≥ 10 versions old"}, True, ""),
    ("Effective sample size", {"effective_sample_size": ""}, True, "Of a micro-batch's tokens; 100 % is on-policy."),
    ("Damped tokens", {"damped_share": "GIPO weight < 0.5", "clipped_share": "outside PPO's clip"}, True, ""),
    ("Entropy", {"entropy": ""}, False, "Nats per token; a collapse to 0 ends exploration."),
    ("Value and return", {"value": "value", "return": "return"}, False, "Per decision, means of the batch."),
    ("Gradient norm", {"grad_norm": ""}, False, "Before clipping."),
    ("Imagined decisions", {"imagined_share": ""}, True, "Share of the batch that was dreamed."),
]

# title, role that counts, counter
SPEEDS = [
    ("Control steps per second", "rollout", "env_steps"),
    ("Decisions per second", "inference", "decisions"),
    ("Trained decisions per second", "learner", "samples"),
    ("Updates per second", "learner", "updates"),
]

# title, role, gauge, note
QUEUES = [
    ("Inference batch", "inference", "batch", "Observations per forward pass."),
    ("Time in the queue", "inference", "queued_ms", "Milliseconds that the oldest request of a batch waited."),
    ("Seconds per update", "learner", "update_s", ""),
]


def success_charts(records: Records, evaluations: Sequence[dict[str, Any]]) -> list[Chart]:
    """Training episodes over time and over control steps, and greedy evaluation per policy version."""
    episodes = records.events["episode"]
    time, unit = _clock(records)
    minutes = time(records.active([e["time"] for e in episodes]))
    steps = np.array([e.get("env_steps", np.nan) for e in episodes], float)
    won = np.array([bool(e["success"]) for e in episodes])
    note = f"The last {WINDOW} episodes, actions sampled; tasks that fail are drawn more often, which lowers it."
    over_time = [rolling(minutes, won, "episodes" if _balanced(records) else "")]
    if _balanced(records):
        x, y = records.gauge("learner", "success")
        over_time.append(Line(time(x), y, "mean of tasks"))
    known, band = np.isfinite(steps), "The same episodes; the band is the 95 % interval."
    return [
        Chart("Success in training", over_time, unit, note, percent=True),
        Chart("Success over experience", [rolling(steps[known], won[known])], "control steps", band, True),
        Chart(
            "Evaluation success",
            [_evaluated(evaluations)],
            "policy version",
            "All evaluation states, actions greedy, with 95 % interval.",
            True,
        ),
    ]


def rolling(x: np.ndarray, won: np.ndarray, name: str = "") -> Line:
    """Success of the last WINDOW episodes (fewer at the start) with its Wilson interval, at up to POINTS places."""
    order = np.argsort(x, kind="stable")
    x, total = x[order], np.concatenate([[0], np.cumsum(won[order])])
    ends = np.unique(np.linspace(min(FEWEST, len(x)), len(x), POINTS).round().astype(int))
    ends = ends[ends > 0]
    starts = np.maximum(0, ends - WINDOW)
    successes, numbers = total[ends] - total[starts], ends - starts
    bounds = np.array([wilson(s, n) for s, n in zip(successes, numbers, strict=True)]).reshape(-1, 2)
    return Line(x[ends - 1], successes / np.maximum(numbers, 1), name, bounds[:, 0], bounds[:, 1])


def learning_charts(records: Records) -> list[Chart]:
    dreams = records.gauge("learner", "imagined_share")[1].any()
    return [
        Chart(title, _gauges(records, "learner", names), _clock(records)[1], note, percent)
        for title, names, percent, note in LEARNING
        if dreams or "imagined_share" not in names
    ]


def speed_charts(records: Records) -> list[Chart]:
    time, unit = _clock(records)
    rates = []
    for title, role, counter in SPEEDS:
        x, y = records.rate(role, counter)
        rates.append(Chart(title, [Line(time(x), y)], unit, from_zero=True))
    return rates + [
        Chart(title, _gauges(records, role, {gauge: ""}), unit, note, from_zero=True)
        for title, role, gauge, note in QUEUES
    ]


def tasks_over_time(records: Records, columns: int = 24) -> dict[int, list[float]]:
    """Success of training episodes per task in equal spans of active time; NaN where a task was not played."""
    episodes = records.events["episode"]
    if not episodes or records.duration <= 0:
        return {}
    at = records.active([e["time"] for e in episodes]) / records.duration * columns
    column = np.minimum(at.astype(int), columns - 1)
    task, won = (np.array([int(e[key]) for e in episodes]) for key in ("task", "success"))
    return {int(t): [_mean(won[(task == t) & (column == c)]) for c in range(columns)] for t in np.unique(task)}


def _mean(values: np.ndarray) -> float:
    return float(values.mean()) if len(values) else float("nan")


def _balanced(records: Records) -> bool:
    return ("learner", "success") in records.gauges


def _evaluated(evaluations: Sequence[dict[str, Any]]) -> Line:
    rows = sorted(evaluations, key=lambda e: e["version"])
    bounds = np.array([wilson(e["success"] * e["episodes"], e["episodes"]) for e in rows]).reshape(-1, 2)
    x, y = (np.array([e[key] for e in rows], float) for key in ("version", "success"))
    return Line(x, y, low=bounds[:, 0], high=bounds[:, 1], dots=True)


def _gauges(records: Records, role: str, names: dict[str, str]) -> list[Line]:
    time, _ = _clock(records)
    lines = []
    for gauge, name in names.items():
        x, y = records.gauge(role, gauge)
        lines.append(Line(time(x), y, name))
    return lines


def _clock(records: Records) -> tuple[Any, str]:
    """How to turn active seconds into the unit in which this run is best read, and the axis label."""
    units = ((300.0, 1, "seconds"), (4 * 3600.0, 60, "minutes"), (np.inf, 3600, "hours"))
    seconds, unit = next((seconds, unit) for limit, seconds, unit in units if records.duration <= limit)
    return (lambda x: np.asarray(x, float) / seconds), unit
