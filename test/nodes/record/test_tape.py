# SPDX-License-Identifier: Apache-2.0
"""A tape is a whole bag or nothing; what is lost while it is made is counted. Types are found by name."""

from pathlib import Path

import pytest
import yaml
from sensor_msgs.msg import Image
from sigma_ros.msg import ActionChunk

from sigma_ros.bags.reader import open_bag
from sigma_ros.nodes.record.tape import StreamTally, Tape, can_be_recorded, definition, judge, message_class

MS = 1_000_000
FLAG = b"\x00\x01\x00\x00\x01"


def tape(path: Path) -> Tape:
    made = Tape(path, storage="mcap", notes={"sigma.source": "live"})
    assert made.put("/flag", "std_msgs/msg/Bool", MS, FLAG)
    return made


def test_a_saved_tape_is_a_bag_with_the_notes_of_its_beginning_and_its_end(tmp_path: Path) -> None:
    tape(tmp_path / "bag").save({"sigma.checkpoint": "abc"})
    with open_bag(tmp_path / "bag") as bag:
        assert bag.info.counts == {"/flag": 1}
        assert bag.info.metadata == {"sigma.source": "live", "sigma.checkpoint": "abc"}
    assert [path.name for path in tmp_path.iterdir()] == ["bag"]
    assert yaml.safe_load((tmp_path / "bag" / "metadata.yaml").read_text(encoding="utf-8"))


@pytest.mark.parametrize("storage", ["mcap", "sqlite3"])
def test_a_discarded_tape_leaves_nothing(tmp_path: Path, storage: str) -> None:
    made = Tape(tmp_path / "bag", storage=storage, notes={})  # type: ignore[arg-type]
    made.put("/flag", "std_msgs/msg/Bool", MS, FLAG)
    made.discard()
    assert list(tmp_path.iterdir()) == []
    tape(tmp_path / "bag").save({})  # the place is free again


def test_gaps_slow_streams_and_a_slow_disk_are_losses() -> None:
    good, gap, slow, disk = (StreamTally(33 * MS) for _ in range(4))
    for k in range(100):
        good.note(1 + k * 33 * MS)
        gap.note(1 + (k + (10 if k > 50 else 0)) * 33 * MS)
        slow.note(1 + k * 60 * MS)
        disk.note(1 + k * 33 * MS)
    disk.lost = 4
    useless, losses = judge(
        {"a": good, "gap": gap, "slow": slow, "disk": disk, "none": StreamTally(33 * MS, "/x")}, 30.0
    )
    assert useless == ["none: nothing came on /x"]
    assert {line.split(":")[0] for line in losses} == {"gap", "slow", "disk"}


pytestmark = pytest.mark.ros


def test_common_types_need_no_definition_and_ours_bring_their_own() -> None:
    assert message_class("sensor_msgs/msg/Image") is Image
    assert definition("sensor_msgs/msg/Image") is None
    assert message_class("sigma_ros/msg/ActionChunk") is ActionChunk
    assert "float64[] base_positions" in str(definition("sigma_ros/msg/ActionChunk"))


def test_a_foreign_type_is_told_with_what_stands_inside_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "share" / "my_msgs" / "msg"
    folder.mkdir(parents=True)
    (folder / "Grip.msg").write_text("std_msgs/Header header\nmy_msgs/Finger[] fingers\n", encoding="utf-8")
    (folder / "Finger.msg").write_text("float64 force\n", encoding="utf-8")
    monkeypatch.setenv("AMENT_PREFIX_PATH", str(tmp_path))
    text = str(definition("my_msgs/msg/Grip"))
    assert "MSG: my_msgs/Finger" in text.replace("my_msgs/msg/Finger", "my_msgs/Finger")
    assert "float64 force" in text
    assert not can_be_recorded("my_msgs/msg/Grip"), "its Python class is not installed"


def test_what_is_not_installed_cannot_be_recorded() -> None:
    assert can_be_recorded("std_msgs/msg/Bool")
    assert not can_be_recorded("nobody_msgs/msg/Thing")
    assert not can_be_recorded("sigma_ros/action/RunPolicy_FeedbackMessage")
