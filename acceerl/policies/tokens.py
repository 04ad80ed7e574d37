"""Action tokens: how a continuous action in [-1, 1] becomes one of `bins` integers and back. Every policy uses this.

Bin b has the centre -1 + 2 b / (bins - 1), so that both limits are exact: a saturated action survives the round trip.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np


@lru_cache
def centres(bins: int) -> np.ndarray:
    """Bin centres, float32 [bins], increasing from -1 to 1. Raises ValueError for fewer than 2 bins.

    >>> centres(3)
    array([-1.,  0.,  1.], dtype=float32)
    """
    if bins < 2:
        raise ValueError(f"an action needs at least 2 bins, not {bins}")
    table = np.linspace(-1.0, 1.0, bins, dtype=np.float32)
    table.flags.writeable = False  # the cache hands the same array to everyone
    return table


def tokenise(actions: np.ndarray, bins: int = 256) -> np.ndarray:
    """Nearest bin of each action, int16 of the same shape; actions beyond [-1, 1] go to the outermost bins.

    >>> tokenise(np.array([-1.0, 0.0, 7.0]), 3)
    array([0, 1, 2], dtype=int16)
    """
    return np.rint(positions(actions, bins)).astype(np.int16)


def positions(actions: np.ndarray, bins: int = 256) -> np.ndarray:
    """Where actions lie on the axis of bins, float32 in [0, bins - 1]: what `tokenise` rounds."""
    return (np.clip(np.asarray(actions, np.float32), -1.0, 1.0) + 1.0) * np.float32((bins - 1) / 2)


def detokenise(tokens: np.ndarray, bins: int = 256) -> np.ndarray:
    """Bin centres of tokens, float32 of the same shape.

    >>> detokenise(np.array([0, 2]), 3)
    array([-1.,  1.], dtype=float32)
    """
    return centres(bins)[np.asarray(tokens, np.int64)]
