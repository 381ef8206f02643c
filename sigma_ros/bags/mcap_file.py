# SPDX-License-Identifier: Apache-2.0
"""One MCAP file as a stream of messages, a chunk at a time, read by the `mcap` package with checksums verified.

Added to the package: a damaged chunk is counted and passed over, a file without index or with a cut end can be read as
far as it goes, and nothing is expanded beyond a budget.
"""

from bisect import bisect_left
from collections import Counter
from collections.abc import Iterator
from heapq import merge
from pathlib import Path
from typing import BinaryIO

from mcap.data_stream import ReadDataStream
from mcap.exceptions import McapError
from mcap.records import Channel, Chunk, Message
from mcap.stream_reader import StreamReader

from sigma_ros.bags.files import Stored, Stretch
from sigma_ros.bags.losses import Losses
from sigma_ros.bags.mcap_index import ChunkPlace, Index, read_index
from sigma_ros.bags.mcap_index import records_of as records_of_chunk
from sigma_ros.border import load_yaml, one_line, open_regular, plain_texts
from sigma_ros.errors import BagError, SigmaError

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
        self._file: BinaryIO = open_regular(path)
        try:
            self._index = read_index(self._file, losses, recover=recover)
        except Exception as error:
            self._file.close()
            if isinstance(error, SigmaError):
                raise
            raise _unreadable(path, error) from error
        self.checksummed = bool(self._index.chunks) and self._index.checksummed
        self._adopt(self._index)

    def _adopt(self, index: Index) -> None:
        self.types: dict[str, str] = {}
        self.definitions: dict[str, str] = {}
        self.counts: Counter[str] = Counter()
        self.foreign: dict[str, tuple[str, int]] = {}
        self._topics: dict[int, str] = {}
        for channel in index.channels.values():
            self._declare(channel, index)
        undeclared = sum(count for channel, count in index.counts.items() if channel not in index.channels)
        if undeclared:
            self._losses.add(f"{self._path.name}: messages of channels that are not declared", undeclared)
        self.start_ns, self.end_ns = index.start_ns, index.end_ns
        self.custom_data = custom_data(index.metadata.get("rosbag2", {}).get("serialized_metadata", ""))

    def _declare(self, channel: Channel, index: Index) -> None:
        schema = index.schemas.get(channel.schema_id)
        msgtype = schema.name if schema else ""
        count = index.counts.get(channel.id, 0)
        if channel.message_encoding != "cdr":
            reason = f"{channel.topic} is not CDR but {channel.message_encoding[:20]!r}"
            self.foreign[channel.topic] = (reason, max(count, 1))
        elif self.types.setdefault(channel.topic, msgtype) != msgtype:
            self._losses.add(f"{channel.topic} has a second type, {msgtype}", max(count, 1))
        else:
            self._topics[channel.id] = channel.topic
            self.definitions[msgtype] = schema.data.decode(errors="replace") if schema else ""
            self.counts[channel.topic] += count

    def stretches(self, topic: str) -> list[Stretch]:
        """The topic's log times in file order, as stretches that do not go back."""
        found: list[Stretch] = []
        for channel_id, name in self._topics.items():
            if name == topic:
                found += self._index.stretches.get(channel_id, ())
        return found

    def messages(self, topics: frozenset[str], *, by_time: bool) -> Iterator[Stored]:
        """Messages of the topics by log time, or in file order: so always where messages lie outside chunks."""
        wanted = frozenset(channel_id for channel_id, topic in self._topics.items() if topic in topics)
        if self._index.has_loose_messages:
            source = self._walk(wanted)
        elif by_time:
            source = self._by_time(wanted)
        else:
            source = (message for place in self._places(wanted) for message in self._messages_of(place, wanted))
        names = self._topics
        for message in source:
            yield Stored(message.log_time, names[message.channel_id], memoryview(message.data))

    def close(self) -> None:
        """Closes the file; messages stay valid, they are memory of their own."""
        self._file.close()

    def _places(self, wanted: frozenset[int]) -> list[ChunkPlace]:
        return [place for place in self._index.chunks if not wanted.isdisjoint(place.channels)]

    def _by_time(self, wanted: frozenset[int]) -> Iterator[Message]:
        places = sorted(self._places(wanted), key=lambda place: (place.start_ns, place.offset))
        waiting: list[Message] = []
        for index, place in enumerate(places):
            found = sorted(self._messages_of(place, wanted), key=_log_time_ns)
            waiting = list(merge(waiting, found, key=_log_time_ns)) if waiting else found
            ready = len(waiting)
            if index + 1 < len(places):
                ready = bisect_left(waiting, places[index + 1].start_ns, key=_log_time_ns)
                if ready == 0 and sum(len(message.data) for message in waiting) > _OVERLAP_BYTES:
                    self._losses.once("chunks overlap too far in time to be sorted")
                    ready = len(waiting)
            yield from waiting[:ready]
            waiting = waiting[ready:]

    def _messages_of(self, place: ChunkPlace, wanted: frozenset[int]) -> list[Message]:
        """A chunk's messages of the wanted channels in file order; a damaged chunk is a loss of all it held."""
        try:
            self._file.seek(place.offset + 9)
            chunk = Chunk.read(ReadDataStream(self._file))
            messages = [record for record in records_of_chunk(chunk) if isinstance(record, Message)]
            if len(messages) != place.messages:
                raise McapError("chunk holds another number of messages than the index says")
        except Exception as error:
            self._losses.add(f"{self._path.name}: {one_line(error)}", max(place.messages, 1))
            return []
        return [message for message in messages if message.channel_id in wanted]

    def _walk(self, wanted: frozenset[int]) -> Iterator[Message]:
        """File order, for files with messages outside chunks; the index has found where the readable part ends."""
        self._file.seek(0)
        reader = StreamReader(self._file, emit_chunks=True)
        for record in reader.records:
            if isinstance(record, Message) and record.channel_id in wanted:
                yield record
            elif isinstance(record, Chunk):
                try:
                    inside = records_of_chunk(record)
                except Exception as error:
                    self._losses.add(f"{self._path.name}: {one_line(error)}")
                    continue
                yield from (m for m in inside if isinstance(m, Message) and m.channel_id in wanted)
            if self._file.tell() >= self._index.data_end:
                return


def _log_time_ns(message: Message) -> int:
    return message.log_time


def custom_data(serialised: str) -> dict[str, str]:
    """The custom data in rosbag2's metadata text; only plain values, whatever else is written there."""
    try:
        document = load_yaml(serialised)
    except SigmaError:
        return {}
    return plain_texts(document.get("custom_data") if isinstance(document, dict) else None)


def _unreadable(path: Path, error: Exception) -> BagError:
    return BagError(
        "the MCAP file cannot be read",
        where=path,
        expected="a complete MCAP file",
        got=one_line(error) or "the file is cut short",
        remedy="record again, repair it with: mcap recover, or read what is left with recover",
    )
