# SPDX-License-Identifier: Apache-2.0
"""Orders leave in the caller's thread and only where somebody hears them; the supervisor judges them."""

import pytest
from node_fakes import spin_until
from rclpy.node import Node
from std_msgs.msg import String

from sigma_ros.errors import SigmaError
from sigma_ros.nodes.policy.options import PolicyOptions
from sigma_ros.nodes.shared import qos, topics
from sigma_ros.nodes.shared.operator import ORDERS, SETTINGS, Operator, outcome
from sigma_ros.nodes.shared.parameters import specs
from sigma_ros.nodes.supervisor.options import SupervisorOptions
from sigma_ros.nodes.supervisor_node import SupervisorNode

pytestmark = pytest.mark.ros


@pytest.fixture
def operator(executor) -> Operator:
    node = Node("test_user")
    executor.add_node(node)
    return Operator(node)


def carried_out(executor, send) -> tuple[bool, str]:
    """As soon as somebody answers."""
    sent = []

    def attempt() -> bool:
        try:
            sent.append(send())
        except SigmaError:
            return False
        return True

    spin_until(executor, attempt, what="somebody who hears it")
    spin_until(executor, sent[0].done, what="an answer")
    return outcome(sent[0].result())


@pytest.mark.parametrize("order", ORDERS)
def test_an_order_that_nobody_hears_is_an_error_at_once(operator: Operator, order: str) -> None:
    with pytest.raises(SigmaError, match=f"nobody answers.*{ORDERS[order]}"):
        operator.order(order)


def test_a_task_that_no_policy_hears_is_an_error_whoever_else_listens(operator: Operator, executor) -> None:
    recorder = Node("sigma_record")
    recorder.create_subscription(String, topics.TASK, lambda _: None, qos.LATCHED)
    executor.add_node(recorder)
    spin_until(executor, lambda: recorder.count_publishers(topics.TASK), what="the publisher")
    with pytest.raises(SigmaError, match=topics.TASK):
        operator.say_task("wave")


def test_the_supervisors_answers_come_back_as_they_are(operator: Operator, executor) -> None:
    supervisor = SupervisorNode()
    executor.add_node(supervisor)
    assert carried_out(executor, lambda: operator.order("engage"))[0] is False
    assert carried_out(executor, lambda: operator.order("stop"))[0] is True
    assert supervisor.drive.state == "ESTOP"
    assert carried_out(executor, lambda: operator.set("scale", 0.25)) == (True, "")
    assert supervisor.get_parameter("scale_ceiling").value == 0.25
    done, said = carried_out(executor, lambda: operator.set("scale", 1.5))
    assert not done
    assert "scale_ceiling" in said
    assert supervisor.get_parameter("scale_ceiling").value == 0.25


def test_a_stop_leaves_although_nobody_spins_the_sender(executor) -> None:
    """The short way of the panel's STOP: the executor of its node may stand."""
    sender, supervisor = Node("test_user"), SupervisorNode()
    operator = Operator(sender)
    executor.add_node(supervisor)
    spin_until(executor, operator._orders["stop"].service_is_ready, what="the supervisor")
    operator.order("stop")
    spin_until(executor, lambda: supervisor.drive.state == "ESTOP", what="the stop")
    sender.destroy_node()


def test_every_setting_is_a_parameter_that_may_change_live() -> None:
    options = {topics.SUPERVISOR_NODE: SupervisorOptions, topics.POLICY_NODE: PolicyOptions}
    for node, parameter in SETTINGS.values():
        assert [spec.read_only for spec in specs(options[node]) if spec.name == parameter] == [False]
