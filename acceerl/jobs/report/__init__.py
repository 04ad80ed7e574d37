"""`acceerl report`: one run as one HTML file that needs nothing else, to read on a phone, print or send.

records.py reads the metrics, sections.py picks the curves, charts.py draws them, page.py and page.html are the page.
"""

from __future__ import annotations

import json
import time
from collections import defaultdict
from collections.abc import Mapping, Sequence
from html import escape
from importlib import resources
from pathlib import Path
from string import Template
from typing import Any

from acceerl import __version__
from acceerl.jobs.report import imagination, page, sections
from acceerl.jobs.report.costs import costs, guests_h
from acceerl.jobs.report.records import Records
from acceerl.runtime.rundir import Run, replace_text


def run(run_dir: str | Path, versus: Sequence[str | Path] = ()) -> Path:
    """Writes RUN/report.html, of a finished, running or killed run, and returns its path.

    `versus`: runs that it is compared with where success is drawn over real steps.

    Parts of which the run has no trace yet say so. Raises FileNotFoundError when `run_dir` is no run.
    """
    run = Run.open(run_dir)
    replace_text(run.report, render(run, [Run.open(path) for path in versus]))
    return run.report


def render(run: Run, others: Sequence[Run] = ()) -> str:
    """The page as text; `others` stand beside the run where success is drawn over real steps."""
    records, status, scores = Records.read(run.metrics_folder), run.status(), _scores(run)
    rounds = _rounds(scores, records)
    mine = imagination.progress(run, records, rounds)
    dreams = imagination.efficiency_charts([mine, *map(_progress, others)]) + imagination.dream_charts(records)
    before, after = scores.get("before"), scores.get("after") or _latest(scores)
    template = Template(resources.files(__package__).joinpath("page.html").read_text())
    return template.substitute(
        name=escape(run.name),
        subtitle=escape(_subtitle(run, status)),
        error=_error(status),
        headline=page.headline(before, after, "after" in scores),
        tiles=page.tiles(_facts(records, status)),
        tasks=page.task_table(before, after),
        success=page.charts(sections.success_charts(records, rounds)),
        heat=page.heat_map(sections.tasks_over_time(records), _instructions(scores)),
        dreams=page.charts(dreams),
        learning=page.charts(sections.learning_charts(records)),
        speed=page.charts(sections.speed_charts(records)),
        time=_time(run, records, status),
        videos=page.videos(sorted(run.videos.glob("*.mp4")), _instructions(scores)),
        config=escape(run.config_file.read_text()),
        footer=escape(_footer(records)),
    )


def _progress(run: Run) -> imagination.Progress:
    records = Records.read(run.metrics_folder)
    return imagination.progress(run, records, _rounds(_scores(run), records))


def _time(run: Run, records: Records, status: dict[str, Any]) -> str:
    config = run.config()
    paid, joined = costs(config, records.seconds), guests_h(config, records.lived)
    return page.where_time_went(records, _restarts(records, status), paid, joined)


def _scores(run: Run) -> dict[str, dict[str, Any]]:
    """Evaluation tables by label (`before`, `after`, `version-00000010`), those with at least one episode."""
    tables = {path.stem: json.loads(path.read_text()) for path in sorted((run.path / "evaluation").glob("*.json"))}
    return {label: score for label, score in tables.items() if score.get("episodes")}


def _latest(scores: Mapping[str, dict[str, Any]]) -> dict[str, Any] | None:
    """The table of the newest version that an evaluator has scored beside training."""
    versions = [label for label in scores if label.startswith("version-")]
    return scores[max(versions)] if versions else None


def _rounds(scores: Mapping[str, dict[str, Any]], records: Records) -> list[dict[str, Any]]:
    """Every scored version once: tables of the run, `before` as version 0 and `after` as the last update."""
    rounds = {e["version"]: e for e in records.events["evaluation"] if e.get("episodes")}
    rounds |= {score["version"]: score for label, score in scores.items() if label.startswith("version-")}
    ends = (("before", 0), ("after", int(records.total("learner", "updates"))))
    rounds |= {version: scores[label] | {"version": version} for label, version in ends if label in scores}
    return list(rounds.values())


def _instructions(scores: Mapping[str, dict[str, Any]]) -> dict[int, str]:
    return {row["task"]: row["instruction"] for score in scores.values() for row in score["tasks"]}


def _facts(records: Records, status: Mapping[str, Any]) -> list[tuple[str, str]]:
    counters = status.get("counters", {})
    steps = counters.get("env_steps") or records.total("rollout", "env_steps")
    decisions = counters.get("decisions") or records.total("inference", "decisions")
    updates = counters.get("updates") or records.total("learner", "updates")
    return [
        ("of training", _duration(records.duration)),
        ("control steps", f"{steps:,.0f}"),
        ("decisions", f"{decisions:,.0f}"),
        ("training episodes", f"{len(records.events['episode']):,}"),
        ("updates", f"{updates:,.0f}"),
        ("control steps / s", f"{records.total('rollout', 'env_steps') / max(records.duration, 1e-9):,.0f}"),
    ]


def _duration(seconds: float) -> str:
    """
    >>> _duration(20), _duration(2400), _duration(7500)
    ('20 s', '40 min', '2 h 05 min')
    """
    hours, minutes = divmod(round(seconds / 60), 60)
    if seconds < 300:
        return f"{seconds:.0f} s"
    return f"{hours} h {minutes:02d} min" if hours else f"{minutes} min"


def _restarts(records: Records, status: Mapping[str, Any]) -> dict[str, int]:
    """Per role: what the metrics show over all attempts, or the supervisor's count of the last where that is higher."""
    counted: dict[str, int] = defaultdict(int)
    for process in status.get("processes", []):
        counted[process["role"]] += process.get("restarts", 0)
    attempts = max(1, status.get("attempt", 1))
    return {role: max(records.restarts(role, attempts), counted[role]) for role in records.seconds}


def _subtitle(run: Run, status: Mapping[str, Any]) -> str:
    config = run.config()
    policy = str(config.policy.get("_target_", "policy")).rsplit(".", 1)[-1]
    env = str(config.env.get("_target_", "env")).rsplit(".", 1)[-1]
    state = status.get("state", "not started")
    attempt = f", attempt {status['attempt']}" if status.get("attempt", 0) > 1 else ""
    return f"{policy} on {env} {config.suite} · {config.algo.loss} · {config.schedule} · {state}{attempt}"


def _error(status: Mapping[str, Any]) -> str:
    return f'<p class="error">{escape(status["error"])}</p>' if status.get("error") else ""


def _footer(records: Records) -> str:
    parts = [f"acceerl {__version__}", time.strftime("written %Y-%m-%d %H:%M")]
    if records.unreadable:
        parts.append(f"{records.unreadable} torn lines of metrics left out")
    return " · ".join(parts)
