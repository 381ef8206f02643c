# SPDX-License-Identifier: Apache-2.0
"""Our CDR views equal rosbags' deserialisation, and damaged messages are refused, never shortened."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sigma_ros.bags.messages import ROS_TYPES, CdrError, JointMessage, TrajectoryMessage, decode, header
from sigma_ros.streams.images import ImageMessage

TYPES = ROS_TYPES.types
texts = st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=12)
stamps_ns = st.integers(0, 2**31 * 10**9 - 1)
doubles = st.lists(st.floats(width=64, allow_nan=False), max_size=9)


def make(msgtype: str, **fields: Any) -> Any:
    return TYPES[msgtype](**fields)


def cdr_of(msgtype: str, message: Any, *, little_endian: bool = True) -> memoryview:
    return memoryview(bytes(ROS_TYPES.serialize_cdr(message, msgtype, little_endian=little_endian)))


def image(frame: str, stamp_ns: int, pixels: bytes) -> Any:
    return make(
        "sensor_msgs/msg/Image",
        header=header(stamp_ns, frame),
        height=3,
        width=5,
        encoding="rgb8",
        is_bigendian=0,
        step=15,
        data=np.frombuffer(pixels, dtype=np.uint8),
    )


def joints(frame: str, stamp_ns: int, names: list[str], values: list[float]) -> Any:
    return make(
        "sensor_msgs/msg/JointState",
        header=header(stamp_ns, frame),
        name=names,
        position=np.array(values),
        velocity=np.zeros(0),
        effort=np.array(values),
    )


def array(labels: list[str], values: list[float]) -> Any:
    dims = [make("std_msgs/msg/MultiArrayDimension", label=label, size=1, stride=2) for label in labels]
    layout = make("std_msgs/msg/MultiArrayLayout", dim=dims, data_offset=0)
    return make("std_msgs/msg/Float64MultiArray", layout=layout, data=np.array(values))


@given(texts, stamps_ns, st.binary(max_size=60), st.booleans())
@settings(deadline=None)
def test_images(frame: str, stamp_ns: int, pixels: bytes, little: bool) -> None:
    data = cdr_of("sensor_msgs/msg/Image", image(frame, stamp_ns, pixels), little_endian=little)
    found_ns, found = decode("sensor_msgs/msg/Image", data, has_header=True)
    assert isinstance(found, ImageMessage)
    assert (found_ns, found.encoding, found.height, found.width, found.step) == (stamp_ns, "rgb8", 3, 5, 15)
    assert bytes(found.data) == pixels


@given(texts, stamps_ns, texts, st.binary(max_size=60), st.booleans())
@settings(deadline=None)
def test_compressed_images(frame: str, stamp_ns: int, kind: str, coded: bytes, little: bool) -> None:
    msgtype = "sensor_msgs/msg/CompressedImage"
    message = make(msgtype, header=header(stamp_ns, frame), format=kind, data=np.frombuffer(coded, dtype=np.uint8))
    found_ns, found = decode(msgtype, cdr_of(msgtype, message, little_endian=little), has_header=True)
    assert isinstance(found, ImageMessage)
    assert (found_ns, found.encoding, bytes(found.data), found.is_compressed) == (stamp_ns, kind, coded, True)


@given(texts, stamps_ns, st.lists(texts, max_size=7), doubles, st.booleans())
@settings(deadline=None)
def test_joint_states(frame: str, stamp_ns: int, names: list[str], values: list[float], little: bool) -> None:
    msgtype = "sensor_msgs/msg/JointState"
    data = cdr_of(msgtype, joints(frame, stamp_ns, names, values), little_endian=little)
    found_ns, found = decode(msgtype, data, has_header=True)
    assert isinstance(found, JointMessage)
    assert (found_ns, found.names, found.positions_rad.tolist()) == (stamp_ns, tuple(names), values)


@given(st.lists(texts, max_size=3), doubles, st.booleans())
@settings(deadline=None)
def test_arrays(labels: list[str], values: list[float], little: bool) -> None:
    msgtype = "std_msgs/msg/Float64MultiArray"
    data = cdr_of(msgtype, array(labels, values), little_endian=little)
    stamp_ns, found = decode(msgtype, data, has_header=False)
    assert stamp_ns is None
    assert isinstance(found, np.ndarray)
    assert found.tolist() == values


@given(texts, stamps_ns, st.lists(texts, max_size=4), doubles, st.integers(0, 3))
@settings(deadline=None)
def test_trajectories(frame: str, stamp_ns: int, names: list[str], values: list[float], points: int) -> None:
    msgtype = "trajectory_msgs/msg/JointTrajectory"
    point = make(
        "trajectory_msgs/msg/JointTrajectoryPoint",
        positions=np.array(values),
        velocities=np.array(values),
        accelerations=np.zeros(0),
        effort=np.zeros(0),
        time_from_start=make("builtin_interfaces/msg/Duration", sec=0, nanosec=1),
    )
    message = make(msgtype, header=header(stamp_ns, frame), joint_names=names, points=[point] * points)
    found_ns, found = decode(msgtype, cdr_of(msgtype, message), has_header=True)
    assert isinstance(found, TrajectoryMessage)
    assert (found_ns, found.names) == (stamp_ns, tuple(names))
    assert found.positions_rad.tolist() == (values if points else [])


@given(texts, stamps_ns)
@settings(deadline=None)
def test_texts_and_clocks(text: str, stamp_ns: int) -> None:
    string = cdr_of("std_msgs/msg/String", make("std_msgs/msg/String", data=text))
    assert decode("std_msgs/msg/String", string, has_header=False) == (None, text)
    time = make("builtin_interfaces/msg/Time", sec=stamp_ns // 10**9, nanosec=stamp_ns % 10**9)
    clock = cdr_of("rosgraph_msgs/msg/Clock", make("rosgraph_msgs/msg/Clock", clock=time))
    assert decode("rosgraph_msgs/msg/Clock", clock, has_header=False) == (None, stamp_ns)


def test_other_types_stay_bytes_and_give_their_header_stamp() -> None:
    data = cdr_of(
        "sensor_msgs/msg/Temperature",
        make("sensor_msgs/msg/Temperature", header=header(5_000_000_007, "x"), temperature=1.0, variance=0.0),
    )
    assert decode("sensor_msgs/msg/Temperature", data, has_header=True) == (5_000_000_007, data)
    assert decode("sensor_msgs/msg/Temperature", data, has_header=False) == (None, data)


WHOLE = {
    "sensor_msgs/msg/Image": image("camera", 10**18, bytes(range(45))),
    "sensor_msgs/msg/JointState": joints("", 10**18, ["a", "bc"], [1.0, 2.0]),
    "std_msgs/msg/Float64MultiArray": array(["rows"], [1.0, 2.0, 3.0]),
    "std_msgs/msg/String": make("std_msgs/msg/String", data="pick the brick"),
}


@pytest.mark.parametrize("msgtype", sorted(WHOLE))
def test_a_message_cut_at_any_byte_is_refused(msgtype: str) -> None:
    whole = cdr_of(msgtype, WHOLE[msgtype])
    _, expected = decode(msgtype, whole, has_header=True)
    for length in range(len(whole)):
        try:
            _, found = decode(msgtype, whole[:length], has_header=True)
        except CdrError:
            continue
        # What follows the fields we read may be missing: effort and padding.
        assert repr(found) == repr(expected) or msgtype == "sensor_msgs/msg/JointState"
        if isinstance(found, JointMessage):
            assert found.positions_rad.tolist() == [1.0, 2.0]


@pytest.mark.parametrize("msgtype", sorted(WHOLE))
@given(st.binary(max_size=120))
@settings(deadline=None, max_examples=60)
def test_random_bytes_are_refused_or_read_but_never_crash(msgtype: str, junk: bytes) -> None:
    for data in (junk, b"\0\1\0\0" + junk, b"\0\0\0\0" + junk):
        try:
            decode(msgtype, memoryview(data), has_header=True)
        except CdrError:
            continue


@pytest.mark.parametrize("start", [b"", b"\0\1\0", b"\0\7\0\0", b"\1\1\0\0"])
def test_what_is_not_plain_cdr_is_refused(start: bytes) -> None:
    with pytest.raises(CdrError, match="not plain CDR"):
        decode("std_msgs/msg/String", memoryview(start + bytes(8) if len(start) > 3 else start), has_header=False)


def test_arrays_are_views_and_read_only() -> None:
    data = cdr_of("std_msgs/msg/Float64MultiArray", array([], [1.0, 2.0]))
    _, found = decode("std_msgs/msg/Float64MultiArray", data, has_header=False)
    assert isinstance(found, np.ndarray)
    assert found.base is not None
    with pytest.raises(ValueError, match="read-only"):
        found[0] = 0.0
