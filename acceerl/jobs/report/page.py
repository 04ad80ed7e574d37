"""The pieces of the page as HTML: headline, tiles, tables, bars, videos. Every text from outside passes `escape`."""

from __future__ import annotations

import base64
import math
import re
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

from acceerl.jobs.report.charts import Chart, figure
from acceerl.jobs.report.costs import Cost, sentence
from acceerl.jobs.report.records import Records

MAX_VIDEO_BYTES = 32 * 2**20  # embedded in one page; the rest are named instead

Score = Mapping[str, Any]  # what jobs/success.py wrote


def headline(before: Score | None, after: Score | None, after_is_last: bool) -> str:
    """The one sentence: success before and after, with intervals, and what they allow to conclude."""
    shown = [(label, s) for label, s in (("before", before), ("after" if after_is_last else "so far", after)) if s]
    if not shown:
        return '<p class="lead">No evaluation yet: the curves below show training episodes only.</p>'
    numbers = '<span class="arrow">→</span>'.join(_big(label, score) for label, score in shown)
    return f'<div class="headline">{numbers}</div><p class="lead">{_verdict(before, after)}</p>'


def _big(label: str, score: Score) -> str:
    interval = f"{100 * score['low']:.0f}–{100 * score['high']:.0f} %"
    detail = f"{escape(label)} · {score['episodes']} episodes · {interval}"
    return f'<div class="big"><b>{100 * score["success"]:.1f}<small> %</small></b><span>{detail}</span></div>'


def _verdict(before: Score | None, after: Score | None) -> str:
    if not before or not after:
        return "Success on the evaluation states, greedy actions, with its 95 % interval."
    change = 100 * (after["success"] - before["success"])
    text = f"Success on the evaluation states, greedy actions: {change:+.1f} points."
    if after["low"] > before["high"] or after["high"] < before["low"]:
        return f"{text} The 95 % intervals do not overlap."
    return f"{text} The 95 % intervals overlap: more episodes would tell whether this is chance."


def tiles(facts: Sequence[tuple[str, str]]) -> str:
    return "".join(f"<div><b>{escape(value)}</b><span>{escape(name)}</span></div>" for name, value in facts)


def charts(drawings: Sequence[Chart]) -> str:
    """All charts that have data; a sentence when none has."""
    drawn = "".join(figure(chart) for chart in drawings if chart)
    return f'<div class="charts">{drawn}</div>' if drawn else '<p class="note">Nothing recorded yet.</p>'


def task_table(before: Score | None, after: Score | None) -> str:
    """One row a task: both scores as intervals on one scale, and as numbers."""
    scores = [s for s in (before, after) if s]
    if not scores:
        return '<p class="note">No evaluation has ended yet.</p>'
    rows = {row["task"]: row["instruction"] for score in scores for row in score["tasks"]}
    lines = [_task_row(task, rows[task], _of_task(before, task), _of_task(after, task)) for task in sorted(rows)]
    total = _task_row(None, "all tasks", before, after)
    head = "<tr><th>task</th><th></th><th>before</th><th>after</th><th>change</th><th>steps</th></tr>"
    if len(scores) == 1:
        head = head.replace("<th>after</th>" if before else "<th>before</th>", "<th></th>")
    return (
        '<div class="scroll"><table class="tasks">'
        f"<thead>{head}</thead><tbody>{''.join(lines)}</tbody><tfoot>{total}</tfoot></table></div>"
    )


def _of_task(score: Score | None, task: int) -> Score | None:
    rows = [row for row in score["tasks"] if row["task"] == task] if score else []
    return rows[0] if rows else None


def _task_row(task: int | None, instruction: str, before: Score | None, after: Score | None) -> str:
    number = "" if task is None else f'<span class="id">{task}</span>'
    digits = 1 if task is None else 0  # of all tasks there are enough episodes for a tenth
    change = f"{100 * (after['success'] - before['success']):+.{digits}f}" if before and after else ""
    steps = (after or before or {}).get("mean_steps")
    cells = [
        f'<td class="what">{number}{escape(instruction)}</td>',
        f'<td class="forest">{_forest(before, "was")}{_forest(after, "is")}</td>',
        f"<td>{_rate(before, digits)}</td><td>{_rate(after, digits)}</td><td>{change}</td>",
        f"<td>{'' if steps is None else f'{steps:.0f}'}</td>",
    ]
    return f"<tr>{''.join(cells)}</tr>"


def _rate(score: Score | None, digits: int) -> str:
    if not score:
        return ""
    interval = f"{100 * score['low']:.0f}–{100 * score['high']:.0f}"
    return f'{100 * score["success"]:.{digits}f} %<small title="95 % interval"> {interval}</small>'


def _forest(score: Score | None, css: str) -> str:
    """The interval as a bar and the rate as a dot, on a scale from 0 to 100 %."""
    if not score:
        return ""
    low, high, rate = (100 * score[key] for key in ("low", "high", "success"))
    bar = f'<i style="left:{low:.1f}%;width:{high - low:.1f}%"></i><b style="left:{rate:.1f}%"></b>'
    return f'<span class="{css}" role="img" aria-label="{rate:.0f} %">{bar}</span>'


def heat_map(rates: Mapping[int, Sequence[float]], instructions: Mapping[int, str]) -> str:
    """Success of training episodes, a row for each task and a column for each span of time."""
    if not rates:
        return ""
    rows = "".join(
        f"<tr>{_heat_name(task, instructions)}{''.join(map(_heat, spans))}</tr>"
        for task, spans in sorted(rates.items())
    )
    note = "The fuller the colour, the higher, from 0 to 100 %; blank: not played. Time runs from left to right."
    return f'<h3>Training success by task</h3><table class="heat">{rows}</table><p class="note">{note}</p>'


def _heat_name(task: int, instructions: Mapping[int, str]) -> str:
    text = escape(instructions.get(task, ""), quote=True)
    return f'<th title="{text}"><span class="id">{task}</span>{text}</th>'


def _heat(rate: float) -> str:
    if not math.isfinite(rate):
        return "<td></td>"
    return f'<td title="{100 * rate:.0f} %"><i style="opacity:{0.06 + 0.94 * rate:.2f}"></i></td>'


def where_time_went(
    records: Records, restarts: Mapping[str, int], cost: Mapping[str, Cost], guests: float = 0.0
) -> str:
    """One bar a role: the share of its processes' time spent waiting, for whom, and the rest; and what it cost."""
    rows = [_role_row(records, role, restarts.get(role, 0), cost[role]) for role in sorted(records.seconds, key=_place)]
    head = "<tr><th>role</th><th></th><th>restarts</th><th>memory</th><th>CPU-hours</th><th>GPU-hours</th></tr>"
    legend = (
        '<p class="note">Blue: working. Striped: waiting, for whom. Memory: the largest process. '
        f"{sentence(cost, records.duration, guests)}</p>"
    )
    return f'<div class="scroll"><table class="time">{head}{"".join(rows)}</table></div>{legend}' if rows else ""


_ORDER = ("rollout", "evaluator", "inference", "learner", "world_model", "dreamer")


def _place(role: str) -> int:
    return _ORDER.index(role) if role in _ORDER else len(_ORDER)


def _role_row(records: Records, role: str, restarts: int, cost: Cost) -> str:
    total = max(records.seconds[role], 1e-9)
    waits = {whom: s / total for (of, whom), s in sorted(records.waited.items()) if of == role and s / total >= 0.005}
    working = max(0.0, 1 - sum(waits.values()))
    bars = [_share("working", working, "work")] + [
        _share(f"for {whom}", share, "wait") for whom, share in waits.items()
    ]
    number = len({index for of, index, _ in records.processes if of == role})
    return (
        f"<tr><th>{escape(role)} <small>× {number}</small></th>"
        f'<td class="bar"><div>{"".join(bars)}</div></td><td>{restarts or "–"}</td>'
        f"<td>{records.rss_mb[role]:,.0f} MB</td><td>{cost.cpu_h:.2f}</td><td>{cost.gpu_h:.2f}</td></tr>"
    )


def _share(name: str, share: float, css: str) -> str:
    label = f"{100 * share:.0f} % {name}"
    text = escape(label) if share > 0.12 else ""  # a narrower piece has no room; its title tells
    return f'<span class="{css}" style="width:{100 * share:.2f}%" title="{escape(label, quote=True)}">{text}</span>'


def videos(files: Sequence[Path], instructions: Mapping[int, str]) -> str:
    """Each file embedded while they fit into MAX_VIDEO_BYTES together; the names of the others."""
    shown, named, left = [], [], MAX_VIDEO_BYTES
    for path in files:
        if path.stat().st_size <= left:
            left -= path.stat().st_size
            shown.append(_video(path, instructions))
        else:
            named.append(escape(path.name))
    note = f'<p class="note">Too large to embed, see videos/: {", ".join(named)}</p>' if named else ""
    return f'<div class="videos">{"".join(shown)}</div>{note}' if files else '<p class="note">None recorded.</p>'


def _video(path: Path, instructions: Mapping[int, str]) -> str:
    data = base64.b64encode(path.read_bytes()).decode()
    task = re.search(r"task(\d+)", path.stem)
    asked = instructions.get(int(task[1]), "") if task else ""
    caption = f"<b>{escape(asked)}</b>{escape(path.stem.replace('-', ' · '))}"
    source = f'<source type="video/mp4" src="data:video/mp4;base64,{data}">'
    player = f'<video controls muted loop playsinline preload="auto">{source}</video>'
    return f"<figure>{player}<figcaption>{caption}</figcaption></figure>"
