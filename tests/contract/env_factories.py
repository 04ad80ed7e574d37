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


def imagined() -> Env:
    """Two tasks of noise, a tick of four control steps that does not divide the limit of six."""
    import numpy as np

    from acceerl.protocols import WorldSpec
    from acceerl.types import Assignment, EnvSpec
    from acceerl.world_models.imagined import Imagination, Start
    from acceerl.world_models.imagined_env import ImaginedEnv
    from acceerl.world_models.regression import RegressionWorld
    from acceerl.world_models.success import SuccessNet

    spec = WorldSpec(("front", "wrist"), (16, 16), proprio=3, action_dim=2, stride=4, context=2)
    shown = EnvSpec(spec.cameras, (16, 16), 3, 2, ("go left", "go right"), (6, 6), range(9), range(9, 10))
    rng = np.random.default_rng(0)

    def start(task: int) -> Start:
        images = {c: rng.integers(0, 256, (2, 16, 16, 3), np.uint8) for c in spec.cameras}
        proprio, actions = rng.normal(size=(2, 3)).astype(np.float32), np.zeros((1, 4, 2), np.float32)
        return Start(images, proprio, actions, Assignment(task, 0, 0), shown.instructions[task])

    world = RegressionWorld(spec, channels=8, blocks=1, condition=16)
    success = SuccessNet(spec, members=2, channels=8)
    return ImaginedEnv(
        Imagination(world, success, shown, threshold=0.95), [[start(t) for _ in range(4)] for t in (0, 1)]
    )


libero_marks = [pytest.mark.libero, pytest.mark.skipif(bool(NO_LIBERO), reason=NO_LIBERO)]
gymnasium_marks = [pytest.mark.skipif(bool(NO_GYMNASIUM), reason=NO_GYMNASIUM)]

ENVS = [
    pytest.param(tabletop, id="tabletop"),
    pytest.param(libero, id="libero", marks=libero_marks),
    pytest.param(latency, id="latency"),
    pytest.param(imagined, id="imagined"),
    pytest.param(pendulum, id="gymnasium-pendulum", marks=gymnasium_marks),
    pytest.param(reacher, id="gymnasium-reacher", marks=gymnasium_marks),
]
