"""`acceerl watch RUN`: a live table of a training's processes, read from its status.json and nothing else.

So it works in another terminal, or on a login node that shares the file system.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text

from acceerl.launch.leader import ENDED, FAILED, LED, QUEUED, age, latest, state_of
from acceerl.launch.queued import looked_after
from acceerl.runtime.rundir import Run

WIDE = 100  # columns from which on the host gets a column of its own
COLOURS = {"running": "green", "done": "green", "starting": "yellow", "scoring": "yellow", "draining": "yellow",
           "restarting": "red", "failed": "red", "lost": "red"}  # fmt: skip
UNITS = {"env_steps": "steps", "decisions": "dec.", "updates": "upd."}
RIGHT = ("pid", "per second", "rate/s", "restarts", "rst", "MB", "heard")
SHRINK = ("host", "waits for")
LEAST_WIDTH = {
    "process": 12,
    "state": 10,
    "pid": 7,
    "rate/s": 11,
    "per second": 11,
    "waits for": 14,
    "MB": 5,
    "heard": 5,
}
Cell = Callable[[dict[str, Any], dict[str, Any]], str | Text]  # of a process' row and the whole status
SHORTEST_S = 0.1  # between two looks
PIPE_WIDTH = 120  # columns of a table that goes into a file


def best_console() -> Console:
    """A terminal's own width; a fixed one where there is no terminal, so that nothing is cut off."""
    plain = Console()
    return plain if plain.is_terminal else Console(width=PIPE_WIDTH)


def command(words: Sequence[str], options: Mapping[str, str]) -> int:
    once, every = options["once"], options["every"]
    if once not in ("true", "false"):
        raise ValueError(f"once={once}: choose true or false")
    if not re.fullmatch(r"[0-9]+(\.[0-9]+)?", every) or float(every) < SHORTEST_S:
        raise ValueError(f"every={every}: give seconds, at least {SHORTEST_S}")
    return watch(words[0], float(every), once == "true")


def watch(path: str | Path, every: float = 2.0, once: bool = False, screen: Console | None = None) -> int:
    """Shows the run until it ends: 0 done, 75 stopped, 1 failed or lost. `once`: one table, and 0 while it runs.

    Raises ValueError when no training ever began in the directory.
    """
    run, screen = Run.open(path), screen or best_console()
    if once or not screen.is_terminal:
        return _print_tables(run, Path(path), every, once, screen)
    with Live(console=screen, auto_refresh=False, vertical_overflow="visible") as live:
        while True:
            status = _status(run)
            live.update(view(Path(path), status, screen), refresh=True)
            if (code := exit_code(status)) is not None:
                return code
            time.sleep(every)


def _print_tables(run: Run, path: Path, every: float, once: bool, screen: Console) -> int:
    while True:
        status = _status(run)
        screen.print(view(path, status, screen))
        code = exit_code(status)
        if once or code is not None:
            return code or 0
        time.sleep(every)


def exit_code(status: dict[str, Any]) -> int | None:
    """None while the run goes on."""
    state = state_of(status)
    return None if state in (*LED, QUEUED) else ENDED.get(state, FAILED)


def view(path: Path, status: dict[str, Any], screen: Console) -> RenderableType:
    """Header and table, fitting the console's width."""
    parts: list[RenderableType] = [*_header(path, status)]
    if status.get("processes"):
        parts += [Text(), _table(status, screen)]
    if state_of(status) == "lost":
        parts += [Text(), Text(f"its supervisor is gone; to continue:\nacceerl train resume={path}", "bold red")]
    return Group(*parts)


def _header(path: Path, status: dict[str, Any]) -> list[Text]:
    state, counters = state_of(status), status.get("counters", {})
    rates = status.get("rates", {}) if state in LED else {}
    top = Text.assemble((path.resolve().name, "bold"), "  ", (state, f"bold {COLOURS.get(state, '')}".strip()))
    top.append(f"  attempt {status.get('attempt', 1)}")
    if "began" in status:
        end = time.time() if state in LED else status["supervisor"]["time"]
        top.append(f"  {clock(end - status['began'])}")
    owner = status.get("supervisor", {})
    top.append(f"  process {owner.get('pid')} on {owner.get('host')}", "dim")
    names = (("updates", "updates"), ("env_steps", "env steps"), ("decisions", "decisions"))
    counted = [
        f"{text} {counters.get(k, 0):,}" + (f" ({amount(rates[k])}/s)" if k in rates else "") for k, text in names
    ]
    lines = [top, Text("  ".join(counted)), Text("  ".join(_figures(status)))]
    lines += [Text(f"{name}: {status[name]}", style) for name, style in (("reason", ""), ("error", "red"))
              if status.get(name)]  # fmt: skip
    if state in LED and age(status) > 15:
        lines.append(Text(f"this status is {ago(age(status))} old", "yellow"))
    return lines


def _figures(status: dict[str, Any]) -> list[str]:
    success, lag = status.get("success"), status.get("lag")
    return [
        "success in training " + ("-" if success is None else f"{100 * success:.1f} %"),
        "policy lag " + ("-" if lag is None else f"{lag:.1f}"),
        f"last checkpoint {status.get('last_checkpoint') or '-'}",
    ]


def _table(status: dict[str, Any], screen: Console) -> Table:
    rows = folded(status["processes"], limit=max(10, screen.height - 12) if screen.is_terminal else 10_000)
    wide = screen.width >= WIDE
    columns = _columns(wide, with_host=wide or len({row.get("host") for row in rows}) > 1)
    table = Table(
        box=None, pad_edge=False, collapse_padding=True, header_style="bold dim", padding=(0, 2 if wide else 1)
    )
    for name, _ in columns:
        justify: Literal["left", "right"] = "right" if name in RIGHT else "left"
        table.add_column(name, justify=justify, no_wrap=name not in SHRINK, min_width=LEAST_WIDTH.get(name))
    lost = state_of(status) == "lost"  # nobody knows how its processes are
    for row in rows:
        row = {**row, "state": "lost", "pid": 0} if lost and row["state"] != "ended" else row
        table.add_row(*[cell(row, status) for _, cell in columns])
    return table


def _columns(wide: bool, with_host: bool) -> list[tuple[str, Cell]]:
    """Header and cell of each column; the narrow table has short headers, and names the host only where it differs."""
    host: list[tuple[str, Cell]] = [("host", lambda row, _: _cut(str(row.get("host") or "-")))] if with_host else []
    return [
        ("process", lambda row, _: str(row["name"])),
        ("state", lambda row, _: coloured(row["state"])),
        ("pid", lambda row, _: str(row["pid"] or "-")),
        *host,
        ("per second" if wide else "rate/s", lambda row, _: _rate(row)),
        ("waits for", lambda row, _: _cut(_waits(row))),
        ("restarts" if wide else "rst", lambda row, _: str(row["restarts"] or "-")),
        ("MB", lambda row, _: f"{row['memory_mb']:,.0f}" if row.get("memory_mb") else "-"),
        ("heard", _heard),
    ]


def _cut(text: str) -> Text:
    """What may lose its end when the table is too wide for the screen."""
    return Text(text, no_wrap=True, overflow="ellipsis")


def folded(processes: list[dict[str, Any]], limit: int) -> list[dict[str, Any]]:
    """One row a process; when there are more than `limit`, the running ones of each role share a row."""
    named = [{**p, "name": f"{p['role']}[{p['index']}]", "state": p.get("state") or _old_state(p)} for p in processes]
    if len(named) <= limit:
        return named
    shared: list[dict[str, Any]] = []
    for role in dict.fromkeys(p["role"] for p in named):
        ours = [p for p in named if p["role"] == role]
        running = [p for p in ours if p["state"] == "running"]
        shared += [_together(role, running)] if len(running) > 1 else running
        shared += [p for p in ours if p["state"] != "running"]
    return shared


def _together(role: str, rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Rates and restarts summed, waiting shares averaged, the largest memory and the longest silence.

    Learner ranks make their updates together, so theirs are not summed.
    """
    whom = sorted({name for row in rows for name in row.get("waiting") or {}})
    rates, hosts = [row["rate"] for row in rows if row.get("rate") is not None], {row.get("host") for row in rows}
    rate = (max if role == "learner" else sum)(rates) if rates else None
    return {
        "name": f"{role} x {len(rows)}", "state": "running", "pid": 0, "of": rows[0].get("of"),
        "host": hosts.pop() if len(hosts) == 1 else f"{len(hosts)} hosts",
        "rate": rate, "restarts": sum(row["restarts"] for row in rows),
        "waiting": {w: sum((row.get("waiting") or {}).get(w, 0.0) for row in rows) / len(rows) for w in whom},
        "memory_mb": max((row.get("memory_mb") or 0.0 for row in rows), default=None),
        "age": max(row.get("age") or 0.0 for row in rows),
    }  # fmt: skip


def _old_state(process: dict[str, Any]) -> str:
    return "running" if process.get("running") else "ended"


def coloured(state: str) -> Text:
    return Text(state, COLOURS.get(state, ""))


def _rate(row: dict[str, Any]) -> str:
    return "-" if row.get("rate") is None else f"{amount(row['rate'])} {UNITS.get(row.get('of') or '', '')}".strip()


def _waits(row: dict[str, Any]) -> str:
    shares = sorted((row.get("waiting") or {}).items(), key=lambda item: -item[1])
    return ", ".join(f"{whom} {100 * share:.0f}%" for whom, share in shares if share >= 0.005) or "-"


def _heard(row: dict[str, Any], status: dict[str, Any]) -> str:
    """The last life sign: as old as when the status was written, and the status is older since."""
    return "-" if row.get("age") is None else ago(row["age"] + (age(status) if state_of(status) in LED else 0.0))


def _status(run: Run) -> dict[str, Any]:
    status = looked_after(run, latest(run))
    if not status:
        raise ValueError(f"{run.path} has no status.json: no training has begun there")
    return status


def amount(value: float) -> str:
    """
    >>> amount(0), amount(0.93), amount(41.5), amount(1240.4)
    ('0', '0.93', '41.5', '1,240')
    """
    return "0" if value == 0 else f"{value:.2f}" if value < 10 else f"{value:.1f}" if value < 100 else f"{value:,.0f}"


def ago(seconds: float) -> str:
    """
    >>> ago(0.4), ago(75), ago(7300), ago(200_000)
    ('0 s', '75 s', '2.0 h', '2.3 d')
    """
    for limit, unit, name, digits in ((120, 1, "s", 0), (7200, 60, "min", 0), (172_800, 3600, "h", 1)):
        if seconds < limit:
            return f"{seconds / unit:.{digits}f} {name}"
    return f"{seconds / 86_400:.1f} d"


def clock(seconds: float) -> str:
    """
    >>> clock(3725)
    '1:02:05'
    """
    minutes, rest = divmod(int(max(0.0, seconds)), 60)
    return f"{minutes // 60}:{minutes % 60:02d}:{rest:02d}"
