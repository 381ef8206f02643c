# SPDX-License-Identifier: Apache-2.0
"""What the terminal view shows, gathered from the graph: supervisor, policy, rates, diagnostics."""

import time
from collections import deque
from dataclasses import dataclass, field

from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus
from rclpy.node import Node

from sigma_ros.msg import ActionChunk, SupervisorState, TelepathyState
from sigma_ros.nodes.shared import qos, topics

REASONS_KEPT = 8
_RATE_WINDOW_S = 3.0
STATES = ("DISENGAGED", "ENGAGING", "RUN", "BASE_ONLY", "HOLD", "STOPPED", "ESTOP")


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
class Seen:
    """The newest of everything."""

    supervisor: SupervisorState | None = None
    chunk: ActionChunk | None = None
    chunk_delay_s: float = 0.0
    telepathy: TelepathyState | None = None
    troubles: dict[str, str] = field(default_factory=dict)
    reasons: deque[str] = field(default_factory=lambda: deque(maxlen=REASONS_KEPT))
    rates: dict[str, Rate] = field(default_factory=dict)
    heard_s: float = 0.0


class Monitor:
    """Listens on a node and keeps what is to be shown in `seen`."""

    def __init__(self, node: Node) -> None:
        self._node = node
        self.seen = Seen(rates={name: Rate() for name in ("supervisor", "chunks", "telepathy")})
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
            self.seen.reasons.append(f"{STATES[message.state]}: {message.reason_text}")
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
            if status.level == DiagnosticStatus.OK:
                self.seen.troubles.pop(status.name, None)
            else:
                self.seen.troubles[status.name] = status.message
