# SPDX-License-Identifier: Apache-2.0
"""`sigma delays` on a recording: what was put into it is found, and written without another change."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from small import small_contract

from sigma_ros.bags.writer import BagWriter
from sigma_ros.cli.robot.delay_sources import recorded, written
from sigma_ros.contract import Contract, Delays
from sigma_ros.contract_file import load_contract
from sigma_ros.contract_text import shipped_config_dir
from sigma_ros.errors import ContractError
from sigma_ros.streams.delays import measure
from sigma_ros.streams.stream import JOINTS
from sigma_ros.values import NS_PER_S

TICK_MS = 1000 / 30


def own_contract(folder: Path, *, more: str = "") -> Path:
    file = folder / "arm.yaml"
    file.write_text((shipped_config_dir() / "so101.yaml").read_text(encoding="utf-8") + more, encoding="utf-8")
    return file


def recording(folder: Path, contract: Contract, *, camera_ms: float, arm_ms: float) -> Path:
    """Six seconds of an arm that swings before a camera, in the contract's topics."""
    width_px = contract.cameras[0].width_px
    scene = np.random.default_rng(3).integers(0, 255, (contract.cameras[0].height_px, width_px, 3), dtype=np.uint8)

    def pose(time_s: float) -> np.ndarray:
        return 0.5 * np.sin(1.3 * time_s + 0.4 * np.sin(2.1 * time_s)) * np.arange(1, 7) / 6

    path = folder / "swing"
    with BagWriter(path) as bag:
        for tick in range(180):
            time_s, stamp_ns = tick / 30, NS_PER_S + contract.tick_offset_ns(tick)
            measured = pose(time_s - arm_ms / 1e3)
            bag.joints(contract.joint_state_topic, stamp_ns, contract.joint_names, measured, measured)
            bag.command(contract.command_topic, contract.command_type, stamp_ns, contract.joint_names, pose(time_s))
            shift = 0.3 * width_px * pose(time_s - (arm_ms + camera_ms) / 1e3)[5]
            for camera in contract.cameras:
                picture = np.roll(scene, round(shift), axis=1)
                bag.image(camera.topic, stamp_ns, camera.name, picture, jpeg_quality=80)
    return path


def test_a_recordings_delays_are_found_within_a_tick(tmp_path: Path) -> None:
    contract = small_contract(size_px=(160, 120))
    found = measure(recorded(recording(tmp_path, contract, camera_ms=80.0, arm_ms=140.0), contract), contract)
    assert found.camera_ns == pytest.approx(80e6, abs=contract.tick_period_ns)
    assert found.actuator_ns == pytest.approx(140e6, abs=contract.tick_period_ns)
    assert found.inference_ns is None, "no policy was recorded"


FOUND = Delays(camera_ns=40_000_000, actuator_ns=115_000_000)


def test_what_was_found_is_written_without_another_change(tmp_path: Path) -> None:
    file = own_contract(tmp_path)
    before = file.read_text(encoding="utf-8").rstrip()
    assert written(file, FOUND, {}) == "delays: {camera_ms: 40.0, actuator_ms: 115.0}"
    assert load_contract(file).delays == FOUND
    assert file.read_text(encoding="utf-8").startswith(before)


def test_a_section_that_is_there_is_replaced(tmp_path: Path) -> None:
    file = own_contract(tmp_path, more="delays: {inference_ms: 5.0}\n")
    written(file, FOUND, {})
    assert file.read_text(encoding="utf-8").count("delays:") == 1
    assert load_contract(file).delays == FOUND


def test_a_section_in_several_lines_is_left_alone(tmp_path: Path) -> None:
    file = own_contract(tmp_path, more="delays:\n  inference_ms: 5.0\n")
    before = file.read_text(encoding="utf-8")
    with pytest.raises(ContractError, match="cannot be written"):
        written(file, FOUND, {})
    assert file.read_text(encoding="utf-8") == before
    assert [path.name for path in tmp_path.iterdir()] == [file.name]


def comments(text: str) -> list[str]:
    return [line[line.index("#") :] for line in text.splitlines() if "#" in line]


BLOCKS = """extends: so101
cameras:
  # Übersicht: 30 Hz
  - name: up        # the tripod
    topic: up_camera/image_raw
    type: sensor_msgs/msg/Image
    width_px: 640
    height_px: 480
    dataset_key: observation.images.up
    max_age_ms: 200
  - {name: side, topic: side_camera/image_raw, type: sensor_msgs/msg/Image, width_px: 640, height_px: 480,
     dataset_key: observation.images.side, max_age_ms: 200, rate_hz: 15}  # old
state:
  topic: joint_states
  max_age_ms: 100
"""


@pytest.mark.parametrize("text", ["", BLOCKS])
def test_rates_are_written_where_their_streams_stand(tmp_path: Path, text: str) -> None:
    file = own_contract(tmp_path)
    if text:
        file.write_text(text, encoding="utf-8")
    before, was = load_contract(file), file.read_text(encoding="utf-8")
    written(file, FOUND, {"up": 30.0, "side": 29.9, JOINTS: 50.0})
    after = load_contract(file)
    assert [camera.rate_hz for camera in after.cameras] == [30.0, 29.9]
    assert after.joint_state_rate_hz == 50.0
    same = [replace(camera, rate_hz=None) for camera in before.cameras]
    assert [replace(camera, rate_hz=None) for camera in after.cameras] == same
    assert comments(file.read_text(encoding="utf-8")) == comments(was)


def test_a_stream_of_another_file_is_named_and_left_out(tmp_path: Path) -> None:
    file = tmp_path / "arm.yaml"
    file.write_text("extends: so101\n", encoding="utf-8")
    assert "up: rate_hz: 30 (not in this file: left out)" in written(file, FOUND, {"up": 30.0})
    assert load_contract(file).cameras[0].rate_hz is None
