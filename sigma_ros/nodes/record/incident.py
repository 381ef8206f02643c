# SPDX-License-Identifier: Apache-2.0
"""The last seconds before a stop: messages as they came, in bounded memory, and the bag that is made of them."""

import re
import shutil
from collections import deque
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rosbags.typesys import get_types_from_msg
from rosbags.typesys.store import Typestore

from sigma_ros.bags.messages import ROS_TYPES
from sigma_ros.bags.writer import BagWriter
from sigma_ros.contract_text import shipped_config_dir
from sigma_ros.values import NS_PER_S

OWN_TYPES = ("ActionChunk", "SupervisorState", "TelepathyState")


@dataclass(frozen=True, slots=True)
class Heard:
    """One message: when it came [ns since 1970], where, and its bytes (CDR)."""

    at_ns: int
    topic: str
    msgtype: str
    cdr: bytes


class IncidentMemory:
    """Keeps the messages of the last `seconds`, of at most `megabytes`: the oldest go first.

    Latched messages (tasks, facts that are told once) are kept for as long as no newer one of their topic comes.
    """

    def __init__(self, *, seconds: float, megabytes: float) -> None:
        self._span_ns = round(seconds * NS_PER_S)
        self._most_bytes = round(megabytes * 2**20)
        self._messages: deque[Heard] = deque()
        self._latched: dict[str, Heard] = {}
        self.bytes = 0
        self.dropped = 0

    def hear(self, message: Heard, *, latched: bool = False) -> None:
        """Takes a message in."""
        if latched:
            self._latched[message.topic] = message
            return
        self._messages.append(message)
        self.bytes += len(message.cdr)
        while self._messages[0].at_ns < message.at_ns - self._span_ns:
            self._forget()
        while self.bytes > self._most_bytes:
            self._forget()
            self.dropped += 1

    def snapshot(self) -> tuple[Heard, ...]:
        """Everything kept, oldest first; a latched message from before the rest is told at the rest's beginning."""
        first_ns = self._messages[0].at_ns if self._messages else 0
        latched = [
            Heard(max(first_ns, said.at_ns), said.topic, said.msgtype, said.cdr) for said in self._latched.values()
        ]
        return tuple(sorted([*self._messages, *latched], key=lambda said: said.at_ns))

    def _forget(self) -> None:
        self.bytes -= len(self._messages.popleft().cdr)


def write_incident(path: Path, messages: Iterable[Heard], *, facts: Mapping[str, str]) -> None:
    """Writes messages as a bag; `facts` (the stop's state, reason and text) go into its custom data.

    Raises:
        BagError: the disk refused it. Nothing is left then.
    """
    definitions = own_definitions()
    with BagWriter(path, metadata={f"sigma.incident.{name}": text for name, text in facts.items()}) as writer:
        for said in messages:
            writer.raw(said.topic, said.msgtype, said.at_ns, said.cdr, definition=definitions.get(said.msgtype))


_NAME = re.compile(r"\d{8}-\d{6}-[a-z_]+")
_MARK = "sigma.incident.reason"


def make_room(folder: Path, *, most: int, most_bytes: int) -> None:
    """Removes the oldest incidents so that one more leaves at most `most`, in at most `most_bytes` now.

    Only bags that `write_incident` wrote are ever removed: by name, and by what their metadata say.
    """
    ours = sorted(path for path in folder.glob("*") if _is_incident(path)) if folder.is_dir() else []
    sizes = [sum(file.stat().st_size for file in path.iterdir()) for path in ours]
    while ours and (len(ours) >= most or sum(sizes) > most_bytes):
        shutil.rmtree(ours.pop(0))
        sizes.pop(0)


def _is_incident(path: Path) -> bool:
    metadata = path / "metadata.yaml"
    named = _NAME.fullmatch(path.name) is not None and path.is_dir() and not path.is_symlink()
    return named and metadata.is_file() and _MARK in metadata.read_text(encoding="utf-8", errors="replace")


def own_definitions() -> dict[str, str]:
    """The full definition of each message type of this package, so that others can read it from the bag."""
    folder = shipped_config_dir().parent / "msg"  # in the source tree, and in the install space's share
    store = Typestore()
    store.register(dict(ROS_TYPES.fielddefs))
    types: dict[str, Any] = {}
    for name in OWN_TYPES:
        types |= get_types_from_msg((folder / f"{name}.msg").read_text(encoding="utf-8"), f"sigma_ros/msg/{name}")
    store.register(types)
    return {name: store.generate_msgdef(name, ros_version=2)[0] for name in types}
