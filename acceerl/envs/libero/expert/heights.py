"""Height maps: how high the scene is at each cell of a grid, for finding room for fingers and for things."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Grid:
    """Cell centres along x and y, m, evenly spaced by `cell`."""

    xs: np.ndarray
    ys: np.ndarray
    cell: float

    @classmethod
    def over(cls, low: np.ndarray, high: np.ndarray, margin: float, cell: float) -> Grid:
        """The grid over a box [2] to [2], m, and a margin around it."""
        (x0, y0), (x1, y1) = low[:2] - margin, high[:2] + margin
        return cls(np.arange(x0, x1 + cell, cell), np.arange(y0, y1 + cell, cell), cell)

    def cells(self) -> np.ndarray:
        """float64 [nx, ny, 2]."""
        return np.stack(np.meshgrid(self.xs, self.ys, indexing="ij"), -1)


@dataclass(frozen=True)
class Heights:
    """The height of the highest surface over each cell, m [nx, ny]."""

    grid: Grid
    values: np.ndarray

    def at(self, points: np.ndarray) -> np.ndarray:
        """Heights [...] of the cells nearest to points [..., 2]; outside the grid, of its edge."""
        i = np.rint((points[..., 0] - self.grid.xs[0]) / self.grid.cell).astype(int)
        j = np.rint((points[..., 1] - self.grid.ys[0]) / self.grid.cell).astype(int)
        return self.values[np.clip(i, 0, len(self.grid.xs) - 1), np.clip(j, 0, len(self.grid.ys) - 1)]

    def over(self, other: Heights) -> Heights:
        """The higher of two maps of one grid."""
        return Heights(self.grid, np.maximum(self.values, other.values))


def highest_along(lows: np.ndarray, highs: np.ndarray, start: np.ndarray, end: np.ndarray, radius: float) -> float:
    """The highest top, m, of the boxes [n, 3] to [n, 3] that come within `radius` of the straight way between two
    points, seen from above; -inf when none does."""
    shares = np.linspace(0, 1, 2 + int(np.linalg.norm(end[:2] - start[:2]) / 0.01))
    way = start[:2] + shares[:, None] * (end[:2] - start[:2])
    beside = np.maximum(lows[:, None, :2] - way, way - highs[:, None, :2]).clip(0)
    near = (np.linalg.norm(beside, axis=-1) <= radius).any(1)
    return float(highs[near, 2].max(initial=-np.inf))
