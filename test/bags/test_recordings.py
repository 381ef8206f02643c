# SPDX-License-Identifier: Apache-2.0
"""Recordings as they come: what is wrong with them is counted once, the same for every verb, and nothing is guessed."""

import contextlib
import json
import os
import sqlite3
import struct
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from functools import partial
from itertools import pairwise
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import cv2
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from backports import zstd
from bags import MS, START_NS, TASK_TOPIC, picture, pose, small_contract, storage_file, write_recording
from hypothesis import example, given, settings
from hypothesis import strategies as st
from rosbags.rosbag2 import CompressionFormat, CompressionMode, StoragePlugin, Writer
from stub_runtime import StubRuntime
from test_transcode import CONTRACT as SET_CONTRACT
from test_transcode import break_info, write_v2, write_v3

from sigma_ros.bags.dataset_facts import episode_numbers
from sigma_ros.bags.episode import MOST_MISFITS, Episode, Tick
from sigma_ros.bags.files import Stretch, clock_was_set, stretches_of
from sigma_ros.bags.lerobot_dataset import write_dataset
from sigma_ros.bags.messages import ROS_TYPES, header
from sigma_ros.bags.reader import Stamps, open_bag
from sigma_ros.bags.topics import recorded_task
from sigma_ros.bags.transcode import load_episode, rows_of, transcode
from sigma_ros.bags.writer import BagWriter
from sigma_ros.contract import COMMAND_TYPES, CommandType
from sigma_ros.contract_file import load_contract
from sigma_ros.errors import BagError, ContractError, DatasetError, SigmaError
from sigma_ros.evaluation.log import ReplayLog
from sigma_ros.evaluation.replay import ReplayOptions, replay
from sigma_ros.evaluation.scoring.score import score
from sigma_ros.evaluation.scoring.verdict import verdict_of
from sigma_ros.inspection.bag import JOINT_TYPE
from sigma_ros.inspection.places import look_into
from sigma_ros.policy.schedule import Schedule
from sigma_ros.streams.images import ImageMessage, check_image, decode_coded, decode_full
from sigma_ros.supervisor.limits import SupervisorLimits
from sigma_ros.values import AdapterSettings
from training.sources import bag_sources, dataset_sources, read_source

CONTRACT = small_contract()
STORAGES = ("mcap", "sqlite3")
TICKS = 60


def write(path: Path, ticks: Iterable[tuple[int, int, int]], *, storage: str = "mcap", **faults: Any) -> Path:
    """A recording of (pose number, header stamp, log time) in the order given; faults are messages before tick 20."""
    with BagWriter(path, storage=storage) as bag:  # type: ignore[arg-type]
        for number, stamp_ns, log_ns in ticks:
            if number == faults.get("at", 20):
                for topic, msgtype, cdr in faults.get("raw", ()):
                    bag.raw(topic, msgtype, log_ns, cdr)
                for add in faults.get("add", ()):
                    add(bag, stamp_ns - MS)
                for names in faults.get("joints", ()):
                    bag.joints(CONTRACT.joint_state_topic, stamp_ns - MS, names, np.zeros(len(names)))
            for index, camera in enumerate(CONTRACT.cameras):
                bag.image(camera.topic, stamp_ns, camera.name, picture(2 * number + index), log_time_ns=log_ns)
            joints = (CONTRACT.joint_state_topic, stamp_ns, CONTRACT.joint_names, pose(number, CONTRACT.dof))
            bag.joints(*joints, log_time_ns=log_ns)
            if number < faults.get("commands", TICKS * 9):
                bag.array(CONTRACT.command_topic, log_ns, pose(number, CONTRACT.dof) + 0.01)
    return path


def steady(count: int = TICKS) -> list[tuple[int, int, int]]:
    stamps = [START_NS + CONTRACT.tick_offset_ns(tick) for tick in range(count)]
    return [(number, stamp_ns, stamp_ns) for number, stamp_ns in enumerate(stamps)]


def set_back(*, headers: bool, logs: bool, by_ns: int) -> list[tuple[int, int, int]]:
    half = TICKS // 2
    moved = [(n, s - by_ns * headers, log - by_ns * logs) for n, s, log in steady()[half:]]
    return steady()[:half] + moved


def ticks_of(path: Path, **options: Any) -> tuple[list[Tick], Episode]:
    with open_bag(path, **options) as bag:
        ticks = Episode(bag, CONTRACT, image_size_px=None)
        return list(ticks), ticks


def largest_step_rad(ticks: list[Tick]) -> float:
    pairs = pairwise(ticks)
    same = [(a.joint_rad, b.joint_rad) for a, b in pairs if a.item.epoch == b.item.epoch]
    return max(float(np.abs(a - b).max()) for a, b in same if a is not None and b is not None)


@pytest.mark.parametrize("storage", STORAGES)
@pytest.mark.parametrize("by_ms", [100, 400, 900, 5000])
@pytest.mark.parametrize(("headers", "logs"), [(True, True), (True, False), (False, True)])
def test_a_clock_that_is_set_back_never_mixes_two_moments(
    tmp_path: Path, storage: str, by_ms: int, *, headers: bool, logs: bool
) -> None:
    path = write(tmp_path / "bag", set_back(headers=headers, logs=logs, by_ns=by_ms * MS), storage=storage)
    ticks, _ = ticks_of(path)
    valid = [tick for tick in ticks if tick.window is not None]
    assert len(valid) >= TICKS - 4
    assert largest_step_rad(valid) < 0.06, "the recording's own steps are 0.05 rad"
    beyond = by_ms * MS > TICKS * CONTRACT.tick_period_ns  # then the halves do not overlap, and are only swapped
    assert len({tick.item.epoch for tick in ticks}) == (2 if headers or beyond else 1)
    for tick in valid:
        if tick.action_rad is not None and headers == logs:
            assert np.abs(tick.action_rad - tick.joint_rad).max() < 0.06


@pytest.mark.parametrize("at", [None, TICKS // 3, TICKS // 2])
@pytest.mark.parametrize("seed", [0, 1])
def test_the_last_messages_of_every_stream_make_a_tick_at_the_end_and_before_a_clock_goes_back(
    tmp_path: Path, seed: int, at: int | None
) -> None:
    random = np.random.default_rng(seed)
    with BagWriter(tmp_path / "bag") as bag:
        for number, stamp_ns, _ in steady():
            back_ns = 400 * MS if at is not None and number >= at else 0
            early, late = (stamp_ns - back_ns + int(ns) for ns in random.integers(-4 * MS, 4 * MS, 2))
            for camera in CONTRACT.cameras:
                bag.image(camera.topic, early, camera.name, picture(number), log_time_ns=stamp_ns - back_ns)
            joints = (CONTRACT.joint_state_topic, late, CONTRACT.joint_names, pose(number, CONTRACT.dof))
            bag.joints(*joints, log_time_ns=stamp_ns - back_ns)
            bag.array(CONTRACT.command_topic, stamp_ns - back_ns, pose(number, CONTRACT.dof))
    ticks, found = ticks_of(tmp_path / "bag")
    assert len(ticks) == TICKS
    assert found.losses == {}
    assert [tick.item.epoch for tick in ticks] == [int(at is not None and number >= at) for number in range(TICKS)]


def test_a_data_set_of_a_bag_whose_clock_was_set_back_has_two_episodes_with_their_own_pictures(tmp_path: Path) -> None:
    path = write(tmp_path / "bag", set_back(headers=True, logs=True, by_ns=400 * MS))
    written = write_dataset([path], CONTRACT, tmp_path / "set", videos=False)
    assert written.episodes == 2
    (file,) = (tmp_path / "set" / "data").rglob("*.parquet")
    key = CONTRACT.cameras[0].dataset_key
    stored = [cv2.imdecode(np.frombuffer(p["bytes"], np.uint8), cv2.IMREAD_COLOR_RGB) for p in column(file, key)]
    expected = [picture(2 * number) for number in range(TICKS)]
    numbers = [next(n for n, e in enumerate(expected) if np.array_equal(e, found)) for found in stored]
    assert numbers == sorted(set(numbers)), "every picture once, in the order in which it was taken"


def column(file: Path, key: str) -> list[dict[str, bytes]]:
    import pyarrow.parquet as pq  # noqa: PLC0415

    return list(pq.read_table(file)[key].to_pylist())


def test_only_stretches_that_overlap_mean_a_clock() -> None:
    second = 10**9
    up, down = [0, second // 2, second], [2 * second, 2 * second + 5 * MS, 2 * second - 5 * MS]
    assert not clock_was_set(stretches_of([*down, *up]))
    assert clock_was_set(stretches_of([*up, second // 4, *down]))
    assert stretches_of(down) == [Stretch(2 * second - 5 * MS, 2 * second + 5 * MS)]


def test_a_split_bag_whose_second_file_begins_earlier_is_read_file_by_file(tmp_path: Path) -> None:
    halves = set_back(headers=True, logs=True, by_ns=700 * MS)
    whole = tmp_path / "whole"
    whole.mkdir()
    for part, rows in enumerate((halves[: TICKS // 2], halves[TICKS // 2 :])):
        storage_file(write(tmp_path / f"part_{part}", rows)).rename(whole / f"whole_{part}.mcap")
    ticks, _ = ticks_of(whole)
    assert largest_step_rad([tick for tick in ticks if tick.window is not None]) < 0.06
    assert {tick.item.epoch for tick in ticks} == {0, 1}


UP, JOINTS = CONTRACT.cameras[0], CONTRACT.joint_names
PARTIAL = [("gripper",)] * 3
FAULTS: dict[str, dict[str, Any]] = {
    "none": {},
    "an undecodable picture": {"raw": [(CONTRACT.cameras[0].topic, "sensor_msgs/msg/Image", b"\0\1\0\0" + bytes(30))]},
    "joint messages of a second publisher": {"joints": PARTIAL},
    "an empty joint message": {"joints": [()]},
    "commands that end early": {"commands": 20},
    "a command of two values": {"add": [lambda bag, ns: bag.array(CONTRACT.command_topic, ns, np.zeros(2))]},
    "a wild pose": {"add": [lambda bag, ns: bag.joints(CONTRACT.joint_state_topic, ns, JOINTS, np.full(6, 300.0))]},
    "a wild command": {"add": [lambda bag, ns: bag.array(CONTRACT.command_topic, ns, np.full(6, -300.0))]},
}


def replay_of(path: Path, stamps: Stamps = "header") -> ReplayLog:
    options = ReplayOptions(
        settings=AdapterSettings(),
        schedule=Schedule(8, 16),
        supervisor_limits=SupervisorLimits.for_replay(),
        stamps=stamps,
    )
    return replay(path, contract=CONTRACT, runtime=StubRuntime(CONTRACT), options=options)


def replayed(path: Path) -> dict[str, int]:
    return dict(replay_of(path).losses)


def written(path: Path) -> dict[str, int]:
    found = write_dataset([path], CONTRACT, path.with_name(path.name + "_set"), videos=False)
    return dict(found.losses.get(str(path), {}))


def preprocessed(path: Path) -> dict[str, int]:
    found: dict[str, int] = {}
    (source,) = bag_sources([path])
    list(read_source(source, CONTRACT, image_size_px=16, lost=found.update))
    return found


def inspected(path: Path) -> dict[str, int]:
    return dict(look_into(str(path), contract=CONTRACT).losses)


@pytest.mark.parametrize("kind", sorted(FAULTS))
@pytest.mark.parametrize("at", [0, 1, 20])
def test_every_verb_counts_the_same_losses_wherever_the_bad_message_is(tmp_path: Path, kind: str, at: int) -> None:
    path = write(tmp_path / "bag", steady(), at=at, **FAULTS[kind])
    account = replayed(path)
    assert written(path) == preprocessed(path) == inspected(path) == account
    assert bool(account) == (kind != "none")
    without = sum(n for reason, n in account.items() if reason != "invalid_ticks")
    elsewhere = replayed(write(tmp_path / "other", steady(), at=30, **FAULTS[kind]))
    assert without == sum(n for reason, n in elsewhere.items() if reason != "invalid_ticks")


def cut(coded: bytes) -> bytes:
    """A JPEG without some of its data, its end marker in place: only decoding tells."""
    return coded[:-302] + coded[-2:]


def test_a_picture_that_only_decoding_refuses_is_the_same_loss_in_every_verb(tmp_path: Path) -> None:
    kind, camera = "sensor_msgs/msg/CompressedImage", CONTRACT.cameras[0]
    with BagWriter(tmp_path / "bag") as bag:
        for number, stamp_ns, _ in steady():
            coded = jpeg(picture(number))
            data = np.frombuffer(cut(coded) if number % 20 == 9 else coded, np.uint8)
            message = ROS_TYPES.types[kind](header=header(stamp_ns, "up"), format="jpeg", data=data)
            bag.raw(camera.topic, kind, stamp_ns, bytes(ROS_TYPES.serialize_cdr(message, kind)))
            bag.image(CONTRACT.cameras[1].topic, stamp_ns, "side", picture(number))
            bag.joints(CONTRACT.joint_state_topic, stamp_ns, CONTRACT.joint_names, pose(number, CONTRACT.dof))
            bag.array(CONTRACT.command_topic, stamp_ns, pose(number, CONTRACT.dof))
    accounts = [verb(tmp_path / "bag") for verb in (inspected, replayed, written, preprocessed)]
    assert accounts == 4 * [{f"{camera.name}: compressed image is cut": 3, "invalid_ticks": 3}]


NO_CDR = b"\0\1\0\0" + bytes(30)
BAD: dict[str, Callable[[BagWriter, int], object]] = {
    "a picture that is no CDR": lambda bag, ns: bag.raw(UP.topic, "sensor_msgs/msg/Image", ns, NO_CDR),
    "a picture of another size": lambda bag, ns: bag.image(UP.topic, ns, UP.name, np.zeros((6, 8, 3), np.uint8)),
    "joints that are no CDR": lambda bag, ns: bag.raw(CONTRACT.joint_state_topic, JOINT_TYPE, ns, NO_CDR[:9]),
    "no joints": lambda bag, ns: bag.joints(CONTRACT.joint_state_topic, ns, (), np.zeros(0)),
    "one joint": lambda bag, ns: bag.joints(CONTRACT.joint_state_topic, ns, JOINTS[:1], np.zeros(1)),
    "joints that are no numbers": lambda bag, ns: bag.joints(
        CONTRACT.joint_state_topic, ns, JOINTS, np.full(6, np.nan)
    ),
    "a short command": lambda bag, ns: bag.array(CONTRACT.command_topic, ns, np.zeros(2)),
    "a command that is no number": lambda bag, ns: bag.array(CONTRACT.command_topic, ns, np.full(6, np.inf)),
    "a wild pose": lambda bag, ns: bag.joints(CONTRACT.joint_state_topic, ns, JOINTS, np.full(6, 300.0)),
    "a wild command": lambda bag, ns: bag.array(CONTRACT.command_topic, ns, np.full(6, -300.0)),
}


@settings(max_examples=16, deadline=None)
@given(
    kind=st.sampled_from(sorted(BAD)),
    count=st.integers(1, 5),
    places=st.lists(st.integers(0, TICKS - 1), min_size=2, max_size=2, unique=True),
    storage=st.sampled_from(STORAGES),
)
@example(kind="no joints", count=1, places=[0, 30], storage="mcap")
@example(kind="a picture of another size", count=2, places=[0, TICKS - 1], storage="sqlite3")
@example(kind="a short command", count=3, places=[0, 30], storage="mcap")
def test_law_moving_a_bad_message_changes_only_counts(kind: str, count: int, places: list[int], storage: str) -> None:
    accounts = []
    for at in places:
        with TemporaryDirectory() as folder:
            path = write(Path(folder) / "bag", steady(), storage=storage, at=at, add=[BAD[kind]] * count)
            ticks, read = ticks_of(path)
            assert len(ticks) == TICKS
            accounts.append({reason: n for reason, n in read.losses.items() if reason != "invalid_ticks"})
    assert accounts[0].keys() == accounts[1].keys() != set()
    assert sum(accounts[0].values()) == sum(accounts[1].values()) == count


def test_strict_refuses_in_every_verb_what_else_is_counted(tmp_path: Path) -> None:
    path = write(tmp_path / "bag", steady(), joints=PARTIAL)
    with pytest.raises(BagError, match="has losses"):
        write_dataset([path], CONTRACT, tmp_path / "set", strict=True)
    (source,) = bag_sources([path], strict=True)
    with pytest.raises(BagError, match="has losses"):
        list(read_source(source, CONTRACT, image_size_px=16, strict=True))


def test_a_stream_that_never_fits_is_the_wrong_contract_and_soon_said(tmp_path: Path) -> None:
    path = write(tmp_path / "bag", steady(), at=0, joints=[("gripper",)] * MOST_MISFITS)
    with pytest.raises(ContractError, match="joints are missing"):
        ticks_of(path)


@pytest.mark.parametrize("ticks", [30, 2 * MOST_MISFITS])
@pytest.mark.parametrize("other", ["degrees of poses", "degrees of commands", "percent of a gripper"])
def test_numbers_that_are_no_radians_are_refused_by_every_verb(tmp_path: Path, other: str, ticks: int) -> None:
    by = np.ones(CONTRACT.dof)
    by[-1 if other.startswith("percent") else slice(None)] = 100.0 if other.startswith("percent") else 180.0 / np.pi
    with BagWriter(tmp_path / "bag") as bag:
        for number, stamp_ns, _ in steady(ticks):
            for camera in CONTRACT.cameras:
                bag.image(camera.topic, stamp_ns, camera.name, picture(number))
            posed, asked = 0.3 + 0.1 * pose(number, CONTRACT.dof), 0.3 + 0.1 * pose(number + 2, CONTRACT.dof)
            moved = posed if other == "degrees of commands" else by * posed
            bag.joints(CONTRACT.joint_state_topic, stamp_ns, CONTRACT.joint_names, moved)
            bag.array(CONTRACT.command_topic, stamp_ns, by * asked if "commands" in other else asked)
    for verb in (inspected, replayed, written, preprocessed):
        with pytest.raises(ContractError, match=r"out of its joint.s reach.*in radians"):
            verb(tmp_path / "bag")


def test_ticks_without_an_action_are_counted_and_many_are_a_loss(tmp_path: Path) -> None:
    _, few = ticks_of(write(tmp_path / "few", steady(), commands=TICKS - 1))
    _, many = ticks_of(write(tmp_path / "many", steady(), commands=20))
    assert few.ticks_without_action == 0
    assert "valid ticks without a recorded action" not in few.losses
    assert many.losses["valid ticks without a recorded action"] == many.ticks_without_action > 30


@pytest.mark.parametrize("storage", [StoragePlugin.MCAP, StoragePlugin.SQLITE3])
def test_zstd_by_message_is_seen_without_metadata(tmp_path: Path, storage: StoragePlugin) -> None:
    writer = Writer(tmp_path / "bag", version=9, storage_plugin=storage)
    writer.set_compression(CompressionMode.MESSAGE, CompressionFormat.ZSTD)
    with writer:
        connection = writer.add_connection("/text", "std_msgs/msg/String", typestore=ROS_TYPES)
        message = ROS_TYPES.types["std_msgs/msg/String"](data="pick " * 40)
        writer.write(connection, 1, ROS_TYPES.serialize_cdr(message, "std_msgs/msg/String"))
    (tmp_path / "bag" / "metadata.yaml").unlink()
    with open_bag(tmp_path / "bag", strict=True) as bag:
        assert [record.message for record in bag.records()] == ["pick " * 40]


@pytest.mark.parametrize("content", [b"", b"\x89MCAP0\r\n"])
def test_a_split_bag_with_an_empty_last_file_is_recovered(tmp_path: Path, content: bytes) -> None:
    path = write_recording(tmp_path / "bag", CONTRACT, ticks=5)
    (path / "metadata.yaml").unlink()
    (path / "bag_1.mcap").write_bytes(content)
    with pytest.raises(BagError, match="with recover"):
        open_bag(path)
    with open_bag(path, recover=True) as bag:
        assert len(list(bag.records())) == 26
        assert any("bag_1.mcap" in reason or "index not usable" in reason for reason in bag.info.losses)


@pytest.mark.parametrize("make", [os.mkfifo, lambda place: place.symlink_to("annex/not/fetched")])
def test_a_part_of_a_bag_that_is_no_file_is_counted(tmp_path: Path, make: Callable[[Path], object]) -> None:
    path = write_recording(tmp_path / "bag", CONTRACT, ticks=5)
    (path / "metadata.yaml").unlink()
    whole = storage_file(path)
    make(path / "bag_1.mcap")
    with open_bag(path) as bag:
        assert [reason for reason in bag.info.losses if reason.startswith("bag_1.mcap is no file")]
    whole.unlink()
    with pytest.raises(BagError, match=r"bag_1\.mcap is no file"):
        open_bag(path)


def test_zeros_behind_a_file_as_a_power_cut_leaves_them_are_not_walked_through(tmp_path: Path) -> None:
    path = write_recording(tmp_path / "bag", CONTRACT, ticks=5)
    stored = storage_file(path).read_bytes()
    end_of_data = stored.index(struct.pack("<BQ", 15, 4))
    storage_file(path).write_bytes(stored[:end_of_data] + bytes(1 << 24))
    with open_bag(path, recover=True) as bag:
        assert len(list(bag.records())) == 26
        assert any("zeros where a record should be" in reason for reason in bag.info.losses)


def test_a_bag_compressed_as_a_whole_and_cut_is_recovered_up_to_the_cut(tmp_path: Path) -> None:
    path = write_recording(tmp_path / "bag", CONTRACT, ticks=600)
    data = zstd.compress(storage_file(path).read_bytes())
    storage_file(path).unlink()
    (path / "metadata.yaml").unlink()
    (path / "bag_0.mcap.zstd").write_bytes(data[: 2 * len(data) // 3])
    with pytest.raises(BagError, match="cannot be unpacked"):
        open_bag(path)
    with open_bag(path, recover=True) as bag:
        assert 500 < len(list(bag.records())) < 2500
        assert any("bag_0.mcap.zstd" in reason for reason in bag.info.losses)


def png(pixels: np.ndarray) -> bytes:
    return bytes(cv2.imencode(".png", pixels)[1])


def jpeg(pixels: np.ndarray) -> bytes:
    return bytes(cv2.imencode(".jpg", pixels, [cv2.IMWRITE_JPEG_QUALITY, 90])[1])


def compressed(data: bytes, name: str) -> ImageMessage:
    return ImageMessage(encoding=name, height=0, width=0, step=0, data=data, is_compressed=True)


@pytest.mark.parametrize("name", ["png", "16UC1; png compressed"])
def test_depth_is_refused_in_words(name: str) -> None:
    depth = np.full((24, 32), 700, dtype=np.uint16)
    with pytest.raises(ContractError, match=r"16 bits|not supported"):
        check_image(compressed(png(depth), name), CONTRACT.cameras[0])


@pytest.mark.parametrize("suffix", [".png", ".jpg"])
def test_a_grey_picture_is_refused_coded_as_raw_and_in_a_data_set(suffix: str) -> None:
    grey = cv2.cvtColor(picture(1), cv2.COLOR_RGB2GRAY)
    coded = bytes(cv2.imencode(suffix, grey)[1])
    raw = ImageMessage(encoding="mono8", height=24, width=32, step=32, data=grey.reshape(-1), is_compressed=False)
    for message in (raw, compressed(coded, "mono8; jpeg compressed"), compressed(coded, suffix[1:])):
        with pytest.raises(ContractError, match=r"grey|not supported"):
            check_image(message, CONTRACT.cameras[0])
    with pytest.raises(SigmaError, match="grey"):
        decode_coded(coded, where="a data set")


def test_a_camera_that_pads_its_pictures_with_zeros_is_read() -> None:
    for coded in (jpeg(picture(1)), png(picture(1))):
        expected = decode_coded(coded, where="")
        assert np.array_equal(decode_full(compressed(coded + bytes(4000), "jpeg"), CONTRACT.cameras[0]), expected)
        with pytest.raises(ContractError, match="damaged"):
            check_image(compressed(coded[:-20] + bytes(4000), "jpeg"), CONTRACT.cameras[0])


@pytest.mark.parametrize("lost", [300, 450, 600])
def test_a_jpeg_that_lacks_data_before_its_end_is_refused(lost: int) -> None:
    whole = jpeg(picture(1))
    assert decode_full(compressed(whole, "jpeg"), CONTRACT.cameras[0]).shape == (24, 32, 3)
    with pytest.raises(SigmaError, match="cut"):
        decode_full(compressed(whole[: -2 - lost] + whole[-2:], "jpeg"), CONTRACT.cameras[0])


def test_a_black_picture_is_whole() -> None:
    assert not decode_full(compressed(jpeg(np.zeros((24, 32, 3), np.uint8)), "jpeg"), CONTRACT.cameras[0]).any()


def test_exif_turns_no_picture_neither_in_a_bag_nor_in_a_data_set() -> None:
    whole = jpeg(picture(1))
    turned = b"\xff\xe1\x00\x22Exif\0\0MM\0*\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0\x06\0\0\0\0\0\0"
    data = whole[:2] + turned + whole[2:]
    expected = decode_full(compressed(whole, "jpeg"), CONTRACT.cameras[0])
    assert np.array_equal(decode_full(compressed(data, "jpeg"), CONTRACT.cameras[0]), expected)
    assert np.array_equal(decode_coded(data, where="a data set"), expected)


def test_a_git_lfs_pointer_and_a_ros_1_bag_get_their_own_advice(tmp_path: Path) -> None:
    pointer = b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 5\n"
    for name in ("a.mcap", "a.db3", "a.mcap.zstd"):
        (tmp_path / name).write_bytes(pointer)
        with pytest.raises(SigmaError, match="git lfs pull"):
            open_bag(tmp_path / name)
    (tmp_path / "demo.bag").write_bytes(b"#ROSBAG V2.0\n")
    with pytest.raises(BagError, match="rosbags-convert"):
        open_bag(tmp_path / "demo.bag")


def test_our_task_topic_goes_before_others_and_of_several_others_none_is_taken(tmp_path: Path) -> None:
    def bag_with(name: str, topics: dict[str, str]) -> Path:
        with BagWriter(tmp_path / name) as bag:
            for topic, text in topics.items():
                bag.text(topic, START_NS, text)
        return tmp_path / name

    ours = bag_with("ours", {"/a_robot/task": "IDLE", TASK_TOPIC: "pick"})
    other = bag_with("other", {"/a_robot/task": "pick"})
    several = bag_with("several", {"/a_robot/task": "IDLE", "/b/task": "pick"})
    empty = bag_with("empty", {TASK_TOPIC: ""})
    for path, task in ((ours, "pick"), (other, "pick"), (several, CONTRACT.tasks[0]), (empty, CONTRACT.tasks[0])):
        with open_bag(path) as bag:
            assert recorded_task(bag, CONTRACT) == task
            assert bool(bag.info.losses) == (path == several)


def test_topics_are_found_with_and_without_a_leading_slash(tmp_path: Path) -> None:
    path = write_recording(tmp_path / "bag", CONTRACT, ticks=20)
    cameras = tuple(replace(camera, topic=camera.topic.removeprefix("/")) for camera in CONTRACT.cameras)
    relative = replace(
        CONTRACT,
        cameras=cameras,
        joint_state_topic=CONTRACT.joint_state_topic.removeprefix("/"),
        command_topic=CONTRACT.command_topic.removeprefix("/"),
    )
    with open_bag(path) as bag:
        assert sum(tick.window is not None for tick in Episode(bag, relative, image_size_px=None)) == 20


@pytest.mark.parametrize("command_type", COMMAND_TYPES)
def test_what_transcode_writes_is_read_whatever_the_command_type(tmp_path: Path, command_type: CommandType) -> None:
    contract = replace(SET_CONTRACT, command_type=command_type)
    source = load_episode(str(write_v2(tmp_path / "set")), 1, contract)
    transcode(source, contract, tmp_path / "bag")
    with open_bag(tmp_path / "bag", strict=True) as bag:
        ticks = list(Episode(bag, contract, image_size_px=None))
    rows = list(rows_of(source, contract))
    assert [tick.action_rad.tolist() for tick in ticks] == [row.action_rad.tolist() for row in rows]


def film(file: Path, count: int, rate: int, *, without: range = range(0)) -> None:
    import av  # noqa: PLC0415

    with av.open(str(file), "w") as container:
        stream = container.add_stream("libx264rgb", rate=rate, options={"crf": "0"})
        stream.width, stream.height, stream.pix_fmt = 32, 24, "rgb24"
        for number in range(count):
            if number not in without:
                frame = av.VideoFrame.from_ndarray(np.full((24, 32, 3), 2 * number, np.uint8), format="rgb24")
                frame.pts = number
                container.mux(stream.encode(frame))
        container.mux(stream.encode())


def levels(root: Path, index: int = 1) -> list[int]:
    source = load_episode(str(root), index, SET_CONTRACT)
    camera = SET_CONTRACT.cameras[0].name
    return [int(row.pictures[camera].mean().round()) for row in rows_of(source, SET_CONTRACT)]


def film_of(root: Path) -> Path:
    (file,) = root.glob(f"videos/**/{SET_CONTRACT.cameras[0].dataset_key}/**/*_000001.mp4")
    return file


def test_pictures_of_a_faster_film_are_taken_by_time(tmp_path: Path) -> None:
    root = write_v2(tmp_path / "set")
    film(film_of(root), 40, 60)
    found = levels(root)
    assert found == [4 * row for row in range(len(found))]


def test_a_film_with_a_hole_or_of_another_rate_is_refused(tmp_path: Path) -> None:
    for name, make in {
        "hole": lambda file: film(file, 40, 30, without=range(4, 7)),
        "rate": lambda file: film(file, 40, 25),
    }.items():
        root = write_v2(tmp_path / name)
        make(film_of(root))
        with pytest.raises(DatasetError, match="no picture at a row's time"):
            levels(root)


def test_an_episode_that_no_file_holds_is_named_and_the_others_are_read(tmp_path: Path) -> None:
    root = write_v2(tmp_path / "set")
    data = root / "data" / "chunk-000"
    (data / "episode_000001.parquet").rename(data / "episode_000005.parquet")
    numbers = episode_numbers(str(root))
    assert 5 in numbers
    assert 1 in numbers
    with pytest.raises(DatasetError, match="episode 1 is not listed"):
        load_episode(str(root), 1, SET_CONTRACT)


HOSTILE: dict[str, Callable[[Path], None]] = {
    "a field that is a format string": lambda root: break_info(root, video_path="{video_key:>3000000000}"),
    "an unnamed field": lambda root: break_info(root, data_path="{0}"),
    "an attribute": lambda root: break_info(root, data_path="{episode_index.__class__}"),
    "out of the set": lambda root: break_info(root, data_path="../../{episode_index:06d}.parquet"),
    "an absolute path": lambda root: break_info(root, data_path="/etc/{episode_index}"),
    "no chunks": lambda root: break_info(root, chunks_size=0),
    "an empty feature": lambda root: break_info(root, features={"action": None}),
    "a deep document": lambda root: (root / "meta" / "info.json").write_text("[" * 100_000) and None,
    "no number of episodes": lambda root: break_info(root, total_episodes="many"),
    **{
        f"a rate of {rate!r}": partial(break_info, fps=rate) for rate in ("fast", None, [30], {}, 0, -1, 1e300, 10**400)
    },
}


@pytest.mark.parametrize("kind", sorted(HOSTILE))
def test_a_hostile_data_set_is_one_sentence(tmp_path: Path, kind: str) -> None:
    root = write_v2(tmp_path / "set")
    HOSTILE[kind](root)

    def read() -> None:
        load_episode(str(root), 1, SET_CONTRACT)
        episode_numbers(str(root))

    def look() -> None:
        with contextlib.suppress(SigmaError):
            look_into(str(root))

    look()
    with pytest.raises(SigmaError) as caught:
        read()
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 1000


@pytest.mark.parametrize("shape", [["a", "b", 3], [24, None, 3], [24, 32, {}], [0, -1, 3], "3", 7])
def test_a_picture_s_size_that_is_none_is_not_taken_for_one(tmp_path: Path, shape: object) -> None:
    root = write_v2(tmp_path / "set")
    features = json.loads((root / "meta" / "info.json").read_text())["features"]
    features[SET_CONTRACT.cameras[0].dataset_key]["shape"] = shape
    break_info(root, features=features)
    assert look_into(str(root)).cameras()[0].size_px is None
    (tmp_path / "policy").mkdir()
    config = {"input_features": {"image": {"type": "VISUAL", "shape": shape}}}
    (tmp_path / "policy" / "config.json").write_text(json.dumps(config))
    (tmp_path / "policy" / "model.safetensors").symlink_to(tmp_path / "nowhere")
    assert look_into(str(tmp_path / "policy")).streams[0].size_px is None


@pytest.mark.parametrize("name", ["meta/tasks.parquet", "meta/episodes/chunk-000/file-000.parquet"])
def test_a_pipe_in_a_table_s_place_is_no_table(tmp_path: Path, name: str) -> None:
    root = write_v3(tmp_path / "set")
    (root / name).unlink()
    os.mkfifo(root / name)
    with pytest.raises(SigmaError, match="not a regular file"):
        load_episode(str(root), 1, SET_CONTRACT)


@pytest.mark.parametrize("lost", [0, 1, 3])
def test_a_v3_episode_whose_film_lost_its_end_gets_none_of_the_next_one_s_pictures(tmp_path: Path, lost: int) -> None:
    root = write_v3(tmp_path / "set")
    file = root / "meta/episodes/chunk-000/file-000.parquet"
    table = pq.read_table(file)
    for camera in SET_CONTRACT.cameras:
        starts = table[f"videos/{camera.dataset_key}/from_timestamp"].to_pylist()
        ends = [*starts[1:], starts[-1] + 0.5]
        ends[1] -= lost / 30
        table = table.append_column(f"videos/{camera.dataset_key}/to_timestamp", pa.array(ends))
    pq.write_table(table, file)
    with pytest.raises(DatasetError, match="the next are another episode's") if lost else contextlib.nullcontext():
        assert len(levels(root, 1)) == 9


def set_verbs(root: Path, out: Path, index: int = 1, **reading: bool) -> dict[str, dict[str, int]]:
    """What each verb that reads a data set counts as lost of an episode; a replay reads the transcoded bag."""
    source = load_episode(str(root), index, SET_CONTRACT)
    transcoded = transcode(source, SET_CONTRACT, out / "bag", **reading)
    (made,) = dataset_sources(str(root), [index], SET_CONTRACT, revision=None, **reading)
    shards: dict[str, int] = {}
    with contextlib.suppress(DatasetError):  # short episodes hold no training window
        list(read_source(made, SET_CONTRACT, image_size_px=16, lost=shards.update))
    with made.open() as records:
        ticks = Episode(records, SET_CONTRACT, image_size_px=None)
        list(ticks)
    replayed_too: dict[str, int] = {}
    with open_bag(out / "bag") as bag:
        again = Episode(bag, SET_CONTRACT, image_size_px=None)
        list(again)
        replayed_too = again.losses
    looked = look_into(str(root), contract=SET_CONTRACT, episodes=[index], recover=reading.get("recover", False))
    return {
        "transcode": transcoded,
        "preprocess": ticks.losses,
        "replay": replayed_too,
        "inspect": dict(looked.losses),
        "shards": shards,
    }


def delay_rows(root: Path, index: int, start: int, by_s: float) -> None:
    file = root / "data" / "chunk-000" / f"episode_{index:06d}.parquet"
    table = pq.read_table(file)
    stamps = table["timestamp"].to_numpy().copy()
    stamps[start:] += by_s
    place = table.column_names.index("timestamp")
    pq.write_table(table.set_column(place, "timestamp", pa.array(stamps)), file)


def test_every_verb_counts_the_same_losses_of_a_data_set(tmp_path: Path) -> None:
    whole, late = write_v2(tmp_path / "whole"), write_v2(tmp_path / "late")
    delay_rows(late, 2, 8, 0.5)
    for name, root, some in (("w", whole, False), ("l", late, True)):
        counted = set_verbs(root, tmp_path / name, 2)
        assert counted["transcode"] == counted["preprocess"] == counted["replay"] == counted["inspect"]
        assert bool(counted["transcode"]) == some
        assert counted["shards"] in ({}, counted["transcode"])


def test_an_episode_whose_film_ends_early_is_recovered_and_the_rest_counted(tmp_path: Path) -> None:
    root = write_v2(tmp_path / "set")
    film(film_of(root), 6, 30)
    with pytest.raises(DatasetError, match="fewer pictures"):
        set_verbs(root, tmp_path / "refused")
    counted = set_verbs(root, tmp_path / "out", recover=True)
    (lost,) = [n for reason, n in counted["transcode"].items() if reason.startswith("rows not read")]
    assert lost == 3
    assert counted["transcode"] == counted["preprocess"] == counted["inspect"]
    with pytest.raises(BagError, match="has losses"):
        set_verbs(root, tmp_path / "strict", recover=True, strict=True)
    assert not (tmp_path / "strict" / "bag").exists()


def test_several_tasks_of_an_episode_reach_the_bag_and_its_windows(tmp_path: Path) -> None:
    root = write_v2(tmp_path / "set")
    set_column(root, 2, "task_index", [0] * 7 + [1] * 8)
    source = load_episode(str(root), 2, SET_CONTRACT)
    assert source.task == source.tasks[0] != source.tasks[-1]
    transcode(source, SET_CONTRACT, tmp_path / "bag")
    with open_bag(tmp_path / "bag") as bag:
        tasks = [tick.window.task for tick in Episode(bag, SET_CONTRACT, image_size_px=None) if tick.window]
    assert tasks == list(source.tasks)


def test_rows_of_another_rate_than_the_data_set_says_are_refused(tmp_path: Path) -> None:
    for name, rate_hz in (("fast", 60.0), ("slow", 20.0)):
        root = write_v2(tmp_path / name)
        set_column(root, 2, "timestamp", [row / rate_hz for row in range(15)])
        with pytest.raises(DatasetError, match=f"rows come {rate_hz:.0f} times a second.*correct fps"):
            load_episode(str(root), 2, SET_CONTRACT)


def test_an_episode_that_lost_rows_is_refused(tmp_path: Path) -> None:
    root = write_v3(tmp_path / "set")
    file = root / "meta/episodes/chunk-000/file-000.parquet"
    table = pq.read_table(file)
    for lengths, fits in (([12, 9, 15], True), ([12, 10, 15], False)):
        pq.write_table(table.append_column("length", pa.array(lengths)), file)
        with contextlib.nullcontext() if fits else pytest.raises(DatasetError, match="other rows than the table"):
            load_episode(str(root), 1, SET_CONTRACT)


def test_rows_of_another_episode_or_with_some_lost_between_are_refused(tmp_path: Path) -> None:
    """The times may have been written anew: the rows' own numbers tell."""
    for name, numbers in (("episode_index", [1] * 15), ("frame_index", [*range(8), *range(11, 18)])):
        root = write_v2(tmp_path / name)
        set_column(root, 2, name, numbers)
        with pytest.raises(DatasetError, match="rows of episode 2 are another's"):
            load_episode(str(root), 2, SET_CONTRACT)


def test_an_episode_that_is_a_copy_is_named(tmp_path: Path) -> None:
    root = write_v2(tmp_path / "set")
    first, second = (pq.read_table(root / f"data/chunk-000/episode_00000{n}.parquet") for n in (0, 1))
    copy = first.slice(0, 9).to_pydict() | {"episode_index": [1] * 9}
    pq.write_table(first.slice(0, 9), root / "data/chunk-000/episode_000000.parquet")
    pq.write_table(pa.table(copy, schema=second.schema), root / "data/chunk-000/episode_000001.parquet")
    found = look_into(str(root)).findings
    assert [said for said in found if "copy" in said] == ["episode 1 has the states of episode 0: a copy"]


def set_column(root: Path, index: int, name: str, values: Sequence[float]) -> None:
    file = root / "data" / "chunk-000" / f"episode_{index:06d}.parquet"
    table = pq.read_table(file)
    pq.write_table(table.set_column(table.column_names.index(name), name, pa.array(values)), file)


def test_a_task_that_no_table_names_is_one_sentence(tmp_path: Path) -> None:
    root = write_v2(tmp_path / "set")
    set_column(root, 2, "task_index", [7] * 15)
    with pytest.raises(DatasetError, match="no table of tasks names"):
        load_episode(str(root), 2, SET_CONTRACT)


def with_image_paths(root: Path, names: list[str]) -> Path:
    """The set with pictures in rows, each a file that the row names."""
    file = root / "data" / "chunk-000" / "episode_000001.parquet"
    table = pq.read_table(file)
    info = json.loads((root / "meta" / "info.json").read_text())
    for camera in SET_CONTRACT.cameras:
        info["features"][camera.dataset_key]["dtype"] = "image"
        rows = [{"bytes": None, "path": name} for name in names]
        table = table.append_column(camera.dataset_key, pa.array(rows))
    pq.write_table(table, file)
    (root / "meta" / "info.json").write_text(json.dumps(info))
    return root


def test_pictures_that_rows_name_by_path_are_read_below_the_set_and_nowhere_else(tmp_path: Path) -> None:
    root = with_image_paths(write_v2(tmp_path / "set"), [f"images/{n}.png" for n in range(9)])
    (root / "images").mkdir()
    for number in range(9):
        (root / "images" / f"{number}.png").write_bytes(png(np.full((24, 32, 3), 9 * number, np.uint8)))
    assert levels(root) == [9 * n for n in range(9)]
    (tmp_path / "secret.png").write_bytes(png(np.zeros((24, 32, 3), np.uint8)))
    outside = with_image_paths(write_v2(tmp_path / "outside"), ["../secret.png"] * 9)
    with pytest.raises(SigmaError, match="leads out"):
        levels(outside)


def test_metadata_that_names_other_files_is_a_counted_loss(tmp_path: Path) -> None:
    path = write_recording(tmp_path / "bag", CONTRACT, ticks=5)
    storage_file(path).rename(path / "renamed.mcap")
    with open_bag(path) as bag:
        assert len(list(bag.records())) == 26
        assert list(bag.info.losses.values()) == [1]
        assert "names other files" in next(iter(bag.info.losses))
    with pytest.raises(BagError, match="names other files"):
        open_bag(path, strict=True)


def test_opencv_s_own_colour_order_and_a_format_that_is_not_said_are_read() -> None:
    whole = picture(3)
    raw = {"height": 24, "width": 32, "step": 96, "is_compressed": False}
    blue_first = ImageMessage(encoding="8UC3", data=np.ascontiguousarray(whole[..., ::-1]).reshape(-1), **raw)
    assert np.array_equal(decode_full(blue_first, CONTRACT.cameras[0]), whole)
    unsaid = decode_full(compressed(jpeg(whole), ""), CONTRACT.cameras[0])
    assert np.array_equal(unsaid, decode_full(compressed(jpeg(whole), "jpeg"), CONTRACT.cameras[0]))
    with pytest.raises(ContractError, match="damaged"):
        check_image(compressed(b"neither" * 40, ""), CONTRACT.cameras[0])


# What users have: types as of 2019, stamps of another clock, a leader arm in place of commands.


def test_type_names_of_2019_mean_the_same(tmp_path: Path) -> None:
    path = write_recording(tmp_path / "bag", CONTRACT, ticks=10, storage="sqlite3")
    with sqlite3.connect(storage_file(path)) as database:
        database.execute("UPDATE topics SET type = replace(type, '/msg/', '/')")
    with open_bag(path) as bag:
        ticks = Episode(bag, CONTRACT, image_size_px=None)
        assert sum(tick.window is not None for tick in ticks) == 10
        assert ticks.losses == {}


def test_log_times_are_taken_where_asked_for_and_only_there(tmp_path: Path) -> None:
    zero = [(number, 0, log_ns) for number, _, log_ns in steady()]
    path = write(tmp_path / "bag", zero)
    with pytest.raises(SigmaError):
        ticks_of(path)
    ticks, found = ticks_of(path, stamps="log")
    assert sum(tick.window is not None for tick in ticks) >= TICKS - 1
    assert found.losses == {}
    assert replay_of(path, stamps="log").bag.stamps == "log"
    warnings = verdict_of([replay_of(path, stamps="log")], score(replay_of(path, stamps="log"))).warnings
    assert any("TIMES OF RECORDING" in warning for warning in warnings)
    assert write_dataset([path], CONTRACT, tmp_path / "set", videos=False, stamps="log").frames > TICKS // 2
    assert not look_into(str(path), contract=CONTRACT, stamps="log").losses
    with pytest.raises(SigmaError, match="no such stamps"):
        open_bag(path, stamps="clock")  # type: ignore[arg-type]


def test_a_leader_arm_s_joint_states_are_the_actions(tmp_path: Path) -> None:
    leader = replace(CONTRACT, leader_topic="/leader/joint_states")
    with BagWriter(tmp_path / "bag") as bag:
        for number, stamp_ns, _ in steady():
            for index, camera in enumerate(CONTRACT.cameras):
                bag.image(camera.topic, stamp_ns, camera.name, picture(2 * number + index))
            bag.joints(CONTRACT.joint_state_topic, stamp_ns, CONTRACT.joint_names, pose(number, CONTRACT.dof))
            bag.joints("/leader/joint_states", stamp_ns, CONTRACT.joint_names[::-1], pose(number + 2, 6)[::-1])
    with open_bag(tmp_path / "bag", strict=True) as bag:
        ticks = list(Episode(bag, leader, image_size_px=None))
    for number, tick in enumerate(ticks):
        assert np.array_equal(tick.action_rad, pose(number + 2, CONTRACT.dof))
    with open_bag(tmp_path / "bag") as bag, pytest.raises(ContractError, match="is missing"):
        Episode(bag, CONTRACT, image_size_px=None)


def test_a_contract_names_the_leader_s_topic(tmp_path: Path) -> None:
    file = tmp_path / "leader.yaml"
    file.write_text("extends: so101\nname: led\naction: {source: command, topic: leader/joint_states}\n")
    assert load_contract(f"{file}").action_topic == "/leader/joint_states"
    assert load_contract("so101").action_topic == load_contract("so101").command_topic
