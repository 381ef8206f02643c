# SPDX-License-Identifier: Apache-2.0
"""`sigma_sim`: the simulated arm in real time behind the topics of a real one.

Physics and joint states run on a steady timer, cameras on a thread of their own that draws copies, so that
drawing never delays a joint state. Commands are taken as a driver would: the last one stays the goal.
"""

import sys
import threading
import time
import traceback
from collections.abc import Sequence

from rclpy.node import Node
from rclpy.parameter import Parameter
from sensor_msgs.msg import Image, JointState
from std_msgs.msg import String
from std_srvs.srv import Trigger

from sigma_ros.contract_file import load_contract
from sigma_ros.errors import SigmaError
from sigma_ros.nodes.shared import qos, topics
from sigma_ros.nodes.shared.image_messages import image_message
from sigma_ros.nodes.shared.node_options import SimOptions
from sigma_ros.nodes.shared.parameters import BoundParameters
from sigma_ros.nodes.shared.process import run_node
from sigma_ros.nodes.shared.qos import steady_clock
from sigma_ros.nodes.shared.sensor_messages import COMMAND_KINDS, Command, Waypoints, joint_state_message, waypoints
from sigma_ros.sim.environment import SimArm
from sigma_ros.sim.setups import setup_named

JOINT_PERIOD_S = 0.02
LONGEST_STEP_S = 0.1
CLOSE_TIMEOUT_S = 2.0


class SimNode(Node):
    """See the module."""

    def __init__(self, parameter_overrides: Sequence[Parameter] = ()) -> None:
        super().__init__(topics.SIM_NODE, parameter_overrides=list(parameter_overrides))
        options = BoundParameters(self, SimOptions(), state=lambda: "running").value
        self.exit_code = 0
        self.finished = False
        self._contract = load_contract(topics.contract_name(self, options.contract))
        self._contract.require_whole("the simulator")
        self._arm = SimArm(setup_named(options.setup), contract=self._contract)
        self._seed = options.seed
        self._arm.reset(self._seed)
        self._goal: Waypoints | None = None
        self._snapshot = self._arm.snapshot()
        self._closing = threading.Event()
        self._stepped_s = time.monotonic()
        self._joints = self.create_publisher(JointState, self._contract.joint_state_topic, qos.SENSOR)
        self._success = self.create_publisher(String, "~/outcome", qos.LATCHED)
        self._told = ""
        kind = COMMAND_KINDS[self._contract.command_type].message
        self.create_subscription(kind, self._contract.command_topic, self._on_command, qos.COMMAND)
        self.create_service(Trigger, "~/reset", self._on_reset)
        self.create_timer(JOINT_PERIOD_S, self._step, clock=steady_clock())
        self._drawer = threading.Thread(target=self._draw, name="cameras", daemon=True)
        self._drawer.start()

    def stop(self) -> bool:
        """Ends the drawing."""
        self._closing.set()
        self._drawer.join(CLOSE_TIMEOUT_S)
        return True

    def _on_command(self, message: Command) -> None:
        try:
            self._goal = waypoints(message, self._contract, received_s=time.monotonic())
        except SigmaError as error:
            self.get_logger().error(str(error), throttle_duration_sec=1.0)

    def _step(self) -> None:
        now_s = time.monotonic()
        lasted_s = min(now_s - self._stepped_s, LONGEST_STEP_S)
        self._stepped_s = now_s
        target = self._arm.command_rad if self._goal is None else self._goal.at(now_s)
        self._arm.step(target, lasted_s)
        self._snapshot = self._arm.snapshot()
        self._joints.publish(
            joint_state_message(
                at_ns=self.get_clock().now().nanoseconds,
                names=self._contract.joint_names,
                positions_rad=self._arm.positions_rad(),
            )
        )
        self._tell("brick in box" if self._arm.brick_in_box() else "brick not in box")

    def _tell(self, outcome: str) -> None:
        if outcome != self._told:
            self._told = outcome
            self._success.publish(String(data=outcome))

    def _draw(self) -> None:
        """The cameras' thread: draws the newest snapshot of every camera at the contract's rate."""
        try:
            self._draw_frames()
        except Exception:
            self.get_logger().fatal(f"the cameras failed:\n{traceback.format_exc()}")
            self.exit_code = 1
            self.finished = True

    def _draw_frames(self) -> None:
        publishers = {c.name: self.create_publisher(Image, c.topic, qos.SENSOR) for c in self._contract.cameras}
        period_s = 1.0 / self._contract.fps
        next_s = time.monotonic()
        with self._arm.open_cameras() as cameras:
            while not self._closing.wait(max(0.0, next_s - time.monotonic())):
                next_s = max(next_s + period_s, time.monotonic())
                snapshot, at_ns = self._snapshot, self.get_clock().now().nanoseconds
                for name, publisher in publishers.items():
                    rgb = cameras.render(snapshot, name)
                    publisher.publish(image_message(at_ns=at_ns, frame_id=name, rgb=rgb))

    def _on_reset(self, _request: Trigger.Request, response: Trigger.Response) -> Trigger.Response:
        self._seed += 1
        self._arm.reset(self._seed)
        self._goal = None
        response.success = True
        response.message = f"episode with seed {self._seed}"
        return response


def main(args: Sequence[str] | None = None) -> int:
    """Starts the node; returns the exit code."""
    return run_node(SimNode, SimOptions, args, __doc__)


if __name__ == "__main__":
    sys.exit(main())
