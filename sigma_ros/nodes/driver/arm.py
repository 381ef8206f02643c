# SPDX-License-Identifier: Apache-2.0
"""An SO-101 on its serial bus, through LeRobot's own follower class: radians in, radians out, torque never dropped.

LeRobot does bus, registers and calibration; counts are turned into radians here (`sigma_ros.calibration`), for
LeRobot's way back to counts cuts off fractions. Nothing is asked on a terminal and nothing is calibrated here.
"""

from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
from jaxtyping import Float64
from numpy import ndarray

from sigma_ros.calibration import Zero, read_calibration
from sigma_ros.contract import Contract
from sigma_ros.errors import MachineError, SigmaError

_RETRIES, _ATTEMPTS = 2, 3
_FULL_TORQUE = 1000
"""Torque limit and load of the STS3215 are parts of a thousand of its stall torque."""

_AMPERES_PER_COUNT = 0.0065
"""Present_Current, from the STS3215's memory table."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ServoHealth:
    """What the servos say: load as a part of the stall torque (-1..1), current [A] and temperature [deg C]."""

    load: Float64[ndarray, " dof"]
    current_a: Float64[ndarray, " dof"]
    temperature_c: Float64[ndarray, " dof"]


def lerobot_follower(port: str, calibration: Path) -> Any:
    """LeRobot's SO-101 follower without cameras, that leaves the torque on when it goes."""
    try:
        from lerobot.robots.so_follower import SO101Follower, SO101FollowerConfig  # noqa: PLC0415 - heavy, optional

        config = SO101FollowerConfig(
            port=port, id=calibration.stem, calibration_dir=calibration.parent, disable_torque_on_disconnect=False
        )
        return SO101Follower(config)
    except ImportError as error:
        raise MachineError(
            "the arm's bus needs a package that is missing",
            got=error,
            remedy="pip install 'sigma_ros[arm]', or make setup",
        ) from error


class FollowerArm:
    """The six servos as one arm in contract order.

    Args:
        calibration: LeRobot's calibration file of this arm.
        zero: Where 0 rad is: the encoder's middle, or the middle of the recorded range.
        torque_limit: Of the five arm servos, part of their stall torque, (0, 1].
        gripper_torque_limit: The gripper's, likewise.
        most_torque: By joint, what may not be exceeded either.
    """

    def __init__(
        self,
        port: str,
        calibration: Path,
        contract: Contract,
        *,
        zero: Zero,
        torque_limit: float = 1.0,
        gripper_torque_limit: float = 0.5,
        most_torque: Mapping[str, float] = MappingProxyType({}),
        make: Callable[[str, Path], Any] = lerobot_follower,
    ) -> None:
        joints = read_calibration(calibration)
        self._joints = [joints[i] for i in contract.joint_order(tuple(joint.name for joint in joints))]
        self._zero: Zero = zero
        self._torque_limits = {
            joint.name: int(_FULL_TORQUE * min(limit, most_torque.get(joint.name, 1.0)) + 1e-6)
            for joint in self._joints
            for limit in (gripper_torque_limit if joint.name == "gripper" else torque_limit,)
        }
        self._port = port
        self._robot = make(port, calibration)

    def connect(self) -> None:
        """Opens the bus; where the torque was off, it is switched on at the pose the arm has.

        Raises:
            SigmaError: the port, a motor or the calibration is not what was expected.
        """
        for attempt in range(1, _ATTEMPTS + 1):
            try:
                self._connect()
            except (ConnectionError, RuntimeError, OSError, ValueError) as error:
                self.close()
                if attempt < _ATTEMPTS:
                    continue  # a servo bus loses a packet now and then
                raise SigmaError(
                    "the arm cannot be reached",
                    where=self._port,
                    got=" ".join(str(error).split())[:300],
                    remedy="check power, cable and port; lerobot-find-port lists ports",
                ) from error
            return

    def _connect(self) -> None:
        bus = self._robot.bus
        bus.connect()
        if not bus.is_calibrated:
            raise SigmaError(
                "the servos hold another calibration than the file",
                where=self._port,
                remedy="run lerobot-calibrate for this arm, and give the file it writes",
            )
        if not all(bus.read("Torque_Enable", joint.name, normalize=False) for joint in self._joints):
            here = bus.sync_read("Present_Position", normalize=False, num_retry=_RETRIES)
            bus.sync_write("Goal_Position", here, normalize=False)
            self._robot.configure()
        self._limit_torque(bus)

    def _limit_torque(self, bus: Any) -> None:
        """Sets every servo's torque limit and reads it back: it is forgotten whenever the servos lose their power."""
        for name, limit in self._torque_limits.items():
            bus.write("Torque_Limit", name, limit, normalize=False, num_retry=_RETRIES)
            found = bus.read("Torque_Limit", name, normalize=False, num_retry=_RETRIES)
            if found != limit:
                raise SigmaError(
                    "a servo does not take its torque limit",
                    where=f"{self._port}, {name}",
                    expected=limit,
                    got=found,
                    remedy="check the servo's model and firmware; the driver does not move an arm without the limit",
                )

    def health(self) -> ServoHealth:
        """Load, current and temperature of the servos, three reads of the bus.

        Raises:
            ConnectionError: the bus gave no answer, also when asked again.
        """
        read = [
            self._robot.bus.sync_read(register, normalize=False, num_retry=_RETRIES)
            for register in ("Present_Load", "Present_Current", "Present_Temperature")
        ]
        load, current, temperature = (np.array([float(found[j.name]) for j in self._joints]) for found in read)
        return ServoHealth(load=load / _FULL_TORQUE, current_a=current * _AMPERES_PER_COUNT, temperature_c=temperature)

    def read_rad(self) -> Float64[ndarray, " dof"]:
        """Measured positions.

        Raises:
            ConnectionError: the bus gave no answer, also when asked again.
        """
        counts = self._robot.bus.sync_read("Present_Position", normalize=False, num_retry=_RETRIES)
        return np.array([joint.counts_to_rad(counts[joint.name], zero=self._zero) for joint in self._joints])

    def write_rad(self, goal_rad: Float64[ndarray, " dof"]) -> None:
        """Sets the goal, within the calibrated range.

        Raises:
            ConnectionError: the bus is gone.
        """
        goal = {}
        for joint, rad in zip(self._joints, goal_rad, strict=True):
            counts = round(joint.rad_to_counts(float(rad), zero=self._zero))
            goal[joint.name] = min(joint.range_max, max(joint.range_min, counts))
        self._robot.bus.sync_write("Goal_Position", goal, normalize=False)

    def close(self) -> None:
        """Lets the bus go; the servos keep torque and goal."""
        with suppress(ConnectionError, RuntimeError, OSError):
            self._robot.bus.disconnect(disable_torque=False)
