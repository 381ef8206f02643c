# SPDX-License-Identifier: Apache-2.0
"""Looks into a running graph for the command line: `sigma calibrate`, `sigma doctor`, `sigma monitor`; only listens."""

import time
from collections import Counter, deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial

import numpy as np
from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus
from numpy import ndarray
from rclpy.executors import SingleThreadedExecutor
from rclpy.node import Node
from rclpy.qos import QoSProfile
from sensor_msgs.msg import CompressedImage, Image, JointState

from sigma_ros.contract import Camera, Contract
from sigma_ros.errors import SigmaError
from sigma_ros.msg import ActionChunk, SupervisorState, TelepathyState
from sigma_ros.nodes.shared import qos, topics
from sigma_ros.nodes.shared.image_messages import image_view
from sigma_ros.nodes.shared.process import ros_context
from sigma_ros.nodes.shared.sensor_messages import COMMAND_KINDS, stamp_ns
from sigma_ros.streams.images import check_image
from sigma_ros.streams.joints import JointMerger, JointReader
from sigma_ros.supervisor.reasons import State

_SAMPLES = 25
_WAIT_S = 5.0


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


def joint_values(contract: Contract) -> ndarray:
    """The middle of some joint states of the running driver, in contract order and in the units it sends.

    Raises:
        SigmaError: none came, or their names are not the contract's.
    """
    reader, rows = JointReader(contract), []

    def store(message: JointState) -> None:
        rows.append(reader.read(tuple(message.name), np.asarray(message.position)))

    with listening("sigma_calibrate") as (node, spin):
        node.create_subscription(JointState, contract.joint_state_topic, store, qos.SENSOR)
        end_s = time.monotonic() + _WAIT_S
        while len(rows) < _SAMPLES and time.monotonic() < end_s:
            spin(0.1)
    if not rows:
        raise SigmaError(
            "no joint state was heard",
            where=contract.joint_state_topic,
            expected=f"one within {_WAIT_S:g} s",
            remedy="start the driver; check topic, ROS_DOMAIN_ID and the contract",
        )
    return np.asarray(np.median(np.array(rows), axis=0))


# The contract's streams for a while: who publishes what, how often, how old, and whether it fits.


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
        commands: Also watch the command topic, and how far the supervisor's ticks are apart (`tick_gaps_s`).
    """

    def __init__(self, node: Node, contract: Contract, *, commands: bool = False) -> None:
        self._node = node
        self._started_ns = time.monotonic_ns()
        self._reader = JointReader(contract)
        self._merger = JointMerger(contract, contract.states)
        self.joints: list[ndarray] = []
        self.tick_gaps_s: list[float] = []
        self._seen: list[_Seen] = []
        for camera in contract.cameras:
            self._listen(camera.name, camera.topic, camera.message_type, partial(_check_image, camera), qos.SENSOR)
        for i, part in enumerate(contract.states):
            name = "joints" if len(contract.states) == 1 else f"joints {part.topic}"
            check = partial(self._check_joints, i)
            self._listen(name, part.topic, "sensor_msgs/msg/JointState", check, qos.SENSOR)
        for part in contract.commands if commands else ():
            kind = part.message_type or contract.command_type
            self._listen("commands", part.topic, kind, lambda _: None, qos.COMMAND)
        if commands:
            node.create_subscription(SupervisorState, topics.SUPERVISOR_STATE, self._note_ticks, qos.LATCHED)

    def _note_ticks(self, said: SupervisorState) -> None:
        self.tick_gaps_s.append(said.tick_gap_max)

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
        now_ns = time.monotonic_ns()
        seen.received += 1
        seen.first_ns = seen.first_ns or now_ns
        if seen.last_ns:
            seen.gap_max_ns = max(seen.gap_max_ns, now_ns - seen.last_ns)
        seen.last_ns = now_ns
        header = getattr(message, "header", None)
        if header is not None:
            seen.delays_ns.append(self._node.get_clock().now().nanoseconds - stamp_ns(header.stamp))
            del seen.delays_ns[:-200]

    def _check_joints(self, part: int, message: JointState) -> None:
        said = stamp_ns(message.header.stamp), tuple(message.name), np.asarray(message.position)
        whole = self._merger.push(part, *said)
        if whole is None:
            return
        self.joints.append(self._reader.read(*whole[1:]))
        del self.joints[:-200]

    def _facts(self, seen: _Seen) -> StreamFacts:
        offers = self._node.get_publishers_info_by_topic(seen.topic)
        span_s = (seen.last_ns - seen.first_ns) * 1e-9
        waiting_ns = time.monotonic_ns() - (seen.last_ns or self._started_ns)
        return StreamFacts(
            name=seen.name,
            topic=seen.topic,
            wanted_type=seen.wanted_type,
            publishers=tuple(sorted({offer.node_name for offer in offers})),
            types=tuple(sorted({offer.topic_type for offer in offers})),
            received=seen.received,
            rate_hz=(seen.received - 1) / span_s if span_s > 0.0 else 0.0,
            gap_max_ms=max(seen.gap_max_ns, waiting_ns) / 1e6,
            delay_ms=float(np.median(seen.delays_ns)) / 1e6 if seen.delays_ns else float("nan"),
            problems=dict(seen.problems),
        )


def _check_image(camera: Camera, message: Image | CompressedImage) -> None:
    check_image(image_view(message), camera)


# What `sigma monitor` shows, gathered from the graph: supervisor, policy, rates, diagnostics.


REASONS_KEPT = 8
_RATE_WINDOW_S = 3.0


class Rate:
    """Messages a second over the last three seconds."""

    def __init__(self) -> None:
        self._times_s: deque[float] = deque(maxlen=500)

    def note(self, now_s: float) -> None:
        """A message has come."""
        self._times_s.append(now_s)

    def hz(self, now_s: float) -> float:
        """The rate now; 0 after silence."""
        while self._times_s and self._times_s[0] < now_s - _RATE_WINDOW_S:
            self._times_s.popleft()
        return len(self._times_s) / _RATE_WINDOW_S


@dataclass(slots=True)
class MonitorView:
    """The newest of everything."""

    supervisor: SupervisorState | None = None
    chunk: ActionChunk | None = None
    chunk_delay_s: float = 0.0
    telepathy: TelepathyState | None = None
    troubles: dict[str, str] = field(default_factory=dict)
    reasons: deque[str] = field(default_factory=lambda: deque(maxlen=REASONS_KEPT))
    rates: dict[str, Rate] = field(default_factory=dict)
    incidents: str = ""
    heard_s: float = 0.0

    def is_fresh(self, now_s: float) -> bool:
        """Whether the supervisor has said anything in the last seconds; what it said before may be history."""
        return self.rates["supervisor"].hz(now_s) > 0.0


class Monitor:
    """Listens on a node and keeps what is to be shown in `seen`."""

    def __init__(self, node: Node) -> None:
        self._node = node
        self.seen = MonitorView(rates={name: Rate() for name in ("supervisor", "chunks", "telepathy")})
        node.create_subscription(SupervisorState, topics.SUPERVISOR_STATE, self._on_state, qos.LATCHED)
        node.create_subscription(ActionChunk, topics.ACTION_CHUNK, self._on_chunk, qos.CHUNK)
        node.create_subscription(TelepathyState, topics.TELEPATHY, self._on_telepathy, qos.EVENT)
        node.create_subscription(DiagnosticArray, "/diagnostics", self._on_diagnostics, qos.EVENT)

    def _note(self, name: str) -> None:
        self.seen.heard_s = time.monotonic()
        self.seen.rates[name].note(self.seen.heard_s)

    def _on_state(self, message: SupervisorState) -> None:
        before = self.seen.supervisor
        if before is None or (before.state, before.reason) != (message.state, message.reason):
            self.seen.reasons.append(f"{State(message.state).name}: {message.reason_text}")
        self.seen.supervisor = message
        self._note("supervisor")

    def _on_chunk(self, message: ActionChunk) -> None:
        stamp = message.header.stamp
        self.seen.chunk = message
        self.seen.chunk_delay_s = self._node.get_clock().now().nanoseconds * 1e-9 - (stamp.sec + stamp.nanosec * 1e-9)
        self._note("chunks")

    def _on_telepathy(self, message: TelepathyState) -> None:
        if not message.valid:
            self.seen.reasons.append(f"tick {message.tick} unusable: {'; '.join(message.reasons)}")
        self.seen.telepathy = message
        self._note("telepathy")

    def _on_diagnostics(self, message: DiagnosticArray) -> None:
        mine = self._node.get_namespace().removeprefix("/")
        for status in message.status:
            if not status.name.startswith(mine):
                continue
            if status.name.endswith("incidents/written"):
                self.seen.incidents = status.message
            if status.level == DiagnosticStatus.OK:
                self.seen.troubles.pop(status.name, None)
            else:
                self.seen.troubles[status.name] = status.message
