# SPDX-License-Identifier: Apache-2.0
"""One SQLite file of a bag, read by rosbags: messages of some topics, one row at a time."""

from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from rosbags.interfaces import Connection
from rosbags.rosbag2.storage_sqlite3 import Sqlite3Reader

from sigma_ros.bags.files import Stored, Stretch, stretches_of
from sigma_ros.bags.losses import Losses
from sigma_ros.bags.mcap_file import custom_data
from sigma_ros.border import one_line, open_regular
from sigma_ros.errors import BagError


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
        open_regular(path).close()
        self._reader = Sqlite3Reader(path)
        try:
            self._reader.open()
        except Exception as error:
            raise self._damaged(error) from error
        self.start_ns = self._reader.metadata.start_time if self._reader.metadata.message_count else 0
        self.end_ns = max(self._reader.metadata.end_time - 1, 0)
        self.types: dict[str, str] = {}
        self.definitions: dict[str, str] = {}
        self.counts: Counter[str] = Counter()
        self.foreign: dict[str, tuple[str, int]] = {}
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
            reason = f"{topic} is not CDR but {one_line(encoding, 20)!r}"
            self.foreign[topic] = (reason, max(connection.msgcount, 1))
        elif self.types.setdefault(topic, msgtype) != msgtype:
            self._losses.add(f"{topic} has a second type, {msgtype}", max(connection.msgcount, 1))
        else:
            self.counts[topic] += connection.msgcount
            self.definitions[msgtype] = connection.msgdef.data
            self._connections.setdefault(topic, []).append(connection)

    def stretches(self, topic: str) -> list[Stretch]:
        """The topic's log times in file order, as stretches that do not go back."""
        ids = [connection.id for connection in self._connections.get(topic, ())]
        try:
            rows = self._query("SELECT timestamp", ids, "ORDER BY id")
            return stretches_of(int(time_ns) for (time_ns,) in rows)
        except Exception:  # reading the messages will meet the same damage, and count it
            return []

    def messages(self, topics: frozenset[str], *, by_time: bool) -> Iterator[Stored]:
        """Messages of the topics by log time, or in the order in which they were written."""
        wanted = {c.id: c for topic in sorted(topics) for c in self._connections.get(topic, ())}
        if not wanted:
            return
        order = "ORDER BY timestamp" if by_time else "ORDER BY id"
        left = sum(connection.msgcount for connection in wanted.values())
        rows = None
        while True:
            try:
                if rows is None:
                    rows = iter(self._query("SELECT topic_id, timestamp, data", list(wanted), order))
                topic_id, log_time_ns, data = next(rows)
                topic = wanted[topic_id].topic
            except StopIteration:
                return
            except Exception as error:
                self._losses.add(f"{self._path.name}: reading stopped: {one_line(error)}", max(left, 1))
                return
            left -= 1
            if isinstance(data, bytes) and isinstance(log_time_ns, int):
                yield Stored(log_time_ns, topic, memoryview(data))
            else:
                self._losses.add(f"{self._path.name}: a message is not binary")

    def _query(self, what: str, topic_ids: list[int], order: str) -> Iterable[Any]:
        database = self._reader.dbconn
        assert database is not None
        marks = ",".join("?" * len(topic_ids))
        return database.execute(f"{what} FROM messages WHERE topic_id IN ({marks}) {order}", topic_ids)

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
        except Exception:
            self._losses.once(f"{self._path.name}: its notes are damaged")
            return {}
        return custom_data(str(row[0])) if row else {}

    def _damaged(self, error: Exception) -> BagError:
        return BagError(
            "the SQLite bag cannot be read",
            where=self._path,
            expected="a complete rosbag2 database",
            got=one_line(error),
            remedy="record again, or repair it with: sqlite3 FILE .recover",
        )
