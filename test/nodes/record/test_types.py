# SPDX-License-Identifier: Apache-2.0
"""Types by name: a recorder of everything needs their classes, and definitions where a reader cannot know them."""

from pathlib import Path

import pytest
from sensor_msgs.msg import Image
from sigma_ros.msg import ActionChunk

from sigma_ros.nodes.record.types import can_be_recorded, definition, message_class

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
