"""What a bench yields: rows for people, flat figures with stable names for scripts."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

Figures = Mapping[str, str]  # name, in which {a,b} stands for either and {} for any word -> what it says


@dataclass
class Result:
    """`rows` share most of their keys, which become the table's columns; `figures` are `{flat name: number}`."""

    rows: list[dict[str, Any]] = field(default_factory=list)
    figures: dict[str, float] = field(default_factory=dict)

    def write(self, path: Path, bench: str) -> None:
        path.write_text(json.dumps({"bench": bench, "rows": self.rows, "figures": self.figures}, indent=1) + "\n")

    def text(self, documented: Figures) -> str:
        """The rows as a table, then every figure with what it says."""
        width = max(map(len, self.figures), default=0)
        lines = [
            f"{name:<{width}}  {_shown(value):>10}  {about(name, documented)}" for name, value in self.figures.items()
        ]
        return "\n".join([*table(self.rows), "", *lines])


def about(name: str, documented: Figures) -> str:
    """What a figure says. A figure that no help lists is a bug of its bench."""
    found = [text for pattern, text in documented.items() if matches(pattern, name)]
    assert len(found) == 1, f"figure {name} matches {len(found)} documented names"
    return found[0]


def matches(pattern: str, name: str) -> bool:
    """
    >>> matches("train.{tail,cpu}.async_over_sync", "train.cpu.async_over_sync")
    True
    """
    parts = re.split(r"(\{[^}]*\})", pattern)
    return re.fullmatch("".join(map(_expression, parts)), name) is not None


def _expression(part: str) -> str:
    if not part.startswith("{"):
        return re.escape(part)
    return f"(?:{'|'.join(map(re.escape, part[1:-1].split(',')))})" if part != "{}" else r"\w+"


def table(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """Lines of equal columns; a row without a key leaves its cell empty."""
    names = list(dict.fromkeys(name for row in rows for name in row))
    cells = [names, *[[_shown(row.get(name)) for name in names] for row in rows]]
    widths = [max(len(line[i]) for line in cells) for i in range(len(names))]
    texts = [any(isinstance(row.get(name), str) for row in rows) for name in names]
    return ["  ".join(_aligned(line, widths, texts)).rstrip() for line in cells]


def _aligned(line: Sequence[str], widths: Sequence[int], texts: Sequence[bool]) -> Iterable[str]:
    for cell, width, text in zip(line, widths, texts, strict=True):
        yield f"{cell:<{width}}" if text else f"{cell:>{width}}"


def _shown(value: Any) -> str:
    if value is None:
        return ""
    if not isinstance(value, float):
        return str(value)
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"
