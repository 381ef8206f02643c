# SPDX-License-Identifier: Apache-2.0
"""Commands of a part whose controller takes actions: each is a goal, and the newest replaces the one before.

The supervisor's clock, limits and certificate stay as they are, and feedback is not used: whether the arm follows is
judged by its joint states. `control_msgs` is looked for where a contract asks for it.
"""

from collections.abc import Callable, Mapping
from importlib import import_module
from typing import Any

import numpy as np
from action_msgs.msg import GoalStatus
from jaxtyping import Float64
from numpy import ndarray
from rclpy.action.client import ActionClient, ClientGoalHandle
from rclpy.action.graph import get_action_client_names_and_types_by_node
from rclpy.node import Node
from rclpy.task import Future

from sigma_ros.contract import Contract, ControllerAction
from sigma_ros.errors import SigmaError
from sigma_ros.nodes.shared.sensor_messages import joint_state_message, trajectory_message

Piece = Float64[ndarray, "points dof"]

GRIPPER_STEP_RAD = 0.01
"""A gripper's controller plans each goal anew, so a smaller change waits."""
GRIPPER_PERIOD_NS = 100_000_000
MOST_UNANSWERED = 5
"""A server that is behind by so many goals gets no other; the last one it has ends at rest."""
ANSWER_NS = 500_000_000
"""A goal that is not answered for so long is a fault. Both times are counted in ticks: a pause of ours is no fault."""


def _trajectory(kind: Any, contract: Contract, piece_rad: Piece) -> Any:
    period_ns = contract.command_period_ns
    goal = kind.Goal()
    goal.trajectory = trajectory_message(names=contract.joint_names, positions_rad=piece_rad, period_ns=period_ns)
    return goal


def _gripper(kind: Any, _contract: Contract, piece_rad: Piece) -> Any:
    goal = kind.Goal()
    goal.command.position = float(piece_rad[0, 0])
    return goal


def _parallel_gripper(kind: Any, contract: Contract, piece_rad: Piece) -> Any:
    goal = kind.Goal()
    goal.command = joint_state_message(at_ns=0, names=contract.joint_names, positions_rad=piece_rad[0])
    return goal


TRAJECTORY = "control_msgs/action/FollowJointTrajectory"
GOALS: Mapping[str, Callable[[Any, Contract, Piece], Any]] = {
    TRAJECTORY: _trajectory,
    "control_msgs/action/GripperCommand": _gripper,
    "control_msgs/action/ParallelGripperCommand": _parallel_gripper,
}
"""One entry for each of `contract.ACTION_TYPES`; a law holds them together."""


class GoalOut:
    """The only client of a part's action.

    A trajectory goes out with every command that differs from the one before (at rest: none) and ends at rest by
    itself. A gripper's goal goes out where its target has moved by `GRIPPER_STEP_RAD`, at most every
    `GRIPPER_PERIOD_NS`, and once more where it comes to rest; effort is left to its controller.

    Args:
        contract: Of the part alone.
        action: Its name and type.

    Raises:
        SigmaError: the action's package is not installed.
    """

    def __init__(self, node: Node, contract: Contract, action: ControllerAction) -> None:
        self._node, self._contract = node, contract
        self._kind, self._write = _action_type(action.type), GOALS[action.type]
        self._is_gripper = action.type != TRAJECTORY
        self.name = node.resolve_topic_name(action.name)
        self._client: Any = ActionClient(node, self._kind, self.name)
        self._ticks = 0
        self._sent: Piece | None = None
        self._sent_tick = 0
        self._asked: dict[Future[Any], int] = {}
        self._goal: ClientGoalHandle | None = None
        self._refused = False
        self._is_ended = False

    @property
    def is_there(self) -> bool:
        """Whether a server takes goals."""
        return bool(self._client.server_is_ready())

    @property
    def is_answered(self) -> bool:
        """Whether no goal waits for its acceptance."""
        return not self._asked

    @property
    def foreign(self) -> tuple[str, ...]:
        """Names of the other nodes that could send goals."""
        if self._node.count_clients(f"{self.name}/_action/send_goal") <= 1:
            return ()
        mine = self._node.get_fully_qualified_name()
        found = [
            f"{space.rstrip('/')}/{name}"
            for name, space in self._node.get_node_names_and_namespaces()
            for client, _ in get_action_client_names_and_types_by_node(self._node, name, space)
            if client == self.name
        ]
        return tuple(sorted(name for name in found if name != mine)) or ("a second client",)

    @property
    def fault(self) -> str:
        """What is wrong with the server, in words; empty: nothing."""
        if not self.is_there:
            return f"no server of {self.name}"
        if self._refused:
            return f"{self.name} refused a goal"
        if self._asked and self._since_ns(min(self._asked.values())) > ANSWER_NS:
            return f"{self.name} does not answer"
        # A gripper that closes on something has not reached its goal, and some servers call that aborted.
        aborted = self._goal is not None and self._goal.status == GoalStatus.STATUS_ABORTED
        return f"{self.name} aborted its goal" if aborted and self.is_answered and not self._is_gripper else ""

    def send(self, piece_rad: Piece) -> None:
        """A tick's command and the certified stop after it, as a goal where one is due."""
        self._ticks += 1
        if not self._is_due(piece_rad) or len(self._asked) >= MOST_UNANSWERED:
            return
        self._sent, self._sent_tick, self._is_ended = piece_rad.copy(), self._ticks, False
        future = self._client.send_goal_async(self._write(self._kind, self._contract, piece_rad))
        self._asked[future] = self._ticks
        future.add_done_callback(self._on_answer)

    def end(self) -> None:
        """A tick of an arm that was told to rest and is told nothing more: cancels a trajectory that is still executed.

        A gripper keeps its goal. Cancelled, its controller would hold where it stands and let go of what it holds.
        """
        self._ticks += 1
        self._is_ended, self._refused = True, False
        self._asked = {asked: tick for asked, tick in self._asked.items() if self._since_ns(tick) <= ANSWER_NS}
        self._cancel()

    def close(self) -> None:
        """Destroying a node leaves its action clients, and the next supervisor of the process would see this one."""
        self._client.destroy()

    def _cancel(self) -> None:
        goal, self._goal = self._goal, None
        active = (GoalStatus.STATUS_ACCEPTED, GoalStatus.STATUS_EXECUTING)
        if goal is not None and goal.status in active and not self._is_gripper:
            goal.cancel_goal_async()

    def _since_ns(self, tick: int) -> int:
        return (self._ticks - tick) * self._contract.command_period_ns

    def _is_due(self, piece_rad: Piece) -> bool:
        if self._sent is None:
            return True
        if not self._is_gripper:
            return not np.array_equal(piece_rad, self._sent)
        moved = abs(float(piece_rad[0, 0] - self._sent[0, 0]))
        rests = bool((piece_rad == piece_rad[0]).all())
        return moved > (0.0 if rests else GRIPPER_STEP_RAD) and self._since_ns(self._sent_tick) >= GRIPPER_PERIOD_NS

    def _on_answer(self, future: Future[Any]) -> None:
        self._asked.pop(future, None)
        goal = None if future.exception() is not None else future.result()
        if goal is None or not goal.accepted:
            self._refused = True
            return
        self._goal = goal
        if self._is_ended:
            self._cancel()


def _action_type(name: str) -> Any:
    package, _, kind = name.split("/")
    try:
        return getattr(import_module(f"{package}.action"), kind)
    except (ImportError, AttributeError) as error:
        raise SigmaError(
            "a contract sends commands by an action whose type is not installed",
            where=name,
            got=error,
            remedy=f"apt-get install ros-$ROS_DISTRO-{package.replace('_', '-')}",
        ) from error
