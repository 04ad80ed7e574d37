"""The Panda's controller: robosuite's OSC_POSE to the last bit, at a third of its price. Read `scene.py` first.

robosuite's controller runs MuJoCo's whole forward pass again before it reads the arm, and computes each Jacobian
twice. Position and velocity terms of the one pass that the simulator makes anyway are all that it needs. What is
left is its own arithmetic, in its own order (robosuite/controllers/osc.py), with its own compiled functions.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from acceerl.envs.libero.install import import_any

GRIPPER_SPEED = 0.01  # share of the gripper's range per simulator step


@dataclass(frozen=True, slots=True)
class Reading:
    """What the controller knows of the arm at one simulator step."""

    pos: np.ndarray  # [3] of the end effector, m
    ori: np.ndarray  # [3, 3]
    pos_vel: np.ndarray  # [3], m/s
    ori_vel: np.ndarray  # [3], rad/s
    joint_pos: np.ndarray  # [7], rad
    joint_vel: np.ndarray  # [7], rad/s
    jac_pos: np.ndarray  # [3, 7]
    jac_ori: np.ndarray  # [3, 7]
    jac: np.ndarray  # [6, 7]
    mass: np.ndarray  # [7, 7]


class Arm:
    """Arm and gripper of one scene; writes `data.ctrl`.

    robot: robosuite's, with its controller made. Call `restart` at every reset, `command` once a control step and
    `actuate` once a simulator step, each after `mj_step1`.
    """

    def __init__(self, robot: Any, model: Any, data: Any) -> None:
        self._mujoco, self._math = import_any("mujoco"), import_any("robosuite.utils.control_utils")
        self._model, self._data = model, data
        self._controller = controller = robot.controller
        assert controller.uncoupling and controller.use_delta and controller.interpolator_pos is None  # LIBERO's
        self._site = self._mujoco.mj_name2id(model, self._mujoco.mjtObj.mjOBJ_SITE, controller.eef_name)
        self._qpos, self._qvel = np.array(controller.qpos_index), np.array(controller.qvel_index)
        self._motors, self._limits = np.array(robot._ref_joint_actuator_indexes), robot.torque_limits
        self._kp, self._kd = controller.kp, controller.kd
        self._fingers = np.array(robot._ref_joint_gripper_actuator_indexes)
        low, high = model.actuator_ctrlrange[self._fingers].T
        self._finger_bias, self._finger_weight = 0.5 * (high + low), 0.5 * (high - low)
        self._jac, self._mass_of = np.zeros((2, 3, model.nv)), _mass_index(model, self._qvel)
        self._at_reset = self._reading_at_reset(robot)
        self.restart()

    def _reading_at_reset(self, robot: Any) -> Reading:
        """The arm as robosuite's controller finds it when a reset makes it: before the initial state is set."""
        self._mujoco.mj_resetData(self._model, self._data)
        self._data.qpos[self._qpos] = robot.init_qpos
        self._mujoco.mj_forward(self._model, self._data)
        return self._read()

    def restart(self) -> None:
        """Forgets the episode. Until the first simulator step is over the controller believes its first reading."""
        self._reading, self._stale = self._at_reset, False
        self.goal_pos, self.goal_ori = self._reading.pos, self._reading.ori
        self.gripper = np.zeros(2)

    def restore(self, goal_ori: np.ndarray, gripper: np.ndarray) -> None:
        """Continues where an episode was saved, between two control steps."""
        self.goal_ori, self.gripper, self._stale = goal_ori.copy(), gripper.copy(), True

    def take_over(self, actions: np.ndarray, substeps: int) -> None:
        """Continues where nobody saved a controller: its goal is where the hand is, and the fingers' is what
        `actions` (float64 [N, 7], executed before, `substeps` simulator steps each) have made it."""
        self._stale = True
        self.goal_ori = self._refreshed().ori
        closing = 0.0
        for sign in np.sign(actions[:, 6]):
            closing = float(np.clip(closing + substeps * GRIPPER_SPEED * sign, -1.0, 1.0))
        self.gripper = np.array([-1.0, 1.0]) * closing

    def command(self, action: np.ndarray) -> None:
        """Sets the goal of a control step from float64 [7]: a change of pose in [-1, 1], and the gripper's sign."""
        reading = self._refreshed()
        delta = self._controller.scale_action(action[:6])
        if any(not _is_zero(part) for part in delta[3:]):
            self.goal_ori = self._math.set_goal_orientation(
                delta[3:], reading.ori, orientation_limit=self._controller.orientation_limits
            )
        self.goal_pos = self._math.set_goal_position(
            delta[:3], reading.pos, position_limit=self._controller.position_limits
        )
        self._gripper_step = np.array([-1.0, 1.0]) * GRIPPER_SPEED * np.sign(action[6:])

    def actuate(self) -> None:
        """Writes motor torques and finger commands for the coming simulator step."""
        reading = self._refreshed()
        low, high = self._limits
        ctrl = self._data.ctrl
        ctrl[self._motors] = np.minimum(np.maximum(self._torques(reading), low), high)
        self.gripper = np.minimum(np.maximum(self.gripper + self._gripper_step, -1.0), 1.0)
        ctrl[self._fingers] = self._finger_bias + self._finger_weight * self.gripper
        self._stale = True

    def _torques(self, now: Reading) -> np.ndarray:
        """Khatib 1987, with position and orientation uncoupled; kp and kd by robosuite's defaults."""
        kp, kd = self._kp, self._kd
        force = (self.goal_pos - now.pos) * kp[0:3] + -now.pos_vel * kd[0:3]
        torque = self._math.orientation_error(self.goal_ori, now.ori) * kp[3:6] + -now.ori_vel * kd[3:6]
        _, lambda_pos, lambda_ori, nullspace = self._math.opspace_matrices(now.mass, now.jac, now.jac_pos, now.jac_ori)
        wrench = np.concatenate([np.dot(lambda_pos, force), np.dot(lambda_ori, torque)])
        torques = np.dot(now.jac.T, wrench) + self._data.qfrc_bias[self._qvel]
        torques += self._math.nullspace_torques(
            now.mass, nullspace, self._at_reset.joint_pos, now.joint_pos, now.joint_vel
        )
        return np.asarray(torques)

    def _refreshed(self) -> Reading:
        if self._stale:
            self._reading, self._stale = self._read(), False
        return self._reading

    def _read(self) -> Reading:
        """Needs positions and velocities computed, no forces."""
        model, data, (jac_pos, jac_ori) = self._model, self._data, self._jac
        self._mujoco.mj_jacSite(model, data, jac_pos, jac_ori, self._site)
        # in column order, as robosuite has them: its compiled functions add in another order for others
        arm_pos, arm_ori, qvel = jac_pos[:, self._qvel], jac_ori[:, self._qvel], data.qvel
        return Reading(
            pos=data.site_xpos[self._site].copy(),
            ori=data.site_xmat[self._site].reshape(3, 3).copy(),
            pos_vel=np.dot(jac_pos, qvel),
            ori_vel=np.dot(jac_ori, qvel),
            joint_pos=data.qpos[self._qpos],
            joint_vel=qvel[self._qvel],
            jac_pos=arm_pos,
            jac_ori=arm_ori,
            jac=np.concatenate((arm_pos, arm_ori)),
            mass=data.qM[self._mass_of].T,
        )


def _mass_index(model: Any, dofs: np.ndarray) -> np.ndarray:
    """int [7, 7]: where MuJoCo's sparse mass matrix holds the entries of a chain of joints.

    A row of it runs from a degree of freedom up through its ancestors, each the next one's parent here.
    """
    assert (model.dof_parentid[dofs[1:]] == dofs[:-1]).all()
    later, earlier = np.maximum.outer(dofs, dofs), np.minimum.outer(dofs, dofs)
    return np.asarray(model.dof_Madr[later] + later - earlier)


def _is_zero(number: float) -> bool:
    """As robosuite asks: `math.isclose` to 0.0 is true of 0.0 alone."""
    return bool(number == 0.0)
