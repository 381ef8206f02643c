# SPDX-License-Identifier: Apache-2.0
"""The policy node as a replay sees it: observations go to it; ticks, chunks and telepathy come back."""

import json
import time
from collections import deque
from collections.abc import Callable, Mapping
from typing import Any

from rcl_interfaces.srv import SetParameters
from rclpy.executors import SingleThreadedExecutor
from rclpy.node import Node
from rclpy.parameter import Parameter
from rclpy.publisher import Publisher
from rosgraph_msgs.msg import Clock
from sensor_msgs.msg import CompressedImage, Image, JointState
from std_msgs.msg import Header, String
from std_srvs.srv import Trigger

from sigma_ros.contract import Contract
from sigma_ros.errors import SigmaError
from sigma_ros.msg import ActionChunk, SupervisorState, TelepathyState
from sigma_ros.nodes.shared import qos, topics
from sigma_ros.nodes.shared.image_messages import from_view
from sigma_ros.nodes.shared.sensor_messages import END_OF_RECORDING, doubles, stamp_ns, to_time
from sigma_ros.nodes.supervisor.output import CHUNK_RECEIVED
from sigma_ros.stopping import StopRequest
from sigma_ros.streams.images import ImageMessage
from sigma_ros.values import Chunk, Gap, Window

# Waiting for other nodes: with a limit, with the user's wish to stop, and with a clear word when nothing comes.


class InterruptedReplayError(Exception):
    """The user asked to stop."""


class Waiter:
    """Runs callbacks until something has come, with a limit and a clear word when it has not.

    Args:
        stop: The user's wish to stop; raises `InterruptedReplayError`.
        timeout_s: Limit of a wait that names none.
    """

    def __init__(self, executor: SingleThreadedExecutor, stop: StopRequest, *, timeout_s: float) -> None:
        self._executor = executor
        self._stop = stop
        self._timeout_s = timeout_s

    def until(
        self, done: Callable[[], object], *, what: str, where: str, remedy: str, timeout_s: float | None = None
    ) -> None:
        """Waits for `done()`.

        Raises:
            InterruptedReplayError: the user asked to stop.
            SigmaError: it did not come in time; says `what` was waited for, from `where`.
        """
        limit_s = self._timeout_s if timeout_s is None else timeout_s
        end_s = time.monotonic() + limit_s
        while not done():
            if self._stop:
                raise InterruptedReplayError
            if time.monotonic() > end_s:
                raise SigmaError(f"no answer within {limit_s:g} s", where=where, expected=what, remedy=remedy)
            self._executor.spin_once(timeout_sec=0.1)

    def call(self, node: Node, kind: type, name: str, request: object, *, remedy: str) -> Any:
        """A service's answer."""
        client: Any = node.create_client(kind, name)
        try:
            self.until(client.service_is_ready, what="the service", where=name, remedy=remedy)
            future = client.call_async(request)
            self.until(future.done, what="the service's answer", where=name, remedy=remedy)
            return future.result()
        finally:
            node.destroy_client(client)


class PolicyPeer:
    """The policy node in lockstep: observations go to it, ticks, chunks and telepathy come back."""

    REMEDY = "start the policy with lockstep:=true (ros2 launch sigma_ros replay.launch.py does), and read its log"

    def __init__(self, node: Node, contract: Contract, waiter: Waiter) -> None:
        self._node = node
        self._waiter = waiter
        self._info: dict[str, Any] | None = None
        self._ticks: deque[tuple[str, int]] = deque()
        self._telepathy: deque[TelepathyState] = deque()
        self._chunks: deque[ActionChunk] = deque()
        self._joints = node.create_publisher(JointState, contract.joint_state_topic, qos.SENSOR_RELIABLE)
        self._images: dict[tuple[str, bool], Publisher] = {}
        for camera in contract.cameras:
            for kind, topic in ((Image, topics.raw_topic(camera)), (CompressedImage, topics.compressed_topic(camera))):
                publisher = node.create_publisher(kind, topic, qos.SENSOR_RELIABLE)
                self._images[camera.name, kind is CompressedImage] = publisher
        self._sending: dict[str, Publisher] = {}
        self.joints_until_ns = 0
        node.create_subscription(String, topics.POLICY_INFO, self._on_info, qos.LATCHED)
        for kind, topic, store in (
            (Header, topics.TICK, lambda m: self._ticks.append((m.frame_id, stamp_ns(m.stamp)))),
            (TelepathyState, topics.TELEPATHY, lambda m: self._telepathy.append(m)),  # noqa: PLW0108 - rclpy inspects
            (ActionChunk, topics.ACTION_CHUNK, lambda m: self._chunks.append(m)),  # noqa: PLW0108
            (ActionChunk, topics.COMMIT_CHUNK, lambda m: self._chunks.append(m)),  # noqa: PLW0108
        ):
            node.create_subscription(kind, topic, store, qos.CHUNK_LOCKSTEP)

    def connect(self, *, timeout_s: float) -> Mapping[str, Any]:
        """Waits until the policy has loaded its model and listens; returns the facts it tells.

        Raises:
            SigmaError: it did not, or it is not in lockstep.
        """
        where = topics.full_name(self._node, topics.POLICY_NODE)
        self._waiter.until(
            lambda: self._info, what=topics.POLICY_INFO, where=where, remedy=self.REMEDY, timeout_s=timeout_s
        )
        assert self._info is not None
        if not self._info["lockstep"]:
            raise SigmaError("the policy node is not in lockstep", where=where, remedy=self.REMEDY)
        publishers = [self._joints, *self._images.values()]
        self._waiter.until(
            lambda: all(publisher.get_subscription_count() for publisher in publishers),
            what="subscriptions to cameras and joint states (is the node active?)",
            where=where,
            remedy=self.REMEDY,
            timeout_s=timeout_s,
        )
        return self._info

    @property
    def certificate(self) -> str:
        """What the policy says of itself since its first chunk."""
        return str((self._info or {}).get("certificate", "none"))

    def begin(self, task: str) -> None:
        """Clears window and memory, as in a new process, and sets the task."""
        self.set_task(task)
        answer = self._waiter.call(self._node, Trigger, topics.RESET_MEMORY, Trigger.Request(), remedy=self.REMEDY)
        if not answer.success:
            raise SigmaError("the policy cannot begin", where=topics.RESET_MEMORY, got=answer.message)

    def set_task(self, task: str) -> None:
        """Sets the task text; the policy has it when this returns."""
        request = SetParameters.Request(parameters=[Parameter("task", value=task).to_parameter_msg()])
        name = f"{topics.POLICY_NODE}/set_parameters"
        [result] = self._waiter.call(self._node, SetParameters, name, request, remedy=self.REMEDY).results
        if not result.successful:
            raise SigmaError("the policy refuses the task", where=name, expected=task, got=result.reason)

    def image(self, camera: str, at_ns: int, view: ImageMessage) -> None:
        """Sends an image."""
        self._sending[camera] = self._images[camera, view.is_compressed]
        self._sending[camera].publish(from_view(view, at_ns=at_ns))

    def joints(self, at_ns: int, names: tuple[str, ...], positions_rad: Any) -> None:
        """Sends a joint state."""
        header = Header(stamp=to_time(at_ns))
        self._joints.publish(JointState(header=header, name=list(names), position=doubles(positions_rad)))
        self.joints_until_ns = max(self.joints_until_ns, at_ns)

    def no_joints_until(self, at_ns: int) -> None:
        """Says that no other joint state will come up to a time; needed where the recording has a hole."""
        if self.joints_until_ns < at_ns:
            self.joints(at_ns, (), ())

    def end(self) -> None:
        """Says on every stream that the recording is over: only within a topic do messages keep their order."""
        last = Header(stamp=to_time(self.joints_until_ns), frame_id=END_OF_RECORDING)
        self._joints.publish(JointState(header=last))
        for publisher in self._sending.values():
            publisher.publish(publisher.msg_type(header=last))

    def await_tick(self, item: Window | Gap) -> None:
        """Waits until the policy has consumed the recording's next tick.

        Raises:
            SigmaError: it consumed another one: the two sides do not see the same streams.
        """
        expected = (f"{item.epoch}/{item.tick}", item.stamp_ns)
        self._until(lambda: self._ticks, f"tick {expected[0]} on {topics.TICK}")
        got = self._ticks.popleft()
        if got != expected:
            raise SigmaError(
                "the policy consumed another tick than the recording's next",
                where=topics.TICK,
                expected=f"epoch/tick {expected[0]} at {expected[1]} ns",
                got=f"{got[0]} at {got[1]} ns",
                remedy="make sure that nobody else publishes on the cameras' and joints' topics, and use one contract",
            )

    def await_ticks(self, count: int) -> None:
        """Waits until at least so many consumed ticks wait."""
        self._until(lambda: len(self._ticks) >= count, f"{count} ticks on {topics.TICK}")

    def await_telepathy(self, item: Window | Gap) -> TelepathyState:
        """The policy's answer to a tick, valid or not."""
        self._until(lambda: self._telepathy, f"the answer to tick {item.epoch}/{item.tick} on {topics.TELEPATHY}")
        message = self._telepathy.popleft()
        if (message.epoch, message.tick) != (item.epoch, item.tick):
            raise SigmaError(
                "the policy answered another tick",
                where=topics.TELEPATHY,
                expected=f"epoch {item.epoch} tick {item.tick}",
                got=f"epoch {message.epoch} tick {message.tick}",
                remedy="let only one policy node run, and change none of its parameters during a replay",
            )
        return message

    def await_chunk(self, item: Window) -> ActionChunk:
        """The chunk of a tick."""
        self._until(lambda: self._chunks, f"the chunk of tick {item.epoch}/{item.tick} on {topics.ACTION_CHUNK}")
        message = self._chunks.popleft()
        if (message.epoch, message.tick) != (item.epoch, item.tick):
            self._gone(f"the chunk of tick {item.epoch}/{item.tick}, got that of {message.epoch}/{message.tick}")
        return message

    def _until(self, done: Callable[[], object], what: str) -> None:
        self._waiter.until(done, what=what, where=topics.full_name(self._node, topics.POLICY_NODE), remedy=self.REMEDY)

    def _gone(self, what: str) -> None:
        raise SigmaError(
            "the policy node does not answer", where=topics.full_name(self._node, topics.POLICY_NODE), expected=what
        )

    def _on_info(self, message: String) -> None:
        self._info = json.loads(message.data)


# The supervisor node as a replay sees it: clock messages go to it, its state comes back for each.


class SupervisorPeer:
    """The supervisor node in lockstep: clock messages go to it, its state comes back for each."""

    REMEDY = "start the supervisor with lockstep:=true (ros2 launch sigma_ros replay.launch.py does), and read its log"

    def __init__(self, node: Node, waiter: Waiter) -> None:
        self._node = node
        self._waiter = waiter
        self._states: deque[SupervisorState] = deque()
        self._echoes: deque[SupervisorState] = deque()
        self._clock = node.create_publisher(Clock, topics.CLOCK, qos.SENSOR_RELIABLE)
        node.create_subscription(SupervisorState, topics.SUPERVISOR_STATE, self._on_state, qos.CHUNK_LOCKSTEP)

    def begin(self, *, timeout_s: float) -> None:
        """Waits until the supervisor listens, and makes it begin anew."""
        where = topics.full_name(self._node, topics.SUPERVISOR_NODE)
        self._waiter.until(
            lambda: self._node.count_publishers(topics.SUPERVISOR_STATE) and self._clock.get_subscription_count(),
            what="a publisher of its state and a subscription to /clock",
            where=where,
            remedy=self.REMEDY,
            timeout_s=timeout_s,
        )
        self._waiter.call(self._node, Trigger, topics.RELEASE, Trigger.Request(), remedy=self.REMEDY)
        self._states.clear()
        self._echoes.clear()

    def step(self, at_ns: int) -> SupervisorState:
        """One tick of the supervisor at a time of the recording."""
        self._clock.publish(Clock(clock=to_time(at_ns)))
        return self._answer(self._states, at_ns, "its state after /clock")

    def await_echo(self, chunk: Chunk) -> None:
        """Waits until the supervisor has received a chunk."""
        state = self._answer(self._echoes, chunk.stamp_ns, f"its answer to chunk {chunk.chunk_id}")
        if state.chunk_id != chunk.chunk_id:
            raise SigmaError(
                "the supervisor answered another chunk",
                where=topics.SUPERVISOR_STATE,
                expected=chunk.chunk_id,
                got=state.chunk_id,
                remedy="let only one policy and one supervisor run",
            )

    def _on_state(self, message: SupervisorState) -> None:
        (self._echoes if message.reason == CHUNK_RECEIVED else self._states).append(message)

    def _answer(self, answers: deque[SupervisorState], at_ns: int, what: str) -> SupervisorState:
        where = topics.full_name(self._node, topics.SUPERVISOR_NODE)
        self._waiter.until(lambda: answers, what=what, where=where, remedy=self.REMEDY)
        state = answers.popleft()
        if stamp_ns(state.header.stamp) != at_ns:
            raise SigmaError(
                "the supervisor answered for another time",
                where=topics.SUPERVISOR_STATE,
                expected=f"{at_ns} ns",
                got=f"{stamp_ns(state.header.stamp)} ns",
                remedy="let nobody else publish /clock during a replay",
            )
        return state
