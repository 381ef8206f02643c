# SPDX-License-Identifier: Apache-2.0
"""Writes rosbag2 bags that are either complete or absent: a temporary folder, renamed at the end.

rosbags writes the format (version 9); added here are checksums (`writer_storage`), the rename, and calls in the
package's own values.
"""

import os
import shutil
import sqlite3
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Self
from zlib import crc32

import numpy as np
from jaxtyping import Float64, UInt8
from numpy import ndarray
from rosbags.interfaces import Connection, Qos, QosDurability, QosHistory, QosLiveliness, QosReliability, QosTime
from rosbags.rosbag2 import CompressionMode, StoragePlugin, Writer
from rosbags.rosbag2.errors import WriterError
from rosbags.rosbag2.storage_mcap import McapWriter
from rosbags.rosbag2.storage_sqlite3 import Sqlite3Writer

from sigma_ros.bags.mcap_index import FOOTER_BYTES, MAGIC
from sigma_ros.bags.messages import ROS_TYPES, header
from sigma_ros.errors import BagError, UsageError
from sigma_ros.streams.images import as_jpeg

# rosbags' storage writers, with the checksums it leaves out of MCAP and without SQLite's journal.


_CRC_OFFSET = 9 + 24  # opcode and length of the chunk record, then two times and the size
_FOREVER = QosTime(9223372036, 854775807)


class _ChecksummedMcap(McapWriter):
    """rosbags' MCAP writer with the CRC-32 of chunks and summary filled in, so that a flipped bit is found."""

    def close_chunk(self) -> None:
        checksum = crc32(self.chunk.bio.getbuffer())
        start = self.bio.tell()
        super().close_chunk()
        self.bio.seek(start + _CRC_OFFSET)
        self.bio.write(checksum.to_bytes(4, "little"))
        self.bio.seek(0, os.SEEK_END)

    def close(self, version: int, metadata: str) -> None:
        super().close(version, metadata)
        with self.path.open("r+b") as file:
            checksum_at = file.seek(-len(MAGIC) - 4, os.SEEK_END)
            file.seek(-FOOTER_BYTES + 9, os.SEEK_END)
            summary_start = int.from_bytes(file.read(8), "little")
            file.seek(summary_start)
            checksum = crc32(file.read(checksum_at - summary_start))
            file.seek(checksum_at)
            file.write(checksum.to_bytes(4, "little"))


class _FastSqlite(Sqlite3Writer):
    """rosbags' SQLite writer without a rollback journal, for any thread: an unfinished bag is thrown away anyway."""

    def __init__(self, path: Path, compression: CompressionMode) -> None:
        super().__init__(path, compression)
        self.conn.close()
        self.conn = sqlite3.connect(self.path, check_same_thread=False)
        self.conn.executescript("PRAGMA journal_mode = OFF; PRAGMA synchronous = OFF;")
        self.cursor = self.conn.cursor()


class _Writer(Writer):
    STORAGE_PLUGINS: Mapping = {StoragePlugin.MCAP: _ChecksummedMcap, StoragePlugin.SQLITE3: _FastSqlite}


def qos(*, latched: bool) -> Qos:
    """Reliable; latched for what a late subscriber must still get."""
    return Qos(
        QosHistory.KEEP_LAST,
        1 if latched else 10,
        QosReliability.RELIABLE,
        QosDurability.TRANSIENT_LOCAL if latched else QosDurability.VOLATILE,
        _FOREVER,
        _FOREVER,
        QosLiveliness.AUTOMATIC,
        _FOREVER,
        avoid_ros_namespace_conventions=False,
    )


def open_storage(path: Path, storage: StoragePlugin) -> Writer:
    """An opened writer of the newest format version; it makes the folder `path`."""
    writer = _Writer(path, version=9, storage_plugin=storage)
    writer.open()
    return writer


class BagWriter:
    """Context manager; leaving it normally makes the bag appear at `path`, an exception leaves nothing.

    A crash of the process leaves nothing either. The disk is not waited for: after a power cut the checksums tell.
    Topics come into being with their first message. Stamps are nanoseconds and serve as header stamp and, unless one
    is given, as log time.
    `metadata` (texts) goes into the bag's custom data.

    Raises:
        UsageError: `path` exists and `overwrite` is false, or it is not a bag.
        BagError: the disk refused a write.
    """

    def __init__(
        self,
        path: str | Path,
        *,
        storage: Literal["mcap", "sqlite3"] = "mcap",
        overwrite: bool = False,
        metadata: Mapping[str, str] | None = None,
    ) -> None:
        self.path = Path(path)
        self._folder = self.path.with_name(self.path.name + ".tmp")
        self._storage = StoragePlugin.MCAP if storage == "mcap" else StoragePlugin.SQLITE3
        self._metadata = dict(metadata or {})
        self._connections: dict[tuple[str, str], Connection] = {}
        self._writer: Writer | None = None
        _check_target(self.path, overwrite=overwrite)

    def __enter__(self) -> Self:
        try:
            shutil.rmtree(self._folder, ignore_errors=True)  # left by a run that was killed
            self._folder.mkdir(parents=True)
            self._writer = open_storage(self._folder / self.path.name, self._storage)
            for key, value in self._metadata.items():
                self._writer.set_custom_data(key, value)
        except (OSError, WriterError, sqlite3.Error) as error:
            self.discard()
            raise self._refused(error) from error
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> Literal[False]:
        if kind is not None:
            self.discard()
            return False
        try:
            self._publish()
        except BaseException as failure:
            self.discard()
            if isinstance(failure, OSError | sqlite3.Error):
                raise self._refused(failure) from failure
            raise
        return False

    def image(
        self,
        topic: str,
        stamp_ns: int,
        frame_id: str,
        rgb: UInt8[ndarray, "h w 3"],
        *,
        jpeg_quality: int | None = None,
        log_time_ns: int | None = None,
    ) -> None:
        """An RGB picture: raw `rgb8` sensor_msgs/Image, or CompressedImage when a JPEG quality (1..100) is given."""
        if rgb.dtype != np.uint8 or rgb.ndim != 3 or rgb.shape[2] != 3:
            raise ValueError(f"an image must be uint8 [height, width, 3], got {rgb.dtype} {rgb.shape}")
        fields: dict[str, Any]
        if jpeg_quality is not None:
            coded = as_jpeg(rgb, jpeg_quality, where=topic)
            fields = {"format": "rgb8; jpeg compressed bgr8", "data": coded}
            msgtype = "sensor_msgs/msg/CompressedImage"
        else:
            height, width = rgb.shape[:2]
            fields = {"height": height, "width": width, "encoding": "rgb8", "is_bigendian": 0, "step": 3 * width}
            fields["data"] = np.ascontiguousarray(rgb).reshape(-1)
            msgtype = "sensor_msgs/msg/Image"
        message = ROS_TYPES.types[msgtype](header=header(stamp_ns, frame_id), **fields)
        self._message(topic, msgtype, log_time_ns or stamp_ns, message)

    def joints(
        self,
        topic: str,
        stamp_ns: int,
        names: tuple[str, ...],
        positions_rad: Float64[ndarray, " joints"],
        velocities_radps: Float64[ndarray, " joints"] | None = None,
        *,
        log_time_ns: int | None = None,
    ) -> None:
        """A sensor_msgs/JointState."""
        none = np.zeros(0)
        message = ROS_TYPES.types["sensor_msgs/msg/JointState"](
            header=header(stamp_ns, ""),
            name=list(names),
            position=_doubles(positions_rad),
            velocity=none if velocities_radps is None else _doubles(velocities_radps),
            effort=none,
        )
        self._message(topic, "sensor_msgs/msg/JointState", log_time_ns or stamp_ns, message)

    def array(self, topic: str, stamp_ns: int, values: Float64[ndarray, " n"]) -> None:
        """A std_msgs/Float64MultiArray; it has no header, so its stamp is the log time."""
        layout = ROS_TYPES.types["std_msgs/msg/MultiArrayLayout"](dim=[], data_offset=0)
        message = ROS_TYPES.types["std_msgs/msg/Float64MultiArray"](layout=layout, data=_doubles(values))
        self._message(topic, "std_msgs/msg/Float64MultiArray", stamp_ns, message)

    def command(
        self, topic: str, msgtype: str, stamp_ns: int, names: tuple[str, ...], positions_rad: Float64[ndarray, " n"]
    ) -> None:
        """A command as a contract's robot takes it; a JointTrajectory has one point."""
        writers: dict[str, Callable[[], None]] = {
            "std_msgs/msg/Float64MultiArray": lambda: self.array(topic, stamp_ns, positions_rad),
            "trajectory_msgs/msg/JointTrajectory": lambda: self._trajectory(topic, stamp_ns, names, positions_rad),
            "sensor_msgs/msg/JointState": lambda: self.joints(topic, stamp_ns, names, positions_rad),
        }
        writers[msgtype]()

    def _trajectory(
        self, topic: str, stamp_ns: int, names: tuple[str, ...], positions_rad: Float64[ndarray, " n"]
    ) -> None:
        none = np.zeros(0)
        point = ROS_TYPES.types["trajectory_msgs/msg/JointTrajectoryPoint"](
            positions=_doubles(positions_rad),
            velocities=none,
            accelerations=none,
            effort=none,
            time_from_start=ROS_TYPES.types["builtin_interfaces/msg/Duration"](sec=0, nanosec=0),
        )
        msgtype = "trajectory_msgs/msg/JointTrajectory"
        message = ROS_TYPES.types[msgtype](header=header(stamp_ns, ""), joint_names=list(names), points=[point])
        self._message(topic, msgtype, stamp_ns, message)

    def note(self, name: str, text: str) -> None:
        """One more text of the custom data, at any time before the end."""
        assert self._writer is not None, "BagWriter is a context manager"
        self._writer.set_custom_data(name, text)

    def text(self, topic: str, stamp_ns: int, text: str) -> None:
        """A std_msgs/String, latched as a task is."""
        message = ROS_TYPES.types["std_msgs/msg/String"](data=text)
        self._message(topic, "std_msgs/msg/String", stamp_ns, message, latched=True)

    def raw(
        self, topic: str, msgtype: str, stamp_ns: int, cdr: bytes | memoryview, *, definition: str | None = None
    ) -> None:
        """A message that is already CDR. `definition` (ros2msg text) is needed for types outside ROS 2 Jazzy."""
        self._write(self._connection(topic, msgtype, definition=definition), stamp_ns, cdr)

    def _message(self, topic: str, msgtype: str, stamp_ns: int, message: object, *, latched: bool = False) -> None:
        connection = self._connection(topic, msgtype, latched=latched)
        self._write(connection, stamp_ns, ROS_TYPES.serialize_cdr(message, msgtype))

    def _write(self, connection: Connection, stamp_ns: int, cdr: bytes | memoryview) -> None:
        assert self._writer is not None, "BagWriter is a context manager"
        try:
            self._writer.write(connection, stamp_ns, cdr)
        except (OSError, sqlite3.Error) as error:
            raise self._refused(error) from error

    def _connection(
        self, topic: str, msgtype: str, *, latched: bool = False, definition: str | None = None
    ) -> Connection:
        topic = "/" + topic.removeprefix("/")  # as ROS records it
        known = self._connections.get((topic, msgtype))
        if known is not None:
            return known
        assert self._writer is not None, "BagWriter is a context manager"
        profiles = [qos(latched=latched)]
        if definition is None:
            made = self._writer.add_connection(topic, msgtype, typestore=ROS_TYPES, offered_qos_profiles=profiles)
        else:
            made = self._writer.add_connection(
                topic, msgtype, msgdef=definition, rihs01="RIHS01_" + "0" * 64, offered_qos_profiles=profiles
            )
        self._connections[topic, msgtype] = made
        return made

    def _publish(self) -> None:
        assert self._writer is not None
        writer, self._writer = self._writer, None
        writer.close()
        finished = self._folder / self.path.name
        replaced = self._folder / "replaced"
        if self.path.exists():
            self.path.rename(replaced)
        finished.rename(self.path)
        if replaced.exists():
            shutil.rmtree(replaced)
        self._folder.rmdir()  # an interrupted rmtree closes its descriptor twice, which would hide the Ctrl-C

    def discard(self) -> None:
        """Leaves nothing behind."""
        if self._writer is not None:
            with suppress(Exception):
                self._writer.abort()
            self._writer = None
        shutil.rmtree(self._folder, ignore_errors=True)

    def _refused(self, error: BaseException) -> BagError:
        return BagError(
            "the bag could not be written", where=self.path, got=error, remedy="free disk space or give another path"
        )


def _doubles(values: Float64[ndarray, " n"]) -> Float64[ndarray, " n"]:
    return np.ascontiguousarray(values, dtype=np.float64)


def _check_target(path: Path, *, overwrite: bool) -> None:
    if not path.exists():
        return
    if not overwrite:
        raise UsageError("the output exists already", where=path, remedy="give another path, or allow overwriting it")
    if not (path / "metadata.yaml").is_file():
        raise UsageError(
            "only a bag is overwritten, and this is none", where=path, expected="a folder with metadata.yaml"
        )
