"""What every test run shares: tests that start processes run alone, and those of what is not installed are left out."""

from __future__ import annotations

import fcntl
import os
import tempfile
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import pytest

# Before torch loads: two workers with a thread pool each would fight over the cores.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("MUJOCO_GL", "osmesa")
os.environ.setdefault("PYOPENGL_PLATFORM", os.environ["MUJOCO_GL"])

ALONE = ("mpi", "e2e", "slurm")
# One lock for the workers of one run, named after the process that started them; the tests' time-outs bound the wait.
IS_WORKER = "PYTEST_XDIST_WORKER" in os.environ
LOCK = Path(tempfile.gettempdir()) / f"acceerl-tests-{os.getppid() if IS_WORKER else os.getpid()}.lock"


def libero_missing() -> str:
    """Why LIBERO's tests cannot run here; empty when they can."""
    if find_spec("libero") is None:
        return "not installed (make libero)"
    assets = os.environ.get("ACCEERL_LIBERO_ASSETS", "")
    return "" if assets and Path(assets).is_dir() else "no assets (set ACCEERL_LIBERO_ASSETS to their folder)"


def tracker_missing(item: pytest.Item) -> bool:
    """Is it the test of a tracker whose package is not installed? Doubles stand in for it elsewhere."""
    mark = item.get_closest_marker("tracker")
    return mark is not None and find_spec(mark.args[0]) is None


def pytest_report_header() -> str:
    trackers = ", ".join(name for name in ("wandb", "mlflow") if find_spec(name)) or "none installed, doubles only"
    return f"libero: {libero_missing() or 'on'}; trackers: {trackers}"


def pytest_unconfigure() -> None:
    if not IS_WORKER:
        LOCK.unlink(missing_ok=True)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    no_libero = bool(libero_missing())
    left_out = [i for i in items if tracker_missing(i) or (no_libero and i.get_closest_marker("libero"))]
    if left_out:
        config.hook.pytest_deselected(items=left_out)
        items[:] = [item for item in items if item not in left_out]


@pytest.hookimpl(wrapper=True, tryfirst=True)  # around the time-out, so that waiting for the lock is not on its clock
def pytest_runtest_protocol(item: pytest.Item) -> Iterator[None]:
    """Workers share the machine: an `mpi`, `e2e` or `slurm` test holds it alone, others hold it together."""
    alone = any(item.get_closest_marker(name) for name in ALONE)
    with LOCK.open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX if alone else fcntl.LOCK_SH)
        try:
            return (yield)
        finally:
            fcntl.flock(lock, fcntl.LOCK_UN)
