# SPDX-License-Identifier: Apache-2.0
"""The last line before the servos: what the driver grants whoever commands it, the supervisor or noise in its place."""

import numpy as np
from jaxtyping import Bool, Float64
from numpy import ndarray

from sigma_ros.contract import Contract
from sigma_ros.errors import ContractError
from sigma_ros.kinematics import ForwardKinematics

_SLACK = 1.25
"""The supervisor's own commands arrive unevenly: two of them may fall into one cycle of the driver."""

_LONGEST_S = 0.1
"""A pause earns no larger step than this long a way at full speed."""


_STALL_NM = 2.94
"""Of the STS3215 at 12 V, from its data sheet; at 7.4 V it is less."""

_POSES, _SHARE, _TURN_RAD = 4000, 1.0, 1e-4


def torque_for_tip_force(contract: Contract, force_n: float) -> dict[str, float]:
    """Each joint's torque limit, part of the stall torque, at which it alone pushes the tool with no more than a force.

    A joint with torque T pushes a point at the distance r from its axis with T / r. Of r the smallest counts, but for
    the hundredth part of all poses in which a tool point lies nearest to the axis: there no limit would be low enough.

    Raises:
        ContractError: the contract says nothing of the arm's kinematics.
    """
    if contract.kinematics is None:
        raise ContractError("max_tip_force_n needs the arm's kinematics", where=f"contract {contract.name}")
    forward = ForwardKinematics(contract.kinematics, contract.joint_names)
    poses = np.random.default_rng(0).uniform(contract.lower_rad, contract.upper_rad, (_POSES, contract.dof))
    here = forward.points_m(poses)
    limits = {}
    for joint, name in enumerate(contract.joint_names):
        turned = forward.points_m(poses + _TURN_RAD * np.eye(contract.dof)[joint])
        lever_m = np.linalg.norm(turned - here, axis=1).max(axis=1) / _TURN_RAD
        limits[name] = min(1.0, force_n * float(np.percentile(lever_m, _SHARE)) / _STALL_NM)
    return limits


class LastLine:
    """Bounds goals by the contract: its positions, and its speeds since the goal before. Of one connection.

    Written without the supervisor's code, so that it does not share its mistakes.
    """

    def __init__(self, contract: Contract, *, start_rad: Float64[ndarray, " dof"], now_s: float) -> None:
        """`start_rad` is where the arm is measured to be; outside the limits it is led inside at full speed."""
        self._lower, self._upper = contract.lower_rad, contract.upper_rad
        self._speed = _SLACK * contract.max_velocity_radps
        self._goal_rad, self._at_s = np.array(start_rad, dtype=np.float64), now_s
        self.bounded = 0

    def grant(self, wanted_rad: Float64[ndarray, " dof"], now_s: float) -> Float64[ndarray, " dof"]:
        """The goal in place of the wanted one [rad]; one that is not finite, or not of the arm, changes nothing."""
        step_rad = self._speed * min(max(0.0, now_s - self._at_s), _LONGEST_S)
        self._at_s = now_s
        if wanted_rad.shape != self._goal_rad.shape or not np.isfinite(wanted_rad).all():
            self.bounded += 1
            return self._goal_rad
        inside = np.clip(wanted_rad, self._lower, self._upper)
        goal = np.clip(inside, self._goal_rad - step_rad, self._goal_rad + step_rad)
        changed: Bool[ndarray, " dof"] = goal != wanted_rad
        self.bounded += bool(changed.any())
        self._goal_rad = goal
        return goal
