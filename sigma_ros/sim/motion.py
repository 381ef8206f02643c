# SPDX-License-Identifier: Apache-2.0
"""Smooth joint motion through waypoints, within speed, acceleration and jerk limits.

Each leg is a minimum-jerk curve (Flash and Hogan 1985) in joint space: `s(x) = 10x^3 - 15x^4 + 6x^5`
with peaks 15/8, 10/sqrt(3) and 60 in its derivatives, which fix the shortest time the limits allow.
"""

import math
from dataclasses import dataclass
from itertools import pairwise

import mujoco
import numpy as np
from jaxtyping import Float64
from numpy import ndarray

from sigma_ros.contract import Contract
from sigma_ros.errors import SigmaError
from sigma_ros.sim.arm import GRASP_SITE

_PEAK_SPEED, _PEAK_ACCELERATION, _PEAK_JERK = 15 / 8, 10 / math.sqrt(3), 60.0

_CALM_ACCELERATION_RADPS2, _CALM_JERK_RADPS3 = 10.0, 100.0
"""A demonstrator's hand is calmer than the arm's limits, which leave room for a real policy's noise."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Waypoint:
    """A pose to stop at, how long to stay there, and the phase's name for those who look."""

    phase: str
    angles_rad: Float64[ndarray, " dof"]
    pause_s: float = 0.0


@dataclass(frozen=True, slots=True)
class JointPath:
    """Waypoints with the time each one is reached (`arrive_s`) and left (`leave_s`)."""

    waypoints: tuple[Waypoint, ...]
    arrive_s: tuple[float, ...]
    leave_s: tuple[float, ...]

    @property
    def duration_s(self) -> float:
        """Time at which the last waypoint's pause ends."""
        return self.leave_s[-1]

    def at(self, time_s: float) -> Float64[ndarray, " dof"]:
        """Joint angles at a time; the ends hold before and after."""
        leg, x = self.progress(time_s)
        goal = self.waypoints[leg].angles_rad
        if x == 1.0:
            return goal
        before = self.waypoints[leg - 1].angles_rad
        return before + (goal - before) * (x**3 * (10 - 15 * x + 6 * x * x))

    def phase(self, time_s: float) -> str:
        """Name of the waypoint being approached or held at a time."""
        return self.waypoints[self._leg(time_s)].phase

    def progress(self, time_s: float) -> tuple[int, float]:
        """Which leg a time belongs to, and the part of it that has passed (1 while its end is held)."""
        leg = self._leg(time_s)
        if leg == 0 or time_s >= self.arrive_s[leg]:
            return leg, 1.0
        start_s = self.leave_s[leg - 1]
        return leg, (time_s - start_s) / (self.arrive_s[leg] - start_s)

    def _leg(self, time_s: float) -> int:
        return next((i for i, leave_s in enumerate(self.leave_s) if time_s < leave_s), len(self.leave_s) - 1)


def joint_path(waypoints: list[Waypoint], contract: Contract, *, speed: float) -> JointPath:
    """Times the legs between waypoints, each as short as `speed` (0..1] of the contract's limits allows."""
    arrive, leave = [0.0], [waypoints[0].pause_s]
    for before, after in pairwise(waypoints):
        distance = np.abs(after.angles_rad - before.angles_rad)
        arrive.append(leave[-1] + max(shortest_leg_s(distance, contract, speed=speed), 1e-3))
        leave.append(arrive[-1] + after.pause_s)
    return JointPath(tuple(waypoints), tuple(arrive), tuple(leave))


def shortest_leg_s(distance_rad: Float64[ndarray, " dof"], contract: Contract, *, speed: float) -> float:
    """Shortest time of a minimum-jerk leg over `distance_rad`, at `speed` times the contract's limits, calmly."""
    by_speed = _PEAK_SPEED * distance_rad / (speed * contract.max_velocity_radps)
    acceleration = np.minimum(contract.max_acceleration_radps2, _CALM_ACCELERATION_RADPS2)
    jerk = np.minimum(contract.max_jerk_radps3, _CALM_JERK_RADPS3)
    by_acceleration = np.sqrt(_PEAK_ACCELERATION * distance_rad / (speed * acceleration))
    by_jerk = np.cbrt(_PEAK_JERK * distance_rad / (speed * jerk))
    return float(np.max([by_speed, by_acceleration, by_jerk]))


# Inverse kinematics of the simulated arm: which joint angles bring the fingers around a point.
#
# Damped least squares on the MuJoCo model (Wampler 1986, "Manipulator inverse kinematic solutions based
# on vector formulations and damped least-squares methods"), with joint limits as a projection.


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
