# SPDX-License-Identifier: Apache-2.0
"""The steady clock for timers. A timer on ROS time stops with a paused `/clock`; one on this clock never does."""

from rclpy.clock import Clock, ClockType  # type: ignore[attr-defined]

from sigma_ros.values import NS_PER_S


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
