# SPDX-License-Identifier: Apache-2.0
"""One message stream of the frame clock: judges stamps, keeps what a coming tick may need, counts the rest.

Bounded: after a tick at most one message waits per grid interval (only the newest of an interval can ever be used),
and at most `capacity` intervals wait. A message costs O(1).
"""

from collections import Counter, deque
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from jaxtyping import UInt8
from numpy import ndarray

from sigma_ros.contract import Camera
from sigma_ros.errors import SigmaError
from sigma_ros.streams.images import Square, decode_resized
from sigma_ros.values import NS_PER_S

JOINTS = "joints"
"""What the stream of joint states is called beside the cameras' names."""

LEAST_SPACING = 2 / 3
"""Of a stream's promised period: a message that comes sooner after the one before breaks the promise."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StreamCount:
    """What became of a stream's messages.

    `received` counts all. `used` were the newest at some tick, `superseded` had a newer one in their interval or came
    sooner than their stream's rate allows, `late` came after a tick they belonged to, `dropped` did not fit while ticks
    waited. `refused` counts by reason.
    """

    received: int
    used: int
    superseded: int
    late: int
    dropped: int
    refused: Mapping[str, int]


@dataclass(frozen=True, slots=True, kw_only=True)
class StreamCounters:
    """Snapshot of a frame clock: per stream (camera name, `joints`), and what came out.

    `unmade` are ticks that an epoch which had begun before, or its end, waited for a silent stream.
    """

    streams: Mapping[str, StreamCount]
    windows: int
    gaps: int
    epochs: int
    unmade: int = 0

    @property
    def refused(self) -> int:
        """Messages refused in all streams."""
        return sum(sum(count.refused.values()) for count in self.streams.values())


@dataclass(frozen=True, slots=True)
class Grid:
    """Ticks of one epoch: tick k is at `start_ns + round(k / fps)`."""

    start_ns: int
    fps: float

    def stamp_ns(self, tick: int) -> int:
        """Stamp of a tick; rounded once, as `Contract.tick_offset_ns` does."""
        return self.start_ns + round(tick * NS_PER_S / self.fps)

    def interval(self, stamp_ns: int) -> int:
        """The first tick at or after a stamp: the only tick that can be the first to use it."""
        tick = round((stamp_ns - self.start_ns) * self.fps / NS_PER_S)
        while self.stamp_ns(tick) < stamp_ns:
            tick += 1
        while self.stamp_ns(tick - 1) >= stamp_ns:
            tick -= 1
        return tick


@dataclass(slots=True)
class Sample:
    """A stored message; `image` is filled in by the tick that first uses it."""

    stamp_ns: int
    payload: Any
    image: Any = None
    used: bool = False


def image_of(sample: Sample, camera: Camera, size_px: int, square: Square) -> UInt8[ndarray, "size size 3"]:
    """The sample's pixels, decoded by the first tick that uses them; the message is then let go."""
    if isinstance(sample.image, SigmaError):
        raise sample.image
    if sample.image is None:
        try:
            sample.image = decode_resized(sample.payload, camera, size_px, square)
        except SigmaError as error:
            sample.image = error
            raise
        finally:
            sample.payload = None
    return sample.image


class Stream:
    """One stream: `push` takes a message in, `take` gives the newest at a tick; between them it waits here.

    Args:
        max_age_ns: Older than this at a tick means the tick is not valid.
        capacity: Messages that wait at most.
        backward_ns: A stamp further back than this is a jump, not disorder.
        forward_ns: A stamp further ahead than this is a jump.
        rate_hz: Messages that come sooner after the newest than this rate allows are left out; None allows any.
    """

    def __init__(
        self, *, max_age_ns: int, capacity: int, backward_ns: int, forward_ns: int, rate_hz: float | None = None
    ) -> None:
        self.max_age_ns = max_age_ns
        self._spacing_ns = 1 if rate_hz is None else max(1, round(LEAST_SPACING * NS_PER_S / rate_hz))
        self.held: Sample | None = None
        self.pending: deque[Sample] = deque()
        self.newest_ns: int | None = None
        self.lost_until_ns = 0
        self._capacity = capacity
        self._backward_ns = backward_ns
        self._forward_ns = forward_ns
        self._suspect: Sample | None = None
        self._received = self._used = self._superseded = self._late = self._dropped = 0
        self._refused: Counter[str] = Counter()

    @property
    def count(self) -> StreamCount:
        """Snapshot of the counters."""
        return StreamCount(
            received=self._received,
            used=self._used,
            superseded=self._superseded,
            late=self._late,
            dropped=self._dropped,
            refused=dict(self._refused),
        )

    def refuse(self, reason: str) -> None:
        """Counts a message that was not stored."""
        self._received += 1
        self._refused[reason] += 1

    def spoil(self, reason: str) -> None:
        """Counts a stored message that turned out to be unusable."""
        self._refused[reason] += 1

    def push(self, stamp_ns: int, payload: object, grid: Grid | None, floor_ns: int) -> bool:
        """Stores a message; True when the stream's clock has jumped back, which ends the epoch.

        `floor_ns` is the stamp of the last tick: what is not after it came late. A jump counts only
        when a second message confirms it, so that one wild stamp neither moves the clock nor ends an epoch.
        """
        if stamp_ns <= 0:
            self.refuse("stamp is zero")
            return False
        self._received += 1
        sample = Sample(stamp_ns, payload)
        newest_ns = self.newest_ns
        if newest_ns is not None and not -self._backward_ns <= stamp_ns - newest_ns <= self._forward_ns:
            return self._jump(sample, grid, floor_ns)
        if self._suspect is not None:
            self._suspect = None
            self._refused["stamp jumped for one message"] += 1
        self._store(sample, grid, floor_ns)
        return False

    def take(self, tick_ns: int) -> None:
        """Makes the newest message with a stamp at or before the tick the held one."""
        pending = self.pending
        while pending and pending[0].stamp_ns <= tick_ns:
            if self.held is not None and not self.held.used:
                self._superseded += 1
            self.held = pending.popleft()

    def reaches(self, tick_ns: int) -> bool:
        """Whether no message that is still to come in order can be the newest at a tick."""
        return self.newest_ns is not None and self.newest_ns + self._spacing_ns > tick_ns

    def mark_used(self) -> None:
        """Counts the held message as used, once."""
        if self.held is not None and not self.held.used:
            self.held.used = True
            self._used += 1

    def reason(self, tick_ns: int) -> str | None:
        """Why the held message cannot serve a tick, None if it can."""
        if tick_ns < self.lost_until_ns:
            return "messages dropped, ticks were not consumed in time"
        if self.held is None:
            return "no message yet"
        age_ns = tick_ns - self.held.stamp_ns
        if age_ns > self.max_age_ns:
            return f"{age_ns / 1e6:.1f} ms old, limit {self.max_age_ns / 1e6:.1f} ms"
        return None

    def begin_epoch(self) -> None:
        """Forgets what belongs to consumed ticks; what waits stays."""
        self.held = None
        self.lost_until_ns = 0

    def forget(self) -> None:
        """Forgets everything but the counters: the stream's clock has jumped back."""
        self.begin_epoch()
        self.pending.clear()
        self.newest_ns = None
        self._suspect = None

    def follow_jump(self) -> None:
        """Another stream's clock has jumped back; a message of this one that came after the jump already stays."""
        suspect, newest_ns = self._suspect, self.newest_ns
        self.forget()
        if suspect is not None and newest_ns is not None and suspect.stamp_ns < newest_ns:
            self._store(suspect, None, 0)

    def goes_back(self, stamp_ns: int) -> bool:
        """Whether a message with this stamp would confirm that the clock has jumped back."""
        suspect, newest_ns = self._suspect, self.newest_ns
        if suspect is None or newest_ns is None or stamp_ns >= newest_ns - self._backward_ns:
            return False
        return suspect.stamp_ns <= newest_ns and self._confirms(suspect, stamp_ns)

    def _confirms(self, suspect: Sample, stamp_ns: int) -> bool:
        return 0 < stamp_ns - suspect.stamp_ns <= self._forward_ns

    def _jump(self, sample: Sample, grid: Grid | None, floor_ns: int) -> bool:
        suspect = self._suspect
        if suspect is None or not self._confirms(suspect, sample.stamp_ns):
            if suspect is not None:
                self._refused["stamp jumped for one message"] += 1
            self._suspect = sample
            return False
        assert self.newest_ns is not None
        if suspect.stamp_ns > self.newest_ns:
            self._suspect = None
            self._store(suspect, grid, floor_ns)
            self._store(sample, grid, floor_ns)
            return False
        self.forget()
        self._store(suspect, None, 0)
        self._store(sample, None, 0)
        return True

    def _store(self, sample: Sample, grid: Grid | None, floor_ns: int) -> None:
        if sample.stamp_ns == self.newest_ns:
            self._refused["stamp repeats"] += 1
            return
        if self.newest_ns is not None and 0 < sample.stamp_ns - self.newest_ns < self._spacing_ns:
            self._superseded += 1
            return
        self.newest_ns = max(sample.stamp_ns, self.newest_ns or 0)
        if sample.stamp_ns <= floor_ns:
            self._store_late(sample, grid)
            return
        if self.pending and sample.stamp_ns <= self.pending[-1].stamp_ns:
            self._insert(sample)
        else:
            self.pending.append(sample)
        self._thin(grid)

    def _store_late(self, sample: Sample, grid: Grid | None) -> None:
        """A late message changes no tick of the past, but a slow stream's next tick may be best served by it."""
        self._late += 1
        if grid is not None and (self.held is None or sample.stamp_ns > self.held.stamp_ns):
            self.held = sample

    def _insert(self, sample: Sample) -> None:
        """Puts an out-of-order message in its place: at most `backward_ns` from the end."""
        place = len(self.pending)
        while place and self.pending[place - 1].stamp_ns >= sample.stamp_ns:
            place -= 1
        if self.pending[place].stamp_ns == sample.stamp_ns:
            self._refused["stamp repeats"] += 1
            return
        self.pending.insert(place, sample)

    def _thin(self, grid: Grid | None) -> None:
        """Keeps the newest message of each grid interval, and at most `capacity` of them."""
        pending = self.pending
        if grid is not None and len(pending) > 1:
            last = pending[-1]
            before = grid.stamp_ns(grid.interval(last.stamp_ns) - 1)
            while len(pending) > 1 and pending[-2].stamp_ns > before:
                del pending[-2]
                self._superseded += 1
        while len(pending) > self._capacity:
            pending.popleft()
            self._dropped += 1
            if grid is not None:
                self.lost_until_ns = pending[0].stamp_ns
