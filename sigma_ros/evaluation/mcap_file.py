# SPDX-License-Identifier: Apache-2.0
"""One MCAP file as a stream of messages in log-time order, a chunk at a time, checksums verified.

Compared with rosbags' reader: chunks are read with one `pread` and messages are views into them (no copies), compressed
chunks are expanded by a second thread, the chunk table is flat, and a file without index or with a cut end can be read
as far as it goes.
"""

import os
from bisect import bisect_left
from collections import Counter, deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from heapq import merge
from pathlib import Path
from typing import BinaryIO

import yaml

from sigma_ros.errors import BagError
from sigma_ros.evaluation import mcap_format as mcap
from sigma_ros.evaluation.mcap_index import Index, read_index
from sigma_ros.evaluation.storage import Losses, Stored

_OVERLAP_BYTES = 256 << 20
"""Messages of chunks that overlap in time are held back for sorting up to this much."""


class McapFile:
    """See the module.

    Args:
        path: The file.
        losses: Where damage is counted.
        recover: Read a file whose end is missing as far as it goes.

    Raises:
        BagError: not MCAP, or cut short and `recover` is false.
    """

    def __init__(self, path: Path, losses: Losses, *, recover: bool) -> None:
        self._path = path
        self._losses = losses
        try:
            self._file: BinaryIO = path.open("rb")
        except OSError as error:
            raise BagError("the bag file cannot be read", where=path, got=error) from error
        try:
            self._index = read_index(self._file, losses, recover=recover)
            self.checksummed = self._first_checksummed()
        except (mcap.McapError, OSError) as error:
            self._file.close()
            raise _unreadable(path, error) from error
        self._adopt(self._index)

    def _adopt(self, index: Index) -> None:
        self.types: dict[str, str] = {}
        self.definitions: dict[str, str] = {}
        self.counts: Counter[str] = Counter()
        self._topics: dict[int, str] = {}
        for channel in index.channels.values():
            schema = index.schemas.get(channel.schema_id, mcap.Schema("", ""))
            count = index.counts.get(channel.id, 0)
            if channel.encoding != "cdr":
                self._losses.add(f"{channel.topic} is not CDR but {channel.encoding[:20]!r}", max(count, 1))
            elif self.types.setdefault(channel.topic, schema.name) != schema.name:
                self._losses.add(f"{channel.topic} has a second type, {schema.name}", max(count, 1))
            else:
                self._topics[channel.id] = channel.topic
                self.definitions[schema.name] = schema.text
                self.counts[channel.topic] += count
        undeclared = sum(count for channel, count in index.counts.items() if channel not in index.channels)
        if undeclared:
            self._losses.add(f"{self._path.name}: messages of channels that are not declared", undeclared)
        self.start_ns, self.end_ns = index.start_ns, index.end_ns
        self.custom_data = custom_data(index.metadata.get("rosbag2", {}).get("serialized_metadata", ""))

    def messages(self, topics: frozenset[str]) -> Iterator[Stored]:
        """Messages of the topics by log time; of a file with messages outside chunks, in file order."""
        wanted = frozenset(channel_id for channel_id, topic in self._topics.items() if topic in topics)
        source = self._walk(wanted) if self._index.has_loose_messages else self._by_chunk(wanted)
        names = self._topics
        for log_time_ns, channel_id, data in source:
            yield Stored(log_time_ns, names[channel_id], data)

    def close(self) -> None:
        """Closes the file; views stay valid, they are memory of their own."""
        self._file.close()

    def _by_chunk(self, wanted: frozenset[int]) -> Iterator[mcap.Message]:
        places = [p for p in self._index.chunks if not p.channels or not wanted.isdisjoint(p.channels)]
        waiting: list[mcap.Message] = []
        for index, found in enumerate(self._loaded(places, wanted)):
            waiting = list(merge(waiting, found, key=_log_time_ns)) if waiting else found
            ready = len(waiting)
            if index + 1 < len(places):
                ready = bisect_left(waiting, places[index + 1].start_ns, key=_log_time_ns)
                if ready == 0 and sum(len(message.data) for message in waiting) > _OVERLAP_BYTES:
                    self._losses.once("chunks overlap too far in time to be sorted")
                    ready = len(waiting)
            yield from waiting[:ready]
            waiting = waiting[ready:]

    def _loaded(self, places: Sequence[mcap.ChunkPlace], wanted: frozenset[int]) -> Iterator[list[mcap.Message]]:
        """Each chunk's messages. Compressed chunks are expanded by a second thread, one ahead of the caller."""
        if not any(place.compressed for place in places):
            # Reading is a copy from the page cache: a second thread would only cool the processor's cache.
            yield from (self._accepted(place, self._load(place, wanted)) for place in places)
            return
        with ThreadPoolExecutor(max_workers=1, thread_name_prefix="bag") as reader:
            ahead: deque[tuple[mcap.ChunkPlace, Future]] = deque()
            for place in places:
                ahead.append((place, reader.submit(self._load, place, wanted)))
                if len(ahead) > 1:
                    due, loading = ahead.popleft()
                    yield self._accepted(due, loading.result())
            for due, loading in ahead:
                yield self._accepted(due, loading.result())

    def _load(self, place: mcap.ChunkPlace, wanted: frozenset[int]) -> "list[mcap.Message] | Exception":
        try:
            content = os.pread(self._file.fileno(), place.length, place.offset)
            if len(content) != place.length:
                raise mcap.McapError("file ends inside a chunk")
            records, checked = mcap.open_chunk(memoryview(content))
            found = mcap.messages_of(records, wanted, expected=place.messages if place.channels else None)
        except (mcap.McapError, OSError, MemoryError) as error:
            return error
        if not checked:
            self.checksummed = False
        return found

    def _accepted(self, place: mcap.ChunkPlace, loaded: "list[mcap.Message] | Exception") -> list[mcap.Message]:
        if isinstance(loaded, Exception):
            self._losses.add(f"{self._path.name}: {loaded}", max(place.messages, 1))
            return []
        return loaded

    def _walk(self, wanted: frozenset[int]) -> Iterator[mcap.Message]:
        """File order, for files with messages outside chunks."""
        self._file.seek(len(mcap.MAGIC))
        while self._file.tell() < self._index.data_end:
            opcode, length = self._record_head()
            if opcode == mcap.MESSAGE:
                content = memoryview(mcap.read_exact(self._file, length))
                channel_id, _, log_time_ns, _ = mcap.Fields(content).numbers("HIQQ")
                if channel_id in wanted:
                    yield mcap.Message(log_time_ns, channel_id, content[22:])
            elif opcode == mcap.CHUNK:
                try:
                    records, _ = mcap.open_chunk(memoryview(mcap.read_exact(self._file, length)))
                    yield from mcap.messages_of(records, wanted)
                except mcap.McapError as error:
                    self._losses.add(f"{self._path.name}: {error}")
            else:
                self._file.seek(length, os.SEEK_CUR)

    def _record_head(self) -> tuple[int, int]:
        return mcap.Fields(memoryview(mcap.read_exact(self._file, 9))).numbers("BQ")

    def _first_checksummed(self) -> bool:
        if not self._index.chunks:
            return False
        place = self._index.chunks[0]
        head = os.pread(self._file.fileno(), 28, place.offset)
        return len(head) == 28 and any(head[24:28])


def _log_time_ns(message: mcap.Message) -> int:
    return message.log_time_ns


def custom_data(serialised: str) -> dict[str, str]:
    """The custom data in rosbag2's metadata text; only plain values, whatever else is written there."""
    try:
        document = yaml.safe_load(serialised)
    except (yaml.YAMLError, ValueError, RecursionError):
        return {}
    data = document.get("custom_data") if isinstance(document, dict) else None
    return plain_texts(data)


def plain_texts(data: object) -> dict[str, str]:
    """The entries of a mapping whose values are text or numbers, as texts."""
    if not isinstance(data, dict):
        return {}
    return {str(key): str(value) for key, value in data.items() if isinstance(value, str | int | float)}


def _unreadable(path: Path, error: Exception) -> BagError:
    return BagError(
        "the MCAP file cannot be read",
        where=path,
        expected="a complete MCAP file",
        got=error,
        remedy="record again, repair it with: mcap recover, or read what is left with recover",
    )
