# SPDX-License-Identifier: Apache-2.0
"""Bags are read as rosbags reads them, in every layout they come in, and damage never passes silently."""

import hashlib
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import yaml
from bags import (
    MS,
    SHARED_DATA,
    START_NS,
    TASK,
    TASK_TOPIC,
    Row,
    hand_made_mcap,
    picture,
    plain,
    pose,
    small_contract,
    storage_file,
    write_recording,
)
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from rosbags.highlevel import AnyReader
from rosbags.rosbag2 import CompressionFormat, CompressionMode, StoragePlugin, Writer

from sigma_ros.bags.messages import ROS_TYPES, JointMessage
from sigma_ros.bags.reader import Bag, open_bag
from sigma_ros.errors import BagError
from sigma_ros.streams.images import ImageMessage

CONTRACT = small_contract()
STORAGES = ("mcap", "sqlite3")
RERUN_BAG = SHARED_DATA / "bag_rerun_sensor_msgs"
ROWS = [[Row(10 * i + j, "/a" if j % 2 else "/b", f"{i}.{j}") for j in range(5)] for i in range(8)]


def all_records(path: Path, **options: bool) -> list[tuple]:
    with open_bag(path, **options) as bag:
        return [plain(record) for record in bag.records()]


def texts(path: Path, **options: bool) -> list[str]:
    return [record[-1] for record in all_records(path, **options)]


def mcap_of(folder: Path, content: bytes) -> Path:
    file = folder / "hand.mcap"
    file.write_bytes(content)
    return file


@pytest.mark.parametrize("storage", STORAGES)
def test_what_is_written_is_read(tmp_path: Path, storage: str) -> None:
    path = write_recording(tmp_path / "bag", CONTRACT, ticks=3, storage=storage)
    with open_bag(path) as bag:
        info = bag.info
        records = list(bag.records())
    up, side = CONTRACT.cameras
    assert info.counts == {
        up.topic: 3,
        side.topic: 3,
        CONTRACT.joint_state_topic: 6,
        CONTRACT.command_topic: 3,
        TASK_TOPIC: 1,
    }
    assert info.messages == len(records) == 16
    assert (info.storage, info.losses, info.metadata) == (storage, {}, {"note": "synthetic"})
    assert (info.start_ns, info.end_ns) == (START_NS, START_NS + CONTRACT.tick_offset_ns(2) + 15 * MS)
    assert info.duration_s == pytest.approx(2 / 30 + 0.015)
    by_topic = {record.topic: record for record in records if record.stamp_ns == START_NS}
    assert by_topic[TASK_TOPIC].message == TASK
    image = by_topic[up.topic].message
    assert isinstance(image, ImageMessage)
    assert (image.encoding, image.height, image.width, image.step) == ("rgb8", 24, 32, 96)
    assert bytes(image.data) == picture(0).tobytes()
    joints = by_topic[CONTRACT.joint_state_topic].message
    assert isinstance(joints, JointMessage)
    assert joints.names == CONTRACT.joint_names
    assert np.array_equal(joints.positions_rad, pose(0, 6))
    assert np.array_equal(by_topic[CONTRACT.command_topic].message, pose(0, 6) + 0.01)


@pytest.mark.parametrize("storage", STORAGES)
def test_records_come_by_log_time_and_only_of_the_topics_asked_for(tmp_path: Path, storage: str) -> None:
    path = write_recording(tmp_path / "bag", CONTRACT, storage=storage)
    with open_bag(path) as bag:
        records = list(bag.records([CONTRACT.command_topic, CONTRACT.joint_state_topic]))
        assert {record.topic for record in records} == {CONTRACT.command_topic, CONTRACT.joint_state_topic}
        times_ns = [record.log_time_ns for record in records]
        assert times_ns == sorted(times_ns)
        assert len(records) == 180
        assert list(bag.records(["/nothing"])) == []
        assert next(bag.records([CONTRACT.command_topic])).stamp_ns == START_NS


def rosbags_view(path: Path) -> list[tuple]:
    """The same bag through rosbags, in the order in which it gives it."""
    with AnyReader([path]) as reader:
        return [
            (
                connection.topic,
                connection.msgtype,
                log_time_ns,
                bytes(data),
                reader.deserialize(data, connection.msgtype),
            )
            for connection, log_time_ns, data in reader.messages()
        ]


def assert_equals_rosbags(bag: Bag, path: Path) -> None:
    records = list(bag.records())
    reference = rosbags_view(path)
    assert [record[:3] for record in records] == [row[:3] for row in reference]
    for record, (_, msgtype, log_time_ns, data, message) in zip(records, reference, strict=True):
        header = getattr(message, "header", None)
        stamp_ns = log_time_ns if header is None else header.stamp.sec * 10**9 + header.stamp.nanosec
        assert record.stamp_ns == stamp_ns
        ours = plain(record)[-1]
        if msgtype == "sensor_msgs/msg/Image":
            assert ours == (message.encoding, message.height, message.width, message.step, message.data.tobytes())
        elif msgtype == "sensor_msgs/msg/CompressedImage":
            assert ours == (message.format, 0, 0, 0, message.data.tobytes())
        elif msgtype == "sensor_msgs/msg/JointState":
            assert ours == (tuple(message.name), message.position.tolist())
        elif msgtype == "std_msgs/msg/Float64MultiArray":
            assert ours == message.data.tolist()
        elif msgtype == "std_msgs/msg/String":
            assert ours == message.data
        else:
            assert ours == data


@pytest.mark.parametrize("storage", STORAGES)
@pytest.mark.parametrize("jpeg_quality", [None, 90])
def test_our_bags_read_the_same_through_rosbags(tmp_path: Path, storage: str, jpeg_quality: int | None) -> None:
    path = write_recording(tmp_path / "bag", CONTRACT, storage=storage, jpeg_quality=jpeg_quality)
    with open_bag(path) as bag:
        assert_equals_rosbags(bag, path)


@pytest.mark.skipif(not RERUN_BAG.is_dir(), reason="the shared real recordings are not here")
def test_a_bag_of_the_ros_recorder_without_metadata_reads_as_in_rosbags() -> None:
    file = storage_file(RERUN_BAG)
    with open_bag(RERUN_BAG, strict=True) as bag:
        assert bag.info.messages == 194
        assert len(bag.info.topics) == 32
        assert not bag.info.checksummed
        assert_equals_rosbags(bag, file)
        image = next(bag.records(["/image"]))
        joints = next(bag.records(["/joint_state"]))
    assert isinstance(image.message, ImageMessage)
    assert (image.message.width, image.message.height, image.message.nbytes) == (640, 480, 921_600)
    assert isinstance(joints.message, JointMessage)
    assert joints.message.names == ("shoulder_joint", "elbow_joint", "wrist_joint", "gripper_joint")
    assert joints.stamp_ns != joints.log_time_ns


@pytest.mark.parametrize("storage", STORAGES)
def test_a_bare_file_and_a_folder_without_metadata_are_bags(tmp_path: Path, storage: str) -> None:
    path = write_recording(tmp_path / "bag", CONTRACT, ticks=5, storage=storage)
    expected = all_records(path)
    assert all_records(storage_file(path)) == expected
    (path / "metadata.yaml").unlink()
    assert all_records(path) == expected


@pytest.mark.parametrize("storage", STORAGES)
@pytest.mark.parametrize("keep_metadata", [True, False])
def test_split_files_read_as_one_bag_in_their_order(tmp_path: Path, storage: str, *, keep_metadata: bool) -> None:
    whole = tmp_path / "whole"
    whole.mkdir()
    expected, names = [], []
    for part in range(11):  # part 10 comes after part 9, not after part 1
        path = write_recording(
            tmp_path / f"part_{part}", CONTRACT, ticks=2, first_tick=2 * part, storage=storage, task=None
        )
        expected += all_records(path)
        file = storage_file(path)
        names.append(f"whole_{part}{file.suffix}")
        shutil.copy(file, whole / names[-1])
    if keep_metadata:
        information = {"version": 9, "storage_identifier": storage, "relative_file_paths": names}
        (whole / "metadata.yaml").write_text(yaml.safe_dump({"rosbag2_bagfile_information": information}))
    assert all_records(whole) == expected


@pytest.mark.parametrize("storage", [StoragePlugin.MCAP, StoragePlugin.SQLITE3])
@pytest.mark.parametrize("mode", [CompressionMode.FILE, CompressionMode.MESSAGE, CompressionMode.STORAGE])
def test_zstd_by_file_message_or_chunk_is_read(tmp_path: Path, storage: StoragePlugin, mode: CompressionMode) -> None:
    if storage is StoragePlugin.SQLITE3 and mode is CompressionMode.STORAGE:
        pytest.skip("SQLite has no chunks")
    path = tmp_path / "bag"
    writer = Writer(path, version=9, storage_plugin=storage)
    writer.set_compression(mode, CompressionFormat.ZSTD)
    string = ROS_TYPES.types["std_msgs/msg/String"]
    with writer:
        connection = writer.add_connection("/text", "std_msgs/msg/String", typestore=ROS_TYPES)
        for index in range(50):
            cdr = ROS_TYPES.serialize_cdr(string(data=f"{index} " * 50), "std_msgs/msg/String")
            writer.write(connection, START_NS + index, cdr)
    assert texts(path, strict=True) == [f"{index} " * 50 for index in range(50)]
    if mode is CompressionMode.FILE:
        (path / "metadata.yaml").unlink()
        assert len(texts(path, strict=True)) == 50


@pytest.mark.parametrize("compression", ["", "zstd", "lz4"])
@pytest.mark.parametrize("checksums", [True, False])
@pytest.mark.parametrize("layout", ["indexed", "no message index", "no summary", "no chunks", "nothing"])
def test_every_layout_of_mcap_gives_the_same_messages(
    tmp_path: Path, compression: str, layout: str, *, checksums: bool
) -> None:
    file = mcap_of(
        tmp_path,
        hand_made_mcap(
            ROWS,
            compression=compression,
            checksums=checksums,
            summary=layout not in ("no summary", "nothing"),
            message_index=layout != "no message index",
            chunked=layout not in ("no chunks", "nothing"),
        ),
    )
    with open_bag(file, strict=True) as bag:
        assert [record.message for record in bag.records()] == [row.text for rows in ROWS for row in rows]
        assert [record.message for record in bag.records(["/a"])] == [
            row.text for rows in ROWS for row in rows if row.topic == "/a"
        ]
        assert bag.info.counts == {"/a": 16, "/b": 24}
        assert (bag.info.start_ns, bag.info.end_ns) == (0, 74)
        assert bag.info.checksummed == (checksums and "chunks" not in layout and layout != "nothing")


def test_chunks_that_overlap_in_time_are_sorted(tmp_path: Path) -> None:
    random = np.random.default_rng(1)
    times = random.permutation(200)
    chunks = [[Row(int(t), "/a", str(t)) for t in times[i : i + 20]] for i in range(0, 200, 20)]
    assert texts(mcap_of(tmp_path, hand_made_mcap(chunks)), strict=True) == [str(t) for t in range(200)]


def test_records_stay_valid_after_the_bag_is_closed(tmp_path: Path) -> None:
    path = write_recording(tmp_path / "bag", CONTRACT, ticks=4)
    with open_bag(path) as bag:
        records = list(bag.records())
    assert [plain(record) for record in records] == all_records(path)


def test_records_can_be_left_half_read_and_read_again(tmp_path: Path) -> None:
    path = write_recording(tmp_path / "bag", CONTRACT, ticks=10)
    with open_bag(path) as bag:
        stream = bag.records()
        next(stream)
        stream.close()
        assert len(list(bag.records())) == bag.info.messages


def test_the_hash_is_that_of_the_files_contents(tmp_path: Path) -> None:
    path = write_recording(tmp_path / "bag", CONTRACT, ticks=2)
    with open_bag(path) as bag:
        assert bag.info.sha256() == hashlib.sha256(storage_file(path).read_bytes()).hexdigest()


def test_a_missing_checksum_is_said(tmp_path: Path) -> None:
    with open_bag(write_recording(tmp_path / "mcap", CONTRACT, ticks=2)) as bag:
        list(bag.records())
        assert bag.info.checksummed
    with open_bag(write_recording(tmp_path / "sqlite", CONTRACT, ticks=2, storage="sqlite3")) as bag:
        assert not bag.info.checksummed


def written(file: Path, content: bytes) -> Path:
    file.write_bytes(content)
    return file


def two_formats(folder: Path) -> Path:
    written(folder / "a.mcap", b"")
    written(folder / "a.db3", b"")
    return folder


@pytest.mark.parametrize(
    ("make", "text"),
    [
        (lambda folder: folder / "nowhere", "there is no such bag"),
        (lambda folder: folder, "not a rosbag2 bag.*expected: metadata.yaml.*got: an empty folder"),
        (lambda folder: written(folder / "notes.txt", b"x"), "not a rosbag2 bag.*got: notes.txt"),
        (lambda folder: written(folder / "a.mcap", b""), "cannot be read.*the file is empty"),
        (lambda folder: written(folder / "a.mcap", b"x" * 100), "does not begin as MCAP"),
        (lambda folder: written(folder / "a.mcap", b"\x89MCAP0\r\n"), "the file is cut short"),
        (lambda folder: written(folder / "a.db3", b""), "SQLite bag cannot be read"),
        (lambda folder: written(folder / "a.db3", b"x" * 5000), "SQLite bag cannot be read"),
        (lambda folder: written(folder / "a.mcap.zstd", b"x" * 50), "cannot be unpacked"),
        (two_formats, "mixes storage formats"),
    ],
)
def test_what_is_not_a_bag_is_refused_with_a_reason(tmp_path: Path, make: Callable[[Path], Path], text: str) -> None:
    with pytest.raises(BagError, match=text):
        open_bag(make(tmp_path))


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"storage_identifier": "rocksdb"}, "storage is not known.*got: rocksdb"),
        ({"relative_file_paths": []}, "names no files"),
        ({"relative_file_paths": ["gone.mcap"]}, "files that metadata.yaml names are missing.*gone.mcap"),
        ({"compression_mode": "FILE", "compression_format": "brotli"}, "compression is not known.*got: brotli"),
    ],
)
def test_metadata_that_names_what_is_not_there_is_refused(tmp_path: Path, change: dict, text: str) -> None:
    path = write_recording(tmp_path / "bag", CONTRACT, ticks=1)
    document = yaml.safe_load((path / "metadata.yaml").read_text())
    document["rosbag2_bagfile_information"] |= change
    if change.get("relative_file_paths"):  # a file under another name would be found
        storage_file(path).unlink()
    (path / "metadata.yaml").write_text(yaml.safe_dump(document))
    with pytest.raises(BagError, match=text):
        open_bag(path)


@pytest.mark.parametrize("content", ["", "{", "a: [", "\x00", "[1, 2]", "rosbag2_bagfile_information: 3"])
def test_damaged_metadata_is_counted_and_the_files_are_found_without_it(tmp_path: Path, content: str) -> None:
    path = write_recording(tmp_path / "bag", CONTRACT, ticks=2)
    expected = all_records(path)
    (path / "metadata.yaml").write_text(content)
    with open_bag(path) as bag:
        assert [plain(record) for record in bag.records()] == expected
        assert bag.info.losses == {"metadata.yaml is damaged, files were looked for instead": 1}
    with pytest.raises(BagError, match=r"the bag has losses: metadata\.yaml is damaged"):
        open_bag(path, strict=True)


def test_a_missing_split_file_is_a_loss(tmp_path: Path) -> None:
    path = write_recording(tmp_path / "bag", CONTRACT, ticks=2)
    document = yaml.safe_load((path / "metadata.yaml").read_text())
    document["rosbag2_bagfile_information"]["relative_file_paths"].append("bag_1.mcap")
    (path / "metadata.yaml").write_text(yaml.safe_dump(document))
    with open_bag(path) as bag:
        assert bag.info.losses == {"bag_1.mcap is missing": 1}


def test_a_cut_mcap_is_refused_at_every_length_and_recovered_as_far_as_it_goes(tmp_path: Path) -> None:
    content = hand_made_mcap(ROWS)
    everything = [row.text for rows in ROWS for row in rows]
    read_back = set()
    for length in range(8, len(content), 11):
        file = mcap_of(tmp_path, content[:length])
        with pytest.raises(BagError, match=r"cannot be read.*remedy: record again"):
            open_bag(file)
        with open_bag(file, recover=True) as bag:
            found = [str(record.message) for record in bag.records()]
            assert found == everything[: len(found)]
            assert bag.info.losses
            read_back.add(len(found))
    assert read_back == set(range(0, 41, 5))


def test_a_cut_sqlite_bag_never_passes_as_whole(tmp_path: Path) -> None:
    path = storage_file(write_recording(tmp_path / "bag", CONTRACT, ticks=20, storage="sqlite3"))
    content = path.read_bytes()
    whole = all_records(path)
    cut = tmp_path / "cut.db3"
    for length in range(0, len(content), 4099):
        cut.write_bytes(content[:length])
        try:
            with open_bag(cut) as bag:
                found = [plain(record) for record in bag.records()]
                assert bag.info.losses or found == whole
        except BagError:
            continue


def test_damaged_notes_of_a_sqlite_bag_are_a_loss_and_the_messages_are_read(tmp_path: Path) -> None:
    path = storage_file(write_recording(tmp_path / "bag", CONTRACT, ticks=2, storage="sqlite3"))
    content = path.read_bytes()
    expected = all_records(path)
    place = content.rindex(b"custom_data")
    damaged = tmp_path / "damaged.db3"
    damaged.write_bytes(content[:place] + b"\xe9" + content[place + 1 :])
    with open_bag(damaged) as bag:
        assert [plain(record) for record in bag.records()] == expected
        assert bag.info.losses == {"damaged.db3: its notes are damaged": 1}


def test_a_damaged_chunk_is_counted_and_the_rest_is_read(tmp_path: Path) -> None:
    content = bytearray(hand_made_mcap(ROWS))
    content[content.index(b"3.2")] ^= 4
    file = mcap_of(tmp_path, bytes(content))
    with open_bag(file) as bag:
        found = [record.message for record in bag.records()]
        assert bag.info.losses == {"hand.mcap: chunk checksum does not match": 5}
    assert found == [row.text for index, rows in enumerate(ROWS) for row in rows if index != 3]
    with open_bag(file, strict=True) as bag, pytest.raises(BagError, match=r"chunk checksum does not match.*5 lost"):
        list(bag.records())


def test_an_undecodable_message_is_counted_and_the_rest_is_read(tmp_path: Path) -> None:
    content = bytearray(hand_made_mcap(ROWS, checksums=False))
    place = content.index(b"3.2\0")
    content[place - 4] = 200  # the text's length
    file = mcap_of(tmp_path, bytes(content))
    with open_bag(file) as bag:
        assert len(list(bag.records())) == 39
        assert bag.info.losses == {"/b: message too short": 1}
    with open_bag(file, strict=True) as bag, pytest.raises(BagError, match="/b: message too short"):
        list(bag.records())


def test_an_unknown_compression_is_a_loss_with_its_name(tmp_path: Path) -> None:
    file = mcap_of(tmp_path, hand_made_mcap(ROWS[:1], compression="snappy"))
    with open_bag(file) as bag:
        assert list(bag.records()) == []
        (reason,) = bag.info.losses
        assert "compression 'snappy' is not known (zstd, lz4 or none)" in reason


def test_messages_that_are_not_cdr_are_a_loss_to_who_asks_for_them(tmp_path: Path) -> None:
    with open_bag(mcap_of(tmp_path, hand_made_mcap(ROWS[:1], encoding="json")), strict=True) as bag:
        assert bag.info.topics == ()
        assert list(bag.records(["/c"])) == []
        assert bag.info.losses == {}
    with open_bag(mcap_of(tmp_path, hand_made_mcap(ROWS[:1], encoding="json"))) as bag:
        assert list(bag.records()) == list(bag.records()) == []
        assert bag.info.losses == {"/a is not CDR but 'json'": 2, "/b is not CDR but 'json'": 3}


@pytest.fixture(scope="module")
def recording(tmp_path_factory: pytest.TempPathFactory) -> tuple[bytes, list[tuple], Path]:
    folder = tmp_path_factory.mktemp("fuzz")
    path = write_recording(folder / "bag", CONTRACT, ticks=4)
    return storage_file(path).read_bytes(), all_records(path), folder / "mutant.mcap"


@given(data=st.data())
@settings(deadline=None, max_examples=300, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_flipped_bit_is_an_error_a_loss_or_changes_nothing(
    recording: tuple[bytes, list[tuple], Path], data: st.DataObject
) -> None:
    content, expected, file = recording
    place = data.draw(st.integers(0, len(content) - 1))
    mutant = bytearray(content)
    mutant[place] ^= 1 << data.draw(st.integers(0, 7))
    file.write_bytes(mutant)
    try:
        with open_bag(file, recover=data.draw(st.booleans())) as bag:
            found = [plain(record) for record in bag.records()]
            assert bag.info.losses or found == expected
    except BagError:
        return


@given(st.binary(max_size=300), st.integers(0, 2000), st.booleans())
@settings(deadline=None, max_examples=200, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_bytes_put_over_a_bag_never_crash_the_reader(
    recording: tuple[bytes, list[tuple], Path], junk: bytes, place: int, recover: bool
) -> None:
    content, _, file = recording
    place = place * len(content) // 2000
    file.write_bytes(content[:place] + junk + content[place + len(junk) :])
    try:
        with open_bag(file, recover=recover) as bag:
            list(bag.records())
    except BagError:
        return
