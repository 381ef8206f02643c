# SPDX-License-Identifier: Apache-2.0
"""Cameras recorded as a video, packet by packet: each tick has its own picture, what gives none is counted."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from bags import VIDEO, shade, small_contract, storage_file, write_video_recording

from sigma_ros.bags.episode import Episode, Tick
from sigma_ros.bags.lerobot_dataset import write_dataset
from sigma_ros.bags.reader import open_bag
from sigma_ros.contract_file import load_contract
from sigma_ros.errors import BagError
from sigma_ros.inspection.draft import draft_contract
from sigma_ros.inspection.places import look_into
from sigma_ros.streams.images import decode_full
from sigma_ros.streams.video import codec_of

CONTRACT = small_contract()
TICKS, KEY_EVERY = 24, 8


def read(path: Path, **options: Any) -> tuple[list[Tick], Episode]:
    with open_bag(path, **options) as bag:
        ticks = Episode(bag, CONTRACT, image_size_px=16)
        return list(ticks), ticks


def shown(tick: Tick, camera: int) -> int:
    assert tick.window is not None
    pixels = tick.window.newest.images[CONTRACT.cameras[camera].name]
    return int(pixels[8, 8].mean())


def seen(path: Path) -> dict[int, list[int]]:
    """Stamps of a topic's pictures as ticks, and their shades."""
    found: dict[int, list[int]] = {}
    with open_bag(path) as bag:
        first_ns = bag.info.start_ns
        for record in bag.records([CONTRACT.cameras[0].topic]):
            tick = round((record.stamp_ns - first_ns) * CONTRACT.fps / 1e9)
            found[tick] = [int(decode_full(record.message, CONTRACT.cameras[0]).mean().round()), record.log_time_ns]
    return found


@pytest.mark.parametrize("msgtype", sorted(VIDEO))
@pytest.mark.parametrize("storage", ["mcap", "sqlite3"])
@pytest.mark.parametrize(
    "coding", [{}, {"tune": "film", "bf": "2"}, {"codec": "libx265", "x265-params": "log-level=none"}]
)
def test_every_tick_has_its_own_picture(tmp_path: Path, msgtype: str, storage: str, coding: dict[str, str]) -> None:
    if "codec" in coding and msgtype != "ffmpeg_image_transport_msgs/msg/FFMPEGPacket":
        pytest.skip("the recording says h264 there")
    path = write_video_recording(
        tmp_path / "bag", CONTRACT, msgtype=msgtype, storage=storage, name=coding.get("codec", "h264"), **coding
    )
    ticks, found = read(path)
    assert found.losses == {}
    assert len(ticks) == TICKS
    for number, tick in enumerate(ticks):
        for camera in range(2):
            assert abs(shown(tick, camera) - shade(number, camera)) <= 3


@pytest.mark.parametrize("begin", [1, 3, 8])
def test_frames_before_the_first_key_frame_are_counted_and_nothing_is_guessed(tmp_path: Path, begin: int) -> None:
    path = write_video_recording(tmp_path / "bag", CONTRACT, without=range(begin))
    pictures = seen(path)
    usable = range(-(-begin // KEY_EVERY) * KEY_EVERY, TICKS)
    assert sorted(pictures) == list(usable)
    assert all(abs(pictures[n][0] - shade(n, 0)) <= 3 for n in usable)
    _, found = read(path)
    lost = sum(n for reason, n in found.losses.items() if "first key frame" in reason)
    assert lost == 2 * (usable.start - begin)
    if lost:
        with pytest.raises(BagError, match="key frame"):
            read(path, strict=True)


@pytest.mark.parametrize("damaged", [9, 12, 16])
def test_behind_a_damaged_packet_nothing_is_taken_before_the_next_key_frame(tmp_path: Path, damaged: int) -> None:
    path = write_video_recording(tmp_path / "bag", CONTRACT, change=lambda n, data: data[:5] if n == damaged else data)
    pictures = seen(path)
    again = -(-(damaged + 1) // KEY_EVERY) * KEY_EVERY
    assert sorted(pictures) == [*range(damaged), *range(again, TICKS)]
    assert all(abs(pictures[n][0] - shade(n, 0)) <= 3 for n in pictures)


def test_every_verb_gives_the_same_account_of_a_video(tmp_path: Path) -> None:
    path = write_video_recording(tmp_path / "bag", CONTRACT, without=range(3))
    _, found = read(path)
    written = write_dataset([path], CONTRACT, tmp_path / "set", videos=False)
    looked = look_into(str(path), contract=CONTRACT)
    assert dict(written.losses[str(path)]) == found.losses == dict(looked.losses)
    assert written.frames == TICKS - KEY_EVERY
    assert all(camera.size_px == (32, 24) and camera.pictures for camera in looked.cameras())


def test_the_topic_of_the_image_transport_is_found_beside_the_contract_s(tmp_path: Path) -> None:
    ffmpeg = "ffmpeg_image_transport_msgs/msg/FFMPEGPacket"
    path = write_video_recording(tmp_path / "bag", CONTRACT, msgtype=ffmpeg, suffix="/ffmpeg")
    assert len(read(path)[0]) == TICKS


def test_a_codec_that_is_not_read_is_said_and_names_of_encoders_are_known(tmp_path: Path) -> None:
    ffmpeg = "ffmpeg_image_transport_msgs/msg/FFMPEGPacket"
    path = write_video_recording(tmp_path / "bag", CONTRACT, msgtype=ffmpeg, name="theora")
    with pytest.raises(BagError, match="codec 'theora;yuv420p', which is not read"):
        read(path)
    names = {"h264_nvenc": "h264", "libx265": "hevc", "h264;yuv420p;rgb8": "h264", "libsvtav1": "av1", "mjpeg": None}
    assert {name: codec_of(name) for name in names} == names


def test_a_contract_can_be_drafted_from_a_video(tmp_path: Path) -> None:
    path = write_video_recording(tmp_path / "bag", CONTRACT)
    file = tmp_path / "robot.yaml"
    file.write_text(draft_contract(look_into(str(path)), "drafted"))
    contract = load_contract(file)
    assert [(c.width_px, c.height_px, c.message_type) for c in contract.cameras] == [
        (32, 24, "sensor_msgs/msg/Image")
    ] * 2
    assert storage_file(path).is_file()
    with open_bag(path) as bag:
        assert np.sum([tick.window is not None for tick in Episode(bag, contract, image_size_px=16)]) == TICKS
