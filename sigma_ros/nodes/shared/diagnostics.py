# SPDX-License-Identifier: Apache-2.0
"""`/diagnostics`, one task per cause: a task is a function that says how its cause stands now.

The message types are standard (diagnostic_msgs), so rqt, Foxglove and the diagnostic aggregator read them.
"""

import enum
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus, KeyValue
from rclpy.node import Node

from sigma_ros.nodes.shared import qos
from sigma_ros.nodes.shared.qos import steady_clock

PERIOD_S = 0.5


class Level(enum.Enum):
    """How a cause stands; STALE is for what has not been heard of."""

    OK = DiagnosticStatus.OK
    WARN = DiagnosticStatus.WARN
    ERROR = DiagnosticStatus.ERROR
    STALE = DiagnosticStatus.STALE


@dataclass(frozen=True, slots=True)
class TaskStatus:
    """What a task reports: a level, one sentence, and numbers by name."""

    level: Level
    text: str
    values: Mapping[str, object] = field(default_factory=dict)


Task = Callable[[], TaskStatus]


class Diagnostics:
    """Publishes all tasks of a node twice a second, on a steady timer.

    Args:
        tasks: Task by name, such as `policy/inference`.
    """

    def __init__(self, node: Node, *, hardware_id: str, tasks: Mapping[str, Task]) -> None:
        self._node = node
        self._hardware_id = hardware_id
        self._tasks = dict(tasks)
        self._publisher = node.create_publisher(DiagnosticArray, "/diagnostics", qos.EVENT)
        self._timer = node.create_timer(PERIOD_S, self.publish, clock=steady_clock())

    def publish(self) -> None:
        """Publishes how every cause stands now."""
        message = DiagnosticArray()
        message.header.stamp = self._node.get_clock().now().to_msg()
        message.status = [self._status(name, task()) for name, task in self._tasks.items()]
        self._publisher.publish(message)

    def destroy(self) -> None:
        """Ends the publishing."""
        self._node.destroy_timer(self._timer)
        self._node.destroy_publisher(self._publisher)

    def _status(self, name: str, status: TaskStatus) -> DiagnosticStatus:
        return DiagnosticStatus(
            level=status.level.value,
            name=f"{self._node.get_fully_qualified_name().removeprefix('/')}: {name}",
            message=status.text,
            hardware_id=self._hardware_id,
            values=[KeyValue(key=key, value=str(value)) for key, value in status.values.items()],
        )
