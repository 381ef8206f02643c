# SPDX-License-Identifier: Apache-2.0
"""Messages and values: a round trip keeps every bit, wrong shapes are refused, images are read-only views."""

import array
from dataclasses import replace

import numpy as np
import pytest
from node_fakes import AUTHOR, HORIZON, make_chunk, small_contract
from rclpy.serialization import deserialize_message, serialize_message
from sensor_msgs.msg import CompressedImage, Image, JointState
from sigma_ros.msg import ActionChunk, TelepathyState
from std_msgs.msg import Float64MultiArray
from trajectory_msgs.msg import JointTrajectory, JointTrajectoryPoint

from sigma_ros.contract import COMMAND_TYPES
from sigma_ros.errors import SigmaError
from sigma_ros.nodes.shared import image_messages, messages, sensor_messages
from sigma_ros.risk import assess
from sigma_ros.streams.images import decode_resized
from sigma_ros.values import Chunk, Gap, Telepathy

pytestmark = pytest.mark.ros
CONTRACT = small_contract()


def over_the_wire(message):
    """What the other side gets."""
    return deserialize_message(serialize_message(message), type(message))


def same(a: Chunk, b: Chunk) -> None:
    for name in Chunk.__slots__:
        ours, theirs = getattr(a, name), getattr(b, name)
        if isinstance(ours, np.ndarray):
            np.testing.assert_array_equal(ours, theirs, err_msg=name)
        else:
            assert ours == theirs, name


def test_a_chunk_survives_the_wire_bit_for_bit():
    rng = np.random.default_rng(0)
    chunk = make_chunk(
        CONTRACT,
        chunk_id=2**40,
        epoch=7,
        tick=123_456,
        stamp_ns=1_795_000_000_123_456_789,
        base_rad=rng.normal(size=(HORIZON, 6)),
        residual_rad=rng.normal(size=(HORIZON, 6)),
        risk=assess(residual_ratio=1.3, factor_ratio=0.2, alignment=-0.4),
        trained_delay_s=0.3,
        disagreement_rad=0.21,
        alarmed=True,
    )
    same(chunk, messages.chunk_value(over_the_wire(messages.chunk_message(chunk, AUTHOR))))


def test_non_finite_actions_reach_the_supervisor_unchanged():
    base = np.zeros((HORIZON, 6))
    base[3, 2], base[4, 1] = np.nan, -np.inf
    chunk = make_chunk(CONTRACT, base_rad=base, scale=float("nan"))
    value = messages.chunk_value(over_the_wire(messages.chunk_message(chunk, AUTHOR)))
    np.testing.assert_array_equal(value.base_rad, base)
    assert np.isnan(value.scale)


def test_a_received_chunk_cannot_be_written():
    value = messages.chunk_value(messages.chunk_message(make_chunk(CONTRACT), AUTHOR))
    with pytest.raises(ValueError, match="read-only"):
        value.base_rad[0, 0] = 1.0


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"horizon": 49}, "base_positions"),
        ({"horizon": 0}, "base_positions"),
        ({"joint_names": ["a"] * 5}, "base_positions"),
        ({"residual_positions": array.array("d", [0.0])}, "residual_positions"),
        ({"min_scale": 0.9, "max_scale": 0.1}, "settings"),
        ({"risk_temperature": float("nan")}, "settings"),
    ],
)
def test_a_chunk_of_wrong_shape_or_settings_is_refused(changes, said):
    message = messages.chunk_message(make_chunk(CONTRACT), AUTHOR)
    for name, value in changes.items():
        setattr(message, name, value)
    with pytest.raises(SigmaError, match=said):
        messages.chunk_value(message)


def test_an_empty_chunk_message_is_refused():
    with pytest.raises(SigmaError, match="horizon"):
        messages.chunk_value(ActionChunk())


def test_telepathy_survives_the_wire_to_float32():
    rng = np.random.default_rng(1)
    telepathy = Telepathy(
        epoch=1,
        tick=16,
        stamp_ns=5_000_000_000,
        semantic_memory=rng.normal(size=512),
        intent=rng.normal(size=256),
        factors=rng.normal(size=(8, 256)),
        tau_l2=3.25,
        sem_align=0.5,
        baseline_tau_l2=float("nan"),
        baseline_sem_align=0.25,
        committed=True,
    )
    value = messages.telepathy_value(over_the_wire(messages.telepathy_message(telepathy, "task")))
    for name in ("semantic_memory", "intent", "factors"):
        np.testing.assert_allclose(getattr(value, name), getattr(telepathy, name), rtol=1e-6)
    assert (value.tau_l2, value.sem_align, value.baseline_sem_align) == (3.25, 0.5, 0.25)
    assert np.isnan(value.baseline_tau_l2)
    assert (value.epoch, value.tick, value.stamp_ns, value.committed) == (1, 16, 5_000_000_000, True)


def test_a_gap_is_told_as_not_valid_with_reasons():
    gap = Gap(epoch=2, tick=8, stamp_ns=7, reasons=("side: no message yet",))
    message = over_the_wire(messages.gap_message(gap, "task"))
    assert not message.valid
    assert list(message.reasons) == ["side: no message yet"]
    with pytest.raises(SigmaError, match="no usable values"):
        messages.telepathy_value(message)


def test_telepathy_with_ragged_factors_is_refused():
    message = TelepathyState(valid=True, factor_count=2, telepathy_factors=[1.0, 2.0, 3.0])
    with pytest.raises(SigmaError, match="no usable values"):
        messages.telepathy_value(message)


def test_an_image_is_a_view_of_the_message_that_cannot_be_written():
    rgb = np.random.default_rng(2).integers(0, 256, (48, 64, 3), dtype=np.uint8)
    message = over_the_wire(image_messages.image_message(at_ns=3, frame_id="up", rgb=rgb))
    view = image_messages.image_view(message)
    message.data[0] = rgb[0, 0, 0] ^ 255
    assert memoryview(view.data)[0] == rgb[0, 0, 0] ^ 255, "same memory"
    assert memoryview(view.data).readonly
    message.data[0] = rgb[0, 0, 0]
    camera = CONTRACT.cameras[0]
    square = decode_resized(view, camera, 64)
    np.testing.assert_array_equal(square[8:56], rgb)


def test_a_compressed_image_is_a_view_too():
    message = CompressedImage(format="jpeg", data=array.array("B", b"\xff\xd8"))
    view = image_messages.image_view(message)
    assert view.is_compressed
    assert bytes(view.data) == b"\xff\xd8"


def test_an_image_without_data_does_not_break_the_border():
    assert memoryview(image_messages.image_view(Image()).data).nbytes == 0


@pytest.mark.parametrize("ns", [0, 1, 999_999_999, 1_000_000_000, 1_795_000_000_123_456_789])
def test_stamps_are_exact(ns):
    assert sensor_messages.stamp_ns(sensor_messages.to_time(ns)) == ns


def test_every_command_type_of_contracts_is_written_and_read():
    """Law: what is written by a type's entry is read back by the same entry, first row first."""
    assert tuple(sensor_messages.COMMAND_KINDS) == COMMAND_TYPES
    positions_rad = np.random.default_rng(4).uniform(-1.0, 1.0, (3, 6))
    for name, kind in sensor_messages.COMMAND_KINDS.items():
        contract = replace(CONTRACT, command_type=name)
        message = over_the_wire(kind.write(contract, positions_rad, 5_000_000_007))
        read = sensor_messages.waypoints(message, contract, received_s=10.0)
        np.testing.assert_array_equal(read.positions_rad[0], positions_rad[0])


def test_a_viewers_trajectory_is_the_chunk_at_its_own_scale():
    chunk = make_chunk(CONTRACT, stamp_ns=5_000_000_007, scale=0.5, chunk_id=1)
    message = over_the_wire(messages.chunk_trajectory(chunk))
    assert tuple(message.joint_names) == chunk.joint_names
    assert sensor_messages.stamp_ns(message.header.stamp) == chunk.stamp_ns
    assert len(message.points) == chunk.horizon
    for index, point in enumerate(message.points):
        expected = chunk.base_rad[index] + 0.5 * chunk.residual_rad[index]
        np.testing.assert_array_equal(point.positions, expected)
        assert sensor_messages.stamp_ns(point.time_from_start) == index * chunk.step_period_ns


def test_a_joint_state_command_is_matched_by_name_and_stamped():
    q = np.arange(6.0)
    message = sensor_messages.joint_state_message(
        at_ns=5_000_000_007, names=("other", *reversed(CONTRACT.joint_names)), positions_rad=np.array([9.0, *q[::-1]])
    )
    read = sensor_messages.waypoints(over_the_wire(message), CONTRACT, received_s=10.0)
    np.testing.assert_array_equal(read.at(10.0), q)
    kind = sensor_messages.COMMAND_KINDS["sensor_msgs/msg/JointState"]
    assert sensor_messages.stamp_ns(kind.write(CONTRACT, q[None], 5_000_000_007).header.stamp) == 5_000_000_007


def test_commands_of_both_types_are_read_in_contract_order():
    q = np.arange(6.0)
    straight = sensor_messages.waypoints(sensor_messages.array_message(q), CONTRACT, received_s=10.0)
    np.testing.assert_array_equal(straight.at(99.0), q)
    names = tuple(reversed(CONTRACT.joint_names))
    piece = sensor_messages.trajectory_message(
        names=names, positions_rad=np.stack([q[::-1], q[::-1] + 1.0]), period_ns=20_000_000
    )
    spline = sensor_messages.waypoints(over_the_wire(piece), CONTRACT, received_s=10.0)
    np.testing.assert_allclose(spline.at(10.02), q)
    np.testing.assert_allclose(spline.at(10.03), q + 0.5)
    np.testing.assert_allclose(spline.at(99.0), q + 1.0)


def test_a_trajectory_piece_ends_at_rest():
    piece = sensor_messages.trajectory_message(names=["a"], positions_rad=np.array([[1.0], [2.0]]), period_ns=1)
    assert list(piece.points[-1].velocities) == [0.0]
    assert piece.header.stamp.sec == 0


@pytest.mark.parametrize(
    "message",
    [
        Float64MultiArray(data=[1.0]),
        Float64MultiArray(),
        Float64MultiArray(data=[float("nan")] * 6),
        JointTrajectory(joint_names=list(CONTRACT.joint_names)),
        JointTrajectory(joint_names=["other"]),
        JointTrajectory(joint_names=list(CONTRACT.joint_names), points=[JointTrajectoryPoint(positions=[1.0])]),
        JointState(),
        JointState(name=list(CONTRACT.joint_names), position=[1.0]),
        JointState(name=["other"] * 6, position=[1.0] * 6),
        JointState(name=list(CONTRACT.joint_names), position=[float("nan")] * 6),
    ],
)
def test_commands_that_cannot_be_are_refused(message):
    with pytest.raises(SigmaError):
        sensor_messages.waypoints(message, CONTRACT, received_s=0.0)
