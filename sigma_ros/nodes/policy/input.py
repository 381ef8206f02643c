# SPDX-License-Identifier: Apache-2.0
"""What the policy node listens to while active: a callback only stores, then looks whether a tick is complete."""

import functools
import time
from collections.abc import Callable

import numpy as np
from rclpy.clock import JumpThreshold
from rclpy.duration import Duration
from rclpy.node import Node
from sensor_msgs.msg import CompressedImage, Image, JointState

from sigma_ros.contract import Camera, Contract, Part
from sigma_ros.errors import ContractError
from sigma_ros.nodes.policy.session import PolicySession
from sigma_ros.nodes.shared import qos, topics
from sigma_ros.nodes.shared.image_messages import image_view
from sigma_ros.nodes.shared.qos import ClockWatch, steady_clock
from sigma_ros.nodes.shared.sensor_messages import END_OF_RECORDING, stamp_ns
from sigma_ros.streams.frame_clock import JOINTS
from sigma_ros.streams.joints import JointMerger

TICK_POLL_S = 0.01
CLOCK_JUMP = JumpThreshold(
    min_forward=Duration(seconds=0.5), min_backward=Duration(nanoseconds=-1), on_clock_change=True
)


class PolicyInput:
    """Cameras, joints and time into a session.

    Live, a tick is complete when all streams have reached it or `settle_ns` after it on the node's clock, which a
    steady timer reads. In lockstep only messages complete a tick, and a camera may send raw or compressed images.
    """

    def __init__(self, node: Node, session: PolicySession, contract: Contract, *, lockstep: bool) -> None:
        self._node = node
        self._session = session
        self._lockstep = lockstep
        self._clock_watch = ClockWatch()
        sensor_qos = qos.SENSOR_RELIABLE if lockstep else qos.SENSOR
        whole = Part(topic=contract.joint_state_topic, joints=contract.joint_names)
        sources = (whole,) if lockstep else contract.states
        self._merger = JointMerger(contract, sources)
        self._subscriptions = [
            node.create_subscription(JointState, part.topic, functools.partial(self._on_joints, i), sensor_qos)
            for i, part in enumerate(sources)
        ]
        for camera in contract.cameras:
            for kind, topic in self._camera_topics(camera):
                store = functools.partial(self._on_image, camera.name)
                self._subscriptions.append(node.create_subscription(kind, topic, store, sensor_qos))
        self._undo: list[Callable[[], object]] = []
        if not lockstep:
            timer = node.create_timer(TICK_POLL_S, self._advance, clock=steady_clock())
            jump = node.get_clock().create_jump_callback(CLOCK_JUMP, post_callback=self._on_clock_jump)
            self._undo = [functools.partial(node.destroy_timer, timer), jump.unregister]

    def destroy(self) -> None:
        """Stops listening."""
        for subscription in self._subscriptions:
            self._node.destroy_subscription(subscription)
        for undo in self._undo:
            undo()

    def _camera_topics(self, camera: Camera) -> list[tuple[type, str]]:
        both = [(Image, topics.raw_topic(camera)), (CompressedImage, topics.compressed_topic(camera))]
        return both if self._lockstep else [entry for entry in both if entry[1] == camera.topic]

    def _end(self, stream: str) -> None:
        self._session.clock.end(stream)
        self._advance()

    def _on_image(self, camera: str, message: Image | CompressedImage) -> None:
        if self._lockstep and message.header.frame_id == END_OF_RECORDING:
            self._end(camera)
            return
        self._session.push_image(camera, stamp_ns(message.header.stamp), image_view(message))
        self._advance()

    def _on_joints(self, part: int, message: JointState) -> None:
        if self._lockstep and not message.name:
            if message.header.frame_id == END_OF_RECORDING:
                self._end(JOINTS)
            return  # else it tells the supervisor that none is to come
        said = (stamp_ns(message.header.stamp), tuple(message.name), np.array(message.position))
        try:
            whole = self._merger.push(part, *said)
        except ContractError as error:
            self._session.clock.refuse(JOINTS, error.what)
            return
        if whole is None:
            return
        self._session.clock.push_joints(*whole)
        self._advance()

    def _advance(self) -> None:
        if self._lockstep:
            self._session.advance(None)
            return
        now_ns = self._node.get_clock().now().nanoseconds
        self._clock_watch.note(now_ns, time.monotonic_ns())
        self._session.clock_stands = self._clock_watch.stands
        self._session.advance(now_ns)

    def _on_clock_jump(self, _jump: object) -> None:
        self._node.get_logger().warning("the clock jumped, a new epoch begins")
        self._session.reset()
