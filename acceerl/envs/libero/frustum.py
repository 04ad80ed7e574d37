"""Which geoms a picture can show at all: drawing in software costs by the vertex, hardly by the pixel.

A robot seen from its own wrist is mostly behind the camera. Leaving out what is outside the picture, and what no
mirror in the picture can show either, changes no pixel. (LIBERO's lights cast no shadows.)
"""

from __future__ import annotations

from typing import Any

import numpy as np

from acceerl.envs.libero.install import import_any

_MARGIN = 0.005  # m beyond the picture's edges that are drawn all the same
_HIDDEN = 0  # the geom group that is not drawn
_CORNERS = np.array([[x, y, z] for x in (-1, 1) for y in (-1, 1) for z in (-1, 1)])


class Frustum:
    """Hides, for one picture, the geoms of a model that cannot be in it.

    aspect: width over height of pictures. mirrors: whether reflections are drawn.
    """

    def __init__(self, model: Any, aspect: float, mirrors: bool) -> None:
        mujoco = import_any("mujoco")
        self._model, self._aspect = model, aspect
        self._groups = model.geom_group.copy()
        self._centre, self._half = model.geom_aabb[:, :3].copy(), model.geom_aabb[:, 3:].copy()
        self._endless = np.flatnonzero(model.geom_type == mujoco.mjtGeom.mjGEOM_PLANE)
        self._mirrors = _mirrors(mujoco, model) if mirrors else np.zeros(0, int)
        assert not model.light_castshadow.any(), "a shadow may fall into the picture from outside"

    def hide(self, data: Any, camera: int) -> None:
        """Takes what `camera` cannot show out of its group; `show` puts it back."""
        eye, axes = data.cam_xpos[camera], data.cam_xmat[camera].reshape(3, 3)
        high = np.tan(np.radians(self._model.cam_fovy[camera]) / 2)
        whole = np.array([[-high * self._aspect, -high], [high * self._aspect, high]])
        drawn = self._inside(data, eye, axes, whole)
        for mirror in self._mirrors:
            if drawn[mirror]:
                part = self._part(data, mirror, eye, axes, whole)
                drawn |= self._inside(data, *self._reflected(data, mirror, eye, axes), part)
        self._model.geom_group[~drawn] = _HIDDEN

    def show(self) -> None:
        self._model.geom_group[:] = self._groups

    def _inside(self, data: Any, eye: np.ndarray, axes: np.ndarray, edges: np.ndarray) -> np.ndarray:
        """bool [ngeom]: does the geom's box reach into the pyramid from `eye` through the rectangle `edges`?

        edges: [[left, bottom], [right, top]] at distance 1 along -z of `axes`, the columns of which are x, y, z.
        """
        (left, bottom), (right, top) = edges
        inwards = np.array([[1, 0, left], [-1, 0, -right], [0, 1, bottom], [0, -1, -top]])
        normals = (inwards / np.linalg.norm(inwards, axis=1, keepdims=True)) @ axes.T
        turned = data.geom_xmat.reshape(-1, 3, 3)
        centre = data.geom_xpos + (turned @ self._centre[:, :, None])[:, :, 0]
        reach = (np.abs(normals @ turned) * self._half[:, None, :]).sum(axis=2)
        reach[self._endless] = np.inf
        return np.asarray(((centre - eye) @ normals.T + reach > -_MARGIN).all(axis=1))

    def _part(self, data: Any, mirror: int, eye: np.ndarray, axes: np.ndarray, whole: np.ndarray) -> np.ndarray:
        """The rectangle of the picture that holds a mirror, as `edges`; `whole` where it reaches behind the eye."""
        if mirror in self._endless:
            return whole
        box = self._centre[mirror] + _CORNERS * self._half[mirror]
        seen = (data.geom_xpos[mirror] + box @ data.geom_xmat[mirror].reshape(3, 3).T - eye) @ axes
        if (seen[:, 2] > -_MARGIN).any():
            return whole
        flat = seen[:, :2] / -seen[:, 2:]
        return np.array([np.maximum(flat.min(axis=0), whole[0]), np.minimum(flat.max(axis=0), whole[1])])

    def _reflected(self, data: Any, mirror: int, eye: np.ndarray, axes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Eye and axes as the mirror shows them: a plane reflects at its xy plane, a box at its upper side."""
        normal = data.geom_xmat[mirror].reshape(3, 3)[:, 2]
        height = 0.0 if mirror in self._endless else self._half[mirror, 2]
        surface = data.geom_xpos[mirror] + normal * height
        return eye - 2 * normal * ((eye - surface) @ normal), axes - 2 * np.outer(normal, normal @ axes)


def _mirrors(mujoco: Any, model: Any) -> np.ndarray:
    """Geoms that MuJoCo draws as mirrors: planes and boxes of a reflecting material that are shown."""
    flat = np.isin(model.geom_type, (mujoco.mjtGeom.mjGEOM_PLANE, mujoco.mjtGeom.mjGEOM_BOX))
    material = model.geom_matid
    shiny = (material >= 0) & (model.mat_reflectance[material] > 0)
    return np.flatnonzero(flat & shiny & (model.geom_group != _HIDDEN))
