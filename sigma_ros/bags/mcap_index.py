# SPDX-License-Identifier: Apache-2.0
"""The table of contents of an MCAP file: from its summary, or by reading it once where there is none."""

import os
import struct
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from io import BytesIO
from pathlib import Path
from typing import BinaryIO, NamedTuple, cast
from zlib import crc32

from backports.zstd import ZstdDecompressor
from lz4.frame import LZ4FrameDecompressor
from mcap.exceptions import McapError
from mcap.records import (
    Channel,
    Chunk,
    ChunkIndex,
    DataEnd,
    Footer,
    McapRecord,
    Message,
    MessageIndex,
    Metadata,
    MetadataIndex,
    Schema,
    Statistics,
)
from mcap.stream_reader import CRCValidationError, StreamReader, breakup_chunk

from sigma_ros.bags.files import Stretch, clock_was_set, stretches_of
from sigma_ros.bags.losses import Losses
from sigma_ros.border import LFS_POINTER, MAX_OUTPUT_BYTES, most_output_bytes, one_line

MAGIC = b"\x89MCAP0\r\n"
_MOST_EMPTY_CHUNKS = 1000
FOOTER_BYTES = 9 + 20 + len(MAGIC)


class ChunkPlace(NamedTuple):
    """Where a chunk record is, the time range it claims, its channels and how many messages it holds."""

    offset: int
    length: int
    start_ns: int
    end_ns: int
    channels: tuple[int, ...]
    messages: int


@dataclass(slots=True)
class Index:
    """Channels, types, messages by channel, chunks in file order, and log times by channel as stretches."""

    schemas: dict[int, Schema] = field(default_factory=dict)
    channels: dict[int, Channel] = field(default_factory=dict)
    counts: Counter[int] = field(default_factory=Counter)
    chunks: list[ChunkPlace] = field(default_factory=list)
    metadata: dict[str, dict[str, str]] = field(default_factory=dict)
    stretches: dict[int, list[Stretch]] = field(default_factory=dict)
    start_ns: int = 0
    end_ns: int = 0
    data_end: int = 0
    has_loose_messages: bool = False
    empty_chunks: int = 0
    checksummed: bool = True

    def declare(self, record: McapRecord) -> None:
        """Takes over what describes other records."""
        if isinstance(record, Schema):
            self.schemas[record.id] = record
        elif isinstance(record, Channel):
            self.channels[record.id] = record
        elif isinstance(record, Metadata):
            self.metadata[record.name] = record.metadata


def read_index(file: BinaryIO, losses: Losses, *, recover: bool) -> Index:
    """Index of a file; `recover` also takes files whose end is missing or whose summary is damaged.

    Raises:
        Exception: not MCAP, cut short, or damaged; the `mcap` package has no one class for it.
    """
    size = os.fstat(file.fileno()).st_size
    head = file.read(len(LFS_POINTER))
    if size == 0:
        raise McapError("the file is empty")
    if not head.startswith(MAGIC):
        raise McapError("the file does not begin as MCAP")
    try:
        index = _from_summary(file, size)
        if index is not None and not any(map(clock_was_set, index.stretches.values())):
            return index
    except Exception as error:
        if not recover:
            raise
        losses.once(f"{Path(file.name).name}: index not usable, file read from its start: {one_line(error)}")
    return _from_scan(file, size, losses, recover=recover)


def records_of(chunk: Chunk) -> list[McapRecord]:
    """A chunk's records, its size and checksum verified.

    Raises:
        Exception: it is damaged, its compression is not known, or it expands beyond the budget.
    """
    if chunk.uncompressed_size > most_output_bytes(len(chunk.data)):
        raise McapError(f"chunk claims to expand from {len(chunk.data)} to {chunk.uncompressed_size} bytes")
    data = _expanded(chunk)
    if len(data) != chunk.uncompressed_size:
        raise McapError("chunk has another size than it says")
    plain = Chunk("", data, chunk.message_end_time, chunk.message_start_time, chunk.uncompressed_crc, len(data))
    try:
        return breakup_chunk(plain, validate_crc=True)
    except CRCValidationError as error:
        raise McapError("chunk checksum does not match") from error


def _expanded(chunk: Chunk) -> bytes:
    most = chunk.uncompressed_size + 1
    if chunk.compression == "":
        return chunk.data
    try:
        if chunk.compression == "zstd":
            return ZstdDecompressor().decompress(chunk.data, max_length=most)
        if chunk.compression == "lz4":
            return cast(bytes, LZ4FrameDecompressor().decompress(chunk.data, max_length=most))
    except Exception as error:
        raise McapError("chunk cannot be decompressed") from error
    raise McapError(f"chunk compression {chunk.compression[:20]!r} is not known (zstd, lz4 or none)")


def _from_summary(file: BinaryIO, size: int) -> Index | None:
    """None where the file has no summary, or one that does not account for all messages."""
    footer = _bytes_at(file, max(size - FOOTER_BYTES, 0), FOOTER_BYTES, size)
    if size < len(MAGIC) + FOOTER_BYTES:
        raise McapError("the file is cut short")
    if footer[-8:] != MAGIC or footer[0] != 0x02:
        raise McapError("the file is cut short: its closing record is missing")
    start, _, checksum = struct.unpack_from("<QQI", footer, 9)
    if start == 0:
        return None
    end = size - FOOTER_BYTES
    if not len(MAGIC) <= start <= end:
        raise McapError("the summary's place is not in the file")
    summary = _bytes_at(file, start, end - start, size)
    if checksum and crc32(footer[:25], crc32(summary)) != checksum:
        raise McapError("summary checksum does not match")
    index = Index(data_end=start)
    records = list(_parsed(summary + footer))
    for record in records:
        index.declare(record)
        if isinstance(record, MetadataIndex):
            for found in _parsed(_bytes_at(file, record.offset, record.length, size) + footer):
                index.declare(found)
    total = _account(index, records)
    chunks = sorted((r for r in records if isinstance(r, ChunkIndex)), key=lambda r: r.chunk_start_offset)
    _place_chunks(index, chunks, file, size)
    complete = total is not None and total == sum(place.messages for place in index.chunks)
    return index if complete and (index.channels or total == 0) else None


def _account(index: Index, records: Iterable[McapRecord]) -> int | None:
    for record in records:
        if isinstance(record, Statistics):
            index.start_ns, index.end_ns = record.message_start_time, record.message_end_time
            index.counts.update(record.channel_message_counts)
            return record.message_count
    return None


def _place_chunks(index: Index, chunks: list[ChunkIndex], file: BinaryIO, size: int) -> None:
    """Fills chunks and stretches from the message indexes behind the chunks.

    Raises:
        McapError: a chunk's place is not in the file, or two chunks share one.
    """
    ends = [chunk.chunk_start_offset + chunk.chunk_length + chunk.message_index_length for chunk in chunks]
    borders = [*(chunk.chunk_start_offset for chunk in chunks), index.data_end][1:]
    if any(end > border for end, border in zip(ends, borders, strict=True)):
        raise McapError("a chunk's place is not in the file")
    shared: dict[tuple[int, ...], tuple[int, ...]] = {}  # most chunks hold the same channels: one tuple for all
    for chunk in chunks:
        start = chunk.chunk_start_offset + chunk.chunk_length
        tables = list(_parsed(_bytes_at(file, start, chunk.message_index_length, size), footer=False))
        messages = 0
        for table in tables:
            if isinstance(table, MessageIndex):
                messages += len(table.records)
                in_file_order = (time_ns for time_ns, _ in sorted(table.records, key=lambda entry: entry[1]))
                index.stretches.setdefault(table.channel_id, []).extend(stretches_of(in_file_order))
        channels = tuple(table.channel_id for table in tables if isinstance(table, MessageIndex))
        index.chunks.append(
            ChunkPlace(
                chunk.chunk_start_offset,
                chunk.chunk_length,
                chunk.message_start_time,
                chunk.message_end_time,
                shared.setdefault(channels, channels),
                messages,
            )
        )
        file.seek(chunk.chunk_start_offset)
        head = file.read(9 + 28)
        if len(head) < 37 or head[:9] != struct.pack("<BQ", 0x06, chunk.chunk_length - 9):
            raise McapError("a chunk's place is not in the file")
        index.checksummed = index.checksummed and any(head[-4:])


class _Records(StreamReader):
    """The package's reader passes over what it does not know; a disk's zeros, by the gigabyte, are no records."""

    def _read_record(self, opcode: int, length: int) -> McapRecord | None:
        if opcode == 0:
            raise McapError("zeros where a record should be")
        return super()._read_record(opcode, length)


def _parsed(content: bytes, *, footer: bool = True) -> Iterable[McapRecord]:
    """The records of a block of bytes."""
    end = b"" if footer else struct.pack("<BQQQI", 0x02, 20, 0, 0, 0) + MAGIC
    return _Records(
        BytesIO(content + end), skip_magic=True, emit_chunks=True, record_size_limit=max(len(content), FOOTER_BYTES)
    ).records


def _bytes_at(file: BinaryIO, offset: int, length: int, size: int) -> bytes:
    if length > min(size - offset, MAX_OUTPUT_BYTES):
        raise McapError("the file is cut short" if length == FOOTER_BYTES else "a record's place is not in the file")
    file.seek(offset)
    return file.read(length)


class _Clamped:
    """A file that never makes room for more bytes than it has."""

    def __init__(self, file: BinaryIO, size: int) -> None:
        self._file, self._size = file, size

    def read(self, count: int) -> bytes:
        return self._file.read(max(0, min(count, self._size - self._file.tell())))


def _from_scan(file: BinaryIO, size: int, losses: Losses, *, recover: bool) -> Index:
    """Reads every record once; where `recover` allows it, a broken record ends the file."""
    index = Index(start_ns=2**63 - 1, data_end=len(MAGIC))
    file.seek(0)
    reader = _Records(cast(BytesIO, _Clamped(file, size)), emit_chunks=True, record_size_limit=MAX_OUTPUT_BYTES)
    times: dict[int, list[int]] = {}
    try:
        for record in reader.records:
            if isinstance(record, DataEnd | Footer):
                break
            index.declare(record)
            if isinstance(record, Message):
                index.has_loose_messages = True
                _count(index, record, times)
            elif isinstance(record, Chunk):
                _scan_chunk(index, record, file.tell(), losses)
            index.data_end = file.tell()
    except Exception as error:
        if not recover:
            raise
        cut = f"{size - index.data_end} bytes at the end not read, {one_line(error) or 'it is cut'}"
        losses.once(f"{Path(file.name).name}: {cut}")
    for channel, found in times.items():
        index.stretches.setdefault(channel, []).extend(stretches_of(found))
    index.start_ns = min(index.start_ns, index.end_ns)
    return index


def _scan_chunk(index: Index, chunk: Chunk, end: int, losses: Losses) -> None:
    offset = end - 9 - 40 - len(chunk.compression.encode()) - len(chunk.data)
    try:
        records = records_of(chunk)
    except Exception as error:
        losses.once(f"chunk at byte {offset + 9}: {one_line(error)}")
        return
    index.checksummed = index.checksummed and chunk.uncompressed_crc != 0
    index.empty_chunks += not records
    if index.empty_chunks > _MOST_EMPTY_CHUNKS:
        raise McapError(f"more than {_MOST_EMPTY_CHUNKS} chunks are empty")
    times: dict[int, list[int]] = {}
    for record in records:
        index.declare(record)
        if isinstance(record, Message):
            _count(index, record, times)
    for channel, found in times.items():
        index.stretches.setdefault(channel, []).extend(stretches_of(found))
    messages = sum(map(len, times.values()))
    starts = (chunk.message_start_time, chunk.message_end_time)
    index.chunks.append(ChunkPlace(offset, end - offset, *starts, tuple(sorted(times)), messages))


def _count(index: Index, message: Message, times: dict[int, list[int]]) -> None:
    index.counts[message.channel_id] += 1
    index.start_ns = min(index.start_ns, message.log_time)
    index.end_ns = max(index.end_ns, message.log_time)
    times.setdefault(message.channel_id, []).append(message.log_time)
