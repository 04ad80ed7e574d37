"""Pictures of a world: the only file of the suite that touches OpenGL.

It uses MuJoCo's rendering functions directly. `mujoco.Renderer.close` deletes its GL objects in whichever
context is current, and so blinds other environments of the process.
"""

from __future__ import annotations

import os
import weakref

import mujoco
import numpy as np

from acceerl.envs.egl import choose_device
from acceerl.envs.tabletop.world import World

CAMERAS = ("front", "wrist")


class Cameras:
    """Renders named cameras at one size; owns one GL context until `close`.

    Raises RuntimeError, naming the fix, when the GL library is missing.
    """

    def __init__(self, world: World, names: tuple[str, ...], image_size: int) -> None:
        self._world = world
        self._names = names
        self._size = image_size
        self._gl, self._context = _open(world.model, image_size)
        self._scene = mujoco.MjvScene(world.model, maxgeom=200)
        self._option = mujoco.MjvOption()
        for flag in (mujoco.mjtRndFlag.mjRND_SHADOW, mujoco.mjtRndFlag.mjRND_REFLECTION):
            self._scene.flags[flag] = False
        self._finalizer = weakref.finalize(self, _free, self._gl, self._context)  # also for an env never closed

    def render(self) -> dict[str, np.ndarray]:
        """Camera name to uint8 [H, W, 3], right side up."""
        self._world.paint()
        self._gl.make_current()
        return {name: self._picture(name) for name in self._names}

    def close(self) -> None:
        """Gives the GL context back; may be called twice."""
        self._finalizer()

    def _picture(self, name: str) -> np.ndarray:
        camera = mujoco.MjvCamera()
        camera.type = mujoco.mjtCamera.mjCAMERA_FIXED
        camera.fixedcamid = self._world.model.camera(name).id
        everything = mujoco.mjtCatBit.mjCAT_ALL
        mujoco.mjv_updateScene(self._world.model, self._world.data, self._option, None, camera, everything, self._scene)
        return self._read(mujoco.MjrRect(0, 0, self._size, self._size))

    def _read(self, area: mujoco.MjrRect) -> np.ndarray:
        picture = np.empty((self._size, self._size, 3), np.uint8)
        mujoco.mjr_render(area, self._scene, self._context)
        mujoco.mjr_readPixels(picture, None, area, self._context)
        return np.ascontiguousarray(picture[::-1])  # OpenGL's first row is the lowest


def _open(model: mujoco.MjModel, size: int) -> tuple[mujoco.GLContext, mujoco.MjrContext]:
    buffer = model.vis.global_  # no larger than a picture: software GL clears all of it
    buffer.offwidth = buffer.offheight = size
    try:
        choose_device()
        gl = mujoco.GLContext(size, size)
        gl.make_current()
        context = mujoco.MjrContext(model, mujoco.mjtFontScale.mjFONTSCALE_100)
    except (ImportError, AttributeError, TypeError, OSError, RuntimeError, mujoco.FatalError) as error:
        backend = os.environ.get("MUJOCO_GL", "unset")
        raise RuntimeError(
            f"cannot open a GL context with MUJOCO_GL={backend} ({error}): `apt-get install libosmesa6`, or "
            "`conda install -c conda-forge mesalib`, or set MUJOCO_GL=egl on a machine with a GPU"
        ) from error
    mujoco.mjr_setBuffer(mujoco.mjtFramebuffer.mjFB_OFFSCREEN, context)
    return gl, context


def _free(gl: mujoco.GLContext, context: mujoco.MjrContext) -> None:
    gl.make_current()  # or its objects would be deleted in another environment's context
    context.free()
    gl.free()
