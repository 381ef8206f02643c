# SPDX-License-Identifier: Apache-2.0
"""A middleware without deadline, lifespan, liveliness and QoS events: the supervisor's own clocks hold the arm.

So it is with rmw_zenoh. Profiles are stripped on both ends, and rclpy is told that no event is supported.
"""

import numpy as np
import pytest
from node_fakes import AUTHOR, make_chunk, spin_until
from rclpy import event_handler
from rclpy.executors import SingleThreadedExecutor
from rclpy.qos import QoSProfile
from robot_in_parts import RobotInParts, supervised
from sigma_ros.msg import SupervisorState
from std_msgs.msg import Bool

from sigma_ros.nodes.shared import qos, topics
from sigma_ros.nodes.shared.messages import chunk_message

pytestmark = pytest.mark.ros
STRIPPED = ("CHUNK", "HEARTBEAT", "COMMAND", "EVENT", "EVENT_ANY", "LATCHED", "SENSOR")
MOVING = (SupervisorState.ENGAGING, SupervisorState.RUN, SupervisorState.BASE_ONLY)


def stripped(profile: QoSProfile) -> QoSProfile:
    """The same history, reliability and durability, and nothing that watches time."""
    return QoSProfile(
        history=profile.history,
        depth=profile.depth,
        reliability=profile.reliability,
        durability=profile.durability,
    )


def no_events(*_arguments: object, **_keywords: object) -> None:
    raise event_handler.UnsupportedEventTypeError("not here")


class Arm(RobotInParts):
    """One arm, and an emergency stop."""

    def __init__(self) -> None:
        super().__init__("so101", np.full(6, 0.3))
        self.e_stop = self.create_publisher(Bool, topics.E_STOP, qos.EVENT)


@pytest.fixture
def arm(executor: SingleThreadedExecutor, monkeypatch: pytest.MonkeyPatch) -> Arm:
    for name in STRIPPED:
        monkeypatch.setattr(qos, name, stripped(getattr(qos, name)))
    monkeypatch.setattr(event_handler, "EventHandler", no_events)
    arm, _ = supervised(executor, Arm())
    spin_until(executor, lambda: np.abs(arm.pose_rad).min() > 0.02, what="motion", timeout_s=60.0)
    arm.operator.present = False
    return arm


def until(executor: SingleThreadedExecutor, arm: Arm, *reasons: str) -> None:
    spin_until(executor, lambda: arm.state.reason in reasons, what=f"{reasons}", timeout_s=60.0)
    assert arm.state.state not in MOVING


def test_law_a_policy_whose_heartbeat_stops_is_noticed_without_a_deadline(arm: Arm, executor) -> None:
    arm.beats = False
    until(executor, arm, "HEARTBEAT_LOST", "AUTHORITY_AGED")


def test_law_a_policy_that_only_stops_proposing_is_noticed_without_liveliness(arm: Arm, executor) -> None:
    arm.proposes = False
    until(executor, arm, "CHUNK_EXHAUSTED", "CHUNK_EXPIRED", "AUTHORITY_AGED")


def test_law_a_chunk_that_waited_somewhere_is_refused_without_a_lifespan(arm: Arm, executor) -> None:
    arm.proposes = False
    refused = arm.state.refused_chunks
    at_ns = arm.get_clock().now().nanoseconds - 700_000_000
    late = make_chunk(arm.contract, chunk_id=10_000, stamp_ns=at_ns, base_rad=np.full((50, 6), -0.5))
    arm._chunks.publish(chunk_message(late, AUTHOR))
    spin_until(executor, lambda: arm.state.refused_chunks > refused, what="its refusal")
    assert arm.pose_rad.min() > 0.0, "nothing of it was executed"


def test_law_joints_that_fall_silent_stop_the_arm(arm: Arm, executor) -> None:
    arm.silent = arm.contract.joint_state_topic
    until(executor, arm, "JOINTS_STALE", "JOINTS_LOST")
    spin_until(executor, lambda: arm.state.state == SupervisorState.STOPPED, what="STOPPED")


def test_law_an_emergency_stop_that_falls_silent_counts_as_pressed(arm: Arm, executor) -> None:
    arm.e_stop.publish(Bool(data=False))
    spin_until(executor, lambda: arm.state.state == SupervisorState.ESTOP, what="ESTOP", timeout_s=60.0)
