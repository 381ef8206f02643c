# SPDX-License-Identifier: Apache-2.0
"""The vectorised windows are those of the frame clock, number for number."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from bags import MS, START_NS, picture, pose, small_contract, write_recording

from sigma_ros.bags.episode import Tick, episode
from sigma_ros.bags.reader import open_bag
from sigma_ros.bags.writer import BagWriter
from sigma_ros.contract import Contract
from sigma_ros.evaluation.episode_arrays import EpisodeArrays

CONTRACT = replace(small_contract(), action_source="next_state")


def write_with_holes(path: Path, contract: Contract) -> Path:
    """SYNTHETIC: short and long holes in the joints, so that there are gaps and two epochs."""
    holes = ((20, 26), (30, 34), (60, 100))
    with BagWriter(path) as bag:
        for tick in range(140):
            stamp_ns = START_NS + contract.tick_offset_ns(tick)
            for camera in contract.cameras:
                bag.image(camera.topic, stamp_ns, camera.name, picture(tick))
            if not any(begin <= tick < end for begin, end in holes):
                bag.joints(contract.joint_state_topic, stamp_ns, contract.joint_names, pose(tick, contract.dof))
    return path


def read(path: Path, contract: Contract) -> tuple[EpisodeArrays, list[Tick]]:
    with open_bag(path) as bag:
        return EpisodeArrays.read(bag, contract), list(episode(bag, contract, image_size_px=16))


def test_windows_equal_the_frame_clocks_with_gaps_and_epochs(tmp_path: Path) -> None:
    arrays, ticks = read(write_with_holes(tmp_path / "bag", CONTRACT), CONTRACT)
    assert len(set(arrays.epochs)) == 2
    assert 0 < (~arrays.valid).sum() < 30
    rows = np.flatnonzero(arrays.valid)
    found = arrays.windows(rows)
    for row, positions, mask in zip(rows, found.positions_rad, found.mask, strict=True):
        window = ticks[row].window
        assert window is not None
        assert mask.tolist() == window.mask.tolist()
        assert positions.tolist() == [frame.positions_rad.tolist() for frame in window.frames]


@pytest.mark.parametrize("source", ["command", "next_state"])
def test_chunks_are_the_recorded_actions_and_stop_at_the_end(tmp_path: Path, source: str) -> None:
    contract = replace(CONTRACT, action_source=source)
    arrays, ticks = read(write_recording(tmp_path / "bag", contract, ticks=40), contract)
    chunks = arrays.action_chunks(np.arange(40), 16)
    for row in range(40):
        for step in range(16):
            action = ticks[row + step].action_rad if row + step < 40 else None
            if action is None:
                assert np.isnan(chunks[row, step]).all()
            else:
                assert chunks[row, step].tolist() == action.tolist()


def test_chunks_never_reach_into_the_next_epoch(tmp_path: Path) -> None:
    arrays, _ = read(write_with_holes(tmp_path / "bag", CONTRACT), CONTRACT)
    last = int(np.flatnonzero(arrays.epochs == 0)[-1])
    chunks = arrays.action_chunks(np.array([last - 2]), 16)
    assert np.isnan(chunks[0, 3:]).all()
    assert arrays.stamps_ns[last + 1] - arrays.stamps_ns[last] > 33 * MS
