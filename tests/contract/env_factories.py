"""Which environments the contract suite runs over: add a `pytest.param(factory, id=...)` for a new one.

A factory takes nothing and returns an open Env; keep it cheap (few tasks, small images, short episodes).
"""

from __future__ import annotations

import importlib.util

import pytest

from acceerl.envs.libero.install import missing
from acceerl.protocols import Env

NO_LIBERO = missing()
NO_GYMNASIUM = "" if importlib.util.find_spec("gymnasium") else "Gymnasium is not installed"


def tabletop() -> Env:
    from acceerl.envs.tabletop import TabletopEnv

    return TabletopEnv("goal", image_size=32, step_limit=6)


def libero() -> Env:
    from acceerl.envs.libero import LiberoEnv

    return LiberoEnv("libero_spatial", image_size=48, step_limit=6)


def latency() -> Env:
    from acceerl.envs.latency import LatencyEnv

    return LatencyEnv(mean_ms=0.1, mode="tail", limit=6, camera=16, tasks=2)


def pendulum() -> Env:
    from acceerl.envs.gymnasium import GymnasiumEnv

    return GymnasiumEnv("Pendulum-v1", instruction="swing the pendulum up", step_limit=6)


def reacher() -> Env:
    from acceerl.envs.gymnasium import GymnasiumEnv

    return GymnasiumEnv("Reacher-v5", step_limit=6, camera=True, width=64, height=48)


libero_marks = [pytest.mark.libero, pytest.mark.skipif(bool(NO_LIBERO), reason=NO_LIBERO)]
gymnasium_marks = [pytest.mark.skipif(bool(NO_GYMNASIUM), reason=NO_GYMNASIUM)]

ENVS = [
    pytest.param(tabletop, id="tabletop"),
    pytest.param(libero, id="libero", marks=libero_marks),
    pytest.param(latency, id="latency"),
    pytest.param(pendulum, id="gymnasium-pendulum", marks=gymnasium_marks),
    pytest.param(reacher, id="gymnasium-reacher", marks=gymnasium_marks),
]
