# SPDX-License-Identifier: Apache-2.0
"""The supervisor node on a robot: one steady timer, services for the operator, and an eye on who else publishes."""

import time
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING

from rclpy.event_handler import SubscriptionEventCallbacks
from rclpy.node import Node
from sensor_msgs.msg import JointState
from std_msgs.msg import Bool
from std_srvs.srv import Trigger

from sigma_ros.contract import Contract
from sigma_ros.errors import SigmaError
from sigma_ros.msg import ActionChunk
from sigma_ros.nodes.shared import qos, topics
from sigma_ros.nodes.shared.diagnostics import Diagnostics
from sigma_ros.nodes.shared.messages import chunk_author, chunk_value
from sigma_ros.nodes.shared.qos import steady_clock
from sigma_ros.nodes.shared.sensor_messages import COMMAND_KINDS, stamp_ns
from sigma_ros.nodes.shared.topics import Senders, foreign_publishers, publishers
from sigma_ros.nodes.supervisor.health import SupervisorHealth
from sigma_ros.nodes.supervisor.options import SupervisorOptions
from sigma_ros.nodes.supervisor.output import SupervisorOutput
from sigma_ros.nodes.supervisor.pairing import Pairing, unpaired
from sigma_ros.srv import Paired
from sigma_ros.streams.joints import JointMerger, JointReader
from sigma_ros.supervisor.limits import TIGHTENED
from sigma_ros.supervisor.reasons import Answer, Decision, Reason, State
from sigma_ros.supervisor.supervisor import Supervisor
from sigma_ros.values import NS_PER_S

if TYPE_CHECKING:
    from rclpy.subscription import MessageInfo

FOREIGN_CHECK_S = 0.2
MALFORMED_LOG_S = 1.0
BUSY_SHARE, PAUSE_SHARE = 0.5, 0.4

_FROM_KNOWN = (topics.ACTION_CHUNK, topics.POLICY_HEARTBEAT, topics.E_STOP, topics.ENABLE)
"""Topics whose publishers are told apart."""


def pause_ns(busy_ns: int, left_ns: int, period_ns: int) -> int:
    """How long the thread sleeps after a tick, by what it has computed since the last one and what is left to the next.

    A flood of messages would take a whole core, and Linux halts real-time threads that take one for 50 ms a second. A
    thread that was busy for less than half of the period does not pause, and none into the next tick.
    """
    if busy_ns <= BUSY_SHARE * period_ns:
        return 0
    return max(0, min(round(PAUSE_SHARE * period_ns), left_ns // 2))


class LiveDrive:
    """Feeds one `Supervisor` from the graph and publishes what it decides. It starts disengaged."""

    def __init__(self, node: Node, contract: Contract, options: SupervisorOptions) -> None:
        self._node = node
        self._contract = contract
        self._core = Supervisor(contract, options.limits)
        self._core.set_ceiling(options.scale_ceiling)
        self._joints = JointReader(contract)
        self._merger = JointMerger(contract, contract.states)
        self._output = SupervisorOutput(node, contract, lockstep=False)
        self._health = SupervisorHealth(self._core, contract)
        commanded = [part.topic for part in contract.commands]
        self._senders = {topic: Senders(node, (topic,)) for topic in (*_FROM_KNOWN, *commanded)}
        self._used_ns = time.thread_time_ns()
        self._subscribe()
        self._serve(Pairing() if options.pairing else None)
        node.create_timer(contract.command_period_ns / NS_PER_S, self._tick, clock=steady_clock())
        node.create_timer(FOREIGN_CHECK_S, self._check_publishers, clock=steady_clock())
        self._diagnostics = Diagnostics(node, hardware_id=contract.name, tasks=self._health.tasks())
        node.get_logger().info(f"disengaged; commands would go to {', '.join(self._output.targets)}")

    @property
    def state(self) -> str:
        """The supervisor's state by name."""
        return self._core.state.name

    def stop(self) -> bool:
        """Last words: brings the arm to rest with certified commands, and says so when the last one has arrived."""
        self._core.release()
        return not self._core.state.may_move and self._core.is_resting and self._output.has_arrived

    def close(self) -> None:
        """Ends what the node does not end by itself."""
        self._output.close()

    def refuse_change(self, old: SupervisorOptions, new: SupervisorOptions) -> str | None:
        """Judges and applies a change: the core alone knows whether it may be."""
        tighter = {name: getattr(new, name) for name in TIGHTENED if getattr(new, name) != getattr(old, name)}
        answer = self._core.tighten(**tighter) if tighter else None
        if answer is not None and not answer.success:
            return answer.text
        self._core.set_ceiling(new.scale_ceiling)
        return None

    def _subscribe(self) -> None:
        for i, part in enumerate(self._contract.states):
            self._node.create_subscription(JointState, part.topic, partial(self._on_joints, i), qos.SENSOR)
        self._node.create_subscription(
            ActionChunk,
            topics.ACTION_CHUNK,
            self._on_chunk,
            qos.CHUNK,
            event_callbacks=SubscriptionEventCallbacks(incompatible_qos=self._health.note_incompatible),
        )
        self._node.create_subscription(Bool, topics.POLICY_HEARTBEAT, self._on_heartbeat, qos.HEARTBEAT)
        for profile in (qos.EVENT, qos.EVENT_ANY):
            self._node.create_subscription(Bool, topics.E_STOP, self._on_estop, profile)
        self._node.create_subscription(Bool, topics.ENABLE, self._on_enabling, qos.EVENT_ANY)
        for part in self._contract.commands:
            kind = COMMAND_KINDS[self._contract.part(part).command_type].message
            heard = partial(self._on_command, self._senders[part.topic])
            self._node.create_subscription(kind, part.topic, heard, qos.EVENT_ANY, raw=True)

    def _serve(self, pairing: Pairing | None) -> None:
        """What stops the arm anybody may ask for; what lets it move, with pairing, only who knows the token."""
        for name, answer in {"release": self._core.release, "estop": self._core.estop}.items():
            self._node.create_service(Trigger, f"~/{name}", _service(answer))
        for name, answer in {"engage": self._engage, "reset_stop": self._reset_stop}.items():
            self._node.create_service(Trigger, f"~/{name}", _service(answer if pairing is None else unpaired))
            if pairing is not None:
                self._node.create_service(Paired, f"~/{name}_paired", _paired(pairing, answer))

    def _on_joints(self, part: int, message: JointState) -> None:
        try:
            whole = self._merger.push(part, stamp_ns(message.header.stamp), tuple(message.name), message.position)
            if whole is None:
                return
            positions_rad = self._joints.read(*whole[1:])
        except SigmaError as error:
            self._health.note_refused_joints(str(error))
            return
        self._core.on_joints(whole[0], positions_rad, time.monotonic_ns())

    def _on_chunk(self, message: ActionChunk, info: "MessageInfo") -> None:
        try:
            chunk = chunk_value(message)
        except SigmaError as error:
            self._health.note_malformed_chunk(str(error))
            self._node.get_logger().error(str(error), throttle_duration_sec=MALFORMED_LOG_S)
            return
        source = self._senders[topics.ACTION_CHUNK].source(info, chunk_author(message))
        verdict = self._core.on_chunk(chunk, time.monotonic_ns(), self._observation_now_ns(), source=source)
        self._health.note_chunk(verdict)

    def _on_heartbeat(self, message: Bool, info: "MessageInfo") -> None:
        source = self._senders[topics.POLICY_HEARTBEAT].source(info)
        self._core.on_policy_heartbeat(time.monotonic_ns(), healthy=message.data, source=source)

    def _on_estop(self, message: Bool, info: "MessageInfo") -> None:
        self._core.on_estop(message.data, time.monotonic_ns(), source=self._senders[topics.E_STOP].source(info))

    def _on_enabling(self, message: Bool, info: "MessageInfo") -> None:
        self._core.on_enabling(message.data, time.monotonic_ns(), source=self._senders[topics.ENABLE].source(info))

    def _on_command(self, senders: Senders, _bytes: bytes, info: "MessageInfo") -> None:
        """Of anybody but this node: the first one stops the arm; its publisher may be gone before the next look."""
        source = senders.source(info)
        mine = self._node.get_fully_qualified_name()
        if source.publisher and source.name != mine and self._core.state is not State.DISENGAGED:
            self._core.stop(Reason.FOREIGN_PUBLISHER, source.name or source.publisher)

    def _tick(self) -> None:
        at_ns, began_ns = self._observation_now_ns(), time.monotonic_ns()
        decision = self._core.tick(began_ns, at_ns)
        self._output.publish(decision, at_ns=at_ns)
        self._mind_controllers(decision)
        last, self._health.decision = self._health.decision, decision
        if last is None or (decision.state, decision.reason) != (last.state, last.reason):
            self._node.get_logger().info(f"{decision.state.name}: {decision.reason_text}")
        others = decision.other_policies
        if others and (last is None or others != last.other_policies):
            self._node.get_logger().warning(f"not followed: {', '.join(others)}")
            self._diagnostics.publish()
        self._leave_room(began_ns)

    def _leave_room(self, began_ns: int) -> None:
        period_ns = self._contract.command_period_ns
        used_ns, left_ns = time.thread_time_ns(), period_ns - (time.monotonic_ns() - began_ns)
        time.sleep(pause_ns(used_ns - self._used_ns, left_ns, period_ns) / NS_PER_S)
        self._used_ns = used_ns

    def _mind_controllers(self, decision: Decision) -> None:
        """A controller that does not take its goals stops the arm; goals end when the arm is told nothing more."""
        fault = "" if decision.command_rad is None or decision.state.is_latched else self._output.fault
        if fault:
            self._core.stop(Reason.CONTROLLER, fault)
        if decision.command_rad is None or (decision.state.is_latched and self._core.is_resting):
            self._output.end()

    def _check_publishers(self) -> None:
        said = {name for part in self._contract.commands for name in foreign_publishers(self._node, part.topic)}
        foreign = tuple(sorted(said.union(self._output.foreign_clients)))
        for senders in self._senders.values():
            senders.refresh()
        self._core.on_graph(foreign=foreign, estop_publishers=self._senders[topics.E_STOP].names)
        self._health.foreign = foreign
        policies = (topics.ACTION_CHUNK, topics.POLICY_HEARTBEAT)
        self._health.policies = tuple(sorted({n for t in policies for n in self._senders[t].names.values()}))
        if self._node.get_parameter("use_sim_time").value:
            self._health.clock_publishers = publishers(self._node, "/clock")

    def _engage(self) -> Answer:
        self._check_publishers()
        fault = self._output.fault
        if fault:
            return Answer(success=False, reason=Reason.CONTROLLER, detail=fault)
        return self._core.engage(time.monotonic_ns())

    def _reset_stop(self) -> Answer:
        self._check_publishers()
        return self._core.reset_stop(time.monotonic_ns())

    def _observation_now_ns(self) -> int:
        return int(self._node.get_clock().now().nanoseconds)


def _paired(
    pairing: Pairing, answer: Callable[[], Answer]
) -> Callable[[Paired.Request, Paired.Response], Paired.Response]:
    def respond(request: Paired.Request, response: Paired.Response) -> Paired.Response:
        said = pairing.take(request.token, time.monotonic_ns(), answer)
        response.success, response.message = said.success, said.text
        return response

    return respond


def _service(answer: Callable[[], Answer]) -> Callable[[Trigger.Request, Trigger.Response], Trigger.Response]:
    def respond(_request: Trigger.Request, response: Trigger.Response) -> Trigger.Response:
        said = answer()
        response.success = said.success
        response.message = said.text
        return response

    return respond
