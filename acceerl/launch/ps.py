"""`acceerl ps`: one line per training of a folder, from each status.json."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from acceerl.launch.leader import LED, age, state_of
from acceerl.launch.queued import looked_after
from acceerl.launch.watch import ago, amount, best_console, coloured
from acceerl.runtime.rundir import Run


def command(words: Sequence[str], options: Mapping[str, str]) -> int:
    return ps(words[0] if words else options["runs"])


def ps(folder: str | Path, screen: Console | None = None) -> int:
    """One line per training below `folder`, the newest first. Raises FileNotFoundError when there is no such folder."""
    folder, screen = Path(folder), screen or best_console()
    if not folder.is_dir():
        raise FileNotFoundError(f"{folder} is no folder: give the one that holds the runs (acceerl ps RUNS)")
    found = sorted(_statuses(folder), key=lambda item: age(item[1]))
    if not found:
        print(f"no trainings in {folder}")
        return 0
    table = Table(box=None, pad_edge=False, header_style="bold dim", collapse_padding=True, padding=(0, 2))
    for name in ("run", "state", "updates", "success", "steps/s", "heard", "supervisor"):
        right = name in ("updates", "success", "steps/s", "heard")
        table.add_column(name, justify="right" if right else "left", no_wrap=True)
    for name, status in found:
        table.add_row(name, *_line(status))
    screen.print(table)
    return 0


def _statuses(folder: Path) -> list[tuple[str, dict[str, Any]]]:
    return [(file.parent.name, looked_after(Run(file.parent), _read(file))) for file in folder.glob("*/status.json")]


def _read(file: Path) -> dict[str, Any]:
    """One broken or vanished file must not hide the other runs."""
    try:
        return dict(json.loads(file.read_text()))
    except (OSError, ValueError, TypeError):
        return {"state": "unreadable"}


def _line(status: dict[str, Any]) -> list[str | Text]:
    state, owner = state_of(status), status.get("supervisor", {})
    success, rate = status.get("success"), status.get("rates", {}).get("env_steps") if state in LED else None
    return [
        coloured(state),
        f"{status.get('counters', {}).get('updates', 0):,}",
        "-" if success is None else f"{100 * success:.1f} %",
        "-" if rate is None else amount(rate),
        ago(age(status)) if owner else "-",
        f"{owner.get('host', '?')}:{owner.get('pid', '?')}" if owner else "-",
    ]
