"""Which GL platform simulators render with, and a limit on how long a driver may think about it.

Call `choose_gl` before the first import of MuJoCo, which fixes the platform.
"""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


def choose_gl() -> None:
    """Picks EGL where a GPU is visible and OSMesa elsewhere, unless MUJOCO_GL is set; before the first import."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    gpu = visible != "" and any(Path("/dev").glob("nvidia[0-9]*"))
    os.environ.setdefault("MUJOCO_GL", "egl" if gpu else "osmesa")
    if os.environ["MUJOCO_GL"] in ("egl", "osmesa"):
        os.environ.setdefault("PYOPENGL_PLATFORM", os.environ["MUJOCO_GL"])


@contextmanager
def deadline(seconds: float, what: str) -> Iterator[None]:
    """Ends the process, saying why, when the body takes longer: a driver that hangs answers to nothing else."""
    timer = threading.Timer(seconds, _give_up, (seconds, what))
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


def _give_up(seconds: float, what: str) -> None:
    platform = os.environ.get("MUJOCO_GL", "")
    sys.stderr.write(
        f"{what} took longer than {seconds:g} s with MUJOCO_GL={platform}: the driver hangs; "
        f"use MUJOCO_GL=osmesa, or fewer processes that draw on one GPU\n"
    )
    sys.stderr.flush()
    os._exit(1)
