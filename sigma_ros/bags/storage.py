# SPDX-License-Identifier: Apache-2.0
"""What the storage files of a bag have in common, whatever their format; and in which order their messages are read."""

from collections.abc import Iterable, Iterator, Mapping
from typing import NamedTuple, Protocol

DISORDER_NS = 20_000_000
"""Log times of one topic that go back by less are a recorder's threads, not a clock that was set."""

_PAUSE_NS = 1_000_000_000


class Stored(NamedTuple):
    """One stored message: log time, topic, serialised bytes."""

    log_time_ns: int
    topic: str
    data: memoryview


class StorageFile(Protocol):
    """One opened file of a bag. `foreign` are the topics whose messages are not CDR: reason and number of messages."""

    start_ns: int
    end_ns: int
    checksummed: bool

    @property
    def types(self) -> Mapping[str, str]:
        """Topic to message type."""
        ...

    @property
    def definitions(self) -> Mapping[str, str]:
        """Message type to its definition text, where the file holds it."""
        ...

    @property
    def counts(self) -> Mapping[str, int]:
        """Messages by topic."""
        ...

    @property
    def foreign(self) -> Mapping[str, tuple[str, int]]:
        """Topics that cannot be read: why, and how many messages they have."""
        ...

    @property
    def custom_data(self) -> Mapping[str, str]:
        """The recorder's own notes."""
        ...

    def stretches(self, topic: str) -> "list[Stretch]":
        """The topic's log times in file order, as stretches that do not go back."""
        ...

    def messages(self, topics: frozenset[str], *, by_time: bool) -> Iterator[Stored]:
        """Messages of the topics by log time, or in the order of the file."""
        ...

    def close(self) -> None:
        """Lets go of the file."""
        ...


class Stretch(NamedTuple):
    """Log times [ns] of neighbouring messages of a topic, first and last."""

    start_ns: int
    end_ns: int


def stretches_of(times_ns: Iterable[int]) -> list[Stretch]:
    """Log times in file order as stretches; a new one begins where they go back, and after a pause."""
    found: list[Stretch] = []
    for time_ns in times_ns:
        last = found[-1] if found else None
        if last is not None and -DISORDER_NS <= time_ns - last.end_ns <= _PAUSE_NS:
            found[-1] = Stretch(min(last.start_ns, time_ns), max(last.end_ns, time_ns))
        else:
            found.append(Stretch(time_ns, time_ns))
    return found


def clock_was_set(stretches: Iterable[Stretch]) -> bool:
    """Whether stretches of a topic overlap: sorted by time, two moments would be mixed.

    Stretches that only come in another order (chunks written late, files merged) do not overlap: sorting mends them.
    """
    latest_ns: int | None = None
    for stretch in sorted(stretches):
        if latest_ns is not None and stretch.start_ns < latest_ns - DISORDER_NS:
            return True
        latest_ns = stretch.end_ns if latest_ns is None else max(latest_ns, stretch.end_ns)
    return False
