# SPDX-License-Identifier: Apache-2.0
"""SYNTHETIC bags for tests: small recordings by the package's writer, and MCAP files put together by hand."""

import struct
from collections.abc import Callable, Iterable, Mapping, Sequence
from fractions import Fraction
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal, NamedTuple
from zlib import crc32

import lz4.frame
import numpy as np
from backports import zstd
from numpy import ndarray
from rosbags.typesys import Stores, get_types_from_msg, get_typestore
from small import HEIGHT, WIDTH, small_contract  # noqa: F401 - what most recordings are of

from sigma_ros.bags.reader import Record
from sigma_ros.bags.writer import BagWriter
from sigma_ros.contract import Contract

SIZE = 16
MS = 1_000_000
START_NS = 1_700_000_000_000_000_000
TASK = "pick the brick"
TASK_TOPIC = "/sigma_policy/task"
SHARED_DATA = Path(__file__).resolve().parents[2].parent / "shared" / "data"


def picture(seed: int) -> ndarray:
    return np.random.default_rng(seed).integers(0, 256, (HEIGHT, WIDTH, 3), dtype=np.uint8)


def pose(tick: int, dof: int) -> ndarray:
    return np.sin(0.05 * tick + np.arange(dof))


def write_recording(
    path: Path,
    contract: Contract,
    *,
    ticks: int = 60,
    first_tick: int = 0,
    storage: Literal["mcap", "sqlite3"] = "mcap",
    jpeg_quality: int | None = None,
    task: str | None = TASK,
    commands: bool = True,
    leave_out: Sequence[str] = (),
    marks: Mapping[int, bool] = MappingProxyType({}),
) -> Path:
    """Every stream at its tick; joints once more between ticks. The command of a tick is its pose plus 0.01 rad.

    `marks`: what `sigma/intervention` says from a tick on.
    """
    with BagWriter(path, storage=storage, metadata={"note": "synthetic"}) as bag:
        if task is not None:
            bag.text(TASK_TOPIC, START_NS + contract.tick_offset_ns(first_tick), task)
        for tick in range(first_tick, first_tick + ticks):
            stamp_ns = START_NS + contract.tick_offset_ns(tick)
            if tick in marks:
                bag.raw("/sigma/intervention", "std_msgs/msg/Bool", stamp_ns, bytes([0, 1, 0, 0, marks[tick]]))
            for index, camera in enumerate(contract.cameras):
                if camera.topic not in leave_out:
                    bag.image(camera.topic, stamp_ns, camera.name, picture(2 * tick + index), jpeg_quality=jpeg_quality)
            if contract.joint_state_topic not in leave_out:
                for extra_ns in (0, 15 * MS):
                    bag.joints(
                        contract.joint_state_topic,
                        stamp_ns + extra_ns,
                        contract.joint_names,
                        pose(tick, contract.dof) + (0.001 if extra_ns else 0.0),
                    )
            if commands and contract.command_topic not in leave_out:
                bag.array(contract.command_topic, stamp_ns, pose(tick, contract.dof) + 0.01)
    return path


VIDEO = {
    "foxglove_msgs/msg/CompressedVideo": (
        "builtin_interfaces/Time timestamp\nstring frame_id\nuint8[] data\nstring format\n"
    ),
    "ffmpeg_image_transport_msgs/msg/FFMPEGPacket": (
        "std_msgs/Header header\nint32 width\nint32 height\nstring encoding\nuint64 pts\nuint8 flags\n"
        "bool is_bigendian\nuint8[] data\n"
    ),
    "sensor_msgs/msg/CompressedImage": "std_msgs/Header header\nstring format\nuint8[] data\n",
}
"""Message types that carry a video's packets, and their definitions."""


def shade(tick: int, camera: int) -> int:
    """The grey of a video's picture; neighbours differ by more than coding does."""
    return (40 + 12 * tick + 90 * camera) % 200 + 20


def video_packets(shades: Sequence[int], *, codec: str = "libx264", **options: str) -> list[tuple[int, bytes]]:
    """Coded pictures in Annex B as they leave the encoder, each with its number; a key frame every eighth."""
    import av  # noqa: PLC0415

    encoder = av.CodecContext.create(codec, "w")
    encoder.width, encoder.height, encoder.pix_fmt, encoder.time_base = WIDTH, HEIGHT, "yuv420p", Fraction(1, 30)
    encoder.options = {"tune": "zerolatency", "preset": "ultrafast", "g": "8", "crf": "10", **options}
    frames = [av.VideoFrame.from_ndarray(np.full((HEIGHT, WIDTH, 3), s, np.uint8), format="rgb24") for s in shades]
    for number, frame in enumerate(frames):
        frame.pts = number
    return [(packet.pts, bytes(packet)) for frame in [*frames, None] for packet in encoder.encode(frame)]


def write_video_recording(
    path: Path,
    contract: Contract,
    *,
    ticks: int = 24,
    msgtype: str = "foxglove_msgs/msg/CompressedVideo",
    storage: Literal["mcap", "sqlite3"] = "mcap",
    suffix: str = "",
    name: str = "h264",
    without: Sequence[int] = (),
    change: Callable[[int, bytes], bytes] = lambda _, data: data,
    **options: str,
) -> Path:
    """A recording whose cameras are videos; packets `without` are left out of all of them, others may be changed."""
    store = get_typestore(Stores.ROS2_JAZZY)
    for kind in VIDEO.keys() - store.types.keys():
        store.register(get_types_from_msg(VIDEO[kind], kind))
    types = store.types
    with BagWriter(path, storage=storage) as bag:
        films = [video_packets([shade(t, c) for t in range(ticks)], **options) for c, _ in enumerate(contract.cameras)]
        for tick in range(ticks):
            log_ns = START_NS + contract.tick_offset_ns(tick)
            for camera, film in zip(contract.cameras, films, strict=True):
                number, coded = film[tick]
                stamp = types["builtin_interfaces/msg/Time"](*divmod(START_NS + contract.tick_offset_ns(number), 10**9))
                header = types["std_msgs/msg/Header"](stamp=stamp, frame_id="camera")
                fields: dict[str, Any] = {
                    "foxglove_msgs/msg/CompressedVideo": {"timestamp": stamp, "frame_id": "c", "format": "h264"},
                    "ffmpeg_image_transport_msgs/msg/FFMPEGPacket": {
                        "header": header,
                        "width": WIDTH,
                        "height": HEIGHT,
                        "encoding": f"{name};yuv420p",
                        "pts": number,
                        "flags": 0,
                        "is_bigendian": False,
                    },
                    "sensor_msgs/msg/CompressedImage": {"header": header, "format": "h264"},
                }[msgtype]
                data = np.frombuffer(change(tick, coded), np.uint8)
                if tick not in without:
                    cdr = bytes(store.serialize_cdr(types[msgtype](**fields, data=data), msgtype))
                    bag.raw(camera.topic + suffix, msgtype, log_ns, cdr, definition=VIDEO[msgtype])
            bag.joints(contract.joint_state_topic, log_ns, contract.joint_names, pose(tick, contract.dof))
            bag.array(contract.command_topic, log_ns, pose(tick, contract.dof) + 0.01)
    return path


def storage_file(bag: Path) -> Path:
    (file,) = [file for file in bag.iterdir() if file.suffix in (".mcap", ".db3")]
    return file


def plain(record: Record) -> tuple:
    """A record as values that compare."""
    message = record.message
    if isinstance(message, ndarray):
        message = message.tolist()
    elif isinstance(message, memoryview):
        message = bytes(message)
    elif hasattr(message, "positions_rad"):
        message = (message.names, message.positions_rad.tolist())
    elif hasattr(message, "encoding"):
        message = (message.encoding, message.height, message.width, message.step, bytes(message.data))
    return (record.topic, record.msgtype, record.log_time_ns, record.stamp_ns, message)


class Row(NamedTuple):
    """A message for `hand_made_mcap`: std_msgs/String on a topic."""

    log_time_ns: int
    topic: str
    text: str


def hand_made_mcap(
    chunks: Iterable[Sequence[Row]],
    *,
    compression: Literal["", "zstd", "lz4", "snappy"] = "",
    chunked: bool = True,
    summary: bool = True,
    message_index: bool = True,
    checksums: bool = True,
    encoding: str = "cdr",
) -> bytes:
    """An MCAP file as other writers make them. One chunk per list of rows."""
    chunks = [list(rows) for rows in chunks]
    topics = sorted({row.topic for rows in chunks for row in rows})
    declarations = _record(
        3, struct.pack("<H", 1) + _text("std_msgs/msg/String") + _text("ros2msg") + _text("string data")
    )
    for index, topic in enumerate(topics):
        declarations += _record(4, struct.pack("<HH", index, 1) + _text(topic) + _text(encoding) + struct.pack("<I", 0))
    out = b"\x89MCAP0\r\n" + _record(1, _text("ros2") + _text("hand"))
    out += declarations
    indexes = b""
    for rows in chunks:
        if not chunked:
            out += b"".join(_message(row, topics) for row in rows)
            continue
        written, entry = _chunk(rows, topics, len(out), compression, checksums=checksums, message_index=message_index)
        out += written
        indexes += entry
    out += _record(15, struct.pack("<I", 0))
    start = len(out) if summary else 0
    if summary:
        out += declarations + indexes + _statistics([row for rows in chunks for row in rows], topics, len(chunks))
    footer = b"\x02" + struct.pack("<QQQ", 20, start, 0)
    checksum = crc32(out[start:] + footer) if checksums and summary else 0
    return out + footer + struct.pack("<I", checksum) + b"\x89MCAP0\r\n"


def _text(text: str) -> bytes:
    return struct.pack("<I", len(text.encode())) + text.encode()


def _record(opcode: int, content: bytes) -> bytes:
    return struct.pack("<BQ", opcode, len(content)) + content


def _message(row: Row, topics: Sequence[str]) -> bytes:
    body = row.text.encode() + b"\0"
    cdr = b"\0\1\0\0" + struct.pack("<I", len(body)) + body
    return _record(5, struct.pack("<HIQQ", topics.index(row.topic), 0, row.log_time_ns, row.log_time_ns) + cdr)


def _chunk(
    rows: Sequence[Row], topics: Sequence[str], offset: int, compression: str, *, checksums: bool, message_index: bool
) -> tuple[bytes, bytes]:
    records = b""
    places: dict[int, list[tuple[int, int]]] = {}
    for row in rows:
        places.setdefault(topics.index(row.topic), []).append((row.log_time_ns, len(records)))
        records += _message(row, topics)
    stored = {"zstd": zstd.compress, "lz4": lz4.frame.compress}.get(compression, bytes)(records)
    first, last = min(row.log_time_ns for row in rows), max(row.log_time_ns for row in rows)
    content = struct.pack("<QQQI", first, last, len(records), crc32(records) if checksums else 0)
    chunk = _record(6, content + _text(compression) + struct.pack("<Q", len(stored)) + stored)
    index_records, offsets = b"", b""
    for channel, entries in places.items() if message_index else ():
        offsets += struct.pack("<HQ", channel, offset + len(chunk) + len(index_records))
        body = b"".join(struct.pack("<QQ", *entry) for entry in entries)
        index_records += _record(7, struct.pack("<HI", channel, len(body)) + body)
    head = struct.pack("<QQQQI", first, last, offset, len(chunk), len(offsets)) + offsets
    tail = struct.pack("<Q", len(index_records)) + _text(compression) + struct.pack("<QQ", len(stored), len(records))
    return chunk + index_records, _record(8, head + tail)


def _statistics(rows: Sequence[Row], topics: Sequence[str], chunks: int) -> bytes:
    counts = b"".join(struct.pack("<HQ", i, sum(row.topic == topic for row in rows)) for i, topic in enumerate(topics))
    times = [row.log_time_ns for row in rows] or [0]
    head = struct.pack("<QHIIIIQQ", len(rows), 1, len(topics), 0, 0, chunks, min(times), max(times))
    return _record(11, head + struct.pack("<I", len(counts)) + counts)
