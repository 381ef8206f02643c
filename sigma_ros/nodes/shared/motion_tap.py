# SPDX-License-Identifier: Apache-2.0
"""Listens to a running robot for `sigma delays`: joints, commands, pictures and chunks; sends nothing."""

from collections.abc import Callable
from functools import partial

import numpy as np
from rclpy.node import Node
from rclpy.qos import QoSProfile
from sensor_msgs.msg import CompressedImage, Image, JointState

from sigma_ros.contract import Camera, Contract
from sigma_ros.errors import SigmaError
from sigma_ros.msg import ActionChunk
from sigma_ros.nodes.shared import qos, topics
from sigma_ros.nodes.shared.image_messages import image_view
from sigma_ros.nodes.shared.listen import listening
from sigma_ros.nodes.shared.sensor_messages import COMMAND_KINDS, stamp_ns
from sigma_ros.streams.delays import Motion
from sigma_ros.streams.images import decode_full
from sigma_ros.streams.joints import JointReader


class MotionTap:
    """Keeps what a graph says while its arm moves. Commands and chunks have the time of their arrival.

    Messages that cannot be read are counted in `refused` and left out.
    """

    def __init__(self, node: Node, contract: Contract) -> None:
        self.motion, self.refused = Motion(), 0
        self._node, self._contract, self._joints = node, contract, JointReader(contract)
        self._subscribe(JointState, contract.joint_state_topic, self._on_joints, qos.SENSOR)
        kind = COMMAND_KINDS[contract.command_type]
        self._subscribe(kind.message, contract.command_topic, partial(self._on_command, read=kind.read), qos.COMMAND)
        for camera in contract.cameras:
            message = CompressedImage if "Compressed" in camera.message_type else Image
            self._subscribe(message, camera.topic, partial(self._on_picture, camera=camera), qos.SENSOR)
        self._subscribe(ActionChunk, topics.ACTION_CHUNK, self._on_chunk, qos.CHUNK)

    def _subscribe(self, message: type, topic: str, take: Callable[..., None], profile: QoSProfile) -> None:
        def store(received: object) -> None:
            try:
                take(received)
            except SigmaError:
                self.refused += 1

        self._node.create_subscription(message, topic, store, profile)

    def _now_ns(self) -> int:
        return int(self._node.get_clock().now().nanoseconds)

    def _on_joints(self, message: JointState) -> None:
        positions_rad = self._joints.read(tuple(message.name), np.asarray(message.position))
        self.motion.joints.append((stamp_ns(message.header.stamp), positions_rad))

    def _on_command(self, message: object, *, read: Callable[..., list[tuple[float, np.ndarray]]]) -> None:
        self.motion.commands.append((self._now_ns(), read(message, self._contract)[0][1]))

    def _on_picture(self, message: Image | CompressedImage, *, camera: Camera) -> None:
        self.motion.picture(camera.name, stamp_ns(message.header.stamp), decode_full(image_view(message), camera))

    def _on_chunk(self, message: ActionChunk) -> None:
        self.motion.chunk_delays_ns.append(self._now_ns() - stamp_ns(message.header.stamp))


def listened(contract: Contract, *, seconds: float) -> Motion:
    """What a running graph says for so long."""
    with listening("sigma_delays") as (node, spin):
        tap = MotionTap(node, contract)
        spin(seconds)
        return tap.motion
