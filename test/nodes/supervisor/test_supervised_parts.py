# SPDX-License-Identifier: Apache-2.0
"""A supervisor of two arms of one task: each gets its own commands, and the silence of one stops both."""

from dataclasses import replace

import numpy as np
import pytest
from node_fakes import AUTHOR, PatientOperator, make_chunk, spin_until
from rclpy.node import Node
from rclpy.parameter import Parameter
from sensor_msgs.msg import JointState
from sigma_ros.msg import ActionChunk, SupervisorState
from std_msgs.msg import Bool

from sigma_ros.contract_file import load_contract
from sigma_ros.nodes.shared import qos, topics
from sigma_ros.nodes.shared.messages import chunk_message
from sigma_ros.nodes.shared.sensor_messages import COMMAND_KINDS, joint_state_message, waypoints
from sigma_ros.nodes.supervisor_node import SupervisorNode

pytestmark = pytest.mark.ros
PROPOSAL_S = 1.0


class TwoArms(Node):
    """Arms that go where they are told at once, each on its topics; a policy that leads them to a pose."""

    def __init__(self, name: str, target_rad: np.ndarray) -> None:
        super().__init__("test_arms")
        self.contract = load_contract(name)
        self.target_rad = target_rad
        self.pose_rad = np.zeros(self.contract.dof)
        self.silent = ""
        self.heard: dict[str, int] = {}
        self._proposed = 0
        self.beats = self.proposes = True
        self._states = {
            part.topic: self.create_publisher(JointState, part.topic, qos.SENSOR) for part in self.contract.states
        }
        for part in self.contract.commands:
            one, columns = self.contract.part(part), self.contract.columns(part)

            def obey(message, one=one, columns=columns) -> None:
                self.heard[one.command_topic] = self.heard.get(one.command_topic, 0) + 1
                self.pose_rad[columns] = waypoints(message, one, received_s=0.0).positions_rad[0]

            self.create_subscription(COMMAND_KINDS[one.command_type].message, part.topic, obey, 100)
        self._chunks = self.create_publisher(ActionChunk, topics.ACTION_CHUNK, qos.CHUNK)
        self._heartbeat = self.create_publisher(Bool, topics.POLICY_HEARTBEAT, qos.HEARTBEAT)
        self.operator = PatientOperator(self)
        self.create_timer(0.02, self._live)
        self.create_timer(PROPOSAL_S, self._propose)

    @property
    def state(self) -> SupervisorState | None:
        return self.operator.state

    def _live(self) -> None:
        at_ns = self.get_clock().now().nanoseconds
        for part in self.contract.states:
            if part.topic != self.silent:
                pose = self.pose_rad[self.contract.columns(part)]
                message = joint_state_message(at_ns=at_ns, names=part.own_names, positions_rad=pose)
                self._states[part.topic].publish(message)
        if self.beats:
            self._heartbeat.publish(Bool(data=True))

    def _propose(self) -> None:
        if not self.proposes:
            return
        base = np.linspace(self.pose_rad, self.target_rad, 50)
        at_ns = self.get_clock().now().nanoseconds
        chunk = make_chunk(
            self.contract, chunk_id=self._proposed, stamp_ns=at_ns, base_rad=base, residual_rad=np.zeros_like(base)
        )
        self._proposed += 1
        self._chunks.publish(chunk_message(chunk, replace(AUTHOR, robot=self.contract.name)))


@pytest.fixture
def rig(executor, request):
    name, target = request.param
    arms = TwoArms(name, np.array(target))
    patient = {"heartbeat_timeout_s": 0.2, "max_tick_gap_s": 1.0, "joint_hold_s": 0.5, "joint_stop_s": 1.5}
    options = {"contract": name, "check_tracking": False, "realtime_priority": 0, **patient}
    supervisor = SupervisorNode([Parameter(key, value=value) for key, value in options.items()])
    for node in (arms, supervisor):
        executor.add_node(node)
    return arms, supervisor


BOTH = ("so101_bimanual", [0.2] * 6 + [-0.2] * 6)
SPLIT = ("so101_split", [0.2] * 5 + [0.4])


@pytest.mark.parametrize("rig", [BOTH, SPLIT], indirect=True, ids=["two arms", "arm and gripper"])
def test_law_each_part_is_led_to_its_own_share_of_the_target(rig, executor) -> None:
    arms, supervisor = rig
    near = lambda: np.allclose(arms.pose_rad, arms.target_rad, atol=0.05)  # noqa: E731
    spin_until(executor, near, what="both at their targets", timeout_s=60.0)
    assert len(arms.heard) == 2
    counts = list(arms.heard.values())
    assert abs(counts[0] - counts[1]) <= 1
    assert supervisor.drive._core.counters.violations == 0


@pytest.mark.parametrize("rig", [BOTH], indirect=True)
def test_law_when_one_arm_falls_silent_both_stop(rig, executor) -> None:
    arms, _ = rig
    spin_until(executor, lambda: np.abs(arms.pose_rad).min() > 0.05, what="both in motion", timeout_s=60.0)
    arms.silent, arms.operator.present = "/right/joint_states", False
    spin_until(executor, lambda: arms.state is not None and "JOINTS" in arms.state.reason, what="the reason")
    # where states come late, a hold is given up as too old before the silence is long enough for STOPPED
    at_rest = (SupervisorState.STOPPED, SupervisorState.DISENGAGED)
    spin_until(executor, lambda: arms.state.state in at_rest, what="STOPPED or given up")
    standing = arms.pose_rad.copy()
    spin_until(executor, lambda n=arms._proposed: arms._proposed >= n + 2, what="two more proposals")
    np.testing.assert_array_equal(arms.pose_rad, standing)
