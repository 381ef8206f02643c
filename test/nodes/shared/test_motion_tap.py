# SPDX-License-Identifier: Apache-2.0
"""A running graph's motion, over real DDS: what was published is what delays are measured in."""

import numpy as np
import pytest

pytest.importorskip("rclpy", reason="rclpy is not installed")
pytest.importorskip("sigma_ros.msg", reason="the messages are not built")

from live_robot import LiveRobot
from node_fakes import FakeRuntime, fake_model, small_contract, spin_until
from rclpy.node import Node

from sigma_ros.nodes.policy_node import PolicyNode
from sigma_ros.nodes.shared.motion_tap import MotionTap
from sigma_ros.nodes.shared.sensor_messages import array_message

pytestmark = pytest.mark.ros


def test_joints_pictures_commands_and_chunks_of_a_running_graph_are_kept(executor) -> None:
    contract = small_contract()
    policy = PolicyNode(load=lambda _options, _logger: fake_model(contract, FakeRuntime(contract)))
    robot, watcher = LiveRobot(contract), Node("test_tap")
    for node in (policy, robot, watcher):
        executor.add_node(node)
    tap = MotionTap(watcher, contract)
    sender = robot.create_publisher(type(array_message(np.zeros(1))), contract.command_topic, 5)
    robot.create_timer(0.02, lambda: sender.publish(array_message(np.full(contract.dof, 0.1))))
    motion = tap.motion
    spin_until(
        executor,
        lambda: all(map(len, (motion.joints, motion.commands, motion.chunk_delays_ns))) and len(motion.changes) == 2,
        what="every stream",
    )
    assert set(motion.changes) == {camera.name for camera in contract.cameras}
    assert motion.joints[-1][1].shape == (contract.dof,)
    np.testing.assert_array_equal(motion.commands[-1][1], np.full(contract.dof, 0.1))
    assert 0 <= motion.chunk_delays_ns[-1] < 5_000_000_000
    robot.wild_joints = True
    spin_until(executor, lambda: tap.refused > 0, what="a refusal")
