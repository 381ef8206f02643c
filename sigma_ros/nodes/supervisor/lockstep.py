# SPDX-License-Identifier: Apache-2.0
"""The supervisor node in a replay: ticks at `/clock`, answers every chunk, cannot reach the robot's command topic."""

import heapq
from dataclasses import dataclass

from jaxtyping import Float64
from numpy import ndarray
from rclpy.node import Node
from rosgraph_msgs.msg import Clock
from sensor_msgs.msg import JointState
from std_srvs.srv import Trigger

from sigma_ros.contract import Contract
from sigma_ros.errors import SigmaError
from sigma_ros.evaluation.replay_operator import ReplayOperator
from sigma_ros.msg import ActionChunk
from sigma_ros.nodes.shared import qos, topics
from sigma_ros.nodes.shared.messages import chunk_value
from sigma_ros.nodes.shared.sensor_messages import stamp_ns
from sigma_ros.nodes.supervisor.options import SupervisorOptions
from sigma_ros.nodes.supervisor.output import SupervisorOutput
from sigma_ros.streams.joints import JointReader
from sigma_ros.supervisor.limits import SupervisorLimits
from sigma_ros.supervisor.reasons import Decision
from sigma_ros.supervisor.supervisor import Supervisor
from sigma_ros.values import Chunk

# The supervisor on a replay's clock: whatever order the topics arrive in, things happen in the order of their stamps.
#
# At each clock message: joint states up to it and chunks stamped up to it, by stamp, joint states first where
# equal; then the operator; then the tick. The graph-free replay (`evaluation.supervised`) keeps the same order.


_JOINTS, _CHUNK = 0, 1


@dataclass(frozen=True, slots=True)
class Stepped:
    """One supervisor tick of a replay. `host_ns` is left to the caller's clock."""

    stamp_ns: int
    decision: Decision


class LockstepSupervisor:
    """One `Supervisor` on bag time. Bag time must not go back.

    A clock message is worked on once the joint stream has reached it.
    """

    def __init__(self, contract: Contract, limits: SupervisorLimits) -> None:
        self._contract = contract
        self._limits = limits
        self.restart()

    def restart(self) -> None:
        """Begins anew, as in a new process."""
        self.supervisor = Supervisor(self._contract, self._limits)
        self._operator = ReplayOperator()
        self._events: list[tuple[int, int, int, Chunk | ndarray]] = []
        self._count = 0
        self._joints_until_ns = 0
        self._clocks: list[int] = []

    def on_joints(self, stamp_ns: int, positions_rad: Float64[ndarray, " dof"] | None) -> None:
        """Stores a joint state; None only says that no other will come up to this stamp."""
        self._joints_until_ns = max(self._joints_until_ns, stamp_ns)
        if positions_rad is not None:
            self._push(stamp_ns, _JOINTS, positions_rad)

    def on_chunk(self, chunk: Chunk) -> None:
        """Stores a chunk."""
        self._push(chunk.stamp_ns, _CHUNK, chunk)

    def on_clock(self, stamp_ns: int) -> None:
        """Asks for a tick at a time of the recording."""
        self._clocks.append(stamp_ns)

    def due(self) -> list[Stepped]:
        """Makes the ticks for which everything has come."""
        done = []
        while self._clocks and self._joints_until_ns >= self._clocks[0]:
            stamp_ns = self._clocks.pop(0)
            self._feed(stamp_ns)
            self._operator.act(self.supervisor, stamp_ns)
            decision = self.supervisor.tick(stamp_ns, stamp_ns)
            self._operator.note(decision)
            done.append(Stepped(stamp_ns, decision))
        return done

    def _push(self, stamp_ns: int, kind: int, value: Chunk | ndarray) -> None:
        self._count += 1
        heapq.heappush(self._events, (stamp_ns, kind, self._count, value))

    def _feed(self, until_ns: int) -> None:
        while self._events and self._events[0][0] <= until_ns:
            stamp_ns, _, _, value = heapq.heappop(self._events)
            if isinstance(value, Chunk):
                self._operator.on_chunk()
                self.supervisor.on_chunk(value, stamp_ns, stamp_ns)
            else:
                self.supervisor.on_joints(stamp_ns, value, stamp_ns)


class LockstepDrive:
    """The operator is the replay's (`ReplayOperator`). `~/release` begins anew, as in a new process.

    A joint state without names says that no other will come up to its stamp.
    """

    state = "LOCKSTEP"

    def __init__(self, node: Node, contract: Contract, options: SupervisorOptions) -> None:
        self._node = node
        self._ceiling = options.scale_ceiling
        self._sequence = LockstepSupervisor(contract, options.limits)
        self._sequence.supervisor.set_ceiling(self._ceiling)
        self._joints = JointReader(contract)
        self._output = SupervisorOutput(node, contract, lockstep=True)
        node.create_subscription(JointState, contract.joint_state_topic, self._on_joints, qos.SENSOR_RELIABLE)
        node.create_subscription(ActionChunk, topics.ACTION_CHUNK, self._on_chunk, qos.CHUNK_LOCKSTEP)
        node.create_subscription(Clock, topics.CLOCK, self._on_clock, qos.SENSOR_RELIABLE)
        node.create_service(Trigger, "~/release", self._on_release)
        node.get_logger().info(f"lockstep: commands go to {topics.REPLAY_COMMANDS}")

    def stop(self) -> bool:
        """Nothing moves here."""
        return True

    def refuse_change(self, _old: SupervisorOptions, _new: SupervisorOptions) -> str | None:
        """A replay's scores must not depend on when somebody turned a knob."""
        return "the settings of a replay are fixed; restart the node with others"

    def _on_joints(self, message: JointState) -> None:
        at_ns = stamp_ns(message.header.stamp)
        try:
            positions_rad = self._joints.read(tuple(message.name), message.position) if message.name else None
        except SigmaError as error:
            self._node.get_logger().warning(str(error))
            positions_rad = None
        self._sequence.on_joints(at_ns, positions_rad)
        self._step()

    def _on_chunk(self, message: ActionChunk) -> None:
        try:
            self._sequence.on_chunk(chunk_value(message))
        except SigmaError as error:
            self._node.get_logger().error(str(error))
        self._output.echo(message, state=self._sequence.supervisor.state)

    def _on_clock(self, message: Clock) -> None:
        self._sequence.on_clock(stamp_ns(message.clock))
        self._step()

    def _step(self) -> None:
        for stepped in self._sequence.due():
            self._output.publish(stepped.decision, at_ns=stepped.stamp_ns)

    def _on_release(self, _request: Trigger.Request, response: Trigger.Response) -> Trigger.Response:
        self._sequence.restart()
        self._sequence.supervisor.set_ceiling(self._ceiling)
        response.success = True
        response.message = "everything forgotten, waiting for the first clock message"
        return response
