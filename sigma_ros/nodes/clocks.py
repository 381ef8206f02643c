# SPDX-License-Identifier: Apache-2.0
"""The steady clock for timers. A timer on ROS time stops with a paused `/clock`; one on this clock never does."""

from rclpy.clock import Clock, ClockType  # type: ignore[attr-defined]


def steady_clock() -> Clock:
    """A clock that no `/clock`, time server or operator can stop or turn back."""
    return Clock(clock_type=ClockType.STEADY_TIME)
