# SPDX-License-Identifier: Apache-2.0
"""Each topic's two ends can talk to each other, and to the usual ends of others."""

import pytest
from rclpy.qos import (
    QoSCompatibility,
    QoSProfile,
    ReliabilityPolicy,
    qos_check_compatible,
    qos_profile_sensor_data,
    qos_profile_system_default,
)

from sigma_ros.nodes.shared import qos

pytestmark = pytest.mark.ros
OURS = {name: value for name, value in vars(qos).items() if isinstance(value, QoSProfile)}
RELIABLE = QoSProfile(depth=10)
BEST_EFFORT = QoSProfile(depth=10, reliability=ReliabilityPolicy.BEST_EFFORT)


def matches(publisher: QoSProfile, subscription: QoSProfile) -> bool:
    compatibility, _ = qos_check_compatible(publisher, subscription)
    return compatibility != QoSCompatibility.ERROR


@pytest.mark.parametrize("name", OURS)
def test_both_ends_with_the_same_profile_match(name):
    assert matches(OURS[name], OURS[name])


@pytest.mark.parametrize("publisher", [RELIABLE, BEST_EFFORT, qos_profile_sensor_data, qos_profile_system_default])
def test_any_camera_or_driver_reaches_the_sensor_subscription(publisher):
    assert matches(publisher, qos.SENSOR)


@pytest.mark.parametrize("publisher", [RELIABLE, BEST_EFFORT, qos_profile_sensor_data])
def test_any_publisher_reaches_one_of_the_two_e_stop_subscriptions(publisher):
    assert matches(publisher, qos.EVENT) or matches(publisher, qos.EVENT_ANY)


@pytest.mark.parametrize("subscription", [RELIABLE, BEST_EFFORT, qos_profile_system_default])
def test_any_controller_can_take_the_commands(subscription):
    assert matches(qos.COMMAND, subscription)


def test_a_live_supervisor_does_not_match_a_policy_that_offers_no_liveliness():
    assert not matches(RELIABLE, qos.CHUNK)


def test_commands_and_chunks_are_never_latched():
    assert not matches(qos.COMMAND, qos.LATCHED)
    assert not matches(qos.CHUNK, qos.LATCHED)


def test_heartbeat_deadline_allows_three_losses():
    assert qos.HEARTBEAT.deadline.nanoseconds >= 3 * qos.HEARTBEAT_PERIOD_NS
