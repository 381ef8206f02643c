# SPDX-License-Identifier: Apache-2.0
"""What a user may ask of a running graph: orders to the supervisor and the recorders, settings, the task.

Nothing here judges an order or waits for its answer; the supervisor and the policy decide. An order leaves in the
calling thread, whatever the executor does.
"""

import os
import time
from collections.abc import Callable
from typing import Any

from rcl_interfaces.srv import SetParametersAtomically
from rclpy.client import Client
from rclpy.duration import Duration
from rclpy.node import Node
from rclpy.parameter import Parameter
from rclpy.task import Future
from std_msgs.msg import String
from std_srvs.srv import Trigger

from sigma_ros.errors import SigmaError
from sigma_ros.nodes.shared import qos, topics
from sigma_ros.nodes.shared.listen import listening

ORDERS = {
    "engage": topics.ENGAGE,
    "release": topics.RELEASE,
    "stop": topics.ESTOP_SERVICE,
    "reset": topics.RESET_STOP,
    "incident": topics.SAVE_INCIDENT,
    "record": topics.START_EPISODE,
    "save": topics.SAVE_EPISODE,
    "discard": topics.DISCARD_EPISODE,
}
"""Order -> service."""
SETTINGS = {
    "scale": (topics.SUPERVISOR_NODE, "scale_ceiling"),
    "max_scale": (topics.POLICY_NODE, "adapter.max_scale"),
    "risk_temperature": (topics.POLICY_NODE, "adapter.risk_temperature"),
}
"""Setting -> node and parameter."""

_POLL_S = 0.05
_TIMEOUT_S = 5.0


class Operator:
    """Sends orders from a node; the futures are completed by whoever spins it."""

    def __init__(self, node: Node) -> None:
        self._node = node
        self._orders: dict[str, Client] = {
            name: node.create_client(Trigger, service) for name, service in ORDERS.items()
        }
        self._settings: dict[str, Client] = {
            name: node.create_client(SetParametersAtomically, f"{name}/set_parameters_atomically")
            for name in (topics.SUPERVISOR_NODE, topics.POLICY_NODE)
        }
        self._task = node.create_publisher(String, topics.TASK, qos.LATCHED)

    def order(self, name: str) -> Future:
        """Sends one of `ORDERS`.

        Raises:
            SigmaError: nobody answers to it now.
        """
        return self._sent(self._orders[name], Trigger.Request())

    def set(self, name: str, value: float) -> Future:
        """Asks for another value of one of `SETTINGS`.

        Raises:
            SigmaError: nobody answers to it now.
        """
        node, parameter = SETTINGS[name]
        request = SetParametersAtomically.Request()
        request.parameters = [Parameter(parameter, value=float(value)).to_parameter_msg()]
        return self._sent(self._settings[node], request)

    def supervisors(self) -> int:
        """How many supervisors the graph shows; an order would reach any of them."""
        return self._node.count_publishers(topics.SUPERVISOR_STATE)

    def say_task(self, text: str) -> None:
        """Tells the policy, and recorders, what to do; empty: the contract's first task.

        Raises:
            SigmaError: no policy listens.
        """
        listeners = self._node.get_subscriptions_info_by_topic(self._node.resolve_topic_name(topics.TASK))
        if not any(listener.node_name == topics.POLICY_NODE for listener in listeners):
            raise self._nobody(topics.TASK)
        self._task.publish(String(data=text))

    def wait_until_heard(self, timeout_s: float) -> None:
        """Until everybody has the task, for a process that ends after it."""
        self._task.wait_for_all_acked(Duration(seconds=timeout_s))

    def _sent(self, client: Client, request: Any) -> Future:
        if not client.service_is_ready():
            raise self._nobody(client.srv_name)
        return client.call_async(request)

    def _nobody(self, name: str) -> SigmaError:
        return SigmaError(
            "nobody answers",
            where=f"{topics.full_name(self._node, name)} in ROS domain {os.environ.get('ROS_DOMAIN_ID', '0')}",
            expected="a node that is asked, such as those of sigma run",
            remedy="start it (sigma run --sim), or give its --namespace and ROS_DOMAIN_ID",
        )


def outcome(response: Any) -> tuple[bool, str]:
    """Whether an order was carried out, and what was said of it."""
    if isinstance(response, Trigger.Response):
        return response.success, response.message
    return response.result.successful, response.result.reason


def carry_out(what: Callable[[Operator], Future | None], *, namespace: str) -> str:
    """Does one thing in a running graph as soon as somebody listens, and gives what was answered to it.

    Raises:
        SigmaError: nobody listens or answers in time, or the order is refused.
    """
    end_s = time.monotonic() + _TIMEOUT_S
    with listening("sigma_operator", namespace=namespace) as (node, spin):
        operator = Operator(node)
        while True:
            spin(_POLL_S)
            try:
                future = what(operator)
                break
            except SigmaError:
                if time.monotonic() >= end_s:
                    raise
        while future is not None and not future.done() and time.monotonic() < end_s:
            spin(_POLL_S)
        if future is None:
            operator.wait_until_heard(_TIMEOUT_S)
            return "told"
        if not future.done():
            raise SigmaError("no answer came", where=namespace or "/", expected=f"one within {_TIMEOUT_S:g} s")
        done, said = outcome(future.result())
    if not done:
        raise SigmaError("the order was refused", got=said)
    return said
