# SPDX-License-Identifier: Apache-2.0
"""An SO-101 on its serial bus, through LeRobot's own follower class: radians in, radians out, torque never dropped.

LeRobot does bus, registers and calibration; counts are turned into radians here (`control.calibration`), for LeRobot's
way back to counts cuts off fractions. Nothing is asked on a terminal and nothing is calibrated here.
"""

from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float64
from numpy import ndarray

from sigma_ros.contract import Contract
from sigma_ros.control.calibration import Zero, read_calibration
from sigma_ros.errors import MachineError, SigmaError

_RETRIES, _ATTEMPTS = 2, 3


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
            remedy="pip install 'lerobot[feetech]'",
        ) from error


class FollowerArm:
    """The six servos as one arm in contract order.

    Args:
        port: Serial device, such as /dev/ttyACM0.
        calibration: LeRobot's calibration file of this arm.
        contract: Joint order and names.
        zero: Where 0 rad is: the encoder's middle, or the middle of the recorded range.
        make: Makes LeRobot's robot.
    """

    def __init__(
        self,
        port: str,
        calibration: Path,
        contract: Contract,
        *,
        zero: Zero,
        make: Callable[[str, Path], Any] = lerobot_follower,
    ) -> None:
        joints = read_calibration(calibration)
        self._joints = [joints[i] for i in contract.joint_order(tuple(joint.name for joint in joints))]
        self._zero: Zero = zero
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
