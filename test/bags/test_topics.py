# SPDX-License-Identifier: Apache-2.0
"""Where a bag has what a contract names, and what it lacks."""

from pathlib import Path

import pytest
from bags import Row, hand_made_mcap, small_contract, write_recording

from sigma_ros.bags.reader import open_bag
from sigma_ros.bags.topics import camera_topics, check_topics
from sigma_ros.errors import ContractError

CONTRACT = small_contract()


def test_what_the_contract_needs_and_the_bag_lacks_is_listed_at_once(tmp_path: Path) -> None:
    up, side = CONTRACT.cameras
    path = write_recording(tmp_path / "bag", CONTRACT, ticks=2, leave_out=[up.topic, CONTRACT.command_topic])
    with open_bag(path) as bag, pytest.raises(ContractError) as failure:
        check_topics(bag, CONTRACT)
    text = str(failure.value)
    for part in (
        f"{up.topic} is missing",
        f"{CONTRACT.command_topic} is missing",
        str(path),
        f"{side.topic} (sensor_msgs/msg/Image, 2)",
        "remedy: correct the contract's topics",
    ):
        assert part in text
    assert f"{side.topic} is" not in text


def test_a_topic_of_another_type_or_without_messages_is_named(tmp_path: Path) -> None:
    rows = [[Row(1, CONTRACT.joint_state_topic, "not joints")]]
    file = tmp_path / "hand.mcap"
    file.write_bytes(hand_made_mcap(rows))
    with open_bag(file) as bag, pytest.raises(ContractError) as failure:
        check_topics(bag, CONTRACT)
    assert f"{CONTRACT.joint_state_topic} is a std_msgs/msg/String" in str(failure.value)


def test_a_camera_is_found_raw_compressed_or_beside_its_topic(tmp_path: Path) -> None:
    up = CONTRACT.cameras[0]
    path = write_recording(tmp_path / "jpeg", CONTRACT, ticks=2, jpeg_quality=90)
    with open_bag(path) as bag:
        check_topics(bag, CONTRACT)
        assert camera_topics(bag, CONTRACT)[up.name] == (up.topic, "sensor_msgs/msg/CompressedImage")
