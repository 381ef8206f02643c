# SPDX-License-Identifier: Apache-2.0
"""Inverse kinematics of the simulated arm: which joint angles bring the fingers around a point.

Damped least squares on the MuJoCo model (Wampler 1986, "Manipulator inverse kinematic solutions based
on vector formulations and damped least-squares methods"), with joint limits as a projection.
"""

from dataclasses import dataclass

import mujoco
import numpy as np
from jaxtyping import Float64
from numpy import ndarray

from sigma_ros.errors import SigmaError
from sigma_ros.sim.arm import GRASP_SITE

_DAMPING = 0.02
_DIRECTION_WEIGHT_M = 0.33
_MOST_ITERATIONS = 200


@dataclass(frozen=True, slots=True)
class Grip:
    """Where the hand shall be: the point between the finger tips, and two directions (unit vectors).

    `fingers` is where the fingers point, `closing` the direction from the fixed to the moving finger.
    `tolerance_m` is the accepted error, directions counted with 0.33 m per rad: five joints cannot meet
    all six conditions of a tilted and turned hand.
    """

    position_m: Float64[ndarray, " 3"]
    fingers: Float64[ndarray, " 3"]
    closing: Float64[ndarray, " 3"]
    tolerance_m: float = 2e-4


class ArmKinematics:
    """Solves for the five arm joints of a model; keeps its own scratch state, not the simulation's."""

    def __init__(self, model: mujoco.MjModel, joint_names: tuple[str, ...]) -> None:
        self._model = model
        self._data = mujoco.MjData(model)
        joints = [model.joint(name) for name in joint_names]
        self._qpos = np.array([joint.qposadr[0] for joint in joints])
        self._dofs = np.array([joint.dofadr[0] for joint in joints])
        self._lower, self._upper = np.array([joint.range for joint in joints]).T
        self._site = model.site(GRASP_SITE).id
        self._moving = np.array([name != "gripper" for name in joint_names])

    @property
    def pan_axis_m(self) -> Float64[ndarray, " 3"]:
        """Where the pan axis meets the table."""
        return self._model.body("shoulder").pos * np.array([1.0, 1.0, 0.0])

    def solve(self, grip: Grip, start_rad: Float64[ndarray, " dof"]) -> Float64[ndarray, " dof"]:
        """True joint angles that bring the hand to `grip`, from a first guess whose gripper angle is kept.

        Raises:
            SigmaError: out of reach.
        """
        angles = np.clip(start_rad, self._lower, self._upper)
        error = np.full(9, np.inf)
        for _ in range(_MOST_ITERATIONS):
            error, jacobian = self._linearise(angles, grip)
            if np.linalg.norm(error) < grip.tolerance_m:
                return angles
            damped = jacobian @ jacobian.T + _DAMPING**2 * np.eye(9)
            change = jacobian.T @ np.linalg.solve(damped, error)
            angles = np.clip(angles + np.clip(change, -0.3, 0.3), self._lower, self._upper)
        away_mm, turned_rad = 1000 * np.linalg.norm(error[:3]), np.linalg.norm(error[3:]) / _DIRECTION_WEIGHT_M
        raise SigmaError(
            "the simulated arm cannot reach a point",
            where=f"{np.round(grip.position_m, 3)} m, fingers along {np.round(grip.fingers, 2)}",
            got=f"{away_mm:.1f} mm and {turned_rad:.2f} rad left",
        )

    def gravity_torque_nm(self, angles_rad: Float64[ndarray, " dof"]) -> Float64[ndarray, " dof"]:
        """Torque with which gravity pulls at each joint of a resting arm."""
        self._data.qpos[self._qpos] = angles_rad
        self._data.qvel[:] = 0.0
        mujoco.mj_forward(self._model, self._data)
        return self._data.qfrc_bias[self._dofs].copy()

    def _linearise(self, angles: ndarray, grip: Grip) -> tuple[ndarray, ndarray]:
        model, data = self._model, self._data
        data.qpos[self._qpos] = angles
        mujoco.mj_kinematics(model, data)
        mujoco.mj_comPos(model, data)
        shift, turn = np.zeros((3, model.nv)), np.zeros((3, model.nv))
        mujoco.mj_jacSite(model, data, shift, turn, self._site)
        axes = data.site_xmat[self._site].reshape(3, 3)
        # Site axes: x along the fingers, z from the fixed to the moving one.
        wanted = ((axes[:, 0], grip.fingers), (axes[:, 2], grip.closing))
        errors = [grip.position_m - data.site_xpos[self._site]]
        rows = [shift]
        for axis, goal in wanted:
            errors.append(_DIRECTION_WEIGHT_M * (goal - axis))
            rows.append(_DIRECTION_WEIGHT_M * np.cross(turn.T, axis).T)
        jacobian = np.concatenate(rows)[:, self._dofs] * self._moving
        return np.concatenate(errors), jacobian
