"""Which environments the contract suite runs over: add a `pytest.param(factory, id=...)` for a new one.

A factory takes nothing and returns an open Env; keep it cheap (few tasks, small images, short episodes).
"""

from __future__ import annotations

import pytest

from acceerl.protocols import Env


def tabletop() -> Env:
    from acceerl.envs.tabletop import TabletopEnv

    return TabletopEnv("goal", image_size=32, step_limit=6)


ENVS = [
    pytest.param(tabletop, id="tabletop"),
]
