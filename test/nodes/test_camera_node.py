# SPDX-License-Identifier: Apache-2.0
"""A camera behind the contract's topic: right pictures at the right rate, lost and found again, wrong ones refused."""

import time
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest
from node_fakes import small_so101, spin_until
from rclpy.node import Node
from rclpy.parameter import Parameter
from sensor_msgs.msg import CompressedImage, Image

from sigma_ros.contract_file import load_contract
from sigma_ros.errors import MachineError, UsageError
from sigma_ros.nodes import camera_node
from sigma_ros.nodes.camera_node import CameraNode, FilmFile, open_device
from sigma_ros.nodes.shared import qos
from sigma_ros.nodes.shared.diagnostics import Level
from sigma_ros.nodes.shared.image_messages import image_view
from sigma_ros.streams.images import decode_full

pytestmark = pytest.mark.ros
RED_BGR = (0, 0, 200)


def write_film(path: Path, *, size: tuple[int, int] = (64, 48), frames: int = 8) -> Path:
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"MJPG"), 30.0, size)
    for _ in range(frames):
        writer.write(np.full((size[1], size[0], 3), RED_BGR, np.uint8))
    writer.release()
    return path


class Fake:
    """A device that is pulled out (`plugged` False) and put in again."""

    def __init__(self) -> None:
        self.plugged = True
        self.opened = self.released = 0

    def open(self, device: str, camera: object, fps: float) -> "Fake":
        if not self.plugged:
            raise MachineError("the camera cannot be opened", where=device)
        self.opened += 1
        return self

    def read(self) -> tuple[bool, np.ndarray]:
        time.sleep(0.01)
        return self.plugged, np.full((48, 64, 3), RED_BGR, np.uint8)

    def release(self) -> None:
        self.released += 1


@pytest.fixture
def camera(executor, tmp_path: Path) -> Callable[..., CameraNode]:
    def make(*, contract: Path | None = None, device: str = "fake", **options: object) -> CameraNode:
        given = {"contract": str(contract or small_so101(tmp_path)), "camera": "side", "device": device}
        node = CameraNode([Parameter(name, value=value) for name, value in given.items()], **options)
        executor.add_node(node)
        return node

    return make


@pytest.fixture
def heard(executor) -> Callable[[type], list]:
    def listen(kind: type) -> list:
        pictures: list = []
        node = Node("test_watcher")
        node.create_subscription(kind, "side_camera/image_raw", pictures.append, qos.SENSOR)
        executor.add_node(node)
        return pictures

    return listen


def test_a_film_comes_on_the_contracts_topic_as_the_contract_says_and_goes_on_at_its_end(
    camera, heard, executor, tmp_path: Path
) -> None:
    pictures = heard(Image)
    node = camera(device=str(write_film(tmp_path / "film.avi")))
    spin_until(executor, lambda: len(pictures) > 12, what="more pictures than the film has")
    contract = load_contract(small_so101(tmp_path))
    rgb = decode_full(image_view(pictures[-1]), contract.cameras[1])
    np.testing.assert_allclose(rgb.reshape(-1, 3).mean(axis=0), RED_BGR[::-1], atol=12)
    stamps = [picture.header.stamp.sec + picture.header.stamp.nanosec * 1e-9 for picture in pictures]
    assert np.diff(stamps).min() > 0.0
    assert np.diff(stamps).mean() > 0.8 / 30, "not faster than the contract's rate"
    assert pictures[-1].header.frame_id == "side"
    assert node._losses == 0


def test_a_contract_of_compressed_pictures_gets_jpeg(camera, heard, executor, tmp_path: Path) -> None:
    file = small_so101(tmp_path)
    file.write_text(file.read_text().replace("sensor_msgs/msg/Image", "sensor_msgs/msg/CompressedImage"))
    pictures = heard(CompressedImage)
    camera(contract=file, make=Fake().open)
    spin_until(executor, lambda: pictures, what="a picture")
    rgb = decode_full(image_view(pictures[0]), load_contract(file).cameras[1])
    np.testing.assert_allclose(rgb.reshape(-1, 3).mean(axis=0), RED_BGR[::-1], atol=12)


def test_a_lost_camera_is_silence_an_error_and_goes_on_when_it_is_back(
    camera, heard, executor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(camera_node, "REOPEN_S", 0.02)
    pictures, fake = heard(Image), Fake()
    node = camera(make=fake.open)
    spin_until(executor, lambda: pictures, what="a picture")
    fake.plugged = False
    spin_until(executor, lambda: node._status().level is Level.ERROR, what="the loss")
    assert fake.released == 1
    assert not node.finished
    pictures.clear()
    fake.plugged = True
    spin_until(executor, lambda: len(pictures) > 2, what="pictures again")
    assert fake.opened == 2
    assert node._status().level is not Level.ERROR


def test_a_slow_camera_is_told(camera, executor) -> None:
    node = camera(make=Fake().open)
    node._rate = camera_node.Rate()
    now_s = time.monotonic()
    for i in range(30):
        node._rate.note(now_s - 0.1 * i)
    assert node._fps == 30.0
    assert "30 are needed" in node._status().text


def test_pictures_of_another_size_end_the_node_before_one_is_published(camera, heard, executor, tmp_path: Path) -> None:
    pictures = heard(Image)
    node = camera(device=str(write_film(tmp_path / "film.avi", size=(96, 64))))
    spin_until(executor, lambda: node.finished, what="the end")
    assert node.exit_code == 2
    assert pictures == []


@pytest.mark.parametrize("device", ["77", "/dev/video77", "absent.avi"])
def test_a_device_that_is_not_there_is_one_clear_error_at_the_start(camera, device: str) -> None:
    with pytest.raises(MachineError, match=f"cannot be opened.*side.*{device}"):
        camera(device=device)


def test_a_camera_that_the_contract_lacks_is_refused(executor, tmp_path: Path) -> None:
    given = {"contract": str(small_so101(tmp_path)), "camera": "front", "device": "0"}
    with pytest.raises(UsageError, match="up, side"):
        CameraNode([Parameter(name, value=value) for name, value in given.items()])


def test_a_film_that_is_taken_away_is_lost(tmp_path: Path) -> None:
    file = write_film(tmp_path / "film.avi", frames=2)
    film = open_device(str(file), load_contract("so101").cameras[0], 1000.0)
    assert isinstance(film, FilmFile)
    file.unlink()
    assert [film.read()[0] for _ in range(3)] == [True, True, False]
    film.release()
