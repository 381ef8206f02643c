# SPDX-License-Identifier: Apache-2.0
"""Short looks into a running graph for the command line: a context, a node, a few seconds."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import numpy as np
from numpy import ndarray
from rclpy.executors import SingleThreadedExecutor
from rclpy.node import Node
from sensor_msgs.msg import JointState

from sigma_ros.contract import Contract
from sigma_ros.control.joints import JointReader
from sigma_ros.errors import SigmaError
from sigma_ros.nodes import qos
from sigma_ros.nodes.process import ros_context

_SAMPLES = 25


@contextmanager
def listening(name: str, *, namespace: str = "") -> Iterator[tuple[Node, Callable[[float], None]]]:
    """A node in a namespace and `spin(seconds)`, which runs its callbacks for so long."""
    with ros_context([]):
        node = Node(name, namespace=namespace)
        executor = SingleThreadedExecutor()
        executor.add_node(node)

        def spin(seconds: float) -> None:
            end_s = time.monotonic() + seconds
            while (left_s := end_s - time.monotonic()) > 0.0:
                executor.spin_once(timeout_sec=left_s)

        try:
            yield node, spin
        finally:
            executor.remove_node(node)
            executor.shutdown(timeout_sec=0)
            node.destroy_node()


def joint_values(contract: Contract, *, timeout_s: float = 5.0) -> ndarray:
    """The middle of some joint states of the running driver, in contract order and in the units it sends.

    Raises:
        SigmaError: none came, or their names are not the contract's.
    """
    reader, rows = JointReader(contract), []

    def store(message: JointState) -> None:
        rows.append(reader.read(tuple(message.name), np.asarray(message.position)))

    with listening("sigma_calibrate") as (node, spin):
        node.create_subscription(JointState, contract.joint_state_topic, store, qos.SENSOR)
        end_s = time.monotonic() + timeout_s
        while len(rows) < _SAMPLES and time.monotonic() < end_s:
            spin(0.1)
    if not rows:
        raise SigmaError(
            "no joint state was heard",
            where=contract.joint_state_topic,
            expected=f"one within {timeout_s:g} s",
            remedy="start the driver; check topic, ROS_DOMAIN_ID and the contract",
        )
    return np.asarray(np.median(np.array(rows), axis=0))
