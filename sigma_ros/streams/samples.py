# SPDX-License-Identifier: Apache-2.0
"""Joint messages and commands of a recording that wait for their tick."""

from collections import deque
from typing import NamedTuple

from jaxtyping import Float64
from numpy import ndarray


class JointSample(NamedTuple):
    """A recorded joint message in contract order."""

    stamp_ns: int
    positions_rad: Float64[ndarray, " dof"]


class WaitingSamples:
    """Joint messages or commands that wait for their tick; bounded, in contract order.

    Args:
        back_ns: A stamp that goes back by more is of a clock that was set.
    """

    def __init__(self, back_ns: int) -> None:
        self._back_ns = back_ns
        self._waiting: deque[JointSample] = deque(maxlen=4096)
        self._after_jump: deque[JointSample] = deque(maxlen=4096)
        self._last_ns = 0
        self.refused = 0

    @property
    def span(self) -> str:
        """Where the waiting samples lie relative to the last tick."""
        if not self._waiting:
            return "none after the last tick"
        return f"the others begin {(self._waiting[0].stamp_ns - self._last_ns) / 1e9:.3f} s after the last tick"

    def refuse(self) -> None:
        """Counts a message that cannot be used."""
        self.refused += 1

    def push(self, stamp_ns: int, rad: Float64[ndarray, " dof"]) -> None:
        """Keeps a message; one that goes back by more than `back_ns` waits for the ticks after the jump."""
        newest_ns = self._waiting[-1].stamp_ns if self._waiting else self._last_ns
        back = stamp_ns < newest_ns - self._back_ns
        (self._after_jump if back else self._waiting).append(JointSample(stamp_ns, rad))

    def goes_back(self, tick_ns: int) -> bool:
        """Whether a tick is before the last call's: the clock was set."""
        return tick_ns < self._last_ns

    def until(self, tick_ns: int) -> tuple[JointSample, ...]:
        """Samples after the last call's tick up to this one; a tick that goes back starts afresh."""
        if self.goes_back(tick_ns):
            self._last_ns = 0
            self._waiting, self._after_jump = self._after_jump, self._waiting
            self._after_jump.clear()
        due = sorted((s for s in self._waiting if self._last_ns < s.stamp_ns <= tick_ns), key=lambda s: s.stamp_ns)
        later = [s for s in self._waiting if s.stamp_ns > tick_ns]
        self._waiting.clear()
        self._waiting.extend(later)
        self._last_ns = tick_ns
        return tuple(due)
