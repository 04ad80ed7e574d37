"""What the expert sees: poses, collision shapes, heights and contacts, read from the simulator."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from functools import cached_property
from typing import Any

import numpy as np

from acceerl.envs.libero.expert.heights import Grid, Heights
from acceerl.envs.libero.install import import_any
from acceerl.envs.libero.scene import Scene

_SEEN = np.array([1, 0, 0, 0, 0, 0], np.uint8)  # the group that rays see
_DOWN = np.array([0.0, 0.0, -1.0])
_PLANE = 0  # MuJoCo's number for an infinite plane
_ROBOT = ("robot0", "gripper0", "mount0")
_SKY = 0.8  # m above what is looked at, where rays start
_DEEP = -10.0  # height of nothing, m


class View:
    """Privileged reads of one task's simulator. Names are LIBERO's (`akita_black_bowl_1`)."""

    def __init__(self, scene: Scene) -> None:
        self.domain: Any = scene.domain
        self.model, self.data = scene.sim.model._model, scene.sim.data._data
        self._mujoco = import_any("mujoco")
        self._robot = self.domain.robots[0]
        self._fingers = [self._finger(f"gripper0_finger{i}") for i in (1, 2)]

    def _finger(self, name: str) -> set[int]:
        geoms = (f"{name}_collision", f"{name}_pad_collision")
        return {self._mujoco.mj_name2id(self.model, self._mujoco.mjtObj.mjOBJ_GEOM, geom) for geom in geoms}

    # the hand

    @property
    def hand(self) -> np.ndarray:
        """float64 [3], m: the point between the finger pads that the controller moves."""
        return self.data.site_xpos[self._robot.eef_site_id].copy()

    @property
    def hand_rotation(self) -> np.ndarray:
        """float64 [3, 3]: columns are the hand's axes; fingers open along the first, and point along the third."""
        return self.data.site_xmat[self._robot.eef_site_id].reshape(3, 3).copy()

    @property
    def base(self) -> np.ndarray:
        """float64 [3], m: where the robot stands."""
        return self.data.body("robot0_base").xpos.copy()

    @property
    def opening(self) -> float:
        """Between the finger pads, m; 0.08 when open."""
        left, right = self.data.qpos[self._robot._ref_gripper_joint_pos_indexes]
        return float(left - right)

    def holding(self, geoms: Iterable[int]) -> bool:
        """Do both fingers touch one of the geoms?"""
        touched, wanted = [False, False], set(geoms)
        for contact in self.data.contact:
            pair = {int(contact.geom1), int(contact.geom2)}
            for i, finger in enumerate(self._fingers):
                touched[i] |= bool(pair & finger and pair & wanted)
        return all(touched)

    def touching(self, geoms: Iterable[int]) -> bool:
        """Does the robot touch one of the geoms?"""
        wanted = set(geoms)
        pairs = [{int(contact.geom1), int(contact.geom2)} for contact in self.data.contact]
        return any(pair & wanted and pair & self.robot_geoms for pair in pairs)

    # things

    def body(self, name: str) -> int:
        """The body of an object, a fixture, or of the fixture's part that a region belongs to."""
        if name in self.domain.obj_body_id:
            return int(self.domain.obj_body_id[name])
        return int(self.model.site_bodyid[self.site(name)])

    def site(self, name: str) -> int:
        return int(self._mujoco.mj_name2id(self.model, self._mujoco.mjtObj.mjOBJ_SITE, name))

    def joint(self, name: str) -> int:
        return int(self._mujoco.mj_name2id(self.model, self._mujoco.mjtObj.mjOBJ_JOINT, name))

    def position(self, name: str) -> np.ndarray:
        """float64 [3], m: of an object's body, or of a region's centre."""
        if name in self.domain.object_sites_dict:
            return self.data.site_xpos[self.site(name)].copy()
        return self.data.xpos[self.body(name)].copy()

    def geoms(self, body: int) -> set[int]:
        """Collision geoms of a body and of all that hangs on it."""
        bodies = {body}
        for child in range(body + 1, self.model.nbody):  # children come after their parents
            if self.model.body_parentid[child] in bodies:
                bodies.add(child)
        return {g for g in range(self.model.ngeom) if self.model.geom_bodyid[g] in bodies and self._solid(g)}

    def _solid(self, geom: int) -> bool:
        return bool(self.model.geom_contype[geom] or self.model.geom_conaffinity[geom])

    @cached_property
    def robot_geoms(self) -> set[int]:
        return {g for g in range(self.model.ngeom) if self._body_name(g).startswith(_ROBOT)}

    def _body_name(self, geom: int) -> str:
        return str(self.model.body(int(self.model.geom_bodyid[geom])).name)

    def box(self, geoms: Iterable[int]) -> tuple[np.ndarray, np.ndarray]:
        """Lower and upper corner [3], m, of the box along the world's axes around the geoms."""
        lows, highs = self._boxes(list(geoms))
        return lows.min(0), highs.max(0)

    def obstacles(self, held: set[int]) -> tuple[np.ndarray, np.ndarray]:
        """The same [n, 3] of each geom that the robot, or what it holds, could run into; of no infinite plane."""
        return self._boxes(np.flatnonzero(self._others & ~self._mask(held) & (self.model.geom_type != _PLANE)))

    def _boxes(self, geoms: Any) -> tuple[np.ndarray, np.ndarray]:
        rotation = self.data.geom_xmat[geoms].reshape(-1, 3, 3)
        aabb = self.model.geom_aabb[geoms]
        centre = self.data.geom_xpos[geoms] + (rotation @ aabb[:, :3, None])[..., 0]
        half = (np.abs(rotation) @ aabb[:, 3:, None])[..., 0]
        return centre - half, centre + half

    # heights

    def heights(self, grid: Grid, own: set[int], top: float) -> tuple[Heights, Heights]:
        """Looks down on every cell: the upper surface of the geoms `own`, and of all others but the robot's."""
        return self._look_down(grid, self._mask(own), top), self._look_down(grid, self._others & ~self._mask(own), top)

    def _mask(self, geoms: set[int]) -> np.ndarray:
        mask = np.zeros(self.model.ngeom, bool)
        mask[list(geoms)] = True
        return mask

    @cached_property
    def _others(self) -> np.ndarray:
        """bool [ngeom]: what collides and is not the robot."""
        solid = np.array([self._solid(g) for g in range(self.model.ngeom)])
        return solid & ~self._mask(self.robot_geoms)

    def _look_down(self, grid: Grid, seen: np.ndarray, top: float) -> Heights:
        """One ray a cell from the sky, blind to all geoms but `seen`."""
        values, hit = np.full((len(grid.xs), len(grid.ys)), _DEEP), np.zeros(1, np.int32)
        sky = top + _SKY
        with self._showing(seen):
            for i, x in enumerate(grid.xs):
                for j, y in enumerate(grid.ys):
                    start = np.array([x, y, sky])
                    distance = self._mujoco.mj_ray(self.model, self.data, start, _DOWN, _SEEN, 1, -1, hit)
                    if distance >= 0:
                        values[i, j] = sky - distance
        return Heights(grid, values)

    @contextmanager
    def _showing(self, seen: np.ndarray) -> Iterator[None]:
        """Rays pass through transparent geoms, as many collision shapes are, and choose by group: for a moment, the
        geoms `seen` are opaque and in a group of their own. Neither matters to physics."""
        groups, colours = self.model.geom_group.copy(), self.model.geom_rgba.copy()
        self.model.geom_group[:], self.model.geom_rgba[:, 3] = np.where(seen, 0, 1), 1
        try:
            yield
        finally:
            self.model.geom_group[:], self.model.geom_rgba[:] = groups, colours
