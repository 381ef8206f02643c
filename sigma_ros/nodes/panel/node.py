# SPDX-License-Identifier: Apache-2.0
"""`sigma_panel`: a page to watch and operate an arm with (`sigma panel`).

It is one more user of topics and services: the supervisor judges its orders as everybody's, and goes on by its own
rules when this process ends. It sends no heartbeat that its silence could turn into a stop.
"""

import asyncio
import sys
import time
from collections.abc import Sequence
from functools import partial
from typing import Any

import cv2
import numpy as np
from rclpy.node import Node
from rclpy.parameter import Parameter
from rclpy.serialization import deserialize_message
from rclpy.task import Future
from sensor_msgs.msg import CompressedImage, Image, JointState

from sigma_ros.contract import Camera
from sigma_ros.contract_file import load_contract
from sigma_ros.errors import SigmaError, UsageError
from sigma_ros.nodes.panel.server import Server, open_in_browser
from sigma_ros.nodes.panel.view import KnownMemories, Skeleton, finite, page_view
from sigma_ros.nodes.shared import qos, topics
from sigma_ros.nodes.shared.image_messages import image_view, jpeg_message
from sigma_ros.nodes.shared.listen import MESSAGE_TYPES, Monitor
from sigma_ros.nodes.shared.node_options import PanelOptions
from sigma_ros.nodes.shared.operator import ORDERS, SETTINGS, Operator, outcome
from sigma_ros.nodes.shared.parameters import BoundParameters
from sigma_ros.nodes.shared.process import run_node
from sigma_ros.nodes.shared.sensor_messages import stamp_ns
from sigma_ros.streams.images import decode_full
from sigma_ros.streams.joints import JointMerger, JointReader

ANSWER_S = 5.0
PICTURE_WIDTH_PX = 480
JPEG_QUALITY = 75


class PanelNode(Node):
    """See the module."""

    def __init__(self, parameter_overrides: Sequence[Parameter] = ()) -> None:
        super().__init__(topics.PANEL_NODE, parameter_overrides=list(parameter_overrides))
        options = BoundParameters(self, PanelOptions(), state=lambda: "running").value
        self._contract = load_contract(topics.contract_name(self, options.contract))
        self._reader, self._skeleton = JointReader(self._contract), Skeleton(self._contract)
        self._known = KnownMemories()
        self._operator = Operator(self)
        self._seen = Monitor(self).seen
        self._joints_rad: dict[str, float] = {}
        self._pictures: dict[str, bytes] = {}
        self._merger = JointMerger(self._contract, self._contract.states)
        for i, part in enumerate(self._contract.states):
            self.create_subscription(JointState, part.topic, partial(self._on_joints, i), qos.SENSOR)
        for camera in self._contract.cameras:
            keep = partial(self._pictures.__setitem__, camera.name)
            self.create_subscription(MESSAGE_TYPES[camera.message_type], camera.topic, keep, qos.SENSOR, raw=True)
        self._server = Server(self, options.host, options.port)
        self.get_logger().info(f"open {self._server.url}")
        if options.browser:
            open_in_browser(self._server.url)

    @property
    def url(self) -> str:
        """Where the page is."""
        return self._server.url

    def stop(self) -> bool:
        """Ends the page."""
        self._server.close()
        return True

    def _on_joints(self, part: int, message: JointState) -> None:
        said = stamp_ns(message.header.stamp), tuple(message.name), np.asarray(message.position)
        try:
            whole = self._merger.push(part, *said)
            if whole is None:
                return
            positions = self._reader.read(*whole[1:])
        except SigmaError as error:
            self.get_logger().error(str(error), throttle_duration_sec=5.0)
            return
        self._joints_rad = dict(zip(self._contract.joint_names, positions.tolist(), strict=True))

    # What the server asks for, in its thread.

    def view(self) -> dict[str, Any]:
        """See `server.Backend`."""
        shown = page_view(self._seen, self._contract, self._skeleton, self._joints_rad, time.monotonic())
        cameras = [camera.name for camera in self._contract.cameras]
        alike = finite(self._known.alike(self._seen.telepathy))
        return shown | {"cameras": cameras, "robot": self._contract.name, "memory_like": alike}

    def picture(self, camera: str) -> bytes | None:
        """See `server.Backend`; decoded and coded when somebody looks, never while pictures come in."""
        cdr = self._pictures.get(camera)
        entry = next((entry for entry in self._contract.cameras if entry.name == camera), None)
        if cdr is None or entry is None:
            return None
        try:
            return _for_page(deserialize_message(cdr, MESSAGE_TYPES[entry.message_type]), entry)
        except SigmaError:
            return None  # the policy refuses it too and says why in its diagnostics

    async def act(self, order: str, value: Any) -> str:
        """See `server.Backend`."""
        if order in ORDERS:
            return await _answer(self._operator.order(order))
        if order in SETTINGS:
            if isinstance(value, bool) or not isinstance(value, int | float):
                raise UsageError("a setting is a number", where=order, got=value)
            return await _answer(self._operator.set(order, value))
        if order == "task" and isinstance(value, str):
            self._operator.say_task(value)
            return "task sent"
        raise UsageError("there is no such order", got=f"{order} {value!r}"[:80])

    def emergency_stop(self) -> None:
        """See `server.Backend`: the request leaves in the server's thread, whatever the executor does."""
        self._operator.order("stop")


def _for_page(message: CompressedImage | Image, camera: Camera) -> bytes:
    rgb = decode_full(image_view(message), camera)
    height, width, _ = rgb.shape
    if width > PICTURE_WIDTH_PX:
        size = (PICTURE_WIDTH_PX, round(height * PICTURE_WIDTH_PX / width))
        rgb = cv2.resize(rgb, size, interpolation=cv2.INTER_AREA)
    return bytes(jpeg_message(header=message.header, rgb=rgb, quality=JPEG_QUALITY).data)


async def _answer(future: Future) -> str:
    done, said = outcome(await _awaited(future))
    if not done:
        raise SigmaError("refused", got=said)
    return said or "done"


async def _awaited(future: Future) -> Any:
    """The result of a future that the node's thread completes."""
    loop, done = asyncio.get_running_loop(), asyncio.Event()

    def wake(_: Future) -> None:
        loop.call_soon_threadsafe(done.set)

    future.add_done_callback(wake)
    try:
        await asyncio.wait_for(done.wait(), ANSWER_S)
    except TimeoutError as error:
        raise SigmaError("no answer came", expected=f"one within {ANSWER_S:g} s") from error
    return future.result()


def main(args: Sequence[str] | None = None) -> int:
    """Starts the node; returns the exit code."""
    return run_node(PanelNode, PanelOptions, args, __doc__)


if __name__ == "__main__":
    sys.exit(main())
