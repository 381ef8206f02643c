# SPDX-License-Identifier: Apache-2.0
"""What the policy listens to: of two arms it takes ticks in which both have spoken."""

import numpy as np
import pytest
from node_fakes import FakeRuntime, fake_model, picture, small_contract, spin_until
from rclpy.node import Node
from sensor_msgs.msg import Image, JointState
from sigma_ros.msg import ActionChunk, TelepathyState

from sigma_ros.nodes.policy_node import PolicyNode
from sigma_ros.nodes.shared import qos, topics
from sigma_ros.nodes.shared.image_messages import image_message
from sigma_ros.nodes.shared.sensor_messages import joint_state_message

pytestmark = pytest.mark.ros


class Robot(Node):
    """Two arms at rest, the right one 0.3 rad further; `silent` names a topic that says nothing."""

    def __init__(self) -> None:
        super().__init__("test_robot")
        self.contract = small_contract("so101_bimanual")
        self.silent = ""
        self.chunks: list[ActionChunk] = []
        self.telepathy: list[TelepathyState] = []
        self._cameras = [(c, self.create_publisher(Image, c.topic, qos.SENSOR)) for c in self.contract.cameras]
        self._arms = [(p, self.create_publisher(JointState, p.topic, qos.SENSOR)) for p in self.contract.states]
        self.create_subscription(ActionChunk, topics.ACTION_CHUNK, self.chunks.append, qos.CHUNK)
        self.create_subscription(TelepathyState, topics.TELEPATHY, self.telepathy.append, qos.EVENT)
        self.create_timer(1.0 / self.contract.fps, self._live)

    def _live(self) -> None:
        at_ns = self.get_clock().now().nanoseconds
        for camera, publisher in self._cameras:
            publisher.publish(image_message(at_ns=at_ns, frame_id=camera.name, rgb=picture(camera, 90)))
        for (part, publisher), pose in zip(self._arms, (0.1, 0.4), strict=True):
            if part.topic != self.silent:
                said = joint_state_message(at_ns=at_ns, names=part.own_names, positions_rad=np.full(6, pose))
                publisher.publish(said)


def test_the_policy_of_two_arms_sees_both_and_a_silent_one_is_a_gap(executor) -> None:
    robot = Robot()
    runtime = FakeRuntime(robot.contract)
    policy = PolicyNode(load=lambda _options, _logger: fake_model(robot.contract, runtime))
    for node in (robot, policy):
        executor.add_node(node)
    spin_until(executor, lambda: robot.chunks, what="a chunk", timeout_s=60.0)
    assert tuple(robot.chunks[-1].joint_names) == robot.contract.joint_names
    assert list(robot.chunks[-1].base_positions[:12]) == [0.1] * 6 + [0.4] * 6
    robot.silent = "/right/joint_states"
    spin_until(executor, lambda: robot.telepathy and not robot.telepathy[-1].valid, what="a gap")
    assert any("joint" in reason for reason in robot.telepathy[-1].reasons)
