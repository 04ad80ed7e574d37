"""What a drill found out: checks, which hold or not, and figures, which are numbers to read."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path


@dataclass(frozen=True)
class Check:
    """One promise. `timed`: it depends on how fast the machine is, so a test on a shared one does not decide by it."""

    promise: str
    kept: bool
    timed: bool = False


@dataclass
class Outcome:
    """The result of one drill.

    >>> outcome = Outcome("demo"); outcome.check("two is more than one", 2 > 1); outcome.failed()
    []
    """

    drill: str
    figures: dict[str, float | None] = field(default_factory=dict)
    checks: list[Check] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)  # broken files, stray processes: what a failed check is about

    def check(self, promise: str, kept: object, timed: bool = False) -> None:
        self.checks.append(Check(promise, bool(kept), timed))

    def nothing(self, promise: str, found: list[str]) -> None:
        """A check that holds when the list is empty; what it holds is kept for reading."""
        self.check(promise, not found)
        self.notes += found

    def failed(self, timed: bool = False) -> list[str]:
        """The promises that were broken; those that depend on time only if asked for."""
        return [c.promise for c in self.checks if not c.kept and (timed or not c.timed)] + self.notes

    def text(self) -> str:
        figures = [f"{self.drill}.{name:<34} {_number(value)}" for name, value in self.figures.items()]
        checks = [f"{'kept  ' if c.kept else 'BROKEN'}  {c.promise}" for c in self.checks]
        return "\n".join([*figures, *checks, *self.notes])

    def write(self, path: Path) -> None:
        figures = {f"{self.drill}.{name}": value for name, value in self.figures.items()}
        rows = [asdict(check) for check in self.checks]
        path.write_text(
            json.dumps({"drill": self.drill, "rows": rows, "notes": self.notes, "figures": figures}, indent=1) + "\n"
        )


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:,.3f}".rstrip("0").rstrip(".")
