# SPDX-License-Identifier: Apache-2.0
"""What the supervisor node publishes: its state, latched, and the commands that nobody else may publish."""

import array
import math

import numpy as np
from jaxtyping import Float64
from numpy import ndarray
from rclpy.duration import Duration
from rclpy.node import Node
from rclpy.publisher import Publisher
from rclpy.qos import QoSProfile
from std_msgs.msg import Header

from sigma_ros.contract import Contract, Part
from sigma_ros.msg import ActionChunk, SupervisorState
from sigma_ros.nodes.shared import qos, topics
from sigma_ros.nodes.shared.sensor_messages import COMMAND_KINDS, to_time
from sigma_ros.nodes.supervisor.goals import GoalOut
from sigma_ros.supervisor.reasons import Decision, State

_COUNTED = ("ticks", "clipped_ticks", "accepted_chunks", "refused_chunks", "engagements", "holds", "violations")

CHUNK_RECEIVED = "CHUNK_RECEIVED"
"""In lockstep: the reason in a state that only answers a chunk."""


class _CommandOut:
    """The commands of a part: its columns, under its names, in its message type, and as goals of its action.

    Where the topic is led away, as in a dry run, no goal goes out.
    """

    def __init__(self, node: Node, contract: Contract, part: Part, profile: QoSProfile) -> None:
        self._contract, self._columns = contract.part(part), contract.columns(part)
        self._kind = COMMAND_KINDS[self._contract.command_type]
        self.publisher: Publisher = node.create_publisher(self._kind.message, part.topic, profile)
        self.target = node.resolve_topic_name(part.topic)
        self.goals: GoalOut | None = None
        if part.action is not None and self.target == part.topic:
            self.goals = GoalOut(node, self._contract, part.action)
            self.target = self.goals.name

    def publish(self, piece_rad: Float64[ndarray, "points dof"], at_ns: int) -> None:
        """Sends the part's share of a piece."""
        share_rad = piece_rad[:, self._columns]
        self.publisher.publish(self._kind.write(self._contract, share_rad, at_ns))
        if self.goals is not None:
            self.goals.send(share_rad)


class SupervisorOutput:
    """State and commands. In lockstep commands go to a topic of the replay, never to the robot's."""

    def __init__(self, node: Node, contract: Contract, *, lockstep: bool) -> None:
        self._node = node
        self._contract = contract
        whole = Part(topic=topics.REPLAY_COMMANDS, joints=contract.joint_names, message_type=contract.command_type)
        profile = qos.CHUNK_LOCKSTEP if lockstep else qos.COMMAND
        self._commands = [
            _CommandOut(node, contract, part, profile) for part in ([whole] if lockstep else contract.commands)
        ]
        self._states = node.create_publisher(
            SupervisorState, topics.SUPERVISOR_STATE, qos.CHUNK_LOCKSTEP if lockstep else qos.LATCHED
        )

    @property
    def targets(self) -> tuple[str, ...]:
        """Full names of where commands go."""
        return tuple(command.target for command in self._commands)

    @property
    def foreign_clients(self) -> tuple[str, ...]:
        """Who else could send goals to a part's action."""
        return tuple(name for command in self._commands if command.goals for name in command.goals.foreign)

    @property
    def fault(self) -> str:
        """Why commands do not reach a controller that takes them as goals; empty: nothing is known of it."""
        return "; ".join(filter(None, (command.goals.fault for command in self._commands if command.goals)))

    def end(self) -> None:
        """The arm rests and is not to move: goals end too."""
        for command in self._commands:
            if command.goals is not None:
                command.goals.end()

    def close(self) -> None:
        """Ends what the node does not end by itself."""
        for command in self._commands:
            if command.goals is not None:
                command.goals.close()

    def publish(self, decision: Decision, *, at_ns: int) -> None:
        """Publishes the command of a tick, then its state."""
        if decision.command_rad is not None:
            piece = piece_rad(decision)
            for command in self._commands:
                command.publish(piece, at_ns)
        self._states.publish(state_message(decision, at_ns=at_ns))

    @property
    def has_arrived(self) -> bool:
        """Whether every reader that acknowledges has the newest command; waits a period at most."""
        timeout = Duration(nanoseconds=self._contract.command_period_ns // len(self._commands))
        answered = all(command.goals is None or command.goals.is_answered for command in self._commands)
        return answered and all(command.publisher.wait_for_all_acked(timeout=timeout) for command in self._commands)

    def echo(self, chunk: ActionChunk, *, state: State) -> None:
        """In lockstep: says that a chunk has come in; it is judged at the next tick."""
        self._states.publish(
            SupervisorState(
                header=Header(stamp=chunk.header.stamp),
                state=int(state),
                reason=CHUNK_RECEIVED,
                chunk_id=chunk.chunk_id,
                epoch=chunk.epoch,
            )
        )


def state_message(decision: Decision, *, at_ns: int) -> SupervisorState:
    """A decision as a message. Before the first chunk `chunk_id` and `epoch` are 0 and mean nothing."""
    counters = decision.counters
    command = () if decision.command_rad is None else decision.command_rad
    return SupervisorState(
        header=Header(stamp=to_time(at_ns)),
        state=int(decision.state),
        reason=decision.reason.name,
        reason_text=decision.reason_text,
        requested_scale=_number(decision.requested_scale),
        scale_ceiling=float(decision.scale_ceiling),
        applied_scale=float(decision.applied_scale),
        clipped_joints=list(decision.clipped_joints),
        chunk_id=max(0, decision.chunk_id),
        epoch=max(0, decision.epoch),
        chunk_accepted=decision.chunk_accepted,
        chunk_age=float(decision.chunk_age_s),
        joint_state_age=float(decision.joint_state_age_s),
        observation_age=float(decision.observation_age_s),
        tick_gap_max=float(counters.tick_gap_max_s),
        followed_policy=decision.followed_policy,
        other_policies=list(decision.other_policies),
        command=array.array("d", command),
        **{name: getattr(counters, name) for name in _COUNTED},
    )


def piece_rad(decision: Decision) -> Float64[ndarray, "points dof"]:
    """The command and the certified stop after it, up to where it rests: safe if nothing else ever comes."""
    assert decision.command_rad is not None
    command = decision.command_rad[None]
    if decision.stop_rad is None:
        return command
    moving = np.flatnonzero((decision.stop_rad != decision.stop_rad[-1]).any(axis=1))
    last = int(moving[-1]) + 2 if moving.size else 1
    return np.concatenate((command, decision.stop_rad[:last]))


def _number(value: float) -> float:
    return float(value) if isinstance(value, int | float) else math.nan
