"""Which GL platform simulators render with; call `choose_gl` before the first import of MuJoCo, which fixes it."""

from __future__ import annotations

import os
from pathlib import Path


def choose_gl() -> None:
    """Picks EGL where a GPU is visible and OSMesa elsewhere, unless MUJOCO_GL is set; before the first import."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    # robosuite reads CUDA_VISIBLE_DEVICES as EGL device numbers: an empty one or UUIDs crash it
    numbered = visible is None or (visible != "" and visible.replace(",", "").isdigit())
    gpu = numbered and any(Path("/dev").glob("nvidia[0-9]*"))
    if os.environ.setdefault("MUJOCO_GL", "egl" if gpu else "osmesa") == "egl" and not numbered:
        raise RuntimeError(
            f"MUJOCO_GL=egl needs GPU numbers, CUDA_VISIBLE_DEVICES is {visible!r}: unset it or use MUJOCO_GL=osmesa"
        )
    if os.environ["MUJOCO_GL"] in ("egl", "osmesa"):
        os.environ.setdefault("PYOPENGL_PLATFORM", os.environ["MUJOCO_GL"])
