# SPDX-License-Identifier: Apache-2.0
"""Robots at 30 Hz on this machine's clock, well or with spoilt messages, and a policy node that they drive."""

from collections.abc import Callable

import numpy as np
from node_fakes import FakeRuntime, fake_model, picture, small_contract, spin_until
from rclpy.executors import SingleThreadedExecutor
from rclpy.node import Node
from rclpy.parameter import Parameter
from sensor_msgs.msg import Image, JointState
from sigma_ros.msg import ActionChunk, TelepathyState
from std_msgs.msg import Bool

from sigma_ros.nodes.policy_node import PolicyNode
from sigma_ros.nodes.shared import qos, topics
from sigma_ros.nodes.shared.diagnostics import TaskStatus
from sigma_ros.nodes.shared.image_messages import image_message
from sigma_ros.nodes.shared.sensor_messages import joint_state_message


class LiveRobot(Node):
    """Cameras and joints at 30 Hz on this machine's clock; `dark` names a camera that is silent."""

    def __init__(self, contract) -> None:
        super().__init__("test_live_robot")
        self.contract = contract
        self.dark = ""
        self.wild_joints = False
        self.chunks: list[tuple[int, ActionChunk]] = []
        self.telepathy: list[TelepathyState] = []
        self.heartbeats: list[bool] = []
        self.cameras = {c.name: self.create_publisher(Image, c.topic, qos.SENSOR) for c in contract.cameras}
        self.joints = self.create_publisher(JointState, contract.joint_state_topic, qos.SENSOR)
        self.create_subscription(ActionChunk, topics.ACTION_CHUNK, self._on_chunk, qos.CHUNK)
        self.create_subscription(TelepathyState, topics.TELEPATHY, self.telepathy.append, qos.EVENT)
        self.create_subscription(Bool, topics.POLICY_HEARTBEAT, lambda m: self.heartbeats.append(m.data), qos.HEARTBEAT)
        self.create_timer(1.0 / contract.fps, self._publish)

    def now_ns(self) -> int:
        return self.get_clock().now().nanoseconds

    def _on_chunk(self, message: ActionChunk) -> None:
        self.chunks.append((self.now_ns(), message))

    def _publish(self) -> None:
        at_ns = self.now_ns()
        for camera in self.contract.cameras:
            if camera.name != self.dark:
                rgb = picture(camera, 90)
                self.cameras[camera.name].publish(image_message(at_ns=at_ns, frame_id=camera.name, rgb=rgb))
        names = () if self.wild_joints else self.contract.joint_names
        self.joints.publish(joint_state_message(at_ns=at_ns, names=names, positions_rad=[0.1] * 6))


class FaultyRobot(LiveRobot):
    """A robot whose messages can be spoilt; `noise` makes each picture different, as a sensor does."""

    def __init__(self, contract) -> None:
        super().__init__(contract)
        self.spoil_image: Callable[[Image], Image] = lambda message: message
        self.order = list(range(6))
        self.shift_ns = 0
        self.noise = True
        self._rng = np.random.default_rng(0)

    def _publish(self) -> None:
        at_ns = self.now_ns() + self.shift_ns
        for camera in self.contract.cameras:
            if camera.name != self.dark:
                rgb = picture(camera, 90)
                if self.noise:
                    rgb[0, 0] = self._rng.integers(0, 256, 3)
                message = image_message(at_ns=at_ns, frame_id=camera.name, rgb=rgb)
                self.cameras[camera.name].publish(self.spoil_image(message) if camera.name == "side" else message)
        names = [self.contract.joint_names[i] for i in self.order]
        values = np.array([0.01, 0.02, 0.03, 0.04, 0.05, 0.06])[self.order]
        self.joints.publish(joint_state_message(at_ns=at_ns, names=names, positions_rad=values))


def policy_of[R: LiveRobot](
    executor: SingleThreadedExecutor, robot_type: type[R], **given: object
) -> tuple[R, PolicyNode, FakeRuntime]:
    """A robot and its policy node with a model that computes by hand, after the first chunk."""
    contract = small_contract()
    runtime = FakeRuntime(contract)
    parameters = [Parameter(name, value=value) for name, value in given.items()]
    policy = PolicyNode(parameters, load=lambda _options, _logger: fake_model(contract, runtime))
    robot = robot_type(contract)
    executor.add_node(policy)
    executor.add_node(robot)
    spin_until(executor, lambda: robot.chunks, what="the first chunk")
    return robot, policy, runtime


def stands(policy: PolicyNode, cause: str) -> TaskStatus:
    return policy._diagnostics._tasks[cause]()


def until_well(robot, executor) -> None:
    seen = len(robot.chunks)
    spin_until(executor, lambda: len(robot.chunks) > seen + 1 and robot.heartbeats[-1], what="recovery")
