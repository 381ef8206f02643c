# SPDX-License-Identifier: Apache-2.0
"""`run_policy`: every way out of a run has its name and ends with `release`; motion needs an operator's act."""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from action_msgs.msg import GoalStatus
from live_robot import LiveRobot
from node_fakes import FakeRuntime, call, fake_model, small_contract, small_so101, spin_until
from rclpy.action.client import ActionClient, ClientGoalHandle
from rclpy.parameter import Parameter
from sigma_ros.action import RunPolicy
from sigma_ros.msg import SupervisorState
from std_srvs.srv import Trigger

from sigma_ros.nodes.policy_node import PolicyNode
from sigma_ros.nodes.run_policy_node import REST_S, Ask, GraphState, PolicyRun, RunPolicyNode, Said
from sigma_ros.nodes.shared import topics
from sigma_ros.nodes.shared.node_options import RunOptions
from sigma_ros.nodes.supervisor_node import SupervisorNode
from sigma_ros.supervisor.reasons import State

pytestmark = pytest.mark.ros
ROOT = Path(__file__).resolve().parents[2]


# The run alone: a made-up graph, told every 50 ms.


@dataclass
class Made:
    """A supervisor that does what it is asked, as far as `obeys`, and a run that watches it."""

    run: PolicyRun
    state: State = State.DISENGAGED
    now_s: float = 100.0
    task: str = "fold"
    silent: tuple[str, ...] = ()
    obeys: bool = True
    asked: list[Ask] = field(default_factory=list)
    heard: GraphState = field(default_factory=GraphState)

    def step(self, seconds: float = 0.05) -> None:
        for _ in range(round(seconds / 0.05)):
            self.now_s += 0.05
            if "supervisor" not in self.silent:
                self.heard.supervisor = SupervisorState(state=int(self.state), reason_text=f"is {self.state.name}")
                self.heard.supervisor_s = self.now_s
            if "policy" not in self.silent:
                self.heard.heartbeat_s, self.heard.task = self.now_s, self.task
            ask = self.run.step(self.heard, self.now_s)
            self.asked += [ask] * (ask is not Ask.NOTHING)
            if ask is not Ask.NOTHING and self.obeys:
                self.run.answer(ask, self.now_s)
                self.state = State.RUN if ask is Ask.ENGAGE else self._released

    @property
    def _released(self) -> State:
        return self.state if self.state.is_latched else State.DISENGAGED


def made(*, engage: bool = True, seconds: float = 10.0, prompt: str = "fold", **options: float) -> Made:
    goal = RunPolicy.Goal(prompt=prompt, max_duration_s=seconds, engage=engage)
    return Made(PolicyRun(goal=goal, options=RunOptions(**options), started_s=100.0))


WAYS_OUT: dict[str, Callable[[Made], None]] = {
    Said.TIMEOUT: lambda rig: rig.step(10.2),
    Said.CANCELLED: lambda rig: rig.run.end(Said.CANCELLED, "", rig.now_s),
    Said.PREEMPTED: lambda rig: rig.run.end(Said.PREEMPTED, "", rig.now_s),
    Said.NODE_STOPPED: lambda rig: rig.run.end(Said.NODE_STOPPED, "", rig.now_s),
    Said.RELEASED: lambda rig: setattr(rig, "state", State.DISENGAGED),
    Said.HELD: lambda rig: (setattr(rig, "state", State.HOLD), rig.step(1.7)),
    Said.STOPPED: lambda rig: setattr(rig, "state", State.STOPPED),
    Said.ESTOP: lambda rig: setattr(rig, "state", State.ESTOP),
    Said.POLICY_LOST: lambda rig: (setattr(rig, "silent", ("policy",)), rig.step(1.2)),
    Said.SUPERVISOR_LOST: lambda rig: (setattr(rig, "silent", ("supervisor",)), rig.step(1.2)),
}


@pytest.mark.parametrize("reason", WAYS_OUT)
def test_law_every_end_of_an_engaged_run_has_its_name_and_asks_for_release_once(reason: str) -> None:
    rig = made()
    rig.step(0.5)
    assert (rig.asked, rig.run.reason) == ([Ask.ENGAGE], "")
    WAYS_OUT[reason](rig)
    rig.step(0.2)
    assert rig.run.reason == reason
    assert rig.run.is_over
    rig.step(1.0)
    assert rig.asked == [Ask.ENGAGE, Ask.RELEASE]
    assert rig.run.reason == reason, "the first reason counts"


def test_every_reason_of_the_action_is_one_that_a_run_can_have() -> None:
    named = {line.split("=")[1].strip('"') for line in _constants()}
    assert named == {*WAYS_OUT, Said.REFUSED, Said.NOT_ENGAGED}


def _constants() -> list[str]:
    text = (ROOT / "msg" / "action" / "RunPolicy.action").read_text(encoding="utf-8")
    return [line.split()[1] for line in text.splitlines() if line.startswith("string ") and '="' in line]


def test_law_without_the_goals_word_nobody_is_asked_to_engage() -> None:
    rig = made(engage=False, engage_timeout_s=5.0)
    rig.step(4.0)
    assert rig.asked == []
    rig.state = State.RUN  # an operator did
    rig.step(11.0)
    assert (rig.run.reason, rig.asked) == (Said.TIMEOUT, [Ask.RELEASE])
    late = made(engage=False, engage_timeout_s=5.0)
    late.step(6.0)
    assert late.run.reason == Said.NOT_ENGAGED


def test_law_engage_waits_until_the_policy_has_taken_up_the_task() -> None:
    """What it proposes before is about another task."""
    rig = made()
    rig.task = "another"
    rig.step(5.0)
    assert rig.asked == []
    rig.task = "fold"
    rig.step(0.1)
    assert rig.asked == [Ask.ENGAGE]
    never = made(task_timeout_s=5.0)
    never.task = "another"
    never.step(6.0)
    assert never.run.reason == Said.POLICY_LOST


def test_law_release_never_overtakes_an_engage_that_is_not_answered() -> None:
    rig = made()
    rig.obeys = False
    rig.step(0.1)
    rig.run.end(Said.CANCELLED, "", rig.now_s)
    rig.step(0.5)
    assert (rig.asked, rig.run.is_over) == ([Ask.ENGAGE], False)
    rig.run.answer(Ask.ENGAGE, rig.now_s)
    rig.step(0.1)
    assert rig.asked == [Ask.ENGAGE, Ask.RELEASE]
    rig.step(REST_S)
    assert rig.run.is_over, "a supervisor that does not answer is not waited for without end"


def test_a_short_hold_is_not_the_end() -> None:
    rig = made()
    rig.step(0.5)
    for state in (State.HOLD, State.RUN) * 4:
        rig.state = state
        rig.step(1.0)
    assert rig.run.reason == ""


def test_the_duration_counts_from_engage() -> None:
    rig = made(engage=False, seconds=2.0)
    rig.step(8.0)
    rig.state = State.ENGAGING
    rig.step(1.5)
    assert rig.run.reason == ""
    rig.step(1.0)
    assert (rig.run.reason, round(rig.run.elapsed_s(rig.now_s), 1)) == (Said.TIMEOUT, 2.0)


# The nodes as they are, over DDS: policy with a model that stays where the arm is, supervisor, an arm at rest.


class Bench:
    """Policy, supervisor, runner and an arm; a client of the action."""

    def __init__(self, executor, folder) -> None:
        contract = small_contract()
        self.executor = executor
        self.robot = LiveRobot(contract)
        path = Parameter("contract", value=str(small_so101(folder)))
        self.policy = PolicyNode([path], load=lambda _options, _logger: fake_model(contract, FakeRuntime(contract)))
        # Everything of this test runs on one thread, which a busy machine holds up: that is not what is judged here.
        patient = {"heartbeat_timeout_s": 0.2, "max_tick_gap_s": 1.0, "joint_hold_s": 1.0, "check_tracking": False}
        self.supervisor = SupervisorNode([path, *(Parameter(name, value=value) for name, value in patient.items())])
        self.runner = RunPolicyNode([Parameter("silence_s", value=3.0), Parameter("hold_timeout_s", value=3.0)])
        for node in (self.robot, self.policy, self.supervisor, self.runner):
            executor.add_node(node)
        self.client = ActionClient(self.robot, RunPolicy, topics.RUN_POLICY)
        self.feedback: list[RunPolicy.Feedback] = []
        spin_until(executor, lambda: self.robot.chunks, what="the first chunk", timeout_s=60.0)
        spin_until(executor, self.client.server_is_ready, what="the action")
        spin_until(executor, self._can_engage, what="joints and heartbeat at the supervisor", timeout_s=60.0)

    def _can_engage(self) -> bool:
        """Whether the supervisor has heard what `engage` asks for: a run calls it once."""
        monitor = self.supervisor.drive._core._machine.monitor
        return math.isfinite(monitor.heartbeat_age_s(0)) and math.isfinite(monitor.joint_age_s(0))

    def send(self, **goal: object) -> ClientGoalHandle:
        sent = self.client.send_goal_async(
            RunPolicy.Goal(**goal), feedback_callback=lambda m: self.feedback.append(m.feedback)
        )
        spin_until(self.executor, sent.done, what="the goal's answer")
        handle = sent.result()
        assert handle is not None
        assert handle.accepted
        return handle

    def result(self, handle: ClientGoalHandle) -> tuple[int, RunPolicy.Result]:
        future = handle.get_result_async()
        spin_until(self.executor, future.done, what="the result", timeout_s=60.0)
        return future.result().status, future.result().result

    def until(self, *states: str) -> None:
        spin_until(self.executor, lambda: self.supervisor.drive.state in states, what=str(states), timeout_s=60.0)

    def call(self, name: str) -> Trigger.Response:
        return call(self.executor, self.robot, name)


@pytest.fixture
def bench(executor, tmp_path) -> Iterator[Bench]:
    rig = Bench(executor, tmp_path)
    yield rig
    rig.client.destroy()


MOVES = ("ENGAGING", "RUN", "BASE_ONLY")


def test_a_run_sets_the_task_engages_and_ends_released(bench: Bench) -> None:
    status, said = bench.result(bench.send(prompt="fold the towel", max_duration_s=1.0, engage=True))
    assert (status, said.termination_reason) == (GoalStatus.STATUS_SUCCEEDED, "timeout")
    assert said.duration_s >= 1.0
    assert bench.policy._session.clock.task == "fold the towel"
    assert bench.supervisor.drive.state == "DISENGAGED"
    assert {"DISENGAGED", "RUN"} & {f.state for f in bench.feedback}
    assert any(f.elapsed_s > 0.0 for f in bench.feedback)


def test_a_goal_that_does_not_engage_waits_for_the_operator_and_can_be_cancelled(bench: Bench) -> None:
    handle = bench.send(prompt="fold")
    spin_until(bench.executor, lambda: len(bench.feedback) > 3, what="feedback")
    assert bench.supervisor.drive.state == "DISENGAGED"
    spin_until(bench.executor, lambda: bench.call(topics.ENGAGE).success, what="engage")
    bench.until(*MOVES)
    cancelled = handle.cancel_goal_async()
    spin_until(bench.executor, cancelled.done, what="the cancellation")
    status, said = bench.result(handle)
    assert (status, said.termination_reason) == (GoalStatus.STATUS_CANCELED, "cancelled")
    assert bench.supervisor.drive.state == "DISENGAGED"


def test_a_newer_goal_ends_the_one_before_and_needs_an_act_of_its_own(bench: Bench) -> None:
    first = bench.send(prompt="fold", engage=True)
    bench.until(*MOVES)
    second = bench.send(prompt="unfold")
    assert bench.result(first)[1].termination_reason == "preempted"
    bench.until("DISENGAGED")
    spin_until(bench.executor, lambda: bench.policy._session.clock.task == "unfold", what="the other task")
    assert bench.supervisor.drive.state == "DISENGAGED"
    assert bench.call(topics.CANCEL_POLICY).success
    status, said = bench.result(second)
    assert (status, said.termination_reason) == (GoalStatus.STATUS_CANCELED, "cancelled")


def test_an_emergency_stop_ends_the_run_by_name_and_engage_is_then_refused(bench: Bench) -> None:
    handle = bench.send(engage=True)
    bench.until(*MOVES)
    assert bench.call(topics.ESTOP_SERVICE).success
    status, said = bench.result(handle)
    assert (status, said.termination_reason) == (GoalStatus.STATUS_ABORTED, "estop")
    assert "emergency stop" in said.message
    assert bench.result(bench.send(engage=True))[1].termination_reason == "estop"


def test_a_dead_policy_ends_the_run_by_name(bench: Bench) -> None:
    bench.runner.set_parameters([Parameter("hold_timeout_s", value=60.0), Parameter("silence_s", value=4.0)])
    handle = bench.send(engage=True)
    bench.until(*MOVES)
    bench.policy.trigger_deactivate()
    # a hold ages meanwhile, and on a machine that stalls the supervisor may stop by itself or fall silent
    assert bench.result(handle)[1].termination_reason in ("policy_lost", "released", "stopped", "supervisor_lost")


def test_a_senseless_duration_is_refused_and_ends_nobody_elses_run(bench: Bench) -> None:
    handle = bench.send(engage=True)
    bench.until(*MOVES)
    for senseless in (-1.0, math.nan, math.inf):
        status, said = bench.result(bench.send(max_duration_s=senseless))
        assert (status, said.termination_reason) == (GoalStatus.STATUS_ABORTED, "refused")
    assert bench.supervisor.drive.state in MOVES
    bench.runner.stop()
    assert bench.result(handle)[1].termination_reason == "node_stopped"


def test_the_services_of_foxglove_start_and_cancel_a_run(bench: Bench) -> None:
    assert not bench.call(topics.CANCEL_POLICY).success
    given = [Parameter("prompt", value="fold"), Parameter("start_engages", value=True)]
    assert all(result.successful for result in bench.runner.set_parameters(given))
    assert bench.call(topics.START_POLICY).success
    bench.until(*MOVES)
    assert bench.policy._session.clock.task == "fold"
    assert bench.call(topics.CANCEL_POLICY).success
    bench.until("DISENGAGED")
