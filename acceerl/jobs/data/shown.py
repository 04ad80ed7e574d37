"""What people are shown: progress, as a bar on a terminal or a line a minute in a log, and counts in words."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

LINE_S = 60.0


def counted(n: int, noun: str, plural: str = "") -> str:
    """
    >>> counted(1, "shard"), counted(1_200, "episode"), counted(2, "try", "tries")
    ('1 shard', '1,200 episodes', '2 tries')
    """
    return f"{n:,} {noun if n == 1 else plural or f'{noun}s'}"


@contextmanager
def shown(what: str, total: int, unit: str) -> Iterator[Callable[[int], None]]:
    """Yields `advance(n)`. Everything goes to stderr."""
    console = Console(stderr=True)
    if console.is_terminal:
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
        with Progress(*columns, console=console, transient=True) as bar:
            task = bar.add_task(what, total=total)
            yield lambda n: bar.advance(task, n)
        return
    done, said = 0, time.monotonic()

    def advance(n: int) -> None:
        nonlocal done, said
        done += n
        if time.monotonic() - said >= LINE_S:
            said = time.monotonic()
            print(f"{what}: {done:,} of {total:,} {unit}", file=sys.stderr, flush=True)

    yield advance
