# SPDX-License-Identifier: Apache-2.0
"""The policy node live: ticks by time, silence told as gaps, a heartbeat that says whether the policy can act."""

import pytest
from node_fakes import FakeRuntime, fake_model, picture, small_contract, spin_until
from rclpy.node import Node
from sensor_msgs.msg import Image, JointState
from sigma_ros.msg import ActionChunk, TelepathyState
from std_msgs.msg import Bool
from std_srvs.srv import SetBool

from sigma_ros.nodes.policy_node import PolicyNode
from sigma_ros.nodes.shared import qos, topics
from sigma_ros.nodes.shared.image_messages import image_message
from sigma_ros.nodes.shared.sensor_messages import joint_state_message, stamp_ns

pytestmark = pytest.mark.ros


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


@pytest.fixture
def rig(executor):
    contract = small_contract()
    runtime = FakeRuntime(contract)
    policy = PolicyNode(load=lambda _options, _logger: fake_model(contract, runtime))
    robot = LiveRobot(contract)
    executor.add_node(policy)
    executor.add_node(robot)
    spin_until(executor, lambda: robot.chunks, what="the first chunk")
    return robot, policy, runtime


def test_chunks_come_at_the_planning_ticks_soon_after_them(rig, executor):
    robot, _, _ = rig
    spin_until(executor, lambda: len(robot.chunks) >= 4, what="four chunks")
    ticks = [chunk.tick for _, chunk in robot.chunks]
    assert ticks == sorted(set(ticks))
    assert any(tick % 8 == 0 for tick in ticks), "later ones only where the thread was busy"
    delays = [arrived - stamp_ns(chunk.header.stamp) for arrived, chunk in robot.chunks]
    assert min(delays) < 150_000_000


def test_a_silent_camera_makes_gaps_and_an_unhealthy_heartbeat_and_recovers(rig, executor):
    robot, _, _ = rig
    robot.dark = "side"
    spin_until(executor, lambda: robot.telepathy and not robot.telepathy[-1].valid, what="a gap")
    assert any("side" in reason for reason in robot.telepathy[-1].reasons)
    assert robot.heartbeats[-1] is False
    robot.dark = ""
    spin_until(executor, lambda: robot.telepathy[-1].valid and robot.heartbeats[-1], what="recovery")


def test_paused_the_heartbeat_goes_on_and_says_so(rig, executor):
    robot, _, runtime = rig
    client = robot.create_client(SetBool, topics.PAUSE)
    for wanted in (True, False):
        spin_until(executor, client.service_is_ready, what="the pause service")
        future = client.call_async(SetBool.Request(data=wanted))
        spin_until(executor, future.done, what="the pause service's answer")
        spin_until(
            executor,
            lambda wanted=wanted: robot.heartbeats and robot.heartbeats[-1] is not wanted,
            what="the heartbeat's word",
        )
    assert runtime.calls[-1][0] >= 0


def test_a_hung_inference_leaves_the_heartbeat_alive_and_is_not_used_again(rig, executor):
    robot, policy, runtime = rig
    runtime.gate.clear()
    spin_until(executor, lambda: policy._session.thread.busy_ns > 0, what="an inference to hang")
    beats = len(robot.heartbeats)
    spin_until(executor, lambda: len(robot.heartbeats) > beats + 3, what="heartbeats")
    policy.trigger_deactivate()
    assert policy._model is None
    runtime.gate.set()
