# SPDX-License-Identifier: Apache-2.0
"""A recording while it is made: messages go to a bag on a thread of their own, each stream is checked as it comes.

Message types are found by their names, with their full definitions, so that everything can be recorded.
"""

import functools
import importlib
import os
import threading
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from queue import Full, Queue
from typing import Any, Literal

from rosbags.typesys import get_types_from_msg
from rosbags.typesys.store import Typestore

from sigma_ros.bags.messages import ROS_TYPES
from sigma_ros.bags.writer import BagWriter
from sigma_ros.errors import SigmaError
from sigma_ros.nodes.record.incident import own_definitions


@functools.cache
def message_class(name: str) -> Any:
    """The Python class of `sensor_msgs/msg/Image`; None where its package is not installed."""
    package, _, kind = name.partition("/msg/")
    try:
        return getattr(importlib.import_module(f"{package}.msg"), kind, None)
    except ImportError:
        return None


@functools.cache
def definition(name: str) -> str | None:
    """What a bag must say of a type that is none of ROS 2's common ones: its definition, with those inside it.

    None: it is a common one.

    Raises:
        FileNotFoundError: no installed package has it.
    """
    if name in ROS_TYPES.fielddefs:
        return None
    ours = own_definitions().get(name)
    if ours is not None:
        return ours
    store, waiting = Typestore(), [name]
    store.register(dict(ROS_TYPES.fielddefs))
    while waiting:
        found = get_types_from_msg(_file(wanted := waiting.pop()).read_text(encoding="utf-8"), wanted)
        store.register(found)
        waiting += sorted(_inside(found) - set(store.fielddefs))
    return str(store.generate_msgdef(name, ros_version=2)[0])


def can_be_recorded(name: str) -> bool:
    """Whether a type is installed here."""
    try:
        definition(name)
    except FileNotFoundError:
        return False
    return message_class(name) is not None


def _inside(types: Any) -> set[str]:
    """Names of the types that fields have, however deep in arrays."""
    names: set[str] = set()
    pending = [field[1] for _constants, fields in types.values() for field in fields]
    while pending:
        _kind, what = pending.pop()
        if isinstance(what, str) and "/msg/" in what:
            names.add(what)
        elif isinstance(what, tuple) and isinstance(what[0], tuple):
            pending.append(what[0])
    return names


def _file(name: str) -> Path:
    package, _, kind = name.partition("/msg/")
    for prefix in os.environ.get("AMENT_PREFIX_PATH", "").split(os.pathsep):
        file = Path(prefix, "share", package, "msg", f"{kind}.msg")
        if file.is_file():
            return file
    raise FileNotFoundError(f"{name} is in no installed package")


WAITING = 120
"""Messages that may wait for the disk: two seconds of two cameras."""

_SECOND_NS = 1_000_000_000


@dataclass(slots=True)
class StreamTally:
    """One stream so far. `gaps`: times without a message longer than allowed. `lost`: not written in time."""

    period_ns: int | None
    topic: str = ""
    received: int = 0
    gaps: int = 0
    longest_gap_ns: int = 0
    lost: int = 0
    last_ns: int = 0
    recent_ns: list[int] = field(default_factory=list)

    def note(self, stamp_ns: int) -> None:
        """A message with this stamp has come."""
        self.received += 1
        if self.last_ns:
            gap_ns = stamp_ns - self.last_ns
            self.longest_gap_ns = max(self.longest_gap_ns, gap_ns)
            self.gaps += self.period_ns is not None and gap_ns > 2.5 * self.period_ns
        self.last_ns = stamp_ns
        self.recent_ns.append(stamp_ns)
        del self.recent_ns[:-60]

    def rate_hz(self) -> float:
        """Over the last messages, by their stamps."""
        if len(self.recent_ns) < 2 or self.recent_ns[-1] <= self.recent_ns[0]:
            return 0.0
        return (len(self.recent_ns) - 1) * _SECOND_NS / (self.recent_ns[-1] - self.recent_ns[0])


def judge(tallies: Mapping[str, StreamTally], fps: float) -> tuple[list[str], list[str]]:
    """What makes a recording useless, and what it has lost: two lists of sentences, both empty when all is well."""
    useless = [
        f"{name}: nothing came on {tally.topic or 'its topic'}"
        for name, tally in tallies.items()
        if tally.period_ns and not tally.received
    ]
    losses = []
    for name, tally in tallies.items():
        if tally.lost:
            losses.append(f"{name}: {tally.lost} messages came faster than the disk")
        if tally.gaps:
            losses.append(f"{name}: {tally.gaps} gaps, the longest {tally.longest_gap_ns / 1e6:.0f} ms")
        if tally.received > fps and tally.rate_hz() < 0.9 * fps and tally.period_ns:
            losses.append(f"{name}: {tally.rate_hz():.1f} Hz, {fps:g} are needed")
    return useless, losses


class Tape:
    """One recording: a bag that appears when it is saved, and is nowhere when it is discarded or the process dies.

    Messages are written in order on a thread of their own. `error`: what the disk refused; nothing is written after it.
    """

    def __init__(self, path: Path, *, storage: Literal["mcap", "sqlite3"], notes: Mapping[str, str]) -> None:
        self.path = path
        self.written_bytes = 0
        self.error: SigmaError | None = None
        self._stack = ExitStack()
        self._bag = self._stack.enter_context(BagWriter(path, storage=storage, metadata=notes))
        self._queue: Queue[tuple[str, str, int, bytes, str | None] | None] = Queue(WAITING)
        self._thread = threading.Thread(target=self._write, name="recording", daemon=True)
        self._thread.start()

    def put(self, topic: str, msgtype: str, log_time_ns: int, cdr: bytes, definition: str | None = None) -> bool:
        """Queues a serialised message; False when the disk is too slow for it, or has failed."""
        if self.error is not None:
            return False
        try:
            self._queue.put_nowait((topic, msgtype, log_time_ns, cdr, definition))
        except Full:
            return False
        return True

    def save(self, notes: Mapping[str, str]) -> None:
        """Writes what waits; the bag appears, with further notes.

        Raises:
            BagError: the disk refused the end; nothing is left.
        """
        self._end()
        for name, text in notes.items():
            self._bag.note(name, text)
        self._stack.close()

    def discard(self) -> None:
        """Nothing is left."""
        self._end()
        self._bag.discard()
        self._stack.pop_all()

    def _end(self) -> None:
        self._queue.put(None)
        self._thread.join()

    def _write(self) -> None:
        while (entry := self._queue.get()) is not None:
            if self.error is not None:
                continue
            try:
                self._bag.raw(*entry[:4], definition=entry[4])
            except SigmaError as error:
                self.error = error
            else:
                self.written_bytes += len(entry[3])
