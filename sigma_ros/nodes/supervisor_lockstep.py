# SPDX-License-Identifier: Apache-2.0
"""The supervisor node in a replay: ticks at `/clock`, answers every chunk, cannot reach the robot's command topic."""

from rclpy.node import Node
from rosgraph_msgs.msg import Clock
from sensor_msgs.msg import JointState
from std_srvs.srv import Trigger

from sigma_ros.contract import Contract
from sigma_ros.control.joints import JointReader
from sigma_ros.errors import SigmaError
from sigma_ros.msg import ActionChunk
from sigma_ros.nodes import qos, topics
from sigma_ros.nodes.lockstep import LockstepSupervisor
from sigma_ros.nodes.messages import chunk_value
from sigma_ros.nodes.node_options import SupervisorOptions
from sigma_ros.nodes.sensor_messages import stamp_ns
from sigma_ros.nodes.supervisor_output import SupervisorOutput


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
