# SPDX-License-Identifier: Apache-2.0
"""Stamps, joint states and commands <-> values."""

import array
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from builtin_interfaces.msg import Duration, Time
from jaxtyping import Float64
from numpy import ndarray
from sensor_msgs.msg import JointState
from std_msgs.msg import Float64MultiArray, Header
from trajectory_msgs.msg import JointTrajectory, JointTrajectoryPoint

from sigma_ros.contract import Contract
from sigma_ros.errors import SigmaError
from sigma_ros.values import NS_PER_S


def stamp_ns(time: Time) -> int:
    """A message's stamp in nanoseconds."""
    return int(time.sec) * NS_PER_S + int(time.nanosec)


def to_time(ns: int) -> Time:
    """Nanoseconds as a stamp."""
    sec, nanosec = divmod(ns, NS_PER_S)
    return Time(sec=sec, nanosec=nanosec)


def to_duration(ns: int) -> Duration:
    """Nanoseconds as a duration."""
    sec, nanosec = divmod(ns, NS_PER_S)
    return Duration(sec=sec, nanosec=nanosec)


def joint_state_message(*, at_ns: int, names: Sequence[str], positions_rad: ndarray) -> JointState:
    """Joint positions as a message."""
    return JointState(header=Header(stamp=to_time(at_ns)), name=list(names), position=doubles(positions_rad))


def array_message(values: Float64[ndarray, " dof"]) -> Float64MultiArray:
    """Joint targets [rad] for a forward position controller."""
    return Float64MultiArray(data=doubles(values))


def trajectory_message(
    *, names: Sequence[str], positions_rad: Float64[ndarray, "points dof"], period_ns: int
) -> JointTrajectory:
    """Joint targets [rad], one per period from now on, that end at rest.

    The stamp is zero: the controller starts when it arrives, whatever its clock. Velocities are left to the
    controller's own interpolation except at the end, where they are zero.
    """
    points = [
        JointTrajectoryPoint(positions=doubles(row), time_from_start=to_duration((i + 1) * period_ns))
        for i, row in enumerate(positions_rad)
    ]
    points[-1].velocities = array.array("d", bytes(8 * len(names)))
    return JointTrajectory(joint_names=list(names), points=points)


def doubles(values: ndarray) -> array.array:
    """Numbers as a message's array, row-major, without a check of each value."""
    return array.array("d", np.ascontiguousarray(values, dtype=np.float64).tobytes())


@dataclass(frozen=True, slots=True, kw_only=True)
class Waypoints:
    """A command as a function of time: straight lines between points, the last one held."""

    times_s: Float64[ndarray, " points"]
    positions_rad: Float64[ndarray, "points dof"]

    def at(self, now_s: float) -> Float64[ndarray, " dof"]:
        """The target at a time of the clock that `received_s` was read from."""
        columns = [np.interp(now_s, self.times_s, column) for column in self.positions_rad.T]
        return np.array(columns)


def waypoints(message: Float64MultiArray | JointTrajectory, contract: Contract, *, received_s: float) -> Waypoints:
    """A command message of either type, in contract order.

    Raises:
        SigmaError: its length or joint names are not the contract's, or a value is not finite.
    """
    if isinstance(message, JointTrajectory):
        order = contract.joint_order(tuple(message.joint_names))
        rows = [np.array(point.positions)[order] for point in message.points]
        times = [received_s + stamp_ns(point.time_from_start) / NS_PER_S for point in message.points]
    else:
        rows, times = [np.array(message.data)], [received_s]
    if not rows or any(row.shape != (contract.dof,) or not np.isfinite(row).all() for row in rows):
        raise SigmaError(
            "a command cannot be used",
            where=contract.command_topic,
            expected=f"{contract.dof} finite joint positions [rad]",
            got=f"{rows[0] if rows else 'no point'}",
            remedy="let the supervisor be the only publisher of commands",
        )
    return Waypoints(times_s=np.array(times), positions_rad=np.stack(rows))
