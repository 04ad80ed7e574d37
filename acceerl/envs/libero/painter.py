"""Pictures of one scene, pixel by pixel those of robosuite's renderer, or faster ones that say so.

robosuite draws into a buffer of 640 x 480 in a context of its own, and never makes it current again: with two
scenes alive it would draw into the other's. Here the buffer is as large as the picture.
"""

from __future__ import annotations

import weakref
from typing import Any

import numpy as np

from acceerl.envs.egl import choose_device
from acceerl.envs.gl import deadline
from acceerl.envs.libero.frustum import Frustum
from acceerl.envs.libero.install import explained, import_any

RENDERS = ("exact", "fast")
PATIENCE = 60.0  # seconds that a GL driver may take for a context or a picture
_COLLISION_GROUP, _MAX_GEOMS = 0, 1000  # robosuite's


class Painter:
    """Draws one model at one size; owns one GL context until `close`.

    render: `exact`, as robosuite; `fast`, without multisampling and reflections.
    Raises RuntimeError when GL does not start.
    """

    def __init__(self, model: Any, size: tuple[int, int], render: str) -> None:
        self._mujoco = mujoco = import_any("mujoco")
        self._model, self._size = model, size
        with explained(), deadline(PATIENCE, "opening a GL context for LIBERO"):
            self._gl, self._context = _open(mujoco, model, size, 4 if render == "exact" else 0)
        self._scene = mujoco.MjvScene(model, maxgeom=_MAX_GEOMS)
        self._option, self._perturb = mujoco.MjvOption(), mujoco.MjvPerturb()
        self._option.geomgroup[_COLLISION_GROUP] = 0
        self._scene.flags[mujoco.mjtRndFlag.mjRND_REFLECTION] = render == "exact"
        self._frustum = Frustum(model, size[1] / size[0], mirrors=render == "exact")
        self._area = mujoco.MjrRect(0, 0, size[1], size[0])
        self._finalizer = weakref.finalize(self, _free, self._gl, self._context)  # also for a scene never closed

    def paint(self, data: Any, cameras: list[str]) -> list[np.ndarray]:
        """uint8 [H, W, 3] each, right side up, of the poses in `data`."""
        with deadline(PATIENCE, "drawing LIBERO's cameras"):
            self._gl.make_current()
            return [self._picture(data, camera) for camera in cameras]

    def _picture(self, data: Any, name: str) -> np.ndarray:
        mujoco, camera = self._mujoco, self._mujoco.MjvCamera()
        camera.type, camera.fixedcamid = mujoco.mjtCamera.mjCAMERA_FIXED, self._model.camera(name).id
        everything = mujoco.mjtCatBit.mjCAT_ALL
        self._frustum.hide(data, camera.fixedcamid)
        mujoco.mjv_updateScene(self._model, data, self._option, self._perturb, camera, everything, self._scene)
        self._frustum.show()
        mujoco.mjr_render(self._area, self._scene, self._context)
        picture = np.empty((*self._size, 3), np.uint8)
        mujoco.mjr_readPixels(picture, None, self._area, self._context)
        return np.ascontiguousarray(picture[::-1])  # OpenGL's first row is the lowest

    def close(self) -> None:
        """Gives the GL context back; may be called twice."""
        self._finalizer()


def _open(mujoco: Any, model: Any, size: tuple[int, int], samples: int) -> tuple[Any, Any]:
    choose_device()
    model.vis.global_.offheight, model.vis.global_.offwidth = size
    model.vis.quality.offsamples = samples
    gl = mujoco.GLContext(size[1], size[0])
    gl.make_current()
    context = mujoco.MjrContext(model, mujoco.mjtFontScale.mjFONTSCALE_150)
    mujoco.mjr_setBuffer(mujoco.mjtFramebuffer.mjFB_OFFSCREEN, context)
    return gl, context


def _free(gl: Any, context: Any) -> None:
    gl.make_current()  # or its objects would be deleted in another scene's context
    context.free()
    gl.free()
