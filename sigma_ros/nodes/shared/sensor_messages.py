# SPDX-License-Identifier: Apache-2.0
"""Stamps, joint states and commands <-> values."""

import array
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from builtin_interfaces.msg import Duration, Time
from jaxtyping import Float64
from numpy import ndarray
from sensor_msgs.msg import JointState
from std_msgs.msg import Float64MultiArray, Header
from trajectory_msgs.msg import JointTrajectory, JointTrajectoryPoint

from sigma_ros.contract import Contract
from sigma_ros.errors import SigmaError
from sigma_ros.streams.joints import JointReader
from sigma_ros.values import NS_PER_S

END_OF_RECORDING = "end of the recording"
"""The frame of a message without content that ends its stream in lockstep."""


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


Command = Float64MultiArray | JointTrajectory | JointState
"""A message of one of `COMMAND_TYPES`."""

_Timed = list[tuple[float, Float64[ndarray, " dof"]]]


@dataclass(frozen=True, slots=True, kw_only=True)
class CommandKind:
    """How commands of one type are written and read.

    `write` takes a contract, positions [rad] from now on, one row a command period, and a stamp [ns]; types that hold
    one row take the first. `read` gives seconds after arrival and positions in contract order.
    """

    message: type[Command]
    write: Callable[[Contract, Float64[ndarray, "points dof"], int], Command]
    read: Callable[[Any, Contract], _Timed]


def _read_trajectory(message: JointTrajectory, contract: Contract) -> _Timed:
    reader, names = JointReader(contract), tuple(message.joint_names)
    return [
        (stamp_ns(point.time_from_start) / NS_PER_S, reader.read(names, np.asarray(point.positions)))
        for point in message.points
    ]


COMMAND_KINDS: Mapping[str, CommandKind] = {
    "std_msgs/msg/Float64MultiArray": CommandKind(
        message=Float64MultiArray,
        write=lambda _contract, positions_rad, _at_ns: array_message(positions_rad[0]),
        read=lambda message, contract: [
            (0.0, JointReader(contract).read(contract.joint_names, np.asarray(message.data)))
        ],
    ),
    "trajectory_msgs/msg/JointTrajectory": CommandKind(
        message=JointTrajectory,
        write=lambda contract, positions_rad, _at_ns: trajectory_message(
            names=contract.joint_names, positions_rad=positions_rad, period_ns=contract.command_period_ns
        ),
        read=_read_trajectory,
    ),
    "sensor_msgs/msg/JointState": CommandKind(
        message=JointState,
        write=lambda contract, positions_rad, at_ns: joint_state_message(
            at_ns=at_ns, names=contract.joint_names, positions_rad=positions_rad[0]
        ),
        read=lambda message, contract: [
            (0.0, JointReader(contract).read(tuple(message.name), np.asarray(message.position)))
        ],
    ),
}
"""One entry for each of `COMMAND_TYPES`; a law holds them together."""

_READERS = {kind.message: kind.read for kind in COMMAND_KINDS.values()}


def waypoints(message: Command, contract: Contract, *, received_s: float) -> Waypoints:
    """A command message of any type, in contract order.

    Raises:
        SigmaError: its length or joint names are not the contract's, or a value is not finite.
    """
    try:
        timed = _READERS[type(message)](message, contract)
    except SigmaError as error:
        raise _unusable(contract, error.what if error.got is None else f"{error.what}: {error.got}") from error
    if not timed:
        raise _unusable(contract, "no point")
    times, rows = zip(*timed, strict=True)
    return Waypoints(times_s=received_s + np.array(times), positions_rad=np.stack(rows))


def _unusable(contract: Contract, got: str) -> SigmaError:
    return SigmaError(
        "a command cannot be used",
        where=contract.command_topic,
        expected=f"{contract.dof} finite joint positions [rad]",
        got=got,
        remedy="let the supervisor be the only publisher of commands",
    )
