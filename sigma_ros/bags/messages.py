# SPDX-License-Identifier: Apache-2.0
"""CDR messages as values: pictures stay where their bytes are, the rest is deserialised by `rosbags`.

Everything is bounds-checked: a damaged message raises `CdrError`, never yields a shorter array.
"""

import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float64
from numpy import ndarray
from rosbags.typesys import Stores, get_typestore

from sigma_ros.streams.images import ImageMessage
from sigma_ros.streams.video import VideoPacket
from sigma_ros.values import NS_PER_S

ROS_TYPES = get_typestore(Stores.ROS2_JAZZY)
"""Every message type of ROS 2 Jazzy's common interfaces."""

_VIDEO_FORMATS = ("h264", "h265", "hevc")
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


def command_value(msgtype: str, names: tuple[str, ...], positions_rad: Float64[ndarray, " n"]) -> object:
    """What `decode` gives of a command of one of `COMMAND_TYPES` with these positions."""
    return _COMMANDS[msgtype](names, positions_rad)


_COMMANDS: Mapping[str, Callable[[tuple[str, ...], ndarray], object]] = {
    "std_msgs/msg/Float64MultiArray": lambda _names, positions_rad: positions_rad,
    "trajectory_msgs/msg/JointTrajectory": TrajectoryMessage,
    "sensor_msgs/msg/JointState": JointMessage,
}


def header(stamp_ns: int, frame_id: str) -> Any:
    """A std_msgs/Header."""
    seconds, nanoseconds = divmod(stamp_ns, NS_PER_S)
    stamp = ROS_TYPES.types["builtin_interfaces/msg/Time"](sec=seconds, nanosec=nanoseconds)
    return ROS_TYPES.types["std_msgs/msg/Header"](stamp=stamp, frame_id=frame_id)


Decoded = tuple[int | None, object]
"""Header stamp (None where the type has none) and the message."""


def decode(msgtype: str, data: memoryview, *, has_header: bool) -> Decoded:
    """Header stamp and typed view of a message; a type that is not known here stays CDR bytes.

    Raises:
        CdrError: the bytes do not follow the type.
    """
    if len(data) < _ALIGN_BASE or data[0] != 0 or data[1] not in (0, 1):
        raise CdrError("not plain CDR")
    picture = _PICTURES.get(msgtype)
    if picture is not None:
        return picture(_Cursor(data))
    make = _VALUES.get(msgtype)
    if make is not None:
        return make(_deserialised(msgtype, data))
    return (_Cursor(data).stamp_ns() if has_header else None), data


def _deserialised(msgtype: str, data: memoryview) -> Any:
    """By rosbags' compiled function, whose end position tells whether it ran over the end."""
    definition = ROS_TYPES.get_msgdef(msgtype)
    read = definition.deserialize_cdr_le if data[1] else definition.deserialize_cdr_be
    try:
        message, position = read(data[_ALIGN_BASE:], 0, definition.cls, ROS_TYPES)
    except UnicodeDecodeError as error:
        raise CdrError("text is not UTF-8") from error
    except Exception as error:  # lengths beyond the end, whatever rosbags calls that
        raise CdrError("message too short") from error
    if position > len(data) - _ALIGN_BASE:
        raise CdrError("message too short")
    return message


def _fixed(values: Float64[ndarray, " n"]) -> Float64[ndarray, " n"]:
    values.flags.writeable = False
    return values


def _joint_state(message: Any) -> Decoded:
    return _ns(message.header.stamp), JointMessage(tuple(message.name), _fixed(message.position))


def _trajectory(message: Any) -> Decoded:
    first = _fixed(message.points[0].positions) if message.points else np.zeros(0)
    return _ns(message.header.stamp), TrajectoryMessage(tuple(message.joint_names), first)


def _ns(stamp: Any) -> int:
    return int(stamp.sec) * NS_PER_S + int(stamp.nanosec)


_VALUES: Mapping[str, Callable[[Any], Decoded]] = {
    "sensor_msgs/msg/JointState": _joint_state,
    "std_msgs/msg/Float64MultiArray": lambda message: (None, _fixed(message.data)),
    "trajectory_msgs/msg/JointTrajectory": _trajectory,
    "std_msgs/msg/Bool": lambda message: (None, bool(message.data)),
    "std_msgs/msg/String": lambda message: (None, message.data),
    "rosgraph_msgs/msg/Clock": lambda message: (None, _ns(message.clock)),
}


class _Cursor:
    """Reads a picture's message front to back."""

    def __init__(self, data: memoryview) -> None:
        self._order = "<" if data[1] else ">"
        self._data = data
        self._position = _ALIGN_BASE

    def numbers(self, layout: str) -> tuple[int, ...]:
        """Numbers of four bytes."""
        start = self._position + -self._position % 4
        try:
            values = struct.unpack_from(self._order + layout, self._data, start)
        except struct.error as error:
            raise CdrError("message too short") from error
        self._position = start + 4 * len(layout)
        return values

    def skip_number_of_eight_bytes(self) -> None:
        """CDR aligns it to eight."""
        self._position += -(self._position - _ALIGN_BASE) % 8
        self.block(8)

    def block(self, count: int | None = None) -> memoryview:
        """The next `count` bytes, or as many as the number before them says."""
        if count is None:
            (count,) = self.numbers("I")
        end = self._position + count
        if end > len(self._data):
            raise CdrError("message too short")
        view = self._data[self._position : end]
        self._position = end
        return view

    def text(self) -> str:
        """A string; CDR counts its closing zero."""
        try:
            return bytes(self.block()[:-1]).decode()
        except UnicodeDecodeError as error:
            raise CdrError("text is not UTF-8") from error

    def stamp_ns(self) -> int:
        """A builtin_interfaces/Time."""
        seconds, nanoseconds = self.numbers("iI")
        return seconds * NS_PER_S + nanoseconds

    def header_ns(self) -> int:
        """A std_msgs/Header's stamp; the frame id is passed over."""
        stamp_ns = self.stamp_ns()
        self.block()
        return stamp_ns


def _image(cursor: _Cursor) -> Decoded:
    stamp_ns = cursor.header_ns()
    height, width = cursor.numbers("II")
    encoding = cursor.text()
    cursor.block(1)  # is_bigendian: 8-bit pixels have no byte order
    (step,) = cursor.numbers("I")
    return stamp_ns, ImageMessage(
        encoding=encoding, height=height, width=width, step=step, data=cursor.block(), is_compressed=False
    )


def _compressed_image(cursor: _Cursor) -> Decoded:
    stamp_ns = cursor.header_ns()
    encoding = cursor.text()
    data = cursor.block()
    if any(name in encoding.lower() for name in _VIDEO_FORMATS):
        return stamp_ns, VideoPacket(encoding, data)
    return stamp_ns, ImageMessage(encoding=encoding, height=0, width=0, step=0, data=data, is_compressed=True)


def _compressed_video(cursor: _Cursor) -> Decoded:
    stamp_ns = cursor.header_ns()  # Foxglove's timestamp and frame_id lie as a Header does
    data = cursor.block()
    return stamp_ns, VideoPacket(cursor.text(), data)


def _ffmpeg_packet(cursor: _Cursor) -> Decoded:
    stamp_ns = cursor.header_ns()
    cursor.numbers("ii")  # width and height: the pictures tell
    codec = cursor.text()
    cursor.skip_number_of_eight_bytes()  # pts: of the encoder's own clock
    cursor.block(2)  # flags and byte order
    return stamp_ns, VideoPacket(codec, cursor.block())


_PICTURES: Mapping[str, Callable[[_Cursor], Decoded]] = {
    "sensor_msgs/msg/Image": _image,
    "sensor_msgs/msg/CompressedImage": _compressed_image,
    "foxglove_msgs/msg/CompressedVideo": _compressed_video,
    "ffmpeg_image_transport_msgs/msg/FFMPEGPacket": _ffmpeg_packet,
}
