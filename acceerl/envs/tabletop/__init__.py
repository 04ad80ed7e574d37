"""The embedded suite: language-conditioned manipulation in plain MuJoCo; start reading at env.py.

Importing this package imports MuJoCo, which binds its GL backend at that moment. Where nobody chose one,
OSMesa is taken (software rendering, no display, the same pixels on every machine).
"""

from __future__ import annotations

import os

os.environ.setdefault("MUJOCO_GL", "osmesa")
os.environ.setdefault("LP_NUM_THREADS", "0")  # Mesa's worker threads cost more than 64-pixel images gain

try:
    import mujoco  # noqa: F401
except (ImportError, AttributeError, OSError, RuntimeError) as error:  # what PyOpenGL raises depends on what lacks
    raise RuntimeError(
        f"MuJoCo cannot load the GL backend MUJOCO_GL={os.environ['MUJOCO_GL']} ({error}): `apt-get install "
        "libosmesa6`, or `conda install -c conda-forge mesalib`, or set MUJOCO_GL=egl on a machine with a GPU"
    ) from error

from acceerl.envs.tabletop.env import TabletopEnv
from acceerl.envs.tabletop.expert import TabletopExpert
from acceerl.envs.tabletop.tasks import SUITES

__all__ = ["SUITES", "TabletopEnv", "TabletopExpert"]
