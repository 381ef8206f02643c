# SPDX-License-Identifier: Apache-2.0
"""rosbags' storage writers, with the checksums it leaves out of MCAP and without SQLite's journal."""

import os
import sqlite3
from collections.abc import Mapping
from pathlib import Path
from zlib import crc32

from rosbags.interfaces import Qos, QosDurability, QosHistory, QosLiveliness, QosReliability, QosTime
from rosbags.rosbag2 import CompressionMode, StoragePlugin, Writer
from rosbags.rosbag2.storage_mcap import McapWriter
from rosbags.rosbag2.storage_sqlite3 import Sqlite3Writer

from sigma_ros.bags.mcap_index import FOOTER_BYTES, MAGIC

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
