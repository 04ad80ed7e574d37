"""Success rates and how far to trust them: Wilson intervals, and the table per task as text, Markdown and JSON."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from rich.console import Console
from rich.table import Table
from rich.text import Text

from acceerl.jobs.video import write_video
from acceerl.runtime.rundir import replace_text
from acceerl.types import EpisodeResult

__all__ = ["Row", "markdown", "overall", "table", "wilson", "write_table", "write_video"]


@dataclass(frozen=True)
class Row:
    """One task's score, or that of all tasks together (`task` is None)."""

    task: int | None
    instruction: str
    episodes: int
    successes: int
    low: float  # bounds of the 95 % interval, 0 to 1
    high: float
    mean_steps: float  # control steps, over all episodes

    @property
    def rate(self) -> float:
        """0 to 1; NaN without episodes."""
        return self.successes / self.episodes if self.episodes else math.nan


def wilson(successes: float, episodes: int, z: float = 1.959964) -> tuple[float, float]:
    """Bounds in [0, 1] of the score interval for a proportion, 95 % by default (Wilson 1927).

    Unlike mean ± 2 standard errors it stays honest near 0 and 1 and for few episodes. Without episodes: (0, 1).

    >>> [round(x, 3) for x in wilson(9, 10)]
    [0.596, 0.982]
    """
    if not episodes:
        return 0.0, 1.0
    rate, spread = successes / episodes, z * z / episodes
    centre = rate + spread / 2
    half = z * math.sqrt(rate * (1 - rate) / episodes + spread / (4 * episodes))
    return max(0.0, (centre - half) / (1 + spread)), min(1.0, (centre + half) / (1 + spread))


def overall(results: Sequence[EpisodeResult]) -> float:
    """Share of successful episodes, 0 to 1; NaN without episodes."""
    return sum(r.success for r in results) / len(results) if results else math.nan


def table(results: Sequence[EpisodeResult], instructions: Sequence[str]) -> list[Row]:
    """One row for each task that was played, in order, then one for all of them together."""
    played = sorted({r.task for r in results})
    rows = [_row(task, instructions[task], [r for r in results if r.task == task]) for task in played]
    return [*rows, _row(None, "all tasks", results)]


def write_table(results: Sequence[EpisodeResult], instructions: Sequence[str], path: Path | None = None) -> list[Row]:
    """Prints the table; with a path writes it there as JSON, and beside it as Markdown.

    The JSON holds `success`, `low`, `high`, `version` (of the first episode), `tasks` (rows) and every result.
    """
    rows = table(results, instructions)
    Console().print(rich_table(rows))
    if path is not None:
        path.parent.mkdir(parents=True, exist_ok=True)
        replace_text(path, json.dumps(as_json(rows, results), indent=1, allow_nan=False) + "\n")
        replace_text(path.with_suffix(".md"), markdown(rows) + "\n")
    return rows


def rich_table(rows: Sequence[Row]) -> Table:
    drawn = Table(show_edge=False, pad_edge=False)
    for title, side in _COLUMNS:
        drawn.add_column(title, justify=side, no_wrap=side == "right")
    for row in rows:
        if row.task is None:
            drawn.add_section()
        drawn.add_row(*map(Text, _cells(row)))  # as Text, so that brackets are no markup
    return drawn


def markdown(rows: Sequence[Row]) -> str:
    """The table for a README or an issue."""
    lines = [[title for title, _ in _COLUMNS], ["---" if side == "left" else "---:" for _, side in _COLUMNS]]
    lines += [[cell.replace("|", "\\|") for cell in _cells(row)] for row in rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def as_json(rows: Sequence[Row], results: Sequence[EpisodeResult]) -> dict[str, Any]:
    """Plain data; a rate without episodes is null, since JSON has no NaN."""
    *tasks, total = rows
    return {
        "success": _number(total.rate),
        "low": total.low,
        "high": total.high,
        "episodes": total.episodes,
        "mean_steps": _number(total.mean_steps),
        "version": results[0].version if results else None,
        "tasks": [asdict(row) | {"success": row.rate} for row in tasks],
        "results": [asdict(r) for r in results],
    }


_COLUMNS: tuple[tuple[str, Literal["left", "right"]], ...] = (
    ("task", "right"), ("instruction", "left"), ("won", "right"), ("success", "right"), ("95 % interval", "right"),
    ("steps", "right"),
)  # fmt: skip


def _cells(row: Row) -> list[str]:
    return [
        "" if row.task is None else str(row.task),
        row.instruction,
        f"{row.successes}/{row.episodes}",
        f"{100 * row.rate:.1f} %",
        f"{100 * row.low:.1f}–{100 * row.high:.1f} %",
        f"{row.mean_steps:.0f}",
    ]


def _row(task: int | None, instruction: str, results: Sequence[EpisodeResult]) -> Row:
    successes = sum(r.success for r in results)
    steps = sum(r.steps for r in results) / len(results) if results else math.nan
    return Row(task, instruction, len(results), successes, *wilson(successes, len(results)), steps)


def _number(value: float) -> float | None:
    return value if math.isfinite(value) else None
