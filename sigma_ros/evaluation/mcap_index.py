# SPDX-License-Identifier: Apache-2.0
"""The table of contents of an MCAP file: from its summary, or by reading it once where there is none."""

import os
from collections import Counter
from dataclasses import dataclass, field
from typing import BinaryIO

from sigma_ros.evaluation import mcap_format as mcap
from sigma_ros.evaluation.checksum import crc32
from sigma_ros.evaluation.storage import Losses


@dataclass(slots=True)
class Index:
    """Channels, types, message counts by channel and where the chunks are, by start time."""

    schemas: dict[int, mcap.Schema] = field(default_factory=dict)
    channels: dict[int, mcap.Channel] = field(default_factory=dict)
    counts: Counter[int] = field(default_factory=Counter)
    chunks: list[mcap.ChunkPlace] = field(default_factory=list)
    metadata: dict[str, dict[str, str]] = field(default_factory=dict)
    start_ns: int = 0
    end_ns: int = 0
    data_end: int = 0
    has_loose_messages: bool = False


def read_index(file: BinaryIO, losses: Losses, *, recover: bool) -> Index:
    """Index of a file; `recover` also takes files whose end is missing or whose summary is damaged.

    Raises:
        McapError: not MCAP, cut short, or a damaged summary.
    """
    size = os.fstat(file.fileno()).st_size
    if size == 0:
        raise mcap.McapError("the file is empty")
    if file.read(len(mcap.MAGIC)) != mcap.MAGIC:
        raise mcap.McapError("the file does not begin as MCAP")
    try:
        index = _from_summary(file, size)
        if index is not None:
            return index
        data_end = size - mcap.FOOTER_BYTES
    except mcap.McapError as error:
        if not recover:
            raise
        losses.once(f"index not usable, file read from its start: {error}")
        data_end = size
    return _from_scan(file, data_end, losses, recover=recover)


def _from_summary(file: BinaryIO, size: int) -> Index | None:
    """None where the file has no summary, or one that does not account for all messages."""
    if size < len(mcap.MAGIC) + mcap.FOOTER_BYTES:
        raise mcap.McapError("the file is cut short")
    file.seek(size - mcap.FOOTER_BYTES)
    footer = memoryview(mcap.read_exact(file, mcap.FOOTER_BYTES))
    if footer[-8:] != mcap.MAGIC or footer[0] != mcap.FOOTER:
        raise mcap.McapError("the file is cut short: its closing record is missing")
    summary_start, _, checksum = mcap.Fields(footer[9:]).numbers("QQI")
    if summary_start == 0:
        return None
    length = size - mcap.FOOTER_BYTES - summary_start
    if summary_start < len(mcap.MAGIC) or length < 0:
        raise mcap.McapError("the summary's place is not in the file")
    file.seek(summary_start)
    summary = memoryview(mcap.read_exact(file, length))
    if checksum and crc32(footer[:25], crc32(summary)) != checksum:
        raise mcap.McapError("summary checksum does not match")
    index = Index(data_end=summary_start)
    total = _read_summary(index, summary, file)
    indexed = sum(place.messages for place in index.chunks)
    has_message_index = any(place.channels for place in index.chunks)
    if total is None or not index.channels or (has_message_index and indexed != total) or (total and not index.chunks):
        return None if total != 0 else index
    _sort(index, size)
    return index


def _read_summary(index: Index, summary: memoryview, file: BinaryIO) -> int | None:
    """Fills the index; the total number of messages, None without statistics."""
    total = None
    shared: dict[tuple[int, ...], tuple[int, ...]] = {}  # most chunks hold the same channels: one tuple for all
    for opcode, content in mcap.records_of(summary):
        if opcode == mcap.CHUNK_INDEX:
            place = mcap.read_chunk_index(content)
            index.chunks.append(place._replace(channels=shared.setdefault(place.channels, place.channels)))
        elif opcode == mcap.STATISTICS:
            fields = mcap.Fields(content)
            total, _, _, _, _, _, index.start_ns, index.end_ns = fields.numbers("QHIIIIQQ")
            index.counts.update(dict(fields.pairs("HQ")))
        elif opcode == mcap.METADATA_INDEX:
            offset, length = mcap.Fields(content).numbers("QQ")
            _read_metadata(index, file, offset, length)
        else:
            _declare(index, opcode, content)
    return total


def _read_metadata(index: Index, file: BinaryIO, offset: int, length: int) -> None:
    file.seek(offset)
    for opcode, content in mcap.records_of(memoryview(mcap.read_exact(file, length))):
        _declare(index, opcode, content)


def _declare(index: Index, opcode: int, content: memoryview) -> None:
    if opcode == mcap.SCHEMA:
        schema_id, schema = mcap.read_schema(content)
        index.schemas[schema_id] = schema
    elif opcode == mcap.CHANNEL:
        channel = mcap.read_channel(content)
        index.channels[channel.id] = channel
    elif opcode == mcap.METADATA:
        fields = mcap.Fields(content)
        name = fields.text()
        index.metadata[name] = fields.texts()


def _from_scan(file: BinaryIO, data_end: int, losses: Losses, *, recover: bool) -> Index:
    """Reads every record once; where `recover` allows it, a broken record ends the file."""
    index = Index(start_ns=2**63 - 1, data_end=len(mcap.MAGIC))
    file.seek(index.data_end)
    while index.data_end < data_end:
        try:
            opcode, length = mcap.Fields(memoryview(mcap.read_exact(file, 9))).numbers("BQ")
            if opcode in (mcap.DATA_END, mcap.FOOTER):
                break
            if length > data_end - file.tell():
                raise mcap.McapError("file ends inside a record")
            _scan_record(index, opcode, length, file, losses)
        except mcap.McapError as error:
            if not recover:
                raise
            losses.once(f"{data_end - index.data_end} bytes at the end not read: {error}")
            break
        index.data_end = file.tell()
    if index.end_ns == 0:
        index.start_ns = 0
    _sort(index, data_end)
    return index


def _scan_record(index: Index, opcode: int, length: int, file: BinaryIO, losses: Losses) -> None:
    start = file.tell()
    if opcode == mcap.MESSAGE:
        channel_id, _, log_time_ns, _ = mcap.Fields(memoryview(mcap.read_exact(file, 22))).numbers("HIQQ")
        _count(index, channel_id, log_time_ns)
        index.has_loose_messages = True
    elif opcode == mcap.CHUNK:
        _scan_chunk(index, start, memoryview(mcap.read_exact(file, length)), losses)
    elif opcode in (mcap.SCHEMA, mcap.CHANNEL, mcap.METADATA):
        _declare(index, opcode, memoryview(mcap.read_exact(file, length)))
    file.seek(start + length)


def _scan_chunk(index: Index, offset: int, content: memoryview, losses: Losses) -> None:
    fields = mcap.Fields(content)
    start_ns, end_ns, _, _ = fields.numbers("QQQI")
    compressed = fields.text() != ""
    try:
        records, _ = mcap.open_chunk(content)
        counts: Counter[int] = Counter()
        for opcode, record in mcap.records_of(records):
            if opcode == mcap.MESSAGE:
                channel_id, _, log_time_ns, _ = mcap.Fields(record).numbers("HIQQ")
                _count(index, channel_id, log_time_ns)
                counts[channel_id] += 1
            else:
                _declare(index, opcode, record)
    except mcap.McapError as error:
        losses.once(f"chunk at byte {offset}: {error}")
        return
    channels, messages = tuple(sorted(counts)), sum(counts.values())
    index.chunks.append(mcap.ChunkPlace(start_ns, end_ns, offset, len(content), channels, messages, compressed))


def _count(index: Index, channel_id: int, log_time_ns: int) -> None:
    index.counts[channel_id] += 1
    index.start_ns = min(index.start_ns, log_time_ns)
    index.end_ns = max(index.end_ns, log_time_ns)


def _sort(index: Index, size: int) -> None:
    for place in index.chunks:
        if place.offset + place.length > size:
            raise mcap.McapError("a chunk's place is not in the file")
    index.chunks.sort(key=lambda place: (place.start_ns, place.offset))
