# SPDX-License-Identifier: Apache-2.0
"""The frame clock: camera and joint messages onto a fixed grid of ticks, the same code live and from a bag.

Rules (DESIGN.md gives the reasons):

- **Grid.** An epoch waits until every stream has delivered after the last tick; the newest of the streams' first
  stamps is tick 0. Tick k is `contract.tick_offset_ns(k)` later.
- **Tick.** Each stream contributes its newest message stamped at or before the tick (exactly at the tick belongs to
  it). Older than the stream's limit, missing or undecodable: the tick is a `Gap`. Nothing is filled in; a message
  that serves two ticks does so with its age in the frame.
- **Order.** Only stamps count, so any interleaving of the streams gives the same windows, as long as no stream runs
  more than `LOOKAHEAD_TICKS` (and two seconds) ahead of another; a stream that is silent for longer makes gaps.
- **Stamps.** Zero and repeated stamps are refused. A stamp more than one tick back, or far ahead of its stream, needs
  a second message to confirm it; confirmed backward means the clock was set or a bag was looped: a new epoch.
- **Rates.** A message sooner after the one before than two thirds of the period that the contract promises (`rate_hz`)
  is left out, live and from a bag. So a stream whose newest message is less than that before a tick cannot change it.
- **End.** Of a recording, also before its clock goes back: while every stream has a message that no tick has taken,
  there is one more tick, unless it lies more than 5 ms behind all of them. Live nothing ends.
- **Late.** A message stamped before a consumed tick never changes that tick; it may serve a later one.
- **Epoch.** `reset`, a new task text, a backward jump and `max_gap_ticks` gaps in a row end it; the window starts anew.
"""

from collections import deque
from collections.abc import Mapping

import numpy as np
from jaxtyping import Float64, UInt8
from numpy import ndarray

from sigma_ros.contract import Camera, Contract
from sigma_ros.errors import SigmaError
from sigma_ros.streams.images import ImageMessage, Square, black_square, check_image
from sigma_ros.streams.joints import JointReader
from sigma_ros.streams.stream import JOINTS, Grid, Stream, StreamCounters, image_of
from sigma_ros.values import NS_PER_S, WINDOW_TICKS, Frame, Gap, Window

# The last 16 ticks of an epoch, and the window they make.


class WindowHistory:
    """Frames of the newest ticks; None stands for a gap."""

    def __init__(self) -> None:
        self._entries: deque[Frame | None] = deque(maxlen=WINDOW_TICKS)

    def clear(self) -> None:
        """Begins an epoch."""
        self._entries.clear()

    def add_gap(self) -> None:
        """A tick that cannot be used: masked in the windows that contain it."""
        self._entries.append(None)

    def add(self, frame: Frame, *, task: str) -> Window:
        """Adds a valid tick and returns its window.

        Masked places hold the frame before them, or the first valid one where there is none before.
        """
        self._entries.append(frame)
        entries = [*([None] * (WINDOW_TICKS - len(self._entries))), *self._entries]
        mask = np.array([entry is not None for entry in entries])
        mask.flags.writeable = False
        neighbour = next(entry for entry in entries if entry is not None)
        frames = []
        for entry in entries:
            neighbour = neighbour if entry is None else entry
            frames.append(neighbour)
        return Window(epoch=frame.epoch, task=task, frames=tuple(frames), mask=mask)


LAST_TICK_JITTER_NS = 5_000_000
"""A recording's last tick lies at most this far behind its newest message: jitter of stamps, not another tick."""

LOOKAHEAD_TICKS = 64
"""A stream this far (and two seconds) ahead makes a tick complete without the others."""

IMAGES_BEYOND_LOOKAHEAD = 2
"""Images that wait beyond the lookahead: the tick's own, and the one that completes it. With fewer, the order in which
two streams arrive would decide whether an image is still there."""

_JOINT_CAPACITY = 1024


class FrameClock:
    """Push messages in any order, consume ticks in order. Not thread-safe: the caller holds one lock.

    Args:
        contract: Streams, limits and rate.
        image_size_px: Side of the square images, or `OWN_SIZE_PX`; None leaves images undecoded (frames then hold
            none), for work on numbers alone.
        max_gap_ticks: Gaps in a row that end the epoch.
        square: Gives the memory that a picture is written to.
        recorded: The messages are a recording's, which ends.
    """

    def __init__(
        self,
        contract: Contract,
        *,
        image_size_px: int | None,
        max_gap_ticks: int = 16,
        square: Square = black_square,
        recorded: bool = False,
    ) -> None:
        self._contract = contract
        self._recorded = recorded
        self._last_ticks: deque[Window | Gap] = deque()
        self._ended: set[str] = set()
        self._size_px = image_size_px
        self._max_gap_ticks = max_gap_ticks
        self._square = square
        self._cameras: dict[str, Camera] = {camera.name: camera for camera in contract.cameras}
        self._lookahead_ticks = max(LOOKAHEAD_TICKS, round(2.0 * contract.fps))
        capacity = self._lookahead_ticks + IMAGES_BEYOND_LOOKAHEAD
        self._streams = {c.name: self._stream(c.max_age_ns, capacity, c.rate_hz) for c in contract.cameras}
        joints = (contract.joint_state_max_age_ns, _JOINT_CAPACITY, contract.joint_state_rate_hz)
        self._streams[JOINTS] = self._stream(*joints)
        self._joint_reader = JointReader(contract)
        self._task = contract.tasks[0]
        self._grid: Grid | None = None
        self._history = WindowHistory()
        self._epoch = self._tick = self._gaps_in_row = 0
        self._last_tick_ns = 0
        self._windows = self._gaps = self._unmade = 0

    def _stream(self, max_age_ns: int, capacity: int, rate_hz: float | None) -> Stream:
        return Stream(
            rate_hz=rate_hz,
            max_age_ns=max_age_ns,
            capacity=capacity,
            backward_ns=self._contract.tick_period_ns,
            forward_ns=max(self._contract.tick_offset_ns(self._lookahead_ticks), 2 * max_age_ns),
        )

    @property
    def task(self) -> str:
        """The task text of the coming windows."""
        return self._task

    @property
    def epoch(self) -> int:
        """The epoch of the coming tick."""
        return self._epoch

    @property
    def counters(self) -> StreamCounters:
        """Snapshot of all counters since construction."""
        return StreamCounters(
            streams={name: stream.count for name, stream in self._streams.items()},
            windows=self._windows,
            gaps=self._gaps,
            epochs=self._epoch + 1,
            unmade=self._unmade,
        )

    @property
    def missing(self) -> tuple[str, ...]:
        """Streams that the epoch's first tick still waits for; empty once ticks flow."""
        if self._grid is not None:
            return ()
        return tuple(name for name, stream in self._streams.items() if not stream.pending)

    def push_image(self, camera: str, stamp_ns: int, message: ImageMessage) -> None:
        """Stores a camera message; what does not fit the contract is refused and counted.

        The message's buffer must stay unchanged until its tick is consumed.
        """
        stream = self._streams[camera]
        try:
            check_image(message, self._cameras[camera])
        except SigmaError as error:
            stream.refuse(error.what)
            return
        self._push(stream, stamp_ns, message)

    def push_joints(self, stamp_ns: int, names: tuple[str, ...], positions_rad: Float64[ndarray, " n"]) -> None:
        """Stores joint positions, matched by name; missing joints and non-finite values are refused and counted."""
        stream = self._streams[JOINTS]
        try:
            positions = self._joint_reader.read(names, positions_rad)
        except SigmaError as error:
            stream.refuse(error.what)
            return
        self._push(stream, stamp_ns, positions)

    def refuse(self, stream: str, reason: str) -> None:
        """Counts a message of a stream (camera name, `joints`) that cannot be used."""
        self._streams[stream].refuse(reason)

    def set_task(self, task: str) -> None:
        """Sets the task text; a new text starts a new epoch."""
        if task != self._task:
            self._task = task
            self._new_epoch()

    def reset(self) -> None:
        """Starts a new epoch."""
        self._new_epoch()

    def ready(self, now_ns: int | None) -> bool:
        """Whether the coming tick is complete and may be consumed.

        It is when every stream has a message at or after it, when a stream is `LOOKAHEAD_TICKS` past it, or when
        `now_ns` (same clock as the stamps) is `contract.settle_ns` past it; as soon as `now_ns` has reached it where
        the promised rates let no stream send a newer message up to it. With None, time never completes a tick.
        """
        if self._last_ticks:
            return True
        grid = self._anchored()
        if grid is None:
            return False
        tick_ns = grid.stamp_ns(self._tick)
        newest = [stream.newest_ns or 0 for stream in self._streams.values()]
        if min(newest) >= tick_ns:
            return True
        if max(newest) >= grid.stamp_ns(self._tick + self._lookahead_ticks):
            return True
        if now_ns is None or now_ns < tick_ns:
            return False
        waits = not all(stream.reaches(tick_ns) for stream in self._streams.values())
        return now_ns >= tick_ns + waits * self._contract.settle_ns

    def next_tick(self) -> Window | Gap:
        """Consumes the coming tick; call it after `ready` said so.

        Raises:
            RuntimeError: the epoch has not begun.
        """
        return self._last_ticks.popleft() if self._last_ticks else self._consume()

    def end(self, *names: str) -> None:
        """Says that streams (all if none is named) are over; once all are, their last messages make the last ticks."""
        self._ended |= set(names or self._streams)
        if len(self._ended) == len(self._streams):
            self._take_last()
            self._note_unmade(max(stream.newest_ns or 0 for stream in self._streams.values()))

    def _take_last(self) -> None:
        while (grid := self._anchored()) is not None and all(stream.pending for stream in self._streams.values()):
            newest_ns = max(stream.pending[-1].stamp_ns for stream in self._streams.values())
            if grid.stamp_ns(self._tick) - newest_ns > LAST_TICK_JITTER_NS:
                return
            self._last_ticks.append(self._consume())

    def _note_unmade(self, until_ns: int) -> None:
        """Ticks for which some streams have messages and others have none: where they are more than end an epoch."""
        waiting = [stream.pending[0].stamp_ns for stream in self._streams.values() if stream.pending]
        if self._last_tick_ns and waiting:
            ticks = int((until_ns - max(min(waiting), self._last_tick_ns)) * self._contract.fps / NS_PER_S)
            self._unmade += ticks if ticks > self._max_gap_ticks else 0

    def _consume(self) -> Window | Gap:
        grid = self._anchored()
        if grid is None:
            raise RuntimeError(f"no tick yet, waiting for {', '.join(self.missing)}")
        tick_ns = grid.stamp_ns(self._tick)
        for stream in self._streams.values():
            stream.take(tick_ns)
        reasons, images = self._judge(tick_ns)
        item: Window | Gap
        if reasons:
            item = Gap(epoch=self._epoch, tick=self._tick, stamp_ns=tick_ns, reasons=reasons)
            self._history.add_gap()
            self._gaps += 1
            self._gaps_in_row += 1
        else:
            item = self._history.add(self._frame(tick_ns, images), task=self._task)
            self._windows += 1
            self._gaps_in_row = 0
        self._tick += 1
        self._last_tick_ns = tick_ns
        if self._gaps_in_row >= self._max_gap_ticks:
            self._new_epoch()
        return item

    def _push(self, stream: Stream, stamp_ns: int, payload: object) -> None:
        if self._recorded and stream.goes_back(stamp_ns):
            self._take_last()
        if not stream.push(stamp_ns, payload, self._grid, self._last_tick_ns):
            self._anchored()
            return
        for other in self._streams.values():
            if other is not stream:
                other.follow_jump()
        self._new_epoch()
        self._last_tick_ns = 0

    def _anchored(self) -> Grid | None:
        if self._grid is None:
            streams = self._streams.values()
            if all(stream.pending for stream in streams):
                start_ns = max(stream.pending[0].stamp_ns for stream in streams)
                self._note_unmade(start_ns)
                self._grid = Grid(start_ns, self._contract.fps)
        return self._grid

    def _new_epoch(self) -> None:
        """An epoch that gave no tick yet is not counted: it goes on with fresh streams."""
        if self._tick > 0:
            self._epoch += 1
        self._tick = self._gaps_in_row = 0
        self._grid = None
        self._history.clear()
        for stream in self._streams.values():
            stream.begin_epoch()

    def _judge(self, tick_ns: int) -> tuple[tuple[str, ...], dict[str, UInt8[ndarray, "h w 3"]]]:
        """Reasons against the tick, or its images; nothing is decoded for a tick that is a gap anyway."""
        reasons = [
            f"{name}: {why}" for name, stream in self._streams.items() if (why := stream.reason(tick_ns)) is not None
        ]
        images: dict[str, ndarray] = {}
        if not reasons and self._size_px is not None:
            for name, camera in self._cameras.items():
                held = self._streams[name].held
                assert held is not None
                try:
                    images[name] = image_of(held, camera, self._size_px, self._square)
                except SigmaError as error:
                    self._streams[name].spoil(error.what)
                    reasons.append(f"{name}: {error.what}")
        return tuple(reasons), images

    def _frame(self, tick_ns: int, images: Mapping[str, ndarray]) -> Frame:
        ages_ns = {}
        for name, stream in self._streams.items():
            assert stream.held is not None
            stream.mark_used()
            ages_ns[name] = tick_ns - stream.held.stamp_ns
        joints = self._streams[JOINTS].held
        assert joints is not None
        return Frame(
            epoch=self._epoch,
            tick=self._tick,
            stamp_ns=tick_ns,
            images=images,
            positions_rad=joints.payload,
            joint_age_ns=ages_ns.pop(JOINTS),
            image_age_ns=ages_ns,
        )
