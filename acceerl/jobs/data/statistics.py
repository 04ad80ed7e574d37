"""`acceerl data stats`: the numbers that normalise, and counts by task; as text, JSON and plots."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from acceerl.jobs.data.options import Stats
from acceerl.jobs.data.shown import counted, shown
from acceerl.runtime.jsonfile import json_file
from acceerl.stores.checks import finite
from acceerl.stores.reader import Trajectories, open_trajectories

QUANTILES = (1, 99)


def run(sources: Sequence[Path], options: Stats) -> str:
    """Computes, writes what was asked for, and returns the table."""
    to = json_file(options.json) if options.json else None
    trajectories = open_trajectories(sources)
    numbers, lengths = statistics(trajectories, options.images)
    if to is not None:
        to.write_text(json.dumps(numbers, indent=1) + "\n")
    if options.plot:
        plot(Path(options.plot), numbers, lengths, trajectories)
    trajectories.close()
    return table(numbers)


def statistics(trajectories: Trajectories, images: int) -> tuple[dict[str, Any], np.ndarray]:
    """What `stats json=` holds, and the lengths of the episodes in control steps.

    Of actions (as executed) and proprioception, by dimension: mean, std, min, max, q01, q99; of colours by camera: mean
    and std of `images` frames spread over the data, in [0, 1].

    Raises ValueError for the first NaN: one makes NaN of a column's every number.
    """
    with shown("data stats", len(trajectories), "episodes") as advance:
        actions, proprio = [], []
        for i, entry in enumerate(trajectories.entries):
            actions.append(finite(entry, "actions", trajectories.executed(i, 0, entry.steps)))
            proprio.append(finite(entry, "obs/proprio", trajectories.proprio(i)))
            advance(1)
    lengths = np.array([entry.steps for entry in trajectories.entries])
    return {
        **trajectories.summary(),
        "episode_steps": {"mean": float(lengths.mean()), "min": int(lengths.min()), "max": int(lengths.max())},
        "actions": of_rows(np.concatenate(actions)),
        "proprio": of_rows(np.concatenate(proprio)),
        "images": colours(trajectories, images),
    }, lengths


def of_rows(rows: np.ndarray) -> dict[str, list[float]]:
    """By column. q01 and q99 as OpenVLA normalises actions."""
    low, high = np.percentile(rows, QUANTILES, axis=0)
    named = {
        "mean": rows.mean(0, dtype=np.float64), "std": rows.std(0, dtype=np.float64),
        "min": rows.min(0), "max": rows.max(0), "q01": low, "q99": high,
    }  # fmt: skip
    return {name: [float(value) for value in values] for name, values in named.items()}


def colours(trajectories: Trajectories, count: int) -> dict[str, dict[str, list[float]]]:
    """camera -> mean and std of red, green and blue."""
    found: dict[str, list[np.ndarray]] = {}
    chosen = np.linspace(0, len(trajectories) - 1, min(count, len(trajectories))).astype(int)
    for i in chosen:
        entry = trajectories.entries[int(i)]
        for _, camera in entry.layout.cameras:
            for row in range(0, entry.rows, max(1, entry.rows // max(1, count // len(chosen)))):
                frame = trajectories.frames(int(i), camera, row, row + 1)[0].reshape(-1, 3) / 255.0
                found.setdefault(camera, []).append(np.stack([frame.mean(0), (frame**2).mean(0)]))
    return {
        camera: {"mean": mean.tolist(), "std": np.sqrt(np.maximum(square - mean**2, 0)).tolist()}
        for camera, (mean, square) in ((camera, np.mean(parts, axis=0)) for camera, parts in found.items())
    }


def table(numbers: dict[str, Any]) -> str:
    steps = numbers["episode_steps"]
    lines = [
        f"{counted(numbers['episodes'], 'episode')}, {counted(numbers['steps'], 'step')} ({steps['min']} to "
        f"{steps['max']} an episode, "
        f"{steps['mean']:.1f} on average), {100 * numbers['successes'] / numbers['episodes']:.1f} % successful",
        f"{'episodes':>8} {'success':>8}  instruction",
    ]
    lines += [
        f"{row['episodes']:>8} {100 * row['successes'] / row['episodes']:>6.1f} %  {name}"
        for name, row in numbers["instructions"].items()
    ]
    for what in ("actions", "proprio"):
        keys = list(numbers[what])
        lines += ["", f"{what:<8}" + "".join(f"{key:>10}" for key in keys)]
        lines += [
            f"{i:>8}" + "".join(f"{value:>10.4f}" for value in values)
            for i, values in enumerate(zip(*numbers[what].values(), strict=True))
        ]
    lines += ["", f"{'colours':<20} {'mean':>20} {'std':>20}"] if numbers["images"] else []
    lines += [f"{name:<20} {_three(c['mean']):>20} {_three(c['std']):>20}" for name, c in numbers["images"].items()]
    return "\n".join(lines)


def _three(values: list[float]) -> str:
    return " ".join(f"{value:.3f}" for value in values)


def plot(path: Path, numbers: dict[str, Any], lengths: np.ndarray, trajectories: Trajectories) -> None:
    """A PNG: episodes by task, lengths, and the distribution of every action dimension."""
    from matplotlib.figure import Figure

    tasks, dims = numbers["instructions"], len(numbers["actions"]["mean"])
    figure = Figure(figsize=(14, 4 + 0.28 * len(tasks) + 2.2 * -(-dims // 4)), layout="constrained")
    parts: Any = figure.subfigures(2, 1, height_ratios=(2 + 0.28 * len(tasks), 2.2 * -(-dims // 4)))
    upper, lower = parts
    left, right = upper.subplots(1, 2)
    names = list(tasks)
    left.barh(names, [row["episodes"] for row in tasks.values()], color="#d4d4d8", label="episodes")
    left.barh(names, [row["successes"] for row in tasks.values()], color="#2563eb", label="successes")
    left.invert_yaxis()
    left.legend(loc="lower right", bbox_to_anchor=(1, 1), ncols=2, frameon=False)
    right.hist(lengths, bins=min(40, len(set(lengths.tolist()))), color="#2563eb")
    right.set(xlabel="control steps", ylabel="episodes")
    actions = np.concatenate([trajectories.executed(i, 0, e.steps) for i, e in enumerate(trajectories.entries)])
    for d, axis in enumerate(np.atleast_1d(lower.subplots(-(-dims // 4), min(4, dims))).flat):
        axis.set_visible(d < dims)
        if d < dims:
            axis.hist(actions[:, d], bins=60, color="#2563eb", log=True)
            axis.set_title(f"action {d}", fontsize=9)
            for q in ("q01", "q99"):
                axis.axvline(numbers["actions"][q][d], color="#dc2626", linewidth=1)
    figure.savefig(path, format="png", dpi=100)
