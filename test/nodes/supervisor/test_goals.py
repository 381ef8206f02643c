# SPDX-License-Identifier: Apache-2.0
"""A supervisor of controllers that take actions, with real action servers: what it sends, and how a stop ends it."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from node_fakes import call, spin_until
from rclpy.action import ActionClient, ActionServer, CancelResponse, GoalResponse
from rclpy.node import Node
from robot_in_parts import RobotInParts, supervised
from sigma_ros.msg import SupervisorState
from workspace import with_control_msgs

from sigma_ros.contract import ACTION_TYPES
from sigma_ros.contract_file import load_contract
from sigma_ros.nodes.shared import topics
from sigma_ros.nodes.supervisor.goals import GOALS
from sigma_ros.nodes.supervisor.output import SupervisorOutput

pytestmark = pytest.mark.ros
TARGET = np.array([0.2] * 5 + [0.4])
PRESETS = ("so101_actions", "so101_legalaspro_split")
PATIENCE_S = 90.0


@pytest.fixture(scope="module", autouse=True)
def _control_msgs() -> None:
    with_control_msgs()


class Controlled(RobotInParts):
    """Its controllers take goals: each is done at once, kept until it is cancelled, refused or aborted (`answer`)."""

    def __init__(self, name: str, *, serves: bool = True) -> None:
        super().__init__(name, TARGET)
        self.answer = "done"
        self.kept: list[Any] = []
        self.goals: dict[str, list[Any]] = {part.action.name: [] for part in self.contract.commands if part.action}
        self.cancelled: list[str] = []
        self.servers: list[ActionServer] = []
        if serves:
            self.serve()

    def serve(self) -> None:
        import control_msgs.action  # noqa: PLC0415 (built by the fixture)

        for part in self.contract.commands:
            assert part.action is not None
            name, kind = part.action.name, getattr(control_msgs.action, part.action.type.rpartition("/")[2])
            server = ActionServer(
                self, kind, name, self._done(kind),
                goal_callback=self._judge(name), handle_accepted_callback=self._take(name, part),
                cancel_callback=self._cancel(name),
            )  # fmt: skip
            self.servers.append(server)

    def destroy_node(self) -> None:
        for server in self.servers:
            server.destroy()
        super().destroy_node()

    def _judge(self, name: str) -> Callable[[Any], GoalResponse]:
        def judge(request: Any) -> GoalResponse:
            self.goals[name].append(request)
            return GoalResponse.REJECT if self.answer == "refused" else GoalResponse.ACCEPT

        return judge

    def _take(self, name: str, part: Any) -> Callable[[Any], None]:
        columns = self.contract.columns(part)

        def take(goal: Any) -> None:
            self.pose_rad[columns] = positions(goal.request)[0]
            self.kept = [*self.kept[-3:], goal]
            if self.answer != "kept":
                goal.execute()

        return take

    def _done(self, kind: Any) -> Callable[[Any], Any]:
        def done(goal: Any) -> Any:
            goal.abort() if self.answer == "aborted" else goal.succeed()
            return kind.Result()

        return done

    def _cancel(self, name: str) -> Callable[[Any], CancelResponse]:
        def cancel(_goal: Any) -> CancelResponse:
            self.cancelled.append(name)
            return CancelResponse.ACCEPT

        return cancel

    def until(self, executor: Any, done: Callable[[], object], what: str) -> None:
        spin_until(executor, done, what=what, timeout_s=PATIENCE_S)

    def is_in(self, state: int) -> bool:
        return self.state is not None and self.state.state == state


def positions(request: Any) -> np.ndarray:
    """The positions of a goal of any type, one row a point."""
    if hasattr(request, "trajectory"):
        return np.array([point.positions for point in request.trajectory.points])
    return np.atleast_2d(np.array(request.command.position))


def test_law_every_action_type_of_contracts_is_written() -> None:
    assert tuple(GOALS) == ACTION_TYPES


@pytest.mark.parametrize("name", PRESETS)
def test_law_goals_lead_every_part_to_its_target_and_each_trajectory_ends_at_rest(executor, name) -> None:
    robot, supervisor = supervised(executor, Controlled(name))
    robot.until(executor, lambda: np.allclose(robot.pose_rad, TARGET, atol=0.05), "the arm at its target")
    arm, gripper = robot.goals.values()
    own = robot.contract.commands[0].own_names
    for goal in arm:
        assert tuple(goal.trajectory.joint_names) == own
        times = [point.time_from_start.sec * 10**9 + point.time_from_start.nanosec for point in goal.trajectory.points]
        assert times == sorted(set(times))
        assert not any(goal.trajectory.points[-1].velocities)
        assert (np.abs(positions(goal)[-1] - positions(goal)[-2:][0]) < 0.01).all(), "it slows down to its end"
    counters = supervisor.drive._core.counters
    assert 1 < len(gripper) <= counters.ticks / 5 + 1, "a gripper plans each goal anew: ten a second at most"
    assert min(robot.heard.values()) > 0, "recordings have what was sent"
    assert counters.violations == 0


def test_law_without_a_server_engage_is_refused_and_with_one_it_is_not(executor) -> None:
    robot, _ = supervised(executor, Controlled("so101_actions", serves=False))
    robot.operator.present = False
    heard = lambda: "no server" in call(executor, robot, topics.ENGAGE).message  # noqa: E731
    robot.until(executor, heard, "engage to miss the server")
    assert "/arm_controller/follow_joint_trajectory" in call(executor, robot, topics.ENGAGE).message
    robot.serve()
    robot.until(executor, lambda: call(executor, robot, topics.ENGAGE).success, "engage to succeed")


@pytest.mark.parametrize("answer", ["refused", "aborted"])
def test_law_a_goal_that_is_not_taken_latches_a_stop_and_a_controller_that_is_mended_goes_on(executor, answer) -> None:
    robot, _ = supervised(executor, Controlled("so101_actions"))
    robot.until(executor, lambda: np.abs(robot.pose_rad).max() > 0.05, "motion")
    robot.answer = answer
    latched = lambda: robot.is_in(SupervisorState.STOPPED) and robot.state.reason == "CONTROLLER"  # noqa: E731
    robot.until(executor, latched, "STOPPED because of the controller")
    robot.answer = "done"
    robot.until(executor, lambda: np.allclose(robot.pose_rad, TARGET, atol=0.05), "the arm at its target")


def test_law_a_stop_is_played_to_rest_then_the_arms_goal_is_cancelled_and_the_gripper_keeps_its_own(executor) -> None:
    robot, _ = supervised(executor, Controlled("so101_actions"))
    robot.answer = "kept"
    robot.until(executor, lambda: np.abs(robot.pose_rad[:5]).max() > 0.05, "motion")
    robot.operator.present = False
    assert call(executor, robot, topics.ESTOP_SERVICE).success
    arm = "/arm_controller/follow_joint_trajectory"
    rests = lambda: np.ptp(positions(robot.goals[arm][-1]), axis=0).max() < 1e-9  # noqa: E731
    ended = lambda: robot.cancelled and robot.is_in(SupervisorState.ESTOP) and rests()  # noqa: E731
    robot.until(executor, ended, "the stop's end and a cancelled goal")
    count = len(robot.goals[arm])
    robot.until(executor, lambda n=robot._proposed: robot._proposed >= n + 2, "two more proposals")
    assert set(robot.cancelled) == {arm}
    assert len(robot.goals[arm]) == count, "no goal after the stop"


def test_law_somebody_else_who_could_send_goals_is_a_reason_not_to_engage(executor) -> None:
    import control_msgs.action  # noqa: PLC0415 (built by the fixture)

    robot, _ = supervised(executor, Controlled("so101_actions"))
    robot.operator.present = False
    planner = Node("planner")
    executor.add_node(planner)
    client = ActionClient(planner, control_msgs.action.FollowJointTrajectory, "/arm_controller/follow_joint_trajectory")
    heard = lambda: "/planner" in call(executor, robot, topics.ENGAGE).message  # noqa: E731
    robot.until(executor, heard, "engage to be refused because of the planner")
    client.destroy()


def test_law_commands_that_are_led_away_reach_no_controller(executor) -> None:
    contract = load_contract("so101_actions")
    led = [argument for i, part in enumerate(contract.commands) for argument in ("-r", f"{part.topic}:=/dry_{i}")]
    node = Node("rehearsal", cli_args=["--ros-args", *led])
    executor.add_node(node)
    assert SupervisorOutput(node, contract, lockstep=False).targets == ("/dry_0", "/dry_1")
    assert SupervisorOutput(node, contract, lockstep=True).fault == ""


def test_a_contract_whose_action_is_not_installed_says_what_to_install(executor, monkeypatch) -> None:
    def absent(name: str) -> None:
        raise ModuleNotFoundError(f"No module named {name!r}")

    monkeypatch.setattr("sigma_ros.nodes.supervisor.goals.import_module", absent)
    node = Node("lonely")
    executor.add_node(node)
    with pytest.raises(Exception, match=r"not installed.*control-msgs"):
        SupervisorOutput(node, load_contract("so101_actions"), lockstep=False)
