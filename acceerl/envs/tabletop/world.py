"""The physics of one suite: a compiled model, its state, and the questions that goals and the expert ask of it."""

from __future__ import annotations

import mujoco
import numpy as np

from acceerl.envs.tabletop.layouts import Layout
from acceerl.envs.tabletop.scene import CABINET_TOP, HALF, OPEN, PLACE_TOP, RGB, scene_xml
from acceerl.envs.tabletop.tasks import Goal, On, Opened, Pressed, Suite

MOVE = 0.03  # m that a full-scale action moves the gripper
TURN = 0.1  # rad that a full-scale action turns it
SUBSTEPS = 8  # physics steps per control step of 0.06 s
RAMP = 5  # of them the target moves; the rest let the wrist arrive, so that one image tells its motion
LOW = np.array([-0.24, -0.17, 0.024, -0.4, -0.4, -0.8])  # reach of the wrist: x y z in m, roll pitch yaw in rad
HIGH = np.array([0.24, 0.24, 0.25, 0.4, 0.4, 0.8])
GRIPPED = 0.075  # m between the pads; an item's diagonal is 7.1 cm
WRIST = ("x", "y", "z", "roll", "pitch", "yaw")
_STATE = int(mujoco.mjtState.mjSTATE_INTEGRATION)


class World:
    """Physics only: no episode, no images."""

    def __init__(self, suite: Suite) -> None:
        self.suite = suite
        self.model = mujoco.MjModel.from_xml_string(scene_xml(suite))
        self.data = mujoco.MjData(self.model)
        self._wrist = [self._address(name) for name in WRIST]
        self._fingers = [self._address("back"), self._address("front")]
        self._finger_speeds = [int(self.model.joint(name).dofadr[0]) for name in ("back", "front")]

    def reset(self, layout: Layout, home: np.ndarray) -> None:
        """Puts everything in its initial place, at rest, gripper open; `home` is float64 [3] in metres."""
        mujoco.mj_resetData(self.model, self.data)
        for names, positions in self._placements(layout):
            for name, xy in zip(names, positions, strict=True):
                self._put(name, xy)
        self.data.qpos[self._wrist[:3]] = self.data.ctrl[:3] = home
        self.data.qpos[self._fingers] = self.data.ctrl[6] = OPEN
        self._refresh()

    def step(self, action: np.ndarray) -> None:
        """One control step: moves the targets by `action` [7], opens or closes the fingers by its last sign."""
        start = self.data.ctrl[:6].copy()
        scale = np.repeat((MOVE, TURN), 3)
        travel = np.clip(start + np.clip(action[:6], -1, 1) * scale, LOW, HIGH) - start
        self.data.ctrl[6] = 0.0 if action[6] > 0 else OPEN
        for i in range(1, RAMP + 1):
            self.data.ctrl[:6] = start + travel * (i / RAMP)
            mujoco.mj_step(self.model, self.data)
        mujoco.mj_step(self.model, self.data, SUBSTEPS - RAMP)
        self._refresh()

    @property
    def gripper(self) -> np.ndarray:
        """The point between the pads, float64 [3] in metres."""
        return self.data.qpos[self._wrist[:3]]

    @property
    def angles(self) -> np.ndarray:
        """Roll, pitch and yaw of the gripper, float64 [3] in rad."""
        return self.data.qpos[self._wrist[3:]]

    @property
    def opening(self) -> float:
        """Distance between the pads in metres."""
        return float(self.data.qpos[self._fingers].sum())

    @property
    def closing(self) -> bool:
        """Whether the fingers are told to close."""
        return bool(self.data.ctrl[6] < OPEN / 2)

    def position(self, name: str) -> np.ndarray:
        """Centre of an item, or of a place's body, float64 [3] in metres."""
        return self.data.body(name).xpos

    def surface(self, place: str) -> np.ndarray:
        """The middle of a place's top surface, float64 [3] in metres."""
        return self.position(place) + (CABINET_TOP if place == "cabinet" else (0.0, 0.0, PLACE_TOP / 2))

    def travel(self, part: str) -> float:
        """How far a drawer is out or a button cap is down, in metres."""
        return float(self.data.joint(part).qpos[0])

    def between(self, item: str) -> bool:
        """Whether the item is between the pads and they are not wide open."""
        near = np.abs(self.position(item) - self.gripper).max() < HALF
        return bool(near and self.opening < GRIPPED)

    def holding(self, item: str) -> bool:
        """Whether the pads have come to rest on the item."""
        return self.between(item) and bool(np.abs(self.data.qvel[self._finger_speeds]).max() < 0.1)

    def holds(self, goal: Goal) -> bool:
        """Whether a goal is fulfilled right now."""
        match goal:
            case On(item, place):
                return not self.between(item) and self._rests(item, place)
            case Opened(part):
                return self.travel(part) > 0.05
            case Pressed(part):
                return self.travel(part) > 0.012

    def paint(self) -> None:
        """A button that is down lights up; colours follow from the state and touch no physics."""
        if "button" in self.suite.items:
            colour = RGB["orange" if self.holds(Pressed("cap")) else "purple"]
            self.model.geom("cap").rgba[:3] = [float(part) for part in colour.split()]

    def state(self) -> np.ndarray:
        """Everything that physics continues from, float64 [n]."""
        state = np.empty(mujoco.mj_stateSize(self.model, _STATE))
        mujoco.mj_getState(self.model, self.data, state, _STATE)
        return state

    def set_state(self, state: np.ndarray) -> None:
        mujoco.mj_setState(self.model, self.data, state, _STATE)
        self._refresh()

    def _rests(self, item: str, place: str) -> bool:
        away = self.position(item) - self.surface(place)
        radius = 0.045 if place == "cabinet" else 0.065
        return bool(np.hypot(away[0], away[1]) < radius and 0 < away[2] < HALF + 0.015)

    def _refresh(self) -> None:
        """Poses as of the current positions: mj_step leaves those of the substep before. Touches no state."""
        mujoco.mj_kinematics(self.model, self.data)
        mujoco.mj_comPos(self.model, self.data)
        mujoco.mj_camlight(self.model, self.data)

    def _placements(self, layout: Layout) -> list[tuple[tuple[str, ...], np.ndarray]]:
        marks = layout.marks if self.suite.marks else layout.marks[:0]
        return [(self.suite.marks, marks), (self.suite.items, layout.items), (self.suite.places, layout.places)]

    def _put(self, name: str, xy: np.ndarray) -> None:
        body = self.model.body(name)
        if body.mocapid[0] >= 0:
            self.data.mocap_pos[body.mocapid[0], :2] = xy
        else:
            start = self.model.jnt_qposadr[body.jntadr[0]]
            self.data.qpos[start : start + 2] = xy

    def _address(self, joint: str) -> int:
        return int(self.model.joint(joint).qposadr[0])
