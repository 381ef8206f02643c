# SPDX-License-Identifier: Apache-2.0
"""The policy node in this process, with a model that computes by hand, over real DDS."""

import json
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
from lifecycle_msgs.srv import ChangeState
from node_fakes import FakeRuntime, call, fake_model, picture, small_contract, spin_until
from rcl_interfaces.srv import SetParameters
from rclpy.lifecycle import TransitionCallbackReturn
from rclpy.node import Node
from rclpy.parameter import Parameter
from sensor_msgs.msg import Image, JointState
from sigma_ros.msg import ActionChunk, TelepathyState
from std_msgs.msg import String
from std_srvs.srv import SetBool
from trajectory_msgs.msg import JointTrajectory

from sigma_ros.nodes.policy_node import PolicyNode
from sigma_ros.nodes.shared import qos, topics
from sigma_ros.nodes.shared.image_messages import image_message
from sigma_ros.nodes.shared.sensor_messages import joint_state_message, stamp_ns

pytestmark = pytest.mark.ros
START_NS = 1_000_000_000_000


class Robot(Node):
    """Publishes ticks of a still arm in lockstep and keeps what the policy says."""

    def __init__(self, contract) -> None:
        super().__init__("test_robot")
        self.contract = contract
        self.cameras = {c.name: self.create_publisher(Image, c.topic, qos.SENSOR_RELIABLE) for c in contract.cameras}
        self.joints = self.create_publisher(JointState, contract.joint_state_topic, qos.SENSOR_RELIABLE)
        self.task = self.create_publisher(String, topics.TASK, qos.LATCHED)
        self.chunks: list[ActionChunk] = []
        self.commit_chunks: list[ActionChunk] = []
        self.telepathy: list[TelepathyState] = []
        self.info: list[dict] = []
        self.create_subscription(ActionChunk, topics.ACTION_CHUNK, self.chunks.append, qos.CHUNK_LOCKSTEP)
        self.create_subscription(ActionChunk, topics.COMMIT_CHUNK, self.commit_chunks.append, qos.CHUNK_LOCKSTEP)
        self.create_subscription(TelepathyState, topics.TELEPATHY, self.telepathy.append, qos.CHUNK_LOCKSTEP)
        self.create_subscription(
            String, topics.POLICY_INFO, lambda m: self.info.append(json.loads(m.data)), qos.LATCHED
        )

    def publish_tick(self, tick: int, *, skip: str = "", value: int = 100) -> None:
        at_ns = START_NS + self.contract.tick_offset_ns(tick)
        for camera in self.contract.cameras:
            if camera.name != skip:
                self.cameras[camera.name].publish(
                    image_message(at_ns=at_ns, frame_id=camera.name, rgb=picture(camera, value))
                )
        q = np.linspace(-0.1, 0.1, self.contract.dof)
        self.joints.publish(joint_state_message(at_ns=at_ns, names=self.contract.joint_names, positions_rad=q))

    def matched(self) -> bool:
        return all(p.get_subscription_count() for p in [*self.cameras.values(), self.joints]) and bool(self.info)


@pytest.fixture
def contract():
    return small_contract()


@pytest.fixture
def runtime(contract):
    return FakeRuntime(contract)


@pytest.fixture
def robot(executor, contract) -> Robot:
    node = Robot(contract)
    executor.add_node(node)
    return node


@pytest.fixture
def start(executor, contract, runtime, robot) -> Callable[..., PolicyNode]:
    def make(*, matched: bool = True, **overrides: object) -> PolicyNode:
        values = {"lockstep": True, "replan_ticks": 8} | overrides
        parameters = [Parameter(name.replace("__", "."), value=value) for name, value in values.items()]
        node = PolicyNode(parameters, load=lambda _options, _logger: fake_model(contract, runtime))
        executor.add_node(node)
        if matched:
            spin_until(executor, robot.matched, what="the policy's subscriptions")
        return node

    return make


def set_parameters(executor, node, **values: object) -> list[tuple[bool, str]]:
    parameters = [Parameter(n.replace("__", "."), value=v).to_parameter_msg() for n, v in values.items()]
    request = SetParameters.Request(parameters=parameters)
    answer = call(executor, node, f"/{topics.POLICY_NODE}/set_parameters", request, SetParameters)
    return [(result.successful, result.reason) for result in answer.results]


def test_every_planning_tick_gives_a_chunk_and_a_telepathy_state(executor, robot, start, runtime, contract):
    start()
    for tick in range(33):
        robot.publish_tick(tick)
    spin_until(executor, lambda: len(robot.telepathy) == 5, what="five telepathy states")
    assert [c.tick for c in robot.chunks] == [0, 8, 16, 24, 32]
    assert [stamp_ns(c.header.stamp) - START_NS for c in robot.chunks] == [
        contract.tick_offset_ns(t) for t in (0, 8, 16, 24, 32)
    ]
    assert [t.committed for t in robot.telepathy] == [True, False, True, False, True]
    assert [call for call in runtime.calls if call[2]] == [(0, 0, True), (0, 16, True), (0, 32, True)]
    assert [c.chunk_id for c in robot.chunks] == [0, 1, 2, 3, 4]


def test_viewers_get_each_chunk_as_a_trajectory_where_asked_and_nothing_otherwise(executor, robot, start):
    shown: list[JointTrajectory] = []
    robot.create_subscription(JointTrajectory, topics.ACTION_CHUNK_TRAJECTORY, shown.append, qos.EVENT)
    node = start(trajectory_for_viewers=True)
    spin_until(executor, lambda: node.count_subscribers(topics.ACTION_CHUNK_TRAJECTORY) == 1, what="the viewer")
    for tick in range(9):
        robot.publish_tick(tick)
    spin_until(executor, lambda: len(robot.chunks) == 2 and len(shown) == 2, what="two chunks and two trajectories")
    for chunk, trajectory in zip(robot.chunks, shown, strict=True):
        assert trajectory.header.stamp == chunk.header.stamp
        base, residual = (np.reshape(a, (chunk.horizon, -1)) for a in (chunk.base_positions, chunk.residual_positions))
        np.testing.assert_array_equal([p.positions for p in trajectory.points], base + chunk.scale * residual)


def test_without_being_asked_no_trajectory_is_offered(executor, robot, start):
    node = start()
    assert node.count_publishers(topics.ACTION_CHUNK_TRAJECTORY) == 0


def test_a_trajectory_for_viewers_never_goes_to_the_robot(executor, start, contract, runtime):
    clash = replace(contract, command_topic=f"/{topics.ACTION_CHUNK_TRAJECTORY}")
    parameters = [Parameter("trajectory_for_viewers", value=True), Parameter("autostart", value=False)]
    node = PolicyNode(parameters, load=lambda _options, _logger: fake_model(clash, runtime))
    executor.add_node(node)
    assert node.trigger_configure() == TransitionCallbackReturn.FAILURE
    assert node.count_publishers(topics.ACTION_CHUNK_TRAJECTORY) == 0


def test_a_commit_tick_that_plans_nothing_still_advances_the_memory(executor, robot, start, runtime):
    start(replan_ticks=10)
    for tick in range(21):
        robot.publish_tick(tick)
    spin_until(executor, lambda: len(robot.telepathy) == 4, what="ticks 0, 10, 16, 20")
    assert [c.tick for c in robot.chunks] == [0, 10, 20]
    assert [c.tick for c in robot.commit_chunks] == [16]
    assert runtime.calls == [(0, 0, True), (0, 10, False), (0, 16, True), (0, 20, False)]


def test_a_gap_at_a_planning_tick_is_told_with_its_reason(executor, robot, start):
    start()
    for tick in range(24):
        robot.publish_tick(tick, skip="side" if 1 <= tick <= 17 else "")
    spin_until(executor, lambda: len(robot.telepathy) == 3, what="three telepathy states")
    assert [t.valid for t in robot.telepathy] == [True, False, False]
    assert "side" in robot.telepathy[1].reasons[0]
    assert [c.tick for c in robot.chunks] == [0]


def test_wrong_units_block_inference_with_the_reason(executor, robot, start, runtime):
    runtime.units_problems = ("elbow_flex: 57.3 rad is 3391 in the policy's units",)
    start()
    robot.publish_tick(0)
    spin_until(executor, lambda: robot.telepathy, what="a telepathy state")
    assert not robot.telepathy[0].valid
    assert "elbow_flex" in robot.telepathy[0].reasons[0]
    assert not runtime.calls


def test_an_integer_stands_for_a_double(executor, robot, start):
    node = start()
    assert set_parameters(executor, robot, adapter__max_scale=1) == [(True, "")]
    assert node._bound.value.adapter_max_scale == 1.0


def test_a_new_task_starts_a_new_epoch_that_every_chunk_tells(executor, robot, start):
    start()
    robot.publish_tick(0)
    spin_until(executor, lambda: robot.chunks, what="a chunk")
    robot.task.publish(String(data="put it back"))
    spin_until(executor, robot.task.wait_for_all_acked, what="the task")
    for _ in range(3):
        executor.spin_once(timeout_sec=0.1)
    for tick in range(1, 4):
        robot.publish_tick(tick)
    spin_until(executor, lambda: len(robot.telepathy) == 2, what="the next epoch's telepathy state")
    assert (robot.chunks[1].epoch, robot.chunks[1].tick) == (1, 0)
    assert robot.telepathy[-1].task == "put it back"


def test_paused_there_is_no_inference_and_resuming_begins_an_epoch(executor, robot, start, runtime):
    start(lockstep=True)
    robot.publish_tick(0)
    spin_until(executor, lambda: robot.chunks, what="a chunk")
    assert call(executor, robot, topics.PAUSE, SetBool.Request(data=True), SetBool).success
    for tick in range(1, 10):
        robot.publish_tick(tick)
    assert call(executor, robot, topics.PAUSE, SetBool.Request(data=False), SetBool).success
    assert runtime.calls == [(0, 0, True)]


def test_lifecycle_transitions_fail_with_their_reason_and_leave_no_half_state(executor, robot, start):
    node = start(autostart=False, matched=False)
    change = f"/{topics.POLICY_NODE}/change_state"

    def transition(number: int) -> bool:
        request = ChangeState.Request()
        request.transition.id = number
        return call(executor, robot, change, request, ChangeState).success

    assert not transition(3), "activate before configure"
    assert transition(1)
    assert transition(3)
    spin_until(executor, robot.matched, what="the policy's subscriptions")
    robot.publish_tick(0)
    spin_until(executor, lambda: robot.chunks, what="a chunk")
    assert transition(4)
    assert node._session is None
    assert transition(2)
    assert node._model is None
    assert transition(1)


def test_the_certificate_is_told_to_late_joiners_too(executor, robot, start):
    start()
    robot.publish_tick(0)
    spin_until(executor, lambda: robot.chunks and "certificate" in robot.info[-1], what="the certificate")
    assert robot.info[-1]["certificate"].startswith("scale 0 equals LeRobot's predict_action_chunk bit for bit")


def test_without_a_certificate_no_chunk_comes_and_the_policy_is_not_healthy(executor, robot, start, runtime):
    node = start()
    runtime.base_difference = 1e-3
    robot.publish_tick(0)
    spin_until(executor, lambda: robot.telepathy and "certificate" in robot.info[-1], what="the refusal")
    for said in (robot.telepathy[0].reasons[0], robot.info[-1]["certificate"], node._health._inference().text):
        assert said.startswith("REFUSED: scale 0 is 1.0e-03 off LeRobot")
    assert not node._session.healthy
    assert not robot.chunks
    assert not runtime.calls


def test_policy_info_tells_late_joiners_what_runs(executor, robot, start):
    start(replan_ticks=4)
    assert robot.info[-1]["replan_ticks"] == 4
    assert robot.info[-1]["checkpoint_hash"] == "abc"
