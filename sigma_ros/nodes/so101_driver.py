# SPDX-License-Identifier: Apache-2.0
"""`so101_driver`: an SO-101 on its serial bus behind the contract's topics, for set-ups without ros2_control.

A timer reads the arm, publishes joint states and writes the newest goal. When commands stop, the servos hold the last
goal; when the bus fails, joint states stop (the supervisor then holds and stops) and the torque stays on. After a
(re)connection the first command must be near the arm, so that an old goal never makes it jump. It trusts nobody: goals
are bounded in position and speed here again, and of several publishers of commands only the first one is followed.
"""

import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from rclpy.node import Node
from rclpy.parameter import Parameter
from sensor_msgs.msg import JointState

from sigma_ros.contract import Contract
from sigma_ros.contract_file import load_contract
from sigma_ros.errors import SigmaError
from sigma_ros.nodes.driver.arm import FollowerArm, ServoHealth
from sigma_ros.nodes.driver.last_line import LastLine, torque_for_tip_force
from sigma_ros.nodes.shared import qos, topics
from sigma_ros.nodes.shared.diagnostics import Diagnostics, Level, TaskStatus
from sigma_ros.nodes.shared.node_options import DriverOptions
from sigma_ros.nodes.shared.parameters import BoundParameters
from sigma_ros.nodes.shared.process import run_node
from sigma_ros.nodes.shared.qos import steady_clock
from sigma_ros.nodes.shared.sensor_messages import COMMAND_KINDS, Command, Waypoints, joint_state_message, waypoints
from sigma_ros.nodes.shared.topics import Senders

if TYPE_CHECKING:
    from rclpy.subscription import MessageInfo

RECONNECT_S = 1.0
TOLERATED_ERRORS = 3
"""Bus errors in a row before the arm counts as lost."""

HEALTH_S = 1.0
HOT_C = 60.0
LOADED = 0.9
"""A servo at this part of its stall torque is blocked or overloaded."""


def open_arm(options: DriverOptions, contract: Contract) -> FollowerArm:
    """The arm that the options name; not connected yet."""
    file = Path(options.calibration).expanduser()
    return FollowerArm(
        options.port,
        file,
        contract,
        zero=options.zero,  # type: ignore[arg-type]
        torque_limit=options.torque_limit,
        gripper_torque_limit=options.gripper_torque_limit,
        most_torque=torque_for_tip_force(contract, options.max_tip_force_n) if options.max_tip_force_n else {},
    )


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
        self._contract.require_whole("so101_driver")
        self._tolerance_rad = options.first_command_rad
        self._arm = make(options, self._contract)
        self._arm.connect()
        self._connected = True
        self._last_line: LastLine | None = None
        self._goal: Waypoints | None = None
        self._senders = Senders(self, (self._contract.command_topic,))
        self._writer = ""
        self._servos: ServoHealth | None = None
        self._health_s = 0.0
        self._errors_in_row = self._errors = self._losses = self._refused = 0
        self._why = ""
        self._retry_s = 0.0
        self._joints = self.create_publisher(JointState, self._contract.joint_state_topic, qos.SENSOR)
        kind = COMMAND_KINDS[self._contract.command_type].message
        self.create_subscription(kind, self._contract.command_topic, self._on_command, qos.COMMAND)
        self.create_timer(1.0 / options.rate_hz, self._cycle, clock=steady_clock())
        self._diagnostics = Diagnostics(
            self, hardware_id=self._contract.name, tasks={"driver/bus": self._bus, "driver/servos": self._servo_status}
        )
        self.get_logger().info(f"connected to {options.port}; torque is on, the arm holds its pose")

    def stop(self) -> bool:
        """Lets the bus go; the arm holds its last goal."""
        self._arm.close()
        return True

    @property
    def _followed(self) -> bool:
        """Whether a first command was near enough to follow from then on."""
        return self._last_line is not None

    def _on_command(self, message: Command, info: "MessageInfo") -> None:
        if not self._is_from_writer(info):
            return
        try:
            self._goal = waypoints(message, self._contract, received_s=time.monotonic())
        except SigmaError as error:
            self._refuse(str(error))

    def _is_from_writer(self, info: "MessageInfo") -> bool:
        """Whether this publisher is the one that is followed: the first to command, until it has left the graph."""
        source = self._senders.source(info)
        if source.publisher == self._writer:
            return True
        self._senders.refresh()
        if self._writer and self._writer in self._senders.names:
            self._refuse(f"commands of a second publisher, {source.name or source.publisher}, are not followed")
            return False
        self._writer, self._last_line, self._goal = source.publisher, None, None
        return True

    def _cycle(self) -> None:
        if not self._connected:
            self._reconnect()
            return
        try:
            measured_rad = self._arm.read_rad()
            at_ns = self.get_clock().now().nanoseconds
            self._follow(measured_rad)
            self._look_after_servos()
        except (ConnectionError, RuntimeError, OSError) as error:
            self._note_error(error)
            return
        self._errors_in_row = 0
        names = self._contract.joint_names
        self._joints.publish(joint_state_message(at_ns=at_ns, names=names, positions_rad=measured_rad))

    def _follow(self, measured_rad: np.ndarray) -> None:
        if self._goal is None:
            return
        now_s = time.monotonic()
        target = self._goal.at(now_s)
        if self._last_line is None:
            offset = np.abs(target - measured_rad)
            joint = int(np.argmax(offset))
            if offset[joint] > self._tolerance_rad:
                name = self._contract.joint_names[joint]
                self._refuse(f"the first command is {offset[joint]:.2f} rad from where {name} is; engage again")
                self._goal = None
                return
            self._last_line = LastLine(self._contract, start_rad=measured_rad, now_s=now_s)
        self._arm.write_rad(self._last_line.grant(target, now_s))

    def _look_after_servos(self) -> None:
        if time.monotonic() >= self._health_s:
            self._health_s = time.monotonic() + HEALTH_S
            self._servos = self._arm.health()

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
            self._connected = False
            self._last_line = self._goal = self._servos = None
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
        values = {
            "errors": self._errors,
            "losses": self._losses,
            "refused_commands": self._refused,
            "bounded_commands": 0 if self._last_line is None else self._last_line.bounded,
            "last": self._why,
        }
        if not self._connected:
            return TaskStatus(Level.ERROR, f"the bus is lost: {self._why}", values)
        if self._errors_in_row:
            return TaskStatus(Level.WARN, f"bus errors: {self._why}", values)
        return TaskStatus(Level.OK, "following" if self._followed else "holding, no command yet", values)

    def _servo_status(self) -> TaskStatus:
        servos, names = self._servos, self._contract.joint_names
        if servos is None:
            return TaskStatus(Level.WARN, "the servos have not been asked yet", {})
        values = {
            f"{name}_{what}": round(float(number), 3)
            for what in ("load", "current_a", "temperature_c")
            for name, number in zip(names, getattr(servos, what), strict=True)
        }
        hot, loaded = int(np.argmax(servos.temperature_c)), int(np.argmax(np.abs(servos.load)))
        if servos.temperature_c[hot] >= HOT_C:
            return TaskStatus(
                Level.ERROR, f"{names[hot]} has {servos.temperature_c[hot]:.0f} deg C: let it cool", values
            )
        if abs(servos.load[loaded]) >= LOADED:
            return TaskStatus(Level.WARN, f"{names[loaded]} is at its limit: is it blocked?", values)
        return TaskStatus(Level.OK, "cool and within their torque", values)


def main(args: Sequence[str] | None = None) -> int:
    """Starts the node; returns the exit code."""
    return run_node(So101Driver, DriverOptions, args, __doc__)


if __name__ == "__main__":
    sys.exit(main())
