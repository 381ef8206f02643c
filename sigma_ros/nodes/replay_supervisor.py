# SPDX-License-Identifier: Apache-2.0
"""The supervisor node as a replay sees it: clock messages go to it, its state comes back for each."""

from collections import deque

from rclpy.node import Node
from rosgraph_msgs.msg import Clock
from std_srvs.srv import Trigger

from sigma_ros.errors import SigmaError
from sigma_ros.msg import SupervisorState
from sigma_ros.nodes import qos, topics
from sigma_ros.nodes.replay_waiter import Waiter
from sigma_ros.nodes.sensor_messages import stamp_ns, to_time
from sigma_ros.nodes.supervisor_output import CHUNK_RECEIVED
from sigma_ros.values import Chunk


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
