"""What the LIBERO tests share: the mark of those that run the simulator, and actions."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from acceerl.envs.libero.install import missing

WHY_NOT = missing()


def simulator(test: Callable[..., None]) -> Callable[..., None]:
    """Marks a test that runs the real thing; the others check what users see without it."""
    return pytest.mark.libero(pytest.mark.skipif(bool(WHY_NOT), reason=WHY_NOT)(test))


def actions(n: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).uniform(-1, 1, (n, 7)).astype(np.float32)
