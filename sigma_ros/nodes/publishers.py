# SPDX-License-Identifier: Apache-2.0
"""Who else publishes on a topic that must have one publisher."""

from collections import Counter

from rclpy.node import Node


def publishers(node: Node, topic: str) -> tuple[str, ...]:
    """Full names of all publishers of a topic, namesakes as often as they are there."""
    infos = node.get_publishers_info_by_topic(topic)
    return tuple(sorted(f"{info.node_namespace.rstrip('/')}/{info.node_name}" for info in infos))


def foreign_publishers(node: Node, topic: str) -> tuple[str, ...]:
    """Names of the topic's publishers other than the one that `node` has; a namesake counts as another.

    Counting is a heuristic (a process may be discovered late); the primary defence is access control (SROS2).
    """
    mine = node.get_fully_qualified_name()
    names = Counter(publishers(node, topic))
    names[mine] -= 1
    return tuple(sorted(name for name, count in names.items() if count > 0))
