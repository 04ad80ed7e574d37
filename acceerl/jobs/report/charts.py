"""Line charts as small inline SVG: they scale with the page, print, follow its colours and need no library.

Colours are CSS classes (`s0`, `s1`, … for series), so that the page decides about light and dark.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from html import escape

import numpy as np

WIDTH, HEIGHT = 360, 190
LEFT, RIGHT, TOP, BOTTOM = 44, 8, 8, 34
POINTS = 160  # more would only be noise at this size
_SIZES = ((1e9, "G"), (1e6, "M"), (1e3, "k"))
SMALL_SHARE = 0.2  # shares that stay below get a scale of their own


@dataclass(frozen=True)
class Line:
    """One series; NaN breaks it. `low` and `high` draw a band, or whiskers when `dots`."""

    x: np.ndarray
    y: np.ndarray
    name: str = ""
    low: np.ndarray | None = None
    high: np.ndarray | None = None
    dots: bool = False


@dataclass(frozen=True)
class Chart:
    title: str
    lines: Sequence[Line]
    x_label: str
    note: str = ""  # what a reader should know to judge it
    percent: bool = False  # y is a share: drawn in per cent from 0, to 100 unless all of it is small
    from_zero: bool = False
    kept: Sequence[Line] = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "kept", [thin(line) for line in self.lines if np.isfinite(line.y).any()])

    def __bool__(self) -> bool:
        """Is there anything to draw?"""
        return bool(self.kept)


@dataclass(frozen=True)
class Scale:
    """Maps data to pixels, linearly."""

    low: float
    high: float
    start: float
    end: float

    def __call__(self, value: np.ndarray | float) -> np.ndarray:
        return self.start + (np.asarray(value) - self.low) / (self.high - self.low) * (self.end - self.start)


def figure(chart: Chart) -> str:
    """A `<figure>` with title, legend, drawing and note."""
    legend = "".join(
        f'<span class="key k{i}">{escape(line.name)}</span>' for i, line in enumerate(chart.kept) if line.name
    )
    note = f'<p class="note">{escape(chart.note)}</p>' if chart.note else ""
    latest = "" if legend else f'<span class="latest">{_last(chart)}</span>'
    caption = f"<figcaption><b>{escape(chart.title)}</b>{latest}{legend}</figcaption>"
    return f"<figure>{caption}{svg(chart)}{note}</figure>"


def svg(chart: Chart) -> str:
    """The drawing alone."""
    x, y, ticks = _scales(chart)
    parts = [_y_axis(y, ticks, chart.percent), _x_axis(x, chart.x_label)]
    parts += [_draw(line, x, y, i) for i, line in enumerate(chart.kept)]
    label = escape(f"{chart.title} over {chart.x_label}", quote=True)
    return f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{label}">{"".join(parts)}</svg>'


def thin(line: Line) -> Line:
    """At most POINTS points: means of equally many neighbours, so that one end is not smoother than the other."""
    if len(line.x) <= POINTS or line.dots:
        return line
    size = -(-len(line.x) // POINTS)
    groups = [np.arange(start, min(start + size, len(line.x))) for start in range(0, len(line.x), size)]
    low, high = (None if v is None else _means(v, groups) for v in (line.low, line.high))
    return Line(_means(line.x, groups), _means(line.y, groups), line.name, low, high)


def nice_ticks(low: float, high: float, about: int = 4) -> list[float]:
    """Round numbers that cover low to high.

    >>> nice_ticks(0, 93)
    [0.0, 25.0, 50.0, 75.0, 100.0]
    """
    if not high > low:
        low, high = low - (abs(low) or 1) / 2, high + (abs(high) or 1) / 2
    rough = (high - low) / about
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(m * power for m in (1, 2, 2.5, 5, 10) if m * power >= rough * (1 - 1e-9))
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [round(n * step, 12) for n in range(first, last + 1)]


def labels(ticks: Sequence[float]) -> list[str]:
    """Texts of evenly spaced ticks: all in one unit and with the digits that tell neighbours apart.

    >>> labels([0, 500, 1000]), labels([3.72, 3.725, 3.73])
    (['0', '0.5k', '1.0k'], ['3.720', '3.725', '3.730'])
    """
    top = max(map(abs, ticks))
    size, letter = next(((s, letter) for s, letter in _SIZES if top >= s), (1.0, ""))
    if 0 < top < 1e-3:
        exponent = math.floor(math.log10(top))
        size, letter = 10.0**exponent, f"e{exponent}"
    step = (ticks[1] - ticks[0]) / size
    digits = next((d for d in range(8) if abs(round(step, d) - step) < 1e-6 * step), 8)
    return [f"{tick / size:.{digits}f}{letter}" if tick else "0" for tick in ticks]


def short(value: float) -> str:
    """One number in few characters: 1200000 -> 1.2M, 0.00012 -> 1.2e-4."""
    for size, letter in _SIZES:
        if abs(value) >= size:
            return f"{value / size:.3g}{letter}"
    if value and abs(value) < 1e-3:
        mantissa, exponent = f"{value:.1e}".split("e")
        return f"{mantissa.removesuffix('.0')}e{int(exponent)}"
    return f"{value:.3g}"


def _means(values: np.ndarray, groups: list[np.ndarray]) -> np.ndarray:
    return np.array([np.mean(values[group]) for group in groups])


def _last(chart: Chart) -> str:
    y = chart.kept[0].y
    value = y[np.isfinite(y)][-1]
    return f"{100 * value:.1f} %" if chart.percent else short(float(value))


def _scales(chart: Chart) -> tuple[Scale, Scale, list[float]]:
    xs = np.concatenate([line.x for line in chart.kept])
    ys = np.concatenate([v for line in chart.kept for v in (line.y, line.low, line.high) if v is not None])
    ys = ys[np.isfinite(ys)]
    low, high = float(ys.min()), float(ys.max())
    if chart.percent:
        low, high = 0.0, 1.0 if high > SMALL_SHARE else max(high, 0.01)
    ticks = nice_ticks(min(low, 0.0) if chart.from_zero else low, high)
    left, right = float(xs.min()), float(xs.max())
    left = 0.0 if 0 < left < right / 10 else left  # a run begins at 0, even if its first episode ends later
    margin = 0.0 if right > left else 0.5
    x = Scale(left - margin, right + margin, LEFT, WIDTH - RIGHT)
    return x, Scale(ticks[0], ticks[-1], HEIGHT - BOTTOM, TOP), ticks


def _y_axis(y: Scale, ticks: list[float], percent: bool) -> str:
    parts = []
    texts = [f"{text} %" for text in labels([100 * t for t in ticks])] if percent else labels(ticks)
    for tick, text in zip(ticks, texts, strict=True):
        at = float(y(tick))
        parts.append(f'<path class="grid" d="M{LEFT} {at:.1f}H{WIDTH - RIGHT}"/>')
        parts.append(f'<text x="{LEFT - 6}" y="{at + 4:.1f}" text-anchor="end">{text}</text>')
    return "".join(parts)


def _x_axis(x: Scale, label: str) -> str:
    ticks = nice_ticks(x.low, x.high, 5)
    marks = "".join(
        f'<text x="{float(x(tick)):.1f}" y="{HEIGHT - BOTTOM + 15}" text-anchor="middle">{text}</text>'
        for tick, text in zip(ticks, labels(ticks), strict=True)
        if x.low <= tick <= x.high
    )
    end = f'<text class="axis" x="{WIDTH - RIGHT}" y="{HEIGHT - 4}" text-anchor="end">{escape(label)}</text>'
    return marks + end


def _draw(line: Line, x: Scale, y: Scale, number: int) -> str:
    px, py = x(line.x), y(line.y)
    if line.dots:
        return _whiskers(line, px, y, number) + _path(px, py, f"line thin s{number}") + _dots(line, px, py, number)
    if np.isfinite(line.y).sum() == 1:
        return _dots(line, px, py, number)
    return _band(line, px, y, number) + _path(px, py, f"line s{number}")


def _path(px: np.ndarray, py: np.ndarray, css: str) -> str:
    pieces, pen = [], "M"
    for a, b in zip(px, py, strict=True):
        if math.isfinite(b):
            pieces.append(f"{pen}{a:.1f} {b:.1f}")
        pen = "L" if math.isfinite(b) else "M"
    return f'<path class="{css}" d="{"".join(pieces)}"/>'


def _band(line: Line, px: np.ndarray, y: Scale, number: int) -> str:
    if line.low is None or line.high is None:
        return ""
    there = zip(px, y(line.high), strict=True)
    back = zip(px[::-1], y(line.low)[::-1], strict=True)
    points = " ".join(f"{a:.1f},{b:.1f}" for a, b in (*there, *back) if math.isfinite(b))
    return f'<polygon class="band f{number}" points="{points}"/>'


def _whiskers(line: Line, px: np.ndarray, y: Scale, number: int) -> str:
    if line.low is None or line.high is None:
        return ""
    bars = "".join(f"M{a:.1f} {b:.1f}V{c:.1f}" for a, b, c in zip(px, y(line.low), y(line.high), strict=True))
    return f'<path class="whisker s{number}" d="{bars}"/>'


def _dots(line: Line, px: np.ndarray, py: np.ndarray, number: int) -> str:
    return "".join(
        f'<circle class="f{number}" cx="{a:.1f}" cy="{b:.1f}" r="3.5"><title>{short(u)}: {v:.3g}</title></circle>'
        for a, b, u, v in zip(px, py, line.x.tolist(), line.y.tolist(), strict=True)
        if math.isfinite(b)
    )
