# SPDX-License-Identifier: Apache-2.0
"""One SQLite file of a bag, read by rosbags: messages of some topics in log-time order, one row at a time."""

from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import apsw
from rosbags.interfaces import Connection
from rosbags.rosbag2.errors import ReaderError
from rosbags.rosbag2.storage_sqlite3 import Sqlite3Reader

from sigma_ros.errors import BagError
from sigma_ros.evaluation.mcap_file import custom_data
from sigma_ros.evaluation.storage import Losses, Stored

# What a damaged database makes rosbags raise: its own error, SQLite's, and the shape errors of rows it did not expect.
_DAMAGE = (ReaderError, apsw.Error, ValueError, TypeError, LookupError, AttributeError, OSError)


class SqliteFile:
    """See the module. SQLite bags carry no checksums.

    Raises:
        BagError: not a rosbag2 database, or damaged.
    """

    checksummed = False

    def __init__(self, path: Path, losses: Losses) -> None:
        self._path = path
        self._losses = losses
        journal = path.with_name(path.name + "-wal")
        if journal.is_file() and journal.stat().st_size > 0:
            losses.once(f"{path.name}: messages in its unfinished journal are not read")
        self._reader = Sqlite3Reader(path)
        try:
            self._reader.open()
        except _DAMAGE as error:
            raise self._damaged(error) from error
        self.start_ns = self._reader.metadata.start_time if self._reader.metadata.message_count else 0
        self.end_ns = max(self._reader.metadata.end_time - 1, 0)
        self.types: dict[str, str] = {}
        self.definitions: dict[str, str] = {}
        self.counts: Counter[str] = Counter()
        self._connections: dict[str, list[Connection]] = {}
        for connection in self._reader.connections:
            self._adopt(connection)
        self.custom_data = self._read_custom_data()

    def _adopt(self, connection: Connection) -> None:
        topic, msgtype = connection.topic, connection.msgtype
        if not (isinstance(topic, str) and isinstance(msgtype, str) and isinstance(connection.msgdef.data, str)):
            self._losses.add(f"{self._path.name}: a topic's description is damaged", max(connection.msgcount, 1))
            return
        encoding = getattr(connection.ext, "serialization_format", "cdr")
        if encoding != "cdr":
            self._losses.add(f"{topic} is not CDR but {str(encoding)[:20]!r}", max(connection.msgcount, 1))
        elif self.types.setdefault(topic, msgtype) != msgtype:
            self._losses.add(f"{topic} has a second type, {msgtype}", max(connection.msgcount, 1))
        else:
            self.counts[topic] += connection.msgcount
            self.definitions[msgtype] = connection.msgdef.data
            self._connections.setdefault(topic, []).append(connection)

    def messages(self, topics: frozenset[str]) -> Iterator[Stored]:
        """Messages of the topics by log time."""
        wanted = [connection for topic in sorted(topics) for connection in self._connections.get(topic, ())]
        if not wanted:
            return
        rows = self._reader.messages(wanted)
        left = sum(connection.msgcount for connection in wanted)
        while True:
            try:
                connection, log_time_ns, data = next(rows)
            except StopIteration:
                return
            except _DAMAGE as error:
                self._losses.add(f"{self._path.name}: reading stopped: {error}", max(left, 1))
                return
            left -= 1
            if isinstance(data, bytes):
                yield Stored(log_time_ns, connection.topic, memoryview(data))
            else:
                self._losses.add(f"{self._path.name}: a message is not binary")

    def close(self) -> None:
        """Closes the database."""
        self._reader.close()

    def _read_custom_data(self) -> dict[str, str]:
        """The metadata row that rosbags writes; older databases have no such table."""
        database = self._reader.dbconn
        assert database is not None
        try:
            tables = database.execute("SELECT name FROM sqlite_master WHERE type='table' AND name='metadata'")
            if tables.fetchone() is None:
                return {}
            row = database.execute("SELECT metadata FROM metadata ORDER BY id DESC LIMIT 1").fetchone()
        except (apsw.Error, ValueError):
            self._losses.once(f"{self._path.name}: its notes are damaged")
            return {}
        return custom_data(str(row[0])) if row else {}

    def _damaged(self, error: Exception) -> BagError:
        return BagError(
            "the SQLite bag cannot be read",
            where=self._path,
            expected="a complete rosbag2 database",
            got=error,
            remedy="record again, or repair it with: sqlite3 FILE .recover",
        )
