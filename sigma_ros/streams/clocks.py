# SPDX-License-Identifier: Apache-2.0
"""Do the streams of a recording keep one clock? Stamps against the time of recording tell.

A clock that is set back or ahead for all streams begins an epoch. One that is set for some of them, or that differs
from the start, would put two moments side by side: messages of those streams are refused.
"""

from collections import deque
from collections.abc import Collection, Iterator
from typing import NamedTuple

from sigma_ros.values import NS_PER_S

APART = "stamped by another clock than the joint states"
"""Why a message is refused."""

_SAME_NS = NS_PER_S // 10
_BOTH_SET_NS = 4 * NS_PER_S // 10
"""Clocks that were set by amounts which differ by less are one; where both were set, the rest may be delay."""

_MOST_DELAY_NS = NS_PER_S
_MOST_DELAY_UNSTAMPED_NS = NS_PER_S // 4
"""How far a message that has no stamp may be recorded from what is stamped then: a quarter of a second is no delay."""

_WAIT_NS = NS_PER_S // 4
"""How long a message waits for the other streams to be set too."""

_SETTLES = 32
"""After so many messages it is known by how much a clock was set: the one with the least delay counts."""


class Held[Item](NamedTuple):
    """A message that waits, and since when."""

    since_ns: int
    item: Item


class _Clock[Item]:
    """One stream's stamps against the time of recording; see `StreamClocks`."""

    def __init__(self, backward_ns: int) -> None:
        self.waiting: deque[Held[Item]] = deque()
        self.ahead_ns: int | None = None  # of its own time of recording, at the least delay
        self.in_doubt = False
        self._backward_ns = backward_ns
        self._newest: tuple[int, int] | None = None
        self._best_ns = self._before_ns = self._settled_ns = 0
        self._young = self._noted = 0
        self._doubt: tuple[int, int, int] = (0, 0, 0)

    @property
    def set_ns(self) -> int:
        """By how much the clock was set since the beginning."""
        return self._settled_ns + (self._best_ns - self._before_ns if self._young else 0)

    def note(self, stamp_ns: int, own_ns: int, now_ns: int) -> bool:
        """Takes in a stamp; true where it confirms that the clock was set with the message before.

        `own_ns` is the message's time of recording, `now_ns` the latest of all streams.
        """
        offset_ns, ahead_ns, confirmed = stamp_ns - now_ns, stamp_ns - own_ns, False
        if self._newest is None:
            self._best_ns = self._before_ns = offset_ns
        elif self._leaps(stamp_ns, now_ns):
            first = self._doubt
            confirmed = self.in_doubt and 0 < stamp_ns - first[0] <= _MOST_DELAY_NS
            self.in_doubt, self._doubt = not confirmed, (stamp_ns, offset_ns, ahead_ns)
            if not confirmed:
                return False
            self._settled_ns, self._before_ns = self.set_ns, self._best_ns
            self._best_ns, self.ahead_ns, self._young, self._noted = first[1], first[2], _SETTLES, 0
        self.in_doubt = False
        self._noted += 1
        self._newest = (stamp_ns, now_ns)
        self._best_ns = max(self._best_ns, offset_ns)
        self.ahead_ns = ahead_ns if self.ahead_ns is None else max(self.ahead_ns, ahead_ns)
        if self._young == 1:
            self._settled_ns = self.set_ns
        self._young = max(0, self._young - 1)
        return confirmed

    def _leaps(self, stamp_ns: int, now_ns: int) -> bool:
        """Whether the stamp is back, or further ahead than time has gone on and than any known delay made good."""
        assert self._newest is not None
        newest_ns, then_ns = self._newest
        step_ns, most_ns = stamp_ns - newest_ns, now_ns - then_ns + _SAME_NS
        ahead = step_ns > most_ns and stamp_ns - now_ns > self._best_ns + _SAME_NS
        return step_ns < -self._backward_ns or (ahead and self._noted >= _SETTLES)


class StreamClocks[Item]:
    """Passes messages on that keep the clock of a reference stream; the others come out marked.

    A message waits, `_WAIT_NS` at most, while it is not known whether the other streams were set too; those of one
    stream keep their order.

    Args:
        reference: Name of the stream that the others are compared with.
        unstamped: Streams whose stamps are their times of recording.
        backward_ns: A stamp further back than this is no disorder.
    """

    def __init__(self, reference: str, unstamped: Collection[str], backward_ns: int) -> None:
        self._clocks: dict[str, _Clock[Item]] = {reference: _Clock(backward_ns)}
        self._reference = self._clocks[reference]
        self._unstamped = frozenset(unstamped)
        self._backward_ns = backward_ns
        self._now_ns = 0

    @property
    def waits(self) -> bool:
        """Whether a message waits."""
        return any(clock.waiting for clock in self._clocks.values())

    def take(self, name: str, stamp_ns: int, log_time_ns: int, item: Item) -> Iterator[tuple[Item, bool]]:
        """Messages that are due now, each with whether it keeps the reference's clock."""
        clock = self._clocks.setdefault(name, _Clock(self._backward_ns))
        self._now_ns = max(self._now_ns, log_time_ns)
        if clock.note(stamp_ns, log_time_ns, self._now_ns):
            while len(clock.waiting) > 1:  # all but the one that was in doubt: of the clock before
                yield clock.waiting.popleft().item, False
        clock.waiting.append(Held(self._now_ns, item))
        for each, one in self._clocks.items():
            while one.waiting and (said := self._said_of(each, one)) is not None:
                yield one.waiting.popleft().item, said

    def rest(self) -> Iterator[tuple[Item, bool]]:
        """What still waits at the end."""
        for name, clock in self._clocks.items():
            while clock.waiting:
                yield clock.waiting.popleft().item, self._keeps_time(name, clock)

    def _said_of(self, name: str, clock: _Clock[Item]) -> bool | None:
        """Whether the first message that waits keeps time; None while that is not known."""
        is_late = self._now_ns - clock.waiting[0].since_ns > _WAIT_NS
        if clock.in_doubt and not is_late:
            return None
        keeps = self._keeps_time(name, clock)
        return keeps if keeps or is_late else None

    def _keeps_time(self, name: str, clock: _Clock[Item]) -> bool:
        reference = self._reference
        if clock is reference or reference.ahead_ns is None or clock.ahead_ns is None:
            return True
        apart_ns = abs(clock.ahead_ns - reference.ahead_ns)
        if name in self._unstamped and apart_ns <= _SAME_NS:
            return True
        most_ns = _MOST_DELAY_UNSTAMPED_NS if name in self._unstamped else _MOST_DELAY_NS
        same_ns = _BOTH_SET_NS if clock.set_ns and reference.set_ns else _SAME_NS
        return apart_ns <= most_ns and abs(clock.set_ns - reference.set_ns) <= same_ns
