# SPDX-License-Identifier: Apache-2.0
"""The MCAP container's records (mcap.dev/spec), read defensively: every length is checked against what is there."""

import struct
from collections.abc import Iterator
from itertools import pairwise
from typing import BinaryIO, NamedTuple

from backports.zstd import ZstdDecompressor, ZstdError
from lz4.frame import LZ4FrameDecompressor

from sigma_ros.evaluation.checksum import crc32

MAGIC = b"\x89MCAP0\r\n"
HEADER, FOOTER, SCHEMA, CHANNEL, MESSAGE, CHUNK = 0x01, 0x02, 0x03, 0x04, 0x05, 0x06
MESSAGE_INDEX, CHUNK_INDEX, STATISTICS, METADATA, METADATA_INDEX, DATA_END = 0x07, 0x08, 0x0B, 0x0C, 0x0D, 0x0F
FOOTER_BYTES = 9 + 20 + len(MAGIC)
MAX_CHUNK_BYTES = 1 << 30
"""A chunk that claims more is taken for damaged, not allocated."""


class McapError(ValueError):
    """Bytes that are not what MCAP says they must be."""


class Schema(NamedTuple):
    """A message type and its definition text."""

    name: str
    text: str


class Channel(NamedTuple):
    """A topic: `id` is what messages carry."""

    id: int
    schema_id: int
    topic: str
    encoding: str


class ChunkPlace(NamedTuple):
    """Where a chunk record's content is, and the time range it claims. `channels` empty means unknown."""

    start_ns: int
    end_ns: int
    offset: int
    length: int
    channels: tuple[int, ...]
    messages: int
    compressed: bool


class Message(NamedTuple):
    """One message: log time, channel id, serialised bytes (a view)."""

    log_time_ns: int
    channel_id: int
    data: memoryview


class Fields:
    """Reads the fields of one record's content."""

    def __init__(self, content: memoryview) -> None:
        self._content = content
        self._position = 0

    def numbers(self, layout: str) -> tuple:
        """Little-endian numbers without padding."""
        layout = "<" + layout
        try:
            values = struct.unpack_from(layout, self._content, self._position)
        except struct.error as error:
            raise McapError("record too short") from error
        self._position += struct.calcsize(layout)
        return values

    def block(self, width: str = "I") -> memoryview:
        """A length-prefixed block."""
        (length,) = self.numbers(width)
        end = self._position + length
        if end > len(self._content):
            raise McapError("record too short")
        view = self._content[self._position : end]
        self._position = end
        return view

    def text(self) -> str:
        """A length-prefixed UTF-8 text."""
        try:
            return bytes(self.block()).decode()
        except UnicodeDecodeError as error:
            raise McapError("text is not UTF-8") from error

    def pairs(self, layout: str) -> list[tuple]:
        """A length-prefixed array of fixed-size entries."""
        block = self.block()
        if len(block) % struct.calcsize("<" + layout):
            raise McapError("map has a broken length")
        return list(struct.iter_unpack("<" + layout, block))

    def texts(self) -> dict[str, str]:
        """A map of texts."""
        inner = Fields(self.block())
        result = {}
        while not inner.done:
            key = inner.text()
            result[key] = inner.text()
        return result

    @property
    def done(self) -> bool:
        """Whether all bytes are read."""
        return self._position >= len(self._content)


def read_exact(file: BinaryIO, count: int) -> bytes:
    """Exactly `count` bytes from the file's position."""
    if count > MAX_CHUNK_BYTES:
        raise McapError("record claims an absurd length")
    data = file.read(count)
    if len(data) != count:
        raise McapError("file ends inside a record")
    return data


def records_of(content: memoryview) -> Iterator[tuple[int, memoryview]]:
    """(opcode, content) of each record in a block of bytes."""
    position, end = 0, len(content)
    while position < end:
        if position + 9 > end:
            raise McapError("record too short")
        opcode, length = struct.unpack_from("<BQ", content, position)
        position += 9
        if length > end - position:
            raise McapError("record too short")
        yield opcode, content[position : position + length]
        position += length


def read_schema(content: memoryview) -> tuple[int, Schema]:
    """Id and schema."""
    fields = Fields(content)
    (schema_id,) = fields.numbers("H")
    name = fields.text()
    fields.text()
    return schema_id, Schema(name, fields.text())


def read_channel(content: memoryview) -> Channel:
    """A channel record."""
    fields = Fields(content)
    channel_id, schema_id = fields.numbers("HH")
    return Channel(channel_id, schema_id, fields.text(), fields.text())


def read_chunk_index(content: memoryview) -> ChunkPlace:
    """A chunk index record."""
    fields = Fields(content)
    start_ns, end_ns, offset, length = fields.numbers("QQQQ")
    places = sorted((place, channel_id) for channel_id, place in fields.pairs("HQ"))
    (index_length,) = fields.numbers("Q")
    compressed = fields.text() != ""
    borders = [*(place for place, _ in places), offset + length + index_length]
    messages = sum(max(after - before - 15, 0) // 16 for before, after in pairwise(borders))
    if length < 9:
        raise McapError("chunk too short")
    channels = tuple(channel for _, channel in places)
    return ChunkPlace(start_ns, end_ns, offset + 9, length - 9, channels, messages, compressed)


def open_chunk(content: memoryview) -> tuple[memoryview, bool]:
    """Records of a chunk and whether a checksum vouches for them.

    Raises:
        McapError: unknown compression, wrong size, or a checksum that does not match.
    """
    fields = Fields(content)
    _, _, size, checksum = fields.numbers("QQQI")
    compression = fields.text()
    stored = fields.block("Q")
    if size > MAX_CHUNK_BYTES:
        raise McapError("chunk claims an absurd size")
    records = _expand(stored, compression, size)
    if len(records) != size:
        raise McapError("chunk has another size than it says")
    if checksum and crc32(records) != checksum:
        raise McapError("chunk checksum does not match")
    return records, checksum != 0


def _expand(stored: memoryview, compression: str, size: int) -> memoryview:
    if compression == "":
        return stored
    try:
        if compression == "zstd":
            return memoryview(ZstdDecompressor().decompress(stored, max_length=size + 1))
        if compression == "lz4":
            return memoryview(LZ4FrameDecompressor().decompress(stored, max_length=size + 1))
    except (ZstdError, RuntimeError, EOFError, ValueError) as error:
        raise McapError("chunk cannot be decompressed") from error
    raise McapError(f"chunk compression {compression!r} is not known (zstd, lz4 or none)")


def messages_of(records: memoryview, wanted: frozenset[int], *, expected: int | None = None) -> list[Message]:
    """Messages of the wanted channels in a chunk, by log time (ties in file order).

    Raises:
        McapError: a record is broken, or there are not `expected` messages of all channels.
    """
    found: list[Message] = []
    in_order = True
    latest_ns = total = 0
    position, end = 0, len(records)
    unpack = struct.Struct("<BQHIQ").unpack_from
    while position < end:
        if position + 9 > end:
            raise McapError("record too short")
        if records[position] != MESSAGE:
            (length,) = struct.unpack_from("<Q", records, position + 1)
            position += 9 + length
            continue
        if position + 31 > end:
            raise McapError("record too short")
        _, length, channel_id, _, log_time_ns = unpack(records, position)
        start, position = position + 31, position + 9 + length
        if length < 22 or position > end:
            raise McapError("record too short")
        total += 1
        if channel_id in wanted:
            found.append(Message(log_time_ns, channel_id, records[start:position]))
            in_order = in_order and log_time_ns >= latest_ns
            latest_ns = log_time_ns
    if position > end:
        raise McapError("record too short")
    if expected is not None and total != expected:
        raise McapError("chunk holds another number of messages than the index says")
    if not in_order:
        found.sort(key=lambda message: message.log_time_ns)
    return found
