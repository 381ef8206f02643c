# SPDX-License-Identifier: Apache-2.0
"""A rosbag2 bag as a stream of typed records, never loaded whole: MCAP or SQLite, split, compressed, without metadata.

with open_bag("recording") as bag:
    bag.check_against(contract)
    for record in bag.records(topics):
        ...
"""

import hashlib
from collections.abc import Collection, Generator, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from heapq import merge
from pathlib import Path
from tempfile import TemporaryDirectory
from types import TracebackType
from typing import Any, Literal, NamedTuple, Self

from backports import zstd

from sigma_ros.contract import Contract
from sigma_ros.errors import BagError
from sigma_ros.evaluation import cdr
from sigma_ros.evaluation.bag_check import CameraTopic, check_topics, resolve_cameras
from sigma_ros.evaluation.bag_files import find_files, unpacked
from sigma_ros.evaluation.mcap_file import McapFile
from sigma_ros.evaluation.sqlite_file import SqliteFile
from sigma_ros.evaluation.storage import Losses, StorageFile, Stored

_MAX_MESSAGE_BYTES = 1 << 28


class Record(NamedTuple):
    """One message. `stamp_ns` is the header's stamp, or the log time where the type has no header.

    `message` is `ImageMessage`, `cdr.JointMessage`, `cdr.TrajectoryMessage`, an array (Float64MultiArray), a text
    (String), nanoseconds (Clock), and the CDR bytes for any other type. Arrays and bytes are views.
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

    def __init__(self, path: Path, *, strict: bool, recover: bool) -> None:
        self.path = path
        self._losses = Losses(path, strict=strict)
        self._stack = ExitStack()
        try:
            self._open(recover=recover)
        except BaseException:
            self._stack.close()
            raise

    def _open(self, *, recover: bool) -> None:
        found = find_files(self.path, self._losses)
        self._files = found.files
        self._message_compression = found.message_compression
        folder = self._stack.enter_context(TemporaryDirectory(prefix="sigma_bag_"))
        self._storages: list[StorageFile] = []
        for file in found.files:
            self._storages.append(self._storage(unpacked(file, Path(folder)), recover=recover))
            self._stack.callback(self._storages[-1].close)
        self._metadata: dict[str, str] = {}
        self._types: dict[str, str] = {}
        self._counts: dict[str, int] = {}
        self._has_header: dict[str, bool] = {}
        for storage in self._storages:
            self._adopt(storage)
        self._metadata |= found.custom_data

    def _storage(self, file: Path, *, recover: bool) -> StorageFile:
        if file.suffix == ".mcap":
            return McapFile(file, self._losses, recover=recover)
        return SqliteFile(file, self._losses)

    def _adopt(self, storage: StorageFile) -> None:
        self._metadata |= storage.custom_data
        for topic, msgtype in storage.types.items():
            if self._types.setdefault(topic, msgtype) != msgtype:
                raise BagError(
                    "a topic changes its type between the bag's files",
                    where=topic,
                    expected=self._types[topic],
                    got=msgtype,
                )
            self._counts[topic] = self._counts.get(topic, 0) + storage.counts[topic]
        for msgtype, text in storage.definitions.items():
            self._has_header[msgtype] = _begins_with_header(text)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> Literal[False]:
        self.close()
        return False

    def close(self) -> None:
        """Closes the files; records that were taken stay valid."""
        self._stack.close()

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

    def check_against(self, contract: Contract) -> None:
        """Refuses a bag that lacks what the contract needs, naming all that is missing or of another type.

        Raises:
            ContractError: topics are missing, empty or of another type.
        """
        check_topics(self.info, contract)

    def camera_topics(self, contract: Contract) -> dict[str, CameraTopic]:
        """Camera name to where its images are in this bag: the contract's topic, or that plus `/compressed`."""
        return resolve_cameras(self._types, contract)

    def records(self, topics: Collection[str] | None = None) -> Generator[Record]:
        """Records of some topics (None: of all) by log time. Undecodable messages are counted and left out.

        Raises:
            BagError: in strict mode, at the first loss.
        """
        wanted = frozenset(self._types if topics is None else topics)
        for log_time_ns, topic, data in self._stored(wanted):
            msgtype = self._types[topic]
            try:
                stamp_ns, message = cdr.decode(msgtype, data, has_header=self._has_header.get(msgtype, False))
            except cdr.CdrError as error:
                self._losses.add(f"{topic}: {error}")
                continue
            yield Record(topic, msgtype, log_time_ns, log_time_ns if stamp_ns is None else stamp_ns, message)

    def first(self, topic: str) -> Record | None:
        """The first record of a topic, None if it has none."""
        return next(self.records((topic,)), None) if topic in self._types else None

    def _stored(self, wanted: frozenset[str]) -> Iterator[Stored]:
        streams = [storage.messages(wanted) for storage in self._storages]
        pairs = zip(self._storages, self._storages[1:], strict=False)
        if all(earlier.end_ns <= later.start_ns for earlier, later in pairs):
            stored = (message for stream in streams for message in stream)
        else:
            stored = merge(*streams, key=lambda message: message.log_time_ns)
        return self._decompressed(stored) if self._message_compression else stored

    def _decompressed(self, stored: Iterator[Stored]) -> Iterator[Stored]:
        for message in stored:
            try:
                data = zstd.ZstdDecompressor().decompress(message.data, max_length=_MAX_MESSAGE_BYTES)
            except zstd.ZstdError as error:
                self._losses.add(f"{message.topic}: {error}")
                continue
            yield message._replace(data=memoryview(data))


def open_bag(path: str | Path, *, strict: bool = False, recover: bool = False) -> Bag:
    """Opens a rosbag2 folder (metadata.yaml is optional), or a single .mcap or .db3 file.

    Args:
        path: The bag.
        strict: Losses are errors instead of counts.
        recover: Read a bag whose end is cut off as far as it goes; without it that is an error.

    Raises:
        BagError: there is no bag, or it cannot be read.
    """
    return Bag(Path(path), strict=strict, recover=recover)


def _begins_with_header(definition: str) -> bool:
    """Whether a ros2msg text's first field is a std_msgs/Header."""
    for line in definition.splitlines():
        words = line.split("#")[0].split()
        if words and "=" not in line.split("#")[0]:
            return words[0] in ("std_msgs/Header", "std_msgs/msg/Header")
    return False
