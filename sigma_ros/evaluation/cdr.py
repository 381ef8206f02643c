# SPDX-License-Identifier: Apache-2.0
"""CDR of the messages a replay reads by the million: headers parsed, arrays left where they are.

Only what the frame clock and the scores need is taken out. Everything is bounds-checked: a damaged message raises
`CdrError`, never yields a shorter array.
"""

import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float64
from numpy import ndarray

from sigma_ros.control.images import ImageMessage
from sigma_ros.values import NS_PER_S

_ALIGN_BASE = 4  # CDR aligns relative to the end of the encapsulation header


class CdrError(ValueError):
    """A message that does not follow its type."""


@dataclass(frozen=True, slots=True)
class JointMessage:
    """sensor_msgs/JointState: names and positions (a view, radians)."""

    names: tuple[str, ...]
    positions_rad: Float64[ndarray, " n"]


@dataclass(frozen=True, slots=True)
class TrajectoryMessage:
    """trajectory_msgs/JointTrajectory: joint names and the positions of its first point."""

    names: tuple[str, ...]
    positions_rad: Float64[ndarray, " n"]


class Cursor:
    """Reads one message front to back."""

    __slots__ = ("_order", "data", "position")

    def __init__(self, data: memoryview) -> None:
        if len(data) < _ALIGN_BASE or data[0] != 0 or data[1] not in (0, 1):
            raise CdrError("not plain CDR")
        self._order = "<" if data[1] else ">"
        self.data = data
        self.position = _ALIGN_BASE

    def unpack(self, layout: str, alignment: int) -> tuple:
        """Numbers of one alignment."""
        start = self._aligned(alignment)
        layout = self._order + layout
        try:
            values = struct.unpack_from(layout, self.data, start)
        except struct.error as error:
            raise CdrError("message too short") from error
        self.position = start + struct.calcsize(layout)
        return values

    def u32(self) -> int:
        """An unsigned 32-bit number."""
        return self.unpack("I", 4)[0]

    def raw(self, count: int) -> memoryview:
        """The next `count` bytes."""
        end = self.position + count
        if end > len(self.data):
            raise CdrError("message too short")
        view = self.data[self.position : end]
        self.position = end
        return view

    def text(self) -> str:
        """A string; CDR counts its closing zero."""
        length = self.u32()
        try:
            return bytes(self.raw(length)[: max(length - 1, 0)]).decode()
        except UnicodeDecodeError as error:
            raise CdrError("text is not UTF-8") from error

    def texts(self) -> tuple[str, ...]:
        """A sequence of strings."""
        count = self.u32()
        if count > len(self.data):
            raise CdrError("message too short")
        return tuple(self.text() for _ in range(count))

    def doubles(self) -> Float64[ndarray, " n"]:
        """A sequence of doubles, as a read-only view."""
        count = self.u32()
        if count == 0:
            return np.zeros(0)
        start = self._aligned(8)
        if start + 8 * count > len(self.data):
            raise CdrError("message too short")
        self.position = start + 8 * count
        values = np.frombuffer(self.data, dtype=self._order + "f8", count=count, offset=start)
        values.flags.writeable = False
        return values

    def stamp_ns(self) -> int:
        """A builtin_interfaces/Time."""
        seconds, nanoseconds = self.unpack("iI", 4)
        return seconds * NS_PER_S + nanoseconds

    def header_ns(self) -> int:
        """A std_msgs/Header's stamp; the frame id is passed over."""
        stamp_ns = self.stamp_ns()
        self.raw(self.u32())
        return stamp_ns

    def _aligned(self, alignment: int) -> int:
        return self.position + (_ALIGN_BASE - self.position) % alignment


Decoded = tuple[int | None, object]
"""Header stamp (None where the type has none) and the message."""


def _image(cursor: Cursor) -> Decoded:
    stamp_ns = cursor.header_ns()
    height, width = cursor.unpack("II", 4)
    encoding = cursor.text()
    cursor.raw(1)  # is_bigendian: 8-bit pixels have no byte order
    step = cursor.u32()
    data = cursor.raw(cursor.u32())
    return stamp_ns, ImageMessage(
        encoding=encoding, height=height, width=width, step=step, data=data, is_compressed=False
    )


def _compressed_image(cursor: Cursor) -> Decoded:
    stamp_ns = cursor.header_ns()
    encoding = cursor.text()
    data = cursor.raw(cursor.u32())
    return stamp_ns, ImageMessage(encoding=encoding, height=0, width=0, step=0, data=data, is_compressed=True)


def _joint_state(cursor: Cursor) -> Decoded:
    return cursor.header_ns(), JointMessage(cursor.texts(), cursor.doubles())


def _array(cursor: Cursor) -> Decoded:
    for _ in range(min(cursor.u32(), 16)):
        cursor.text()
        cursor.unpack("II", 4)
    cursor.u32()
    return None, cursor.doubles()


def _trajectory(cursor: Cursor) -> Decoded:
    stamp_ns = cursor.header_ns()
    names = cursor.texts()
    return stamp_ns, TrajectoryMessage(names, cursor.doubles() if cursor.u32() else np.zeros(0))


def _text(cursor: Cursor) -> Decoded:
    return None, cursor.text()


def _clock(cursor: Cursor) -> Decoded:
    return None, cursor.stamp_ns()


DECODERS: Mapping[str, Callable[[Cursor], Decoded]] = {
    "sensor_msgs/msg/Image": _image,
    "sensor_msgs/msg/CompressedImage": _compressed_image,
    "sensor_msgs/msg/JointState": _joint_state,
    "std_msgs/msg/Float64MultiArray": _array,
    "trajectory_msgs/msg/JointTrajectory": _trajectory,
    "std_msgs/msg/String": _text,
    "rosgraph_msgs/msg/Clock": _clock,
}


def decode(msgtype: str, data: memoryview, *, has_header: bool) -> Decoded:
    """Header stamp and typed view of a message; a type not in `DECODERS` stays CDR bytes.

    Raises:
        CdrError: the bytes do not follow the type.
    """
    decoder = DECODERS.get(msgtype)
    if decoder is not None:
        return decoder(Cursor(data))
    return (Cursor(data).stamp_ns() if has_header else None), data
