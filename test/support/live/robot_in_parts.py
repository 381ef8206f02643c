# SPDX-License-Identifier: Apache-2.0
"""A robot in parts that goes where it is told at once, and a policy that leads it to a pose, in one test node."""

from dataclasses import replace

import numpy as np
from node_fakes import AUTHOR, PatientOperator, make_chunk
from rclpy.executors import SingleThreadedExecutor
from rclpy.node import Node
from rclpy.parameter import Parameter
from sensor_msgs.msg import JointState
from sigma_ros.msg import ActionChunk, SupervisorState
from std_msgs.msg import Bool

from sigma_ros.contract_file import load_contract
from sigma_ros.nodes.shared import qos, topics
from sigma_ros.nodes.shared.messages import chunk_message
from sigma_ros.nodes.shared.sensor_messages import COMMAND_KINDS, joint_state_message, waypoints
from sigma_ros.nodes.supervisor_node import SupervisorNode

PROPOSAL_S = 1.0


class RobotInParts(Node):
    """See the module. `beats` and `proposes` switch its policy off, `operator.present` its operator."""

    def __init__(self, name: str, target_rad: np.ndarray) -> None:
        super().__init__("test_arms")
        self.contract = load_contract(name)
        self.target_rad = target_rad
        self.pose_rad = np.zeros(self.contract.dof)
        self.silent = self.behind = ""
        self.heard: dict[str, int] = {}
        self._proposed = 0
        self.beats = self.proposes = True
        self._states = {
            part.topic: self.create_publisher(JointState, part.topic, qos.SENSOR) for part in self.contract.states
        }
        for part in self.contract.commands:
            one, columns = self.contract.part(part), self.contract.columns(part)

            def obey(message, one=one, columns=columns, obeys=part.action is None) -> None:
                self.heard[one.command_topic] = self.heard.get(one.command_topic, 0) + 1
                if obeys:
                    self.pose_rad[columns] = waypoints(message, one, received_s=0.0).positions_rad[0]

            self.create_subscription(COMMAND_KINDS[one.command_type].message, part.topic, obey, 100)
        self._chunks = self.create_publisher(ActionChunk, topics.ACTION_CHUNK, qos.CHUNK)
        self._heartbeat = self.create_publisher(Bool, topics.POLICY_HEARTBEAT, qos.HEARTBEAT)
        self.operator = PatientOperator(self)
        self.create_timer(0.02, self._live)
        self.create_timer(PROPOSAL_S, self._propose)

    @property
    def state(self) -> SupervisorState | None:
        return self.operator.state

    def _live(self) -> None:
        at_ns = self.get_clock().now().nanoseconds
        for part in self.contract.states:
            if part.topic != self.silent:
                pose = self.pose_rad[self.contract.columns(part)]
                stamp_ns = at_ns - 200_000_000 * (part.topic == self.behind)
                message = joint_state_message(at_ns=stamp_ns, names=part.own_names, positions_rad=pose)
                self._states[part.topic].publish(message)
        if self.beats:
            self._heartbeat.publish(Bool(data=True))

    def _propose(self) -> None:
        if not self.proposes:
            return
        base = np.linspace(self.pose_rad, self.target_rad, 50)
        at_ns = self.get_clock().now().nanoseconds
        chunk = make_chunk(
            self.contract, chunk_id=self._proposed, stamp_ns=at_ns, base_rad=base, residual_rad=np.zeros_like(base)
        )
        self._proposed += 1
        self._chunks.publish(chunk_message(chunk, replace(AUTHOR, robot=self.contract.name)))


def supervised[R: RobotInParts](executor: SingleThreadedExecutor, robot: R) -> tuple[R, SupervisorNode]:
    """The robot and its supervisor, which is patient with a machine that stalls."""
    patient = {"heartbeat_timeout_s": 0.2, "max_tick_gap_s": 1.0, "joint_hold_s": 0.5, "joint_stop_s": 1.5}
    options = {"contract": robot.contract.name, "check_tracking": False, "realtime_priority": 0, **patient}
    supervisor = SupervisorNode([Parameter(key, value=value) for key, value in options.items()])
    for node in (robot, supervisor):
        executor.add_node(node)
    return robot, supervisor
