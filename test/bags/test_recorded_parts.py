# SPDX-License-Identifier: Apache-2.0
"""Recordings of a robot in parts: what was commanded and measured comes back whole, in the contract's order."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from bags import START_NS, small_contract

from sigma_ros.bags.episode import Episode
from sigma_ros.bags.reader import open_bag
from sigma_ros.bags.topics import check_topics
from sigma_ros.bags.writer import BagWriter
from sigma_ros.contract import Contract
from sigma_ros.errors import ContractError

TICKS = 20


def write(
    path: Path, contract: Contract, *, whole: bool = False, leave_out: str = "", late: str = "", late_ns: int = 0
) -> np.ndarray:
    """As the robot sends it, part by part, or on the topics of the whole; returns the poses.

    The stamps of `late` are so much behind, as those of a driver whose clock is wrong.
    """
    poses = np.linspace(0.0, 0.1, TICKS)[:, None] * np.arange(1, contract.dof + 1)
    parts = replace(contract, state_parts=(), command_parts=()) if whole else contract
    with BagWriter(path) as bag:
        for tick, pose in enumerate(poses):
            at_ns = START_NS + contract.tick_offset_ns(tick)
            for part in parts.states:
                if part.topic != leave_out:
                    stamp_ns = at_ns - (late_ns if part.topic == late else 0)
                    pose_rad = pose[contract.columns(part)]
                    bag.joints(part.topic, stamp_ns, part.own_names, pose_rad, log_time_ns=at_ns)
            for camera in contract.cameras:
                bag.image(camera.topic, at_ns, camera.name, np.zeros((24, 32, 3), np.uint8))
            for part in parts.commands:
                target = pose[contract.columns(part)] + 0.01
                bag.command(part.topic, str(part.message_type), at_ns, part.own_names, target)
    return poses


@pytest.mark.parametrize("whole", [False, True])
@pytest.mark.parametrize("name", ["so101_bimanual", "so101_split", "so101_actions"])
def test_law_states_and_commands_of_all_parts_round_trip(name: str, whole: bool, tmp_path: Path) -> None:
    contract = small_contract(name)
    poses = write(tmp_path / "bag", contract, whole=whole)
    with open_bag(tmp_path / "bag") as bag:
        ticks = list(Episode(bag, contract, image_size_px=16))
    assert len(ticks) >= TICKS - 2
    for tick in ticks[:-1]:
        assert tick.joint_rad is not None
        assert tick.action_rad is not None
        row = (tick.item.stamp_ns - START_NS) / contract.tick_period_ns
        np.testing.assert_allclose(tick.joint_rad, poses[round(row)])
        np.testing.assert_allclose(tick.action_rad, poses[round(row)] + 0.01)


def test_a_recording_without_one_arm_is_refused_and_the_arm_is_named(tmp_path: Path) -> None:
    contract = small_contract("so101_bimanual")
    write(tmp_path / "bag", contract, leave_out="/right/joint_states")
    with open_bag(tmp_path / "bag") as bag, pytest.raises(ContractError, match="/right/joint_states is missing"):
        check_topics(bag, contract)


def test_law_arms_whose_clocks_differ_by_more_than_the_tolerance_are_not_joined_and_the_late_one_is_named(
    tmp_path: Path,
) -> None:
    contract = small_contract("so101_bimanual")
    late = "/right/joint_states"
    write(tmp_path / "bag", contract, late=late, late_ns=contract.max_skew_ns + 1_000_000)
    with open_bag(tmp_path / "bag") as bag, pytest.raises(ContractError, match=f"too far apart.*{late}"):
        list(Episode(bag, contract, image_size_px=16))
    write(tmp_path / "well", contract, late=late, late_ns=contract.max_skew_ns)
    with open_bag(tmp_path / "well") as bag:
        assert any(tick.window is not None for tick in Episode(bag, contract, image_size_px=16))
