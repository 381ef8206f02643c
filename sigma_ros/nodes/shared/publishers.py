# SPDX-License-Identifier: Apache-2.0
"""Who publishes: on a topic that must have one publisher, and behind a message that has just come."""

from collections import Counter
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from rclpy.node import Node

from sigma_ros.supervisor.identity import Author, Source

if TYPE_CHECKING:
    from rclpy.subscription import MessageInfo

_FAST_DDS = "rmw_fastrtps"
_PROCESS_BYTES = 12
"""An id of Fast DDS is a GUID: the first bytes name the participant, which is one process."""


def publishers(node: Node, topic: str) -> tuple[str, ...]:
    """Full names of all publishers of a topic, namesakes as often as they are there."""
    return tuple(sorted(_full_name(info) for info in node.get_publishers_info_by_topic(topic)))


def foreign_publishers(node: Node, topic: str) -> tuple[str, ...]:
    """Names of the topic's publishers other than the one that `node` has; a namesake counts as another.

    Counting is a heuristic (a process may be discovered late); the primary defence is access control (SROS2).
    """
    mine = node.get_fully_qualified_name()
    names = Counter(publishers(node, topic))
    names[mine] -= 1
    return tuple(sorted(name for name, count in names.items() if count > 0))


class Senders:
    """Turns what the middleware says of a message into a `Source`.

    Where the middleware does not tell who published (rclpy before 9), every source is the same nameless one.
    """

    def __init__(self, node: Node, topics: Iterable[str]) -> None:
        self._node = node
        self._topics = tuple(topics)
        self._names: dict[str, str] = {}
        self._asked: set[str] = set()

    def refresh(self) -> None:
        """Asks the graph who is there; call it now and then."""
        infos = [info for topic in self._topics for info in self._node.get_publishers_info_by_topic(topic)]
        self._names = {bytes(info.endpoint_gid).hex(): _full_name(info) for info in infos}
        self._asked.clear()

    @property
    def names(self) -> dict[str, str]:
        """The nodes of all publishers on the topics, by their ids, as of the last look at the graph."""
        return self._names

    def source(self, info: "MessageInfo", author: Author | None = None) -> Source:
        """Who sent the message that `info` came with."""
        gid = info.get("publisher_gid")
        if not gid:
            return Source(author=author)
        publisher = gid["data"].hex()
        if publisher not in self._names and publisher not in self._asked:
            self.refresh()
            self._asked.add(publisher)
        known = gid["implementation_identifier"].startswith(_FAST_DDS)
        process = publisher[: 2 * _PROCESS_BYTES] if known else ""
        return Source(publisher=publisher, process=process, name=self._names.get(publisher, ""), author=author)


def _full_name(info: Any) -> str:
    return f"{info.node_namespace.rstrip('/')}/{info.node_name}"
