"""Decides what follows the end of a process: done, asked to stop, again after a backoff, or a crash loop.

The supervisor asks, a keeper decides, its hands (machine.py here, steps.py on a cluster's nodes) do.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from acceerl.config import Supervisor as RestartRules
from acceerl.launch.lives import Child, Exit, Fall
from acceerl.launch.machine import End, Frozen, Hands
from acceerl.runtime.placement import Row
from acceerl.runtime.rundir import Run
from acceerl.runtime.stop import DONE, STOPPED


class Keeper:
    """The processes of `rows`. Call `poll` a few times a second; it starts what is due and tells what ended.

    `first`: the index of the first process of each row; guests of a training have places behind its own.
    """

    def __init__(
        self, run: Run, attempt: int, rows: Sequence[Row], rules: RestartRules, hands: Hands, first: int = 0
    ) -> None:
        self.run, self.attempt, self.rules, self.hands = run, attempt, rules, hands
        self.closing = False  # True: whoever ends now is not started again
        self.falls: dict[str, Fall] = {}  # by bond: of processes of which one has died
        self.children = {(row.role, i): Child(row, i) for row in rows for i in range(first, first + row.count)}

    def poll(self) -> list[Exit]:
        """Starts what is due; returns the processes that have ended since the last call."""
        exits = [exit for end in self.hands.ends() for exit in self._ended(end)]
        exits += [exit for fall in list(self.falls.values()) for exit in self._fallen(fall)]
        for child in self.children.values():
            due = time.monotonic() >= child.due and not (self.closing or child.running)
            if due and self.hands.ready(child.key):
                self._start(child)
        return exits

    @property
    def running(self) -> list[Child]:
        return [child for child in self.children.values() if child.running]

    def can_spare(self, role: str) -> bool:
        """May a training go on although a process of the role has left for good? Without evaluators always."""
        stay = [c for c in self.children.values() if c.row.role == role and (c.running or c.due < float("inf"))]
        return role == "evaluator" or (role == "rollout" and any(not self.hands.lost(c.key) for c in stay))

    def no_more_starts(self) -> None:
        self.closing = True

    def kill(self, child: Child) -> None:
        child.killed = time.monotonic()
        self.hands.kill(child.key)

    def kill_all(self, deadline: float = 10.0) -> None:
        """Kills what still runs and waits until the ids are free again (at most `deadline` seconds)."""
        self.no_more_starts()
        running = self.running
        self.hands.close([child.key for child in running], deadline)
        for child in running:
            child.running = False

    def pid(self, child: Child) -> int:
        """The role's own process: the innermost one, below mpiexec and its proxy. 0 when it does not run."""
        return self.hands.pid(child.key)

    def frozen(self, child: Child) -> Frozen | None:
        return self.hands.frozen(child.key)

    def log(self, child: Child) -> Path:
        return self.run.log(self.attempt, *child.key)

    def _start(self, child: Child) -> None:
        child.running, child.started, child.due, child.killed = True, time.monotonic(), float("inf"), 0.0
        self.hands.start(child.key, child.row, child.restarts + 1)

    def _ended(self, end: End) -> Iterator[Exit]:
        child, code, text = self.children[end.key], end.code, end.text
        child.running = False
        if end.why:
            yield Exit(*child.key, code, text, hopeless=True, why=end.why)
        elif code == STOPPED or (code == DONE and child.row.role == "learner"):
            yield Exit(*child.key, code, text)
        elif child.row.bond and not self.closing:  # what follows is decided when all that it binds are down
            self.falls.setdefault(child.row.bond, Fall(child.row.bond)).book(child, code, text)
        elif child.crashed(self.rules):
            yield Exit(*child.key, code, text, hopeless=True)
        else:
            child.again(child.backoff(self.rules))
            yield Exit(*child.key, code, text, again=True)

    def _fallen(self, fall: Fall) -> Iterator[Exit]:
        """Ends the rest of those that have lost one, then starts all of them again: one crash, many restarts."""
        bound = [child for child in self.children.values() if child.row.bond == fall.bond]
        rest = [child for child in bound if child.running]
        if rest and not self.closing:
            if fall.is_clear():
                fall.doom(rest)
                for child in rest:
                    self.kill(child)
            return
        del self.falls[fall.bond]
        culprit = fall.culprit()
        hopeless = culprit.crashed(self.rules)
        for child in () if hopeless else bound:
            child.again(culprit.backoff(self.rules))
        yield from fall.exits(hopeless)
