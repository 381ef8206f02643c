# SPDX-License-Identifier: Apache-2.0
"""`so101_driver`: an SO-101 on its serial bus behind the contract's topics, for set-ups without ros2_control.

A timer reads the arm, publishes joint states and writes the newest goal. When commands stop, the servos hold the last
goal; when the bus fails, joint states stop (the supervisor then holds and stops) and the torque stays on. After a
(re)connection the first command must be near the arm, so that an old goal never makes it jump.
"""

import sys
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float64
from numpy import ndarray
from rclpy.node import Node
from rclpy.parameter import Parameter
from sensor_msgs.msg import JointState

from sigma_ros.calibration import Zero, read_calibration
from sigma_ros.contract import Contract
from sigma_ros.contract_file import load_contract
from sigma_ros.errors import MachineError, SigmaError
from sigma_ros.nodes.shared import qos, topics
from sigma_ros.nodes.shared.diagnostics import Diagnostics, Level, TaskStatus
from sigma_ros.nodes.shared.node_options import DriverOptions
from sigma_ros.nodes.shared.parameters import BoundParameters
from sigma_ros.nodes.shared.process import run_node
from sigma_ros.nodes.shared.qos import steady_clock
from sigma_ros.nodes.shared.sensor_messages import COMMAND_KINDS, Command, Waypoints, joint_state_message, waypoints

# An SO-101 on its serial bus, through LeRobot's own follower class: radians in, radians out, torque never dropped.
#
# LeRobot does bus, registers and calibration; counts are turned into radians here (`calibration`), for LeRobot's way
# back to counts cuts off fractions. Nothing is asked on a terminal and nothing is calibrated here.


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


RECONNECT_S = 1.0
TOLERATED_ERRORS = 3
"""Bus errors in a row before the arm counts as lost."""


def open_arm(options: DriverOptions, contract: Contract) -> FollowerArm:
    """The arm that the options name; not connected yet."""
    file = Path(options.calibration).expanduser()
    return FollowerArm(options.port, file, contract, zero=options.zero)  # type: ignore[arg-type]


class So101Driver(Node):
    """See the module."""

    def __init__(
        self,
        parameter_overrides: Sequence[Parameter] = (),
        *,
        make: Callable[[DriverOptions, Contract], FollowerArm] = open_arm,
    ) -> None:
        super().__init__(topics.DRIVER_NODE, parameter_overrides=list(parameter_overrides))
        options = BoundParameters(self, DriverOptions(), state=lambda: "running").value
        self._contract = load_contract(topics.contract_name(self, options.contract))
        self._tolerance_rad = options.first_command_rad
        self._arm = make(options, self._contract)
        self._arm.connect()
        self._connected = True
        self._followed = False
        self._goal: Waypoints | None = None
        self._errors_in_row = self._errors = self._losses = self._refused = 0
        self._why = ""
        self._retry_s = 0.0
        self._joints = self.create_publisher(JointState, self._contract.joint_state_topic, qos.SENSOR)
        kind = COMMAND_KINDS[self._contract.command_type].message
        self.create_subscription(kind, self._contract.command_topic, self._on_command, qos.COMMAND)
        self.create_timer(1.0 / options.rate_hz, self._cycle, clock=steady_clock())
        self._diagnostics = Diagnostics(self, hardware_id=self._contract.name, tasks={"driver/bus": self._bus})
        self.get_logger().info(f"connected to {options.port}; torque is on, the arm holds its pose")

    def stop(self) -> bool:
        """Lets the bus go; the arm holds its last goal."""
        self._arm.close()
        return True

    def _on_command(self, message: Command) -> None:
        try:
            self._goal = waypoints(message, self._contract, received_s=time.monotonic())
        except SigmaError as error:
            self._refuse(str(error))

    def _cycle(self) -> None:
        if not self._connected:
            self._reconnect()
            return
        try:
            measured_rad = self._arm.read_rad()
            at_ns = self.get_clock().now().nanoseconds
            self._follow(measured_rad)
        except (ConnectionError, RuntimeError, OSError) as error:
            self._note_error(error)
            return
        self._errors_in_row = 0
        names = self._contract.joint_names
        self._joints.publish(joint_state_message(at_ns=at_ns, names=names, positions_rad=measured_rad))

    def _follow(self, measured_rad: np.ndarray) -> None:
        if self._goal is None:
            return
        target = self._goal.at(time.monotonic())
        if not self._followed:
            offset = np.abs(target - measured_rad)
            joint = int(np.argmax(offset))
            if offset[joint] > self._tolerance_rad:
                name = self._contract.joint_names[joint]
                self._refuse(f"the first command is {offset[joint]:.2f} rad from where {name} is; engage again")
                self._goal = None
                return
            self._followed = True
        self._arm.write_rad(target)

    def _refuse(self, reason: str) -> None:
        self._refused += 1
        self._why = reason
        self.get_logger().error(reason, throttle_duration_sec=1.0)

    def _note_error(self, error: Exception) -> None:
        self._errors += 1
        self._errors_in_row += 1
        self._why = " ".join(str(error).split())[:200]
        if self._errors_in_row > TOLERATED_ERRORS:
            self._losses += 1
            self._connected = self._followed = False
            self._goal = None
            self.get_logger().error(f"the bus is lost, the servos hold their goal: {self._why}")
            self._arm.close()

    def _reconnect(self) -> None:
        if time.monotonic() < self._retry_s:
            return
        self._retry_s = time.monotonic() + RECONNECT_S
        try:
            self._arm.connect()
        except SigmaError as error:
            self._why = str(error)
            return
        self._errors_in_row = 0
        self._connected = True
        self.get_logger().info("the bus is back; the next command must be near the arm")

    def _bus(self) -> TaskStatus:
        values = {"errors": self._errors, "losses": self._losses, "refused_commands": self._refused, "last": self._why}
        if not self._connected:
            return TaskStatus(Level.ERROR, f"the bus is lost: {self._why}", values)
        if self._errors_in_row:
            return TaskStatus(Level.WARN, f"bus errors: {self._why}", values)
        return TaskStatus(Level.OK, "following" if self._followed else "holding, no command yet", values)


def main(args: Sequence[str] | None = None) -> int:
    """Starts the node; returns the exit code."""
    return run_node(So101Driver, DriverOptions, args, __doc__)


if __name__ == "__main__":
    sys.exit(main())
