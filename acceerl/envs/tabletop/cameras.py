"""Pictures of a world: the only file of the suite that touches OpenGL."""

from __future__ import annotations

import os

import mujoco
import numpy as np

from acceerl.envs.tabletop.world import World

CAMERAS = ("front", "wrist")


class Cameras:
    """Renders named cameras at one size; owns one GL context until `close`.

    Raises RuntimeError, naming the fix, when the GL library is missing.
    """

    def __init__(self, world: World, names: tuple[str, ...], image_size: int) -> None:
        self._world = world
        self._names = names
        buffer = world.model.vis.global_  # no larger than a picture: software GL clears all of it
        buffer.offwidth = buffer.offheight = image_size
        self._renderer = _renderer(world.model, image_size)
        for flag in (mujoco.mjtRndFlag.mjRND_SHADOW, mujoco.mjtRndFlag.mjRND_REFLECTION):
            self._renderer.scene.flags[flag] = False

    def render(self) -> dict[str, np.ndarray]:
        """Camera name to uint8 [H, W, 3], right side up."""
        self._world.paint()
        return {name: self._picture(name) for name in self._names}

    def close(self) -> None:
        self._renderer.close()

    def _picture(self, name: str) -> np.ndarray:
        self._renderer.update_scene(self._world.data, camera=name)
        return self._renderer.render()


def _renderer(model: mujoco.MjModel, size: int) -> mujoco.Renderer:
    try:
        return mujoco.Renderer(model, size, size)
    except (ImportError, AttributeError, OSError, RuntimeError, mujoco.FatalError) as error:
        backend = os.environ.get("MUJOCO_GL", "unset")
        raise RuntimeError(
            f"cannot open a GL context with MUJOCO_GL={backend} ({error}): `apt-get install libosmesa6`, or "
            "`conda install -c conda-forge mesalib`, or set MUJOCO_GL=egl on a machine with a GPU"
        ) from error
