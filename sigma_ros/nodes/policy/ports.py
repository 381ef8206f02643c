# SPDX-License-Identifier: Apache-2.0
"""The policy node's topics: what it hears while active, and what it publishes.

A callback only stores, then looks whether a tick is complete. Out go chunks, telepathy, a heartbeat, and latched facts
about the model in use.
"""

import dataclasses
import functools
import json
import time
import uuid
from collections.abc import Callable

import numpy as np
from rclpy.clock import JumpThreshold
from rclpy.duration import Duration
from rclpy.node import Node
from rclpy.publisher import Publisher
from sensor_msgs.msg import CompressedImage, Image, JointState
from std_msgs.msg import Bool, Header, String
from trajectory_msgs.msg import JointTrajectory

from sigma_ros.contract import Camera, Contract, Part
from sigma_ros.errors import ContractError
from sigma_ros.msg import ActionChunk, TelepathyState
from sigma_ros.nodes.policy.model import PolicyModel
from sigma_ros.nodes.policy.options import PolicyOptions
from sigma_ros.nodes.policy.session import PolicySession
from sigma_ros.nodes.shared import qos, topics
from sigma_ros.nodes.shared.image_messages import image_view
from sigma_ros.nodes.shared.messages import chunk_message, chunk_trajectory, gap_message, telepathy_message
from sigma_ros.nodes.shared.qos import ClockWatch, steady_clock
from sigma_ros.nodes.shared.sensor_messages import END_OF_RECORDING, stamp_ns, to_time
from sigma_ros.policy.job import Failed, Outcome, Proposed, Remembered, Rescaled, Unused, gap_of
from sigma_ros.streams.joints import JointMerger
from sigma_ros.streams.stream import JOINTS
from sigma_ros.supervisor.identity import Author
from sigma_ros.values import Certificate, Chunk, Gap, Window

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


INSTANCE = uuid.uuid4().hex
"""The random name of this process: a policy that was started again is another one."""


class PolicyOutput:
    """The policy's publishers. In lockstep nothing is dropped and no limit depends on machine speed.

    Raises:
        ContractError: the trajectory for viewers is asked for, and the robot takes commands on its topic.
    """

    def __init__(self, node: Node, model: PolicyModel, *, lockstep: bool, trajectory_for_viewers: bool = False) -> None:
        self._node = node
        self._model = model
        self._author = Author(robot=model.contract.name, instance=INSTANCE)
        event_qos = qos.CHUNK_LOCKSTEP if lockstep else qos.EVENT
        self._chunks = node.create_publisher(
            ActionChunk, topics.ACTION_CHUNK, qos.CHUNK_LOCKSTEP if lockstep else qos.CHUNK
        )
        self._lockstep = lockstep
        self._commit_chunks = node.create_publisher(ActionChunk, topics.COMMIT_CHUNK, event_qos) if lockstep else None
        self._ticks = node.create_publisher(Header, topics.TICK, event_qos) if lockstep else None
        self._telepathy = node.create_publisher(TelepathyState, topics.TELEPATHY, event_qos)
        self._heartbeat = node.create_publisher(Bool, topics.POLICY_HEARTBEAT, qos.HEARTBEAT)
        self._trajectories = _trajectory_publisher(node, model.contract) if trajectory_for_viewers else None
        self._certificate: Certificate | None = None
        self._info = node.create_publisher(String, topics.POLICY_INFO, qos.LATCHED)

    def publish(self, outcome: Outcome) -> None:
        """Publishes what came of a tick; a failure and a gap as a telepathy state that is not valid."""
        item, task = outcome.request.item, outcome.request.task
        match outcome:
            case Unused(gap=gap):
                self._telepathy.publish(gap_message(gap, task))
            case Failed():
                gap = gap_of(item, f"inference failed: {outcome.last_line}")
                self._telepathy.publish(gap_message(gap, task))
            case Rescaled(chunk=chunk):
                self._send(chunk)
            case Remembered(telepathy=telepathy):
                self._telepathy.publish(telepathy_message(telepathy, task))
            case Proposed(chunk=chunk, telepathy=telepathy):
                if outcome.published:
                    self._send(chunk)
                elif self._commit_chunks is not None:
                    self._commit_chunks.publish(chunk_message(chunk, self._author))
                self._telepathy.publish(telepathy_message(telepathy, task))

    def _send(self, chunk: Chunk) -> None:
        self._chunks.publish(chunk_message(chunk, self._author))
        if self._trajectories is not None:
            self._trajectories.publish(chunk_trajectory(chunk))

    def tick(self, item: Window | Gap) -> None:
        """In lockstep: says that a tick was consumed, `EPOCH/TICK` in the header's frame."""
        if self._ticks is not None:
            self._ticks.publish(Header(stamp=to_time(item.stamp_ns), frame_id=f"{item.epoch}/{item.tick}"))

    def heartbeat(self, *, healthy: bool) -> None:
        """Says that the process is alive, whatever its inference does, and whether the policy can act."""
        self._heartbeat.publish(Bool(data=healthy))
        if not self._lockstep:
            self._chunks.assert_liveliness()

    def certified(self, certificate: Certificate, options: PolicyOptions) -> None:
        """Latches with the other facts whether what runs is what was trained."""
        self._certificate = certificate
        self.publish_info(options)

    def publish_info(self, options: PolicyOptions) -> None:
        """Latches what a recording or a replay must know about this policy."""
        facts = {
            **self._model.facts,
            **({} if self._certificate is None else {"certificate": self._certificate.line}),
            "seed": options.seed,
            "replan_ticks": options.replan_ticks,
            "adapter": dataclasses.asdict(options.settings),
            "task": options.task,
            "stitching": options.stitching,
            "crossfade_steps": options.crossfade_steps,
            "residual_every_tick": options.residual_every_tick,
            "lockstep": self._lockstep,
        }
        self._info.publish(String(data=json.dumps(facts, sort_keys=True, allow_nan=False)))

    def destroy(self) -> None:
        """Ends all publishing."""
        told = (self._ticks, self._telepathy, self._heartbeat, self._info)
        for publisher in (self._chunks, self._commit_chunks, self._trajectories, *told):
            if publisher is not None:
                self._node.destroy_publisher(publisher)


def _trajectory_publisher(node: Node, contract: Contract) -> Publisher[JointTrajectory]:
    topic = topics.full_name(node, topics.ACTION_CHUNK_TRAJECTORY)
    if topic == contract.command_topic:
        raise ContractError(
            "trajectory_for_viewers would publish on the robot's command topic",
            where=contract.name,
            got=topic,
            remedy="leave it off: only the supervisor publishes commands",
        )
    return node.create_publisher(JointTrajectory, topics.ACTION_CHUNK_TRAJECTORY, qos.EVENT)
