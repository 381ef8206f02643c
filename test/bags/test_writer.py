# SPDX-License-Identifier: Apache-2.0
"""A bag is complete or absent."""

import threading
from pathlib import Path

import numpy as np
import pytest
from bags import START_NS, picture, small_contract, storage_file, write_recording

from sigma_ros.bags.reader import open_bag
from sigma_ros.bags.writer import BagWriter
from sigma_ros.errors import BagError, UsageError

CONTRACT = small_contract()
STORAGES = ("mcap", "sqlite3")


@pytest.mark.parametrize("storage", STORAGES)
def test_an_exception_leaves_nothing_behind(tmp_path: Path, storage: str) -> None:
    def fail() -> None:
        with BagWriter(tmp_path / "bag", storage=storage) as bag:  # type: ignore[arg-type]
            bag.array("/a", START_NS, np.zeros(3))
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fail()
    assert list(tmp_path.iterdir()) == []


def test_the_bag_appears_only_when_it_is_complete(tmp_path: Path) -> None:
    with BagWriter(tmp_path / "bag") as bag:
        bag.array("/a", START_NS, np.zeros(3))
        assert not (tmp_path / "bag").exists()
    assert [file.name for file in tmp_path.iterdir()] == ["bag"]
    assert sorted(file.name for file in (tmp_path / "bag").iterdir()) == ["bag.mcap", "metadata.yaml"]


def test_an_existing_bag_is_replaced_only_when_asked_and_only_by_a_complete_one(tmp_path: Path) -> None:
    path = write_recording(tmp_path / "bag", CONTRACT, ticks=1)
    before = storage_file(path).read_bytes()
    with pytest.raises(UsageError, match="exists already"):
        BagWriter(path)

    def fail() -> None:
        with BagWriter(path, overwrite=True) as bag:
            bag.array("/a", START_NS, np.zeros(3))
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    assert storage_file(path).read_bytes() == before
    with BagWriter(path, overwrite=True) as bag:
        bag.array("/a", START_NS, np.zeros(3))
    with open_bag(path) as read:
        assert read.info.topics == ("/a",)
    assert [file.name for file in tmp_path.iterdir()] == ["bag"]


def test_what_is_not_a_bag_is_never_overwritten(tmp_path: Path) -> None:
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "chapter.txt").write_text("years of work")
    with pytest.raises(UsageError, match="only a bag is overwritten"):
        BagWriter(tmp_path / "thesis", overwrite=True)


def test_what_a_killed_run_left_is_cleared(tmp_path: Path) -> None:
    (tmp_path / "bag.tmp" / "bag").mkdir(parents=True)
    (tmp_path / "bag.tmp" / "bag" / "bag.mcap").write_bytes(b"half")
    with BagWriter(tmp_path / "bag") as bag:
        bag.array("/a", START_NS, np.zeros(3))
    assert [file.name for file in tmp_path.iterdir()] == ["bag"]


def test_the_same_messages_make_the_same_bytes(tmp_path: Path) -> None:
    one = storage_file(write_recording(tmp_path / "one" / "bag", CONTRACT, ticks=3))
    other = storage_file(write_recording(tmp_path / "other" / "bag", CONTRACT, ticks=3))
    assert one.read_bytes() == other.read_bytes()


@pytest.mark.parametrize("storage", STORAGES)
def test_another_thread_may_write(tmp_path: Path, storage: str) -> None:
    with BagWriter(tmp_path / "bag", storage=storage) as bag:  # type: ignore[arg-type]
        writer = threading.Thread(target=lambda: bag.array("/a", START_NS, np.arange(3.0)))
        writer.start()
        writer.join()
    with open_bag(tmp_path / "bag") as read:
        record = next(read.records(["/a"]))
    assert record.message.tolist() == [0.0, 1.0, 2.0]


def test_a_type_outside_ros_comes_with_its_definition(tmp_path: Path) -> None:
    definition = (
        "std_msgs/Header header\nfloat64 value\n"
        + "=" * 80
        + "\nMSG: std_msgs/Header\nbuiltin_interfaces/Time stamp\nstring frame_id\n"
    )
    cdr = b"\0\1\0\0" + (12).to_bytes(4, "little") + (34).to_bytes(4, "little") + b"\1\0\0\0\0" + bytes(11)
    with BagWriter(tmp_path / "bag") as bag:
        bag.raw("/state", "my_robot/msg/State", START_NS, cdr, definition=definition)
    with open_bag(tmp_path / "bag") as read:
        record = next(read.records(["/state"]))
    assert (record.msgtype, record.log_time_ns, bytes(record.message)) == ("my_robot/msg/State", START_NS, cdr)
    assert record.stamp_ns == 12_000_000_034


def test_views_of_any_layout_are_written(tmp_path: Path) -> None:
    with BagWriter(tmp_path / "bag") as bag:
        bag.image("/image", START_NS, "camera", picture(3)[:, ::-1])
        bag.array("/array", START_NS, np.arange(6.0)[::2])
        bag.joints("/joints", START_NS, ("a", "b"), np.arange(4.0).reshape(2, 2)[:, 1])
    with open_bag(tmp_path / "bag") as read:
        messages = {record.topic: record.message for record in read.records()}
    assert bytes(messages["/image"].data) == picture(3)[:, ::-1].tobytes()
    assert messages["/array"].tolist() == [0.0, 2.0, 4.0]
    assert messages["/joints"].positions_rad.tolist() == [1.0, 3.0]


@pytest.mark.parametrize("pixels", [np.zeros((2, 2, 3)), np.zeros((2, 2), np.uint8), np.zeros((2, 2, 4), np.uint8)])
def test_what_is_not_an_rgb_picture_is_refused(tmp_path: Path, pixels: np.ndarray) -> None:
    with pytest.raises(ValueError, match="must be uint8"), BagWriter(tmp_path / "bag") as bag:
        bag.image("/image", START_NS, "camera", pixels)


def test_a_full_disk_is_one_clear_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(self: object, *arguments: object) -> None:
        raise OSError(28, "No space left on device")

    def write() -> None:
        with BagWriter(tmp_path / "bag") as bag:
            bag.array("/a", START_NS, np.zeros(3))
            monkeypatch.setattr("rosbags.rosbag2.storage_mcap.McapWriter.write", full)
            bag.array("/a", START_NS + 1, np.zeros(3))

    with pytest.raises(BagError, match=r"could not be written.*No space left on device.*remedy: free disk space"):
        write()
    assert list(tmp_path.iterdir()) == []
