"""Runs a role's loop until it is done or told to stop: the one place where roles meet time."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator

from acceerl.protocols import Stop


def drive(loop: Iterator[bool], stop: Stop, beat: Callable[[], None], idle: float = 0.0) -> bool:
    """True when the loop ended by itself, False when it was stopped.

    `idle`: seconds to sleep when the loop had nothing to do; 0 for loops that wait on their links themselves.
    """
    for worked in loop:
        beat()
        if stop.is_set():
            return False
        if idle and not worked:
            time.sleep(idle)
    return True


def take_turns(loops: Iterable[Iterator[bool]], until: Callable[[], bool]) -> None:
    """Steps every loop once a round, in one process, until `until()` holds or one of them ends.

    Raises RuntimeError when a thousand rounds in a row did nothing: serial roles that all wait will wait for ever.
    """
    loops = list(loops)
    idle_rounds = 0
    while not until():
        worked = False
        for loop in loops:
            try:
                worked |= next(loop)
            except StopIteration:
                return
        idle_rounds = 0 if worked else idle_rounds + 1
        if idle_rounds > 1_000:
            time.sleep(1e-3)
        if idle_rounds > 60_000:
            raise RuntimeError("serial roles stalled: every role waits for another (a minute without work)")
