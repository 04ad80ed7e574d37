"""The lives and deaths of kept processes: crash loops, backoffs, and rows of which nobody goes on alone. Data only."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from acceerl.config import Supervisor as RestartRules
from acceerl.runtime.placement import Row
from acceerl.runtime.stop import LOST

LONGEST_BACKOFF = 60.0  # seconds
USEFUL = 10.0  # seconds of a life, loading included; restarts after such lives cannot follow each other too fast
GRACE = 3.0  # seconds in which the process that others have lost may show how it ended


@dataclass(frozen=True)
class Exit:
    """A process that ended. `again`: it will be restarted."""

    role: str
    index: int
    code: int
    text: str  # "exit code 1", "Killed (signal 9)"
    again: bool = False
    hopeless: bool = False  # a crash loop
    why: str = ""  # it could not even be tried any more

    @property
    def name(self) -> str:
        return f"{self.role}[{self.index}]"


@dataclass
class Child:
    """One process of the table through all its lives."""

    row: Row
    index: int
    running: bool = False
    killed: float = 0.0  # when this life was last ordered to end; on another node that takes a moment
    started: float = 0.0  # time.monotonic()
    due: float = 0.0  # when to start next; infinite: not again
    restarts: int = 0
    failures: int = 0  # in a row, of lives shorter than the crash window; too many end the run
    useless: int = 0  # in a row, of lives shorter than USEFUL; drives the backoff
    crashes: deque[float] = field(default_factory=deque)  # their times within the window

    @property
    def key(self) -> tuple[str, int]:
        return self.row.role, self.index

    @property
    def name(self) -> str:
        return f"{self.row.role}[{self.index}]"

    def crashed(self, rules: RestartRules) -> bool:
        """True after `crash_limit` crashes within `crash_window` seconds, or in a row of lives shorter than that."""
        now = time.monotonic()
        lived = now - self.started
        self.failures = 1 if lived > rules.crash_window else self.failures + 1
        self.useless = 0 if lived >= USEFUL else self.useless + 1
        self.crashes.append(now)
        while now - self.crashes[0] > rules.crash_window:
            self.crashes.popleft()
        return max(self.failures, len(self.crashes)) >= rules.crash_limit

    def backoff(self, rules: RestartRules) -> float:
        """Seconds until the next life. None after one that was of use: whoever killed it cost it enough."""
        if not self.useless:
            return 0.0
        return min(LONGEST_BACKOFF, rules.backoff * 2.0 ** min(self.useless - 1, 16))

    def again(self, after: float) -> None:
        self.restarts += 1
        self.due = time.monotonic() + after


@dataclass
class Fall:
    """Processes that share a bond (Row.bond), from the first death until all of them are down.

    Whoever says `LOST` was left by another: that one is to blame, and shows within `GRACE` or is ended as stuck.
    """

    bond: str
    began: float = field(default_factory=time.monotonic)
    ends: list[tuple[Child, int, str]] = field(default_factory=list)  # in order
    doomed: set[tuple[str, int]] = field(default_factory=set)  # ended by us

    def book(self, child: Child, code: int, text: str) -> None:
        self.ends.append((child, code, text))

    def is_clear(self) -> bool:
        """Is it known who began it, or too late to wait?"""
        return any(code != LOST for _, code, _ in self.ends) or time.monotonic() - self.began > GRACE

    def doom(self, children: Iterable[Child]) -> None:
        self.doomed |= {child.key for child in children}

    def culprit(self) -> Child:
        return min(self.ends, key=self._blame)[0]

    def exits(self, hopeless: bool) -> Iterator[Exit]:
        """Everybody who ended, the culprit first."""
        culprit = self.culprit()
        for child, code, text in sorted(self.ends, key=lambda end: end[0] is not culprit):
            mine = text if child is culprit else f"cannot go on without {culprit.name}"
            yield Exit(*child.key, code, mine, again=not hopeless, hopeless=hopeless and child is culprit)

    def _blame(self, end: tuple[Child, int, str]) -> int:
        """Least for who ended badly by itself, then who had to be ended, then who lost the others."""
        child, code, _ = end
        return 2 if code == LOST else int(child.key in self.doomed)
