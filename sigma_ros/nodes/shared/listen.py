# SPDX-License-Identifier: Apache-2.0
"""Short looks into a running graph for the command line: a context, a node, a few seconds."""

import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import numpy as np
from numpy import ndarray
from rclpy.executors import SingleThreadedExecutor
from rclpy.node import Node
from rclpy.qos import QoSProfile, ReliabilityPolicy
from sensor_msgs.msg import CompressedImage, Image, JointState

from sigma_ros.contract import Camera, Contract
from sigma_ros.errors import SigmaError
from sigma_ros.nodes.shared import qos
from sigma_ros.nodes.shared.image_messages import image_view
from sigma_ros.nodes.shared.process import ros_context
from sigma_ros.nodes.shared.sensor_messages import COMMAND_KINDS, stamp_ns
from sigma_ros.streams.images import check_image
from sigma_ros.streams.joints import JointReader

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


# Watches the contract's streams for a while: who publishes what, how often, how old, and whether it fits.
#
# For `sigma doctor` and for a recording that is being made; it only listens.


MESSAGE_TYPES = {
    "sensor_msgs/msg/Image": Image,
    "sensor_msgs/msg/CompressedImage": CompressedImage,
    "sensor_msgs/msg/JointState": JointState,
    **{name: kind.message for name, kind in COMMAND_KINDS.items()},
}


@dataclass(frozen=True, slots=True, kw_only=True)
class StreamFacts:
    """What was seen of one stream. `types`: what its publishers offer; `delay_ms`: receive time minus stamp.

    `problems` counts messages the contract refuses, by reason. `gap_max_ms`: longest time between two messages.
    """

    name: str
    topic: str
    wanted_type: str
    publishers: tuple[str, ...]
    types: tuple[str, ...]
    reliable: bool | None
    received: int
    rate_hz: float
    gap_max_ms: float
    delay_ms: float
    problems: dict[str, int]


@dataclass(slots=True)
class _Seen:
    name: str
    topic: str
    wanted_type: str
    received: int = 0
    first_ns: int = 0
    last_ns: int = 0
    gap_max_ns: int = 0
    delays_ns: list[int] = field(default_factory=list)
    problems: Counter[str] = field(default_factory=Counter)


class StreamWatch:
    """Subscribes the contract's cameras and joint states (and commands, where asked) on a node.

    Args:
        node: The node to listen with.
        contract: What is expected.
        commands: Also watch the command topic.
        clock_ns: Steady time.
    """

    def __init__(
        self,
        node: Node,
        contract: Contract,
        *,
        commands: bool = False,
        clock_ns: Callable[[], int] = time.monotonic_ns,
    ) -> None:
        self._node = node
        self._clock_ns = clock_ns
        self._started_ns = clock_ns()
        self._reader = JointReader(contract)
        self.joints: list[ndarray] = []
        self._seen: list[_Seen] = []
        for camera in contract.cameras:
            self._listen(camera.name, camera.topic, camera.message_type, _image_check(camera), qos.SENSOR)
        self._listen("joints", contract.joint_state_topic, "sensor_msgs/msg/JointState", self._check_joints, qos.SENSOR)
        if commands:
            self._listen("commands", contract.command_topic, contract.command_type, lambda _: None, qos.COMMAND)

    def facts(self) -> tuple[StreamFacts, ...]:
        """What was seen so far, in the contract's order."""
        return tuple(self._facts(seen) for seen in self._seen)

    def _listen(self, name: str, topic: str, wanted_type: str, check: Callable[..., None], profile: QoSProfile) -> None:
        seen = _Seen(name, topic, wanted_type)
        self._seen.append(seen)

        def store(message: Image | CompressedImage | JointState) -> None:
            self._note(seen, message)
            try:
                check(message)
            except SigmaError as error:
                seen.problems[f"{error.what}: got {error.got}" if error.got is not None else error.what] += 1

        self._node.create_subscription(MESSAGE_TYPES[wanted_type], topic, store, profile)

    def _note(self, seen: _Seen, message: object) -> None:
        now_ns = self._clock_ns()
        seen.received += 1
        seen.first_ns = seen.first_ns or now_ns
        if seen.last_ns:
            seen.gap_max_ns = max(seen.gap_max_ns, now_ns - seen.last_ns)
        seen.last_ns = now_ns
        header = getattr(message, "header", None)
        if header is not None:
            seen.delays_ns.append(self._node.get_clock().now().nanoseconds - stamp_ns(header.stamp))
            del seen.delays_ns[:-200]

    def _check_joints(self, message: JointState) -> None:
        self.joints.append(self._reader.read(tuple(message.name), np.asarray(message.position)))
        del self.joints[:-200]

    def _facts(self, seen: _Seen) -> StreamFacts:
        offers = self._node.get_publishers_info_by_topic(seen.topic)
        span_s = (seen.last_ns - seen.first_ns) * 1e-9
        waiting_ns = self._clock_ns() - (seen.last_ns or self._started_ns)
        return StreamFacts(
            name=seen.name,
            topic=seen.topic,
            wanted_type=seen.wanted_type,
            publishers=tuple(sorted({offer.node_name for offer in offers})),
            types=tuple(sorted({offer.topic_type for offer in offers})),
            reliable=all(o.qos_profile.reliability == ReliabilityPolicy.RELIABLE for o in offers) if offers else None,
            received=seen.received,
            rate_hz=(seen.received - 1) / span_s if span_s > 0.0 else 0.0,
            gap_max_ms=max(seen.gap_max_ns, waiting_ns) / 1e6,
            delay_ms=float(np.median(seen.delays_ns)) / 1e6 if seen.delays_ns else float("nan"),
            problems=dict(seen.problems),
        )


def _image_check(camera: Camera) -> Callable[[Image | CompressedImage], None]:
    return lambda message: check_image(image_view(message), camera)
