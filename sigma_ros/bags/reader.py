# SPDX-License-Identifier: Apache-2.0
"""A rosbag2 bag as a stream of typed records, never loaded whole: MCAP or SQLite, split, compressed, without metadata.

with open_bag("recording") as bag:
    for record in bag.records(topics):
        ...
"""

import hashlib
from collections import defaultdict
from collections.abc import Collection, Generator, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from heapq import merge
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Literal, NamedTuple, Self

from backports import zstd

from sigma_ros.addresses import address_of, copied, files_at
from sigma_ros.bags import messages
from sigma_ros.bags.files import Stored, clock_was_set, find_files, unpacked
from sigma_ros.bags.losses import Losses
from sigma_ros.bags.mcap_file import McapFile
from sigma_ros.bags.sqlite_file import SqliteFile
from sigma_ros.border import most_output_bytes, one_line
from sigma_ros.errors import BagError, SigmaError, UsageError
from sigma_ros.streams.images import ImageMessage
from sigma_ros.streams.video import Taken, VideoDecoder, VideoError, VideoPacket

_ZSTD_FRAME = b"\x28\xb5\x2f\xfd"
Stamps = Literal["header", "log"]
"""Which time a message has: its header's, or when it was recorded."""


StorageFile = McapFile | SqliteFile
"""One opened file of a bag. `foreign` are the topics whose messages are not CDR: reason and number of messages."""


class Record(NamedTuple):
    """One message. `stamp_ns` is the header's stamp, or the log time where the type has no header.

    `message` is `ImageMessage`, `JointMessage`, `TrajectoryMessage`, an array (Float64MultiArray), a text (String),
    nanoseconds (Clock), and the CDR bytes for any other type. Arrays and bytes are views.
    """

    topic: str
    msgtype: str
    log_time_ns: int
    stamp_ns: int
    message: Any


@dataclass(frozen=True, slots=True, kw_only=True)
class BagInfo:
    """What a bag says about itself. Times are log times; `losses` counts what could not be read so far.

    `checksummed` is False where some data has no checksum: damage in it would go unnoticed.
    """

    path: Path
    storage: Literal["mcap", "sqlite3"]
    files: tuple[Path, ...]
    topics: tuple[str, ...]
    types: Mapping[str, str]
    counts: Mapping[str, int]
    start_ns: int
    end_ns: int
    checksummed: bool
    metadata: Mapping[str, str]
    losses: Mapping[str, int]

    @property
    def duration_s(self) -> float:
        """Seconds from the first to the last message."""
        return (self.end_ns - self.start_ns) / 1e9

    @property
    def messages(self) -> int:
        """Number of messages."""
        return sum(self.counts.values())

    def sha256(self) -> str:
        """Hash over the contents of the storage files in recording order, in hexadecimal."""
        digest = hashlib.sha256()
        for file in self.files:
            with file.open("rb") as source:
                while block := source.read(1 << 20):
                    digest.update(block)
        return digest.hexdigest()


class Bag:
    """An open bag; see `open_bag`."""

    stamps: Stamps = "header"

    def __init__(self, path: Path, *, strict: bool, recover: bool, stamps: Stamps = "header") -> None:
        self.path = path
        self.stamps = stamps
        self._losses = Losses(path, strict=strict)
        self._stack = ExitStack()
        try:
            self._open(recover=recover)
        except BaseException:
            self._stack.close()
            raise

    def _open(self, *, recover: bool) -> None:
        folder = self._stack.enter_context(TemporaryDirectory(prefix="sigma_bag_"))
        found = find_files(self._here(Path(folder)), self._losses)
        self._files = found.files
        self._storages: list[StorageFile] = []
        for file in found.files:
            try:
                storage = self._storage(unpacked(file, Path(folder), self._losses, recover=recover), recover=recover)
            except SigmaError as error:
                if not recover or len(found.files) == 1:
                    raise
                self._losses.once(f"{file.name} is not read: {error.what}, {one_line(error.got, 80)}")
                continue
            self._storages.append(storage)
            self._stack.callback(storage.close)
        if not self._storages:
            raise BagError("no file of the bag can be read", where=self.path, got=", ".join(self._losses.snapshot()))
        self._metadata: dict[str, str] = {}
        self._foreign: dict[str, tuple[str, int]] = {}
        self._types: dict[str, str] = {}
        self._counts: dict[str, int] = {}
        self._has_header: dict[str, bool] = {}
        self._set_back: dict[str, bool] = {}
        for storage in self._storages:
            self._adopt(storage)
        self._metadata |= found.custom_data

    def _here(self, folder: Path) -> Path:
        """Where the bag is on this machine: at its path, or in a copy of what is at its address."""
        if (address := address_of(self.path)) is None:
            return self.path
        files = [file for file in files_at(address) if "/" not in file.name]
        copy = folder / self.path.name
        copied(address, files, folder if files[0].name == copy.name else copy)
        return copy

    def _storage(self, file: Path, *, recover: bool) -> StorageFile:
        if file.suffix == ".mcap":
            return McapFile(file, self._losses, recover=recover)
        return SqliteFile(file, self._losses)

    def _adopt(self, storage: StorageFile) -> None:
        self._metadata |= storage.custom_data
        self._foreign |= storage.foreign
        for topic, stored_type in storage.types.items():
            msgtype = _modern(stored_type)
            if self._types.setdefault(topic, msgtype) != msgtype:
                raise BagError(
                    "a topic changes its type between the bag's files",
                    where=topic,
                    expected=self._types[topic],
                    got=msgtype,
                )
            self._counts[topic] = self._counts.get(topic, 0) + storage.counts[topic]
        for msgtype, text in storage.definitions.items():
            self._has_header[_modern(msgtype)] = _begins_with_header(text)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Closes the files; records that were taken stay valid."""
        self._stack.close()

    @property
    def foreign(self) -> Mapping[str, tuple[str, int]]:
        """Topics whose messages are not CDR (JSON, ROS 1): why they cannot be read, and how many there are."""
        return self._foreign

    @property
    def info(self) -> BagInfo:
        """Snapshot: losses and `checksummed` are those of what was read so far."""
        filled = [storage for storage in self._storages if sum(storage.counts.values())]
        return BagInfo(
            path=self.path,
            storage="mcap" if isinstance(self._storages[0], McapFile) else "sqlite3",
            files=self._files,
            topics=tuple(sorted(self._types)),
            types=dict(self._types),
            counts=dict(self._counts),
            start_ns=min((storage.start_ns for storage in filled), default=0),
            end_ns=max((storage.end_ns for storage in filled), default=0),
            checksummed=all(storage.checksummed for storage in self._storages),
            metadata=dict(self._metadata),
            losses=self._losses.snapshot(),
        )

    def records(self, topics: Collection[str] | None = None) -> Generator[Record]:
        """Records of some topics (None: of all) by log time. Undecodable messages are counted and left out.

        Where a topic's log times show that the clock was set back, records come in the order of the file: sorted, two
        moments of the recording would be mixed.

        Raises:
            BagError: in strict mode, at the first loss.
        """
        wanted = frozenset((*self._types, *self._foreign) if topics is None else topics)
        for topic in sorted(wanted & self._foreign.keys()):
            self._losses.once(*self._foreign[topic])
        decoders: defaultdict[str, VideoDecoder] = defaultdict(VideoDecoder)
        for log_time_ns, topic, data in self._stored(wanted):
            msgtype = self._types[topic]
            try:
                stamp_ns, message = messages.decode(
                    msgtype, _plain(data), has_header=self._has_header.get(msgtype, False)
                )
            except (messages.CdrError, zstd.ZstdError) as error:
                self._losses.add(f"{topic}: {error}")
                continue
            own_ns = log_time_ns if stamp_ns is None or self.stamps == "log" else stamp_ns
            if isinstance(message, VideoPacket):
                yield from self._pictures(topic, decoders[topic].pictures(message, Taken(log_time_ns, own_ns)))
            else:
                yield Record(topic, msgtype, log_time_ns, own_ns, message)
        for topic, decoder in decoders.items():
            yield from self._pictures(topic, decoder.rest())

    def _pictures(self, topic: str, found: Iterator[tuple[Taken, ImageMessage]]) -> Iterator[Record]:
        try:
            for taken, picture in found:
                yield Record(topic, self._types[topic], taken.log_time_ns, taken.stamp_ns, picture)
        except VideoError as error:
            self._losses.add(f"{topic}: {error}")

    def topic(self, name: str) -> str:
        """The bag's topic of this name, with or without a leading slash; an absolute name where there is none."""
        absolute = "/" + name.removeprefix("/")
        return next((topic for topic in (name, absolute, absolute[1:]) if topic in self._types), absolute)

    def lose_once(self, reason: str) -> None:
        """Counts a loss that whoever reads this bag has found."""
        self._losses.once(reason)

    def first_text(self, topic: str) -> str:
        """The first text on a topic that is not empty, or an empty one."""
        return next((str(record.message) for record in self.records((topic,)) if record.message), "")

    def _stored(self, wanted: frozenset[str]) -> Iterator[Stored]:
        by_time = not any(self._clock_was_set(topic) for topic in wanted & self._types.keys())
        streams = [storage.messages(wanted, by_time=by_time) for storage in self._storages]
        pairs = zip(self._storages, self._storages[1:], strict=False)
        if not by_time or all(earlier.end_ns <= later.start_ns for earlier, later in pairs):
            return (message for stream in streams for message in stream)
        return merge(*streams, key=lambda message: message.log_time_ns)

    def _clock_was_set(self, topic: str) -> bool:
        if topic not in self._set_back:
            stretches = [stretch for storage in self._storages for stretch in storage.stretches(topic)]
            self._set_back[topic] = clock_was_set(stretches)
        return self._set_back[topic]


def open_bag(path: str | Path, *, strict: bool = False, recover: bool = False, stamps: Stamps = "header") -> Bag:
    """Opens a rosbag2 folder (metadata.yaml is optional), or a single .mcap or .db3 file.

    Args:
        path: The bag.
        strict: Losses are errors instead of counts.
        recover: Read a bag whose end is cut off as far as it goes; without it that is an error.
        stamps: `log` takes the time of recording in place of the headers', where those are zero or of another clock.

    Raises:
        BagError: there is no bag, or it cannot be read.
    """
    if stamps not in ("header", "log"):
        raise UsageError("there are no such stamps", expected="header or log", got=one_line(stamps, 40))
    return Bag(Path(path), strict=strict, recover=recover, stamps=stamps)


def _modern(msgtype: str) -> str:
    """A type's full name: rosbag2 of 2019 left `msg` out (`sensor_msgs/Image`)."""
    package, _, name = msgtype.partition("/")
    return msgtype if "/" in name or not name else f"{package}/msg/{name}"


def _begins_with_header(definition: str) -> bool:
    """Whether a ros2msg text's first field is a std_msgs/Header."""
    for line in definition.splitlines():
        words = line.split("#")[0].split()
        if words and "=" not in line.split("#")[0]:
            return words[0] in ("std_msgs/Header", "std_msgs/msg/Header")
    return False


def _plain(data: memoryview) -> memoryview:
    """A message, decompressed where the recorder compressed message by message: CDR never begins like a zstd frame."""
    if data[:4] != _ZSTD_FRAME:
        return data
    most = most_output_bytes(len(data))
    return memoryview(zstd.ZstdDecompressor().decompress(data, max_length=most))
