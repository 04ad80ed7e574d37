"""What every test run shares: who runs beside whom, and that tests of what is not installed are left out.

Tests that start whole trainings have deadlines, so one worker gets all of their folders, and one Slurm serves all its
tests. Those on Slurm mostly wait, and those `beside` others have time: the other worker goes on meanwhile. The rest of
them have the machine to themselves.
"""

from __future__ import annotations

import fcntl
import os
import signal
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

# Before torch loads: two workers with a thread pool each would fight over the cores.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("MUJOCO_GL", "osmesa")
os.environ.setdefault("PYOPENGL_PLATFORM", os.environ["MUJOCO_GL"])

ALONE = ("mpi", "e2e")
FOLDERS = ("tests/slurm/", "tests/e2e/", "tests/mpi/")
# One lock for the workers of one run, named after the process that started them; the tests' time-outs bound the wait.
IS_WORKER = "PYTEST_XDIST_WORKER" in os.environ
LOCK = Path(tempfile.gettempdir()) / f"acceerl-tests-{os.getppid() if IS_WORKER else os.getpid()}.lock"


def libero_missing() -> str:
    """Why LIBERO's tests cannot run here; empty when they can."""
    if find_spec("libero") is None:
        return "not installed (make libero)"
    assets = os.environ.get("ACCEERL_LIBERO_ASSETS", "")
    return "" if assets and Path(assets).is_dir() else "no assets (set ACCEERL_LIBERO_ASSETS to their folder)"


def package_missing(item: pytest.Item) -> bool:
    """Is it the test of a tracker, or of another optional package, that is not installed?"""
    marks = [item.get_closest_marker(name) for name in ("tracker", "needs")]
    return any(find_spec(mark.args[0]) is None for mark in marks if mark is not None)


def pytest_report_header() -> str:
    trackers = ", ".join(name for name in ("wandb", "mlflow") if find_spec(name)) or "none installed, doubles only"
    lerobot = "on" if find_spec("pyarrow") else "no pyarrow"
    return f"libero: {libero_missing() or 'on'}; trackers: {trackers}; lerobot data sets: {lerobot}"


def pytest_unconfigure() -> None:
    if not IS_WORKER:
        LOCK.unlink(missing_ok=True)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    no_libero = bool(libero_missing())
    left_out = [i for i in items if package_missing(i) or (no_libero and i.get_closest_marker("libero"))]
    if left_out:
        config.hook.pytest_deselected(items=left_out)
        items[:] = [item for item in items if item not in left_out]
    items.sort(key=lambda item: not item.nodeid.startswith(FOLDERS))  # the longest piece of work begins first


@pytest.hookimpl(optionalhook=True)  # of pytest-xdist
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """`--dist loadfile`, but for `FOLDERS`, which one worker gets as a whole."""
    if config.getvalue("dist") != "loadfile":
        return None
    from xdist.scheduler import LoadFileScheduling

    class Scheduling(LoadFileScheduling):
        def _split_scope(self, nodeid: str) -> str:
            return "one at a time" if nodeid.startswith(FOLDERS) else super()._split_scope(nodeid)

    return Scheduling(config, log)


@contextmanager
def signal_handlers_as_before() -> Iterator[None]:
    """A job that a test runs in this process installs its own; what a later test forks would not die of SIGTERM."""
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR2)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@pytest.hookimpl(wrapper=True, tryfirst=True)  # around the time-out, so that waiting for the lock is not on its clock
def pytest_runtest_protocol(item: pytest.Item) -> Iterator[None]:
    """Workers share the machine: `mpi` and `e2e` tests that are not `beside` hold it alone, others hold it together."""
    alone = any(item.get_closest_marker(name) for name in ALONE) and not item.get_closest_marker("beside")
    with LOCK.open("w") as lock, signal_handlers_as_before():
        fcntl.flock(lock, fcntl.LOCK_EX if alone else fcntl.LOCK_SH)
        try:
            return (yield)
        finally:
            fcntl.flock(lock, fcntl.LOCK_UN)
