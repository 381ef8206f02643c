# SPDX-License-Identifier: Apache-2.0
"""What the storage files of a bag have in common, whatever their format."""

from collections import Counter
from collections.abc import Iterator, Mapping
from typing import NamedTuple, Protocol

from sigma_ros.errors import BagError


class Stored(NamedTuple):
    """One stored message: log time, topic, serialised bytes."""

    log_time_ns: int
    topic: str
    data: memoryview


class StorageFile(Protocol):
    """One opened file of a bag. Topics whose messages are not CDR are left out and counted as losses."""

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
    def custom_data(self) -> Mapping[str, str]:
        """The recorder's own notes."""
        ...

    def messages(self, topics: frozenset[str]) -> Iterator[Stored]:
        """Messages of the topics by log time."""
        ...

    def close(self) -> None:
        """Lets go of the file."""
        ...


class Losses:
    """What could not be read, by reason; in strict mode the first loss is an error.

    Args:
        where: The bag, for the error.
        strict: Raise instead of counting.
    """

    def __init__(self, where: object, *, strict: bool) -> None:
        self._where = where
        self._strict = strict
        self._counts: Counter[str] = Counter()

    def add(self, reason: str, count: int = 1) -> None:
        """Counts a loss.

        Raises:
            BagError: in strict mode.
        """
        self._counts[reason] += count
        if self._strict:
            raise BagError(
                f"the bag has losses: {reason}",
                where=self._where,
                got=f"{count} lost",
                remedy="read it without strict to go on and count them",
            )

    def once(self, reason: str) -> None:
        """Counts a loss that is found again on every reading."""
        if reason not in self._counts:
            self.add(reason)

    def snapshot(self) -> dict[str, int]:
        """Counts so far."""
        return dict(self._counts)
