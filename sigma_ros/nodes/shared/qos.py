# SPDX-License-Identifier: Apache-2.0
"""Quality of service by meaning. Both ends of a topic take the same constant from here; a mismatch drops every message.

The deadlines and leases are a second line: the supervisor's own age checks on a steady clock are the first.
"""

from typing import Any

from rclpy.clock import Clock, ClockType  # type: ignore[attr-defined]
from rclpy.duration import Duration
from rclpy.qos import DurabilityPolicy, HistoryPolicy, LivelinessPolicy, QoSProfile, ReliabilityPolicy

from sigma_ros.values import NS_PER_S

HEARTBEAT_PERIOD_NS = 33_000_000
"""A policy that is alive says so this often."""


def _keep_last(depth: int, reliability: ReliabilityPolicy, **policies: Any) -> QoSProfile:
    return QoSProfile(history=HistoryPolicy.KEEP_LAST, depth=depth, reliability=reliability, **policies)


SENSOR = _keep_last(5, ReliabilityPolicy.BEST_EFFORT)
"""Cameras and joints, live: never wait for a lost message. Streams are matched by stamp, so a queue of five
costs no freshness; with a depth of one, a callback that takes 33 ms loses a frame."""

SENSOR_RELIABLE = QoSProfile(
    history=HistoryPolicy.KEEP_ALL,
    depth=0,
    reliability=ReliabilityPolicy.RELIABLE,
    durability=DurabilityPolicy.VOLATILE,
)
"""Cameras, joints and `/clock` in lockstep replay: every message counts, the writer waits for a slow reader."""

CHUNK = _keep_last(
    1,
    ReliabilityPolicy.RELIABLE,
    durability=DurabilityPolicy.VOLATILE,
    deadline=Duration(seconds=1.0),
    lifespan=Duration(seconds=0.2),
    liveliness=LivelinessPolicy.MANUAL_BY_TOPIC,
    liveliness_lease_duration=Duration(seconds=0.2),
)
"""Action chunks: only the newest counts (depth 1), none is kept for a late joiner, one that waited 0.2 s is not
delivered. The deadline is above any sensible replanning period; liveliness falls 0.2 s after the policy hangs."""

CHUNK_LOCKSTEP = QoSProfile(history=HistoryPolicy.KEEP_ALL, depth=0, reliability=ReliabilityPolicy.RELIABLE)
"""Action chunks and what the policy and the supervisor answer in lockstep replay: no limit depends on machine speed."""

HEARTBEAT = _keep_last(
    1,
    ReliabilityPolicy.RELIABLE,
    durability=DurabilityPolicy.VOLATILE,
    deadline=Duration(seconds=0.1),
    lifespan=Duration(seconds=0.1),
)
"""Proof of life of the policy, every 33 ms: three may be lost."""

COMMAND = _keep_last(
    1, ReliabilityPolicy.RELIABLE, durability=DurabilityPolicy.VOLATILE, lifespan=Duration(seconds=0.1)
)
"""Joint commands: a late joiner must not get an old command, and one that waited 0.1 s is not delivered."""

LATCHED = _keep_last(1, ReliabilityPolicy.RELIABLE, durability=DurabilityPolicy.TRANSIENT_LOCAL)
"""State, task and policy facts: whoever joins late gets the last value."""

EVENT = _keep_last(10, ReliabilityPolicy.RELIABLE, durability=DurabilityPolicy.VOLATILE)
"""E-stop, telepathy, diagnostics: rare messages of which each counts."""

EVENT_ANY = _keep_last(10, ReliabilityPolicy.BEST_EFFORT, durability=DurabilityPolicy.VOLATILE)
"""Second subscription to the e-stop: it also hears a publisher that offers best effort only."""


# The steady clock for timers. A timer on ROS time stops with a paused `/clock`; one on this clock never does.


def steady_clock() -> Clock:
    """A clock that no `/clock`, time server or operator can stop or turn back."""
    return Clock(clock_type=ClockType.STEADY_TIME)


class ClockWatch:
    """Sees that the node's clock stands: `/clock` is paused, or nobody publishes it."""

    STANDS_NS = NS_PER_S // 2

    def __init__(self) -> None:
        self._last_ns: int | None = None
        self._since_ns = 0
        self.stands = False

    def note(self, now_ns: int, steady_ns: int) -> None:
        """The node's clock at a moment of the steady clock."""
        if now_ns != self._last_ns:
            self._last_ns, self._since_ns = now_ns, steady_ns
        self.stands = steady_ns - self._since_ns >= self.STANDS_NS
