# SPDX-License-Identifier: Apache-2.0
"""`sigma_camera`: a V4L2 camera (or a film in its place) behind one of the contract's camera topics.

A thread reads, stamps and publishes; pictures of another size than the contract's end the node before anybody acts on
them. A device that is lost is opened again every second, and silence is left to be silence: the policy and the
supervisor know what to do about it. Rate, gaps and losses are in /diagnostics.
"""

import sys
import threading
import time
import traceback
from collections.abc import Callable, Sequence
from typing import Protocol

import cv2
from jaxtyping import UInt8
from numpy import ndarray
from rclpy.node import Node
from rclpy.parameter import Parameter
from sensor_msgs.msg import CompressedImage, Image
from std_msgs.msg import Header

from sigma_ros.contract import Camera, Contract
from sigma_ros.contract_file import load_contract
from sigma_ros.errors import ContractError, MachineError, SigmaError, UsageError
from sigma_ros.nodes.shared import qos, topics
from sigma_ros.nodes.shared.diagnostics import Diagnostics, Level, TaskStatus
from sigma_ros.nodes.shared.image_messages import image_message, jpeg_message
from sigma_ros.nodes.shared.listen import Rate
from sigma_ros.nodes.shared.node_options import CameraOptions
from sigma_ros.nodes.shared.parameters import BoundParameters
from sigma_ros.nodes.shared.process import run_node
from sigma_ros.nodes.shared.sensor_messages import to_time

REOPEN_S = 1.0
CLOSE_TIMEOUT_S = 2.0
SLOW = 0.9
"""Below this part of the contract's rate the diagnostics warn; a tick needs a picture of every camera."""
JPEG_QUALITY = 90


class Device(Protocol):
    """What is needed of `cv2.VideoCapture`."""

    def read(self) -> tuple[bool, UInt8[ndarray, "h w 3"]]:
        """Whether there is a picture, and it, in BGR; waits for the next one."""

    def release(self) -> None:
        """Lets it go."""


class FilmFile:
    """A film file in a camera's place: at the contract's rate, from the start again at its end."""

    def __init__(self, path: str, fps: float) -> None:
        self._path, self._period_s, self._next_s = path, 1.0 / fps, time.monotonic()
        self._film = cv2.VideoCapture(path)

    def read(self) -> tuple[bool, UInt8[ndarray, "h w 3"]]:
        """See `Device`; its end is a loss unless the file is still there."""
        time.sleep(max(0.0, self._next_s - time.monotonic()))
        self._next_s = max(self._next_s, time.monotonic() - self._period_s) + self._period_s
        found, bgr = self._film.read()
        if not found:
            self._film.release()
            self._film = cv2.VideoCapture(self._path)
            found, bgr = self._film.read()
        return found, bgr

    def release(self) -> None:
        """See `Device`."""
        self._film.release()


def open_device(device: str, camera: Camera, fps: float) -> Device:
    """A camera, asked for the contract's size and rate, with no queue of old pictures; or a film.

    Raises:
        MachineError: it cannot be opened.
    """
    is_camera = device.isdecimal() or device.startswith("/dev/")
    found = cv2.VideoCapture(int(device) if device.isdecimal() else device, cv2.CAP_V4L2 if is_camera else cv2.CAP_ANY)
    if not found.isOpened():
        raise MachineError(
            "the camera cannot be opened",
            where=f"{camera.name}: {f'/dev/video{device}' if device.isdecimal() else device}",
            remedy="plug it in; v4l2-ctl --list-devices names them; nothing else may use it",
        )
    if not is_camera:
        found.release()
        return FilmFile(device, fps)
    found.set(cv2.CAP_PROP_FOURCC, cv2.VideoWriter.fourcc(*"MJPG"))  # raw pictures of two cameras fill a USB 2 bus
    found.set(cv2.CAP_PROP_FRAME_WIDTH, camera.width_px)
    found.set(cv2.CAP_PROP_FRAME_HEIGHT, camera.height_px)
    found.set(cv2.CAP_PROP_FPS, fps)
    found.set(cv2.CAP_PROP_BUFFERSIZE, 1)
    return found


Open = Callable[[str, Camera, float], Device]


class CameraNode(Node):
    """See the module."""

    def __init__(self, parameter_overrides: Sequence[Parameter] = (), *, make: Open = open_device) -> None:
        super().__init__(topics.CAMERA_NODE, parameter_overrides=list(parameter_overrides))
        options = BoundParameters(self, CameraOptions(), state=lambda: "running").value
        contract = load_contract(topics.contract_name(self, options.contract))
        self._fps = contract.fps
        self._camera = _named(contract, options.camera)
        self._open = lambda: make(options.device, self._camera, contract.fps)
        self._device: Device | None = self._open()
        self.exit_code = 0
        self.finished = False
        self._rate = Rate()
        self._losses = 0
        self._closing = threading.Event()
        is_raw = self._camera.message_type == "sensor_msgs/msg/Image"
        self._message = image_message if is_raw else _coded
        self._pictures = self.create_publisher(Image if is_raw else CompressedImage, self._camera.topic, qos.SENSOR)
        self._diagnostics = Diagnostics(
            self, hardware_id=contract.name, tasks={f"camera/{self._camera.name}": self._status}
        )
        self._reader = threading.Thread(target=self._read, name="camera", daemon=True)
        self._reader.start()

    def stop(self) -> bool:
        """Ends the reading."""
        self._closing.set()
        self._reader.join(CLOSE_TIMEOUT_S)
        return True

    def _read(self) -> None:
        try:
            while not self._closing.is_set():
                self._read_one()
        except SigmaError as error:
            self.get_logger().fatal(str(error))
            self.exit_code, self.finished = error.exit_code, True
        except Exception:
            self.get_logger().fatal(f"the camera failed:\n{traceback.format_exc()}")
            self.exit_code, self.finished = 1, True
        finally:
            if self._device is not None:
                self._device.release()

    def _read_one(self) -> None:
        if self._device is None:
            self._reopen()
            return
        found, bgr = self._device.read()
        if not found:
            self._losses += 1
            self.get_logger().error(f"the camera {self._camera.name} is lost")
            self._device.release()
            self._device = None
            return
        at_ns = self.get_clock().now().nanoseconds
        self._check_size(bgr)
        self._pictures.publish(self._message(at_ns=at_ns, frame_id=self._camera.name, rgb=bgr[..., ::-1]))
        self._rate.note(time.monotonic())

    def _reopen(self) -> None:
        try:
            self._device = self._open()
        except MachineError:
            self._closing.wait(REOPEN_S)
            return
        self.get_logger().info(f"the camera {self._camera.name} is back")

    def _check_size(self, bgr: UInt8[ndarray, "h w 3"]) -> None:
        camera, (height, width, _) = self._camera, bgr.shape
        if (width, height) != (camera.width_px, camera.height_px):
            raise ContractError(
                "the camera gives pictures of another size",
                where=camera.name,
                expected=f"{camera.width_px} x {camera.height_px}",
                got=f"{width} x {height}",
                remedy="give the contract a size that the camera has (v4l2-ctl --list-formats-ext)",
            )

    def _status(self) -> TaskStatus:
        hz = self._rate.hz(time.monotonic())
        values = {"rate_hz": round(hz, 1), "losses": self._losses}
        if self._device is None:
            return TaskStatus(Level.ERROR, "lost; it is looked for every second", values)
        if hz < SLOW * self._fps:
            return TaskStatus(Level.WARN, f"{hz:.1f} Hz, {self._fps:g} are needed: more light, or another port", values)
        return TaskStatus(Level.OK, f"{hz:.1f} Hz", values)


def _named(contract: Contract, name: str) -> Camera:
    for camera in contract.cameras:
        if camera.name == name:
            return camera
    names = ", ".join(camera.name for camera in contract.cameras)
    raise UsageError("the contract has no such camera", where=contract.name, expected=names, got=name)


def _coded(*, at_ns: int, frame_id: str, rgb: UInt8[ndarray, "h w 3"]) -> CompressedImage:
    return jpeg_message(header=Header(stamp=to_time(at_ns), frame_id=frame_id), rgb=rgb, quality=JPEG_QUALITY)


def main(args: Sequence[str] | None = None) -> int:
    """Starts the node; returns the exit code."""
    return run_node(CameraNode, CameraOptions, args, __doc__)


if __name__ == "__main__":
    sys.exit(main())
