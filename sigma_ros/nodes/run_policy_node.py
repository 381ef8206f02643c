# SPDX-License-Identifier: Apache-2.0
"""`sigma_run`: serves the action `run_policy`, which lets the policy act on a task for a while.

A process of its own: the policy may not engage, and a policy that dies must not take with it the one who says so. It
calls `engage` only where the goal says so, and every run ends with `release`.
"""

import math
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import Enum

from action_msgs.srv import CancelGoal
from rclpy.action.client import ActionClient
from rclpy.action.server import ActionServer, CancelResponse, ServerGoalHandle
from rclpy.client import Client
from rclpy.node import Node
from rclpy.parameter import Parameter
from rclpy.task import Future
from std_msgs.msg import Bool, String
from std_srvs.srv import Trigger

from sigma_ros.action import RunPolicy
from sigma_ros.msg import SupervisorState, TelepathyState
from sigma_ros.nodes.shared import qos, topics
from sigma_ros.nodes.shared.node_options import RunOptions
from sigma_ros.nodes.shared.parameters import BoundParameters
from sigma_ros.nodes.shared.process import run_node
from sigma_ros.nodes.shared.qos import steady_clock
from sigma_ros.supervisor.reasons import State

STEP_S = 0.05
FEEDBACK_STEPS = 4
REST_S = 5.0
"""How long the end of a run waits for the released arm to rest; the supervisor goes on with it anyway."""

Said = RunPolicy.Result


class Ask(Enum):
    """What a run wants from the supervisor now."""

    NOTHING = 0
    ENGAGE = 1
    RELEASE = 2


@dataclass(slots=True, kw_only=True)
class GraphState:
    """The newest of the graph. Times are seconds of the steady clock, minus infinity: never."""

    supervisor: SupervisorState | None = None
    supervisor_s: float = -math.inf
    heartbeat_s: float = -math.inf
    task: str = ""

    @property
    def state(self) -> State | None:
        """The supervisor's state, once it was heard."""
        return None if self.supervisor is None else State(self.supervisor.state)

    @property
    def reason_text(self) -> str:
        """Its reason, for people."""
        return "" if self.supervisor is None else str(self.supervisor.reason_text)


_ENDED_BY: dict[State | None, str] = {State.ESTOP: Said.ESTOP, State.STOPPED: Said.STOPPED}
_RESTING = (State.DISENGAGED, State.STOPPED, State.ESTOP)


@dataclass(slots=True, kw_only=True)
class PolicyRun:
    """One run, from its goal to the released arm: what it asks for, and why it is over.

    `reason` is one of the action's termination reasons, empty while the run goes on; the first one counts. `is_over`:
    the arm was released and rests, or nobody is there to release it.
    """

    goal: RunPolicy.Goal
    options: RunOptions
    started_s: float
    reason: str = ""
    message: str = ""
    engaged_s: float | None = None
    ended_s: float = math.inf
    is_over: bool = False
    _answered_s: dict[Ask, float] = field(default_factory=dict)
    _held_s: float | None = None

    def end(self, reason: str, message: str, now_s: float) -> None:
        """Ends the run for a reason; a later one changes nothing."""
        if not self.reason:
            self.reason, self.message, self.ended_s = reason, message, now_s

    def elapsed_s(self, now_s: float) -> float:
        """How long the arm has been engaged in this run, up to its end [s]."""
        return 0.0 if self.engaged_s is None else min(now_s, self.ended_s) - self.engaged_s

    def answer(self, ask: Ask, now_s: float, *, refusal: str = "") -> None:
        """What the supervisor said to what it was asked; `refusal`: why not."""
        self._answered_s[ask] = now_s
        if ask is Ask.ENGAGE and refusal:
            self.end(Said.REFUSED, f"engage was refused: {refusal}", now_s)

    def step(self, heard: GraphState, now_s: float) -> Ask:
        """Looks at the graph; returns what the supervisor is to be asked, each thing once."""
        why = self._why_over(heard, now_s)
        if why is not None:
            self.end(*why, now_s)
        if not self.reason:
            asks = self.goal.engage and self.engaged_s is None and self._has_task(heard)
            return self._once(Ask.ENGAGE) if asks and heard.state is State.DISENGAGED else Ask.NOTHING
        resting = heard.state in _RESTING and heard.supervisor_s > self._answered_s.get(Ask.RELEASE, math.inf)
        self.is_over = resting or self.reason == Said.SUPERVISOR_LOST or now_s - self.ended_s > REST_S
        # A release that overtakes the engage before it would leave the arm engaged.
        return Ask.NOTHING if self._answered_s.get(Ask.ENGAGE) == math.inf else self._once(Ask.RELEASE)

    def _once(self, ask: Ask) -> Ask:
        if ask in self._answered_s:
            return Ask.NOTHING
        self._answered_s[ask] = math.inf
        return ask

    def _has_task(self, heard: GraphState) -> bool:
        """Whether the policy has taken the task up: what it says before is about another one."""
        return not self.goal.prompt.strip() or heard.task == self.goal.prompt.strip()

    def _why_over(self, heard: GraphState, now_s: float) -> tuple[str, str] | None:
        options, text = self.options, heard.reason_text
        if now_s - max(heard.supervisor_s, self.started_s) > options.silence_s:
            return Said.SUPERVISOR_LOST, f"no supervisor state for {options.silence_s:g} s"
        if now_s - max(heard.heartbeat_s, self.started_s) > options.silence_s:
            return Said.POLICY_LOST, f"no heartbeat of the policy for {options.silence_s:g} s"
        if not self._has_task(heard) and now_s - self.started_s > options.task_timeout_s:
            return Said.POLICY_LOST, f"the policy did not take the task up in {options.task_timeout_s:g} s"
        if heard.state in _ENDED_BY and heard.supervisor_s > self.started_s:
            return _ENDED_BY[heard.state], text
        return self._why_let_go(heard, now_s)

    def _why_let_go(self, heard: GraphState, now_s: float) -> tuple[str, str] | None:
        options = self.options
        is_engaged = heard.state not in (None, State.DISENGAGED)
        if self.engaged_s is None and not is_engaged:
            waited_s = now_s - self.started_s
            told = f"nobody engaged within {options.engage_timeout_s:g} s"
            return (Said.NOT_ENGAGED, told) if waited_s > options.engage_timeout_s else None
        if not is_engaged:
            return Said.RELEASED, heard.reason_text
        self.engaged_s = now_s if self.engaged_s is None else self.engaged_s
        self._held_s = None if heard.state is not State.HOLD else now_s if self._held_s is None else self._held_s
        if self._held_s is not None and now_s - self._held_s > options.hold_timeout_s:
            return Said.HELD, heard.reason_text
        if 0.0 < self.goal.max_duration_s <= self.elapsed_s(now_s):
            return Said.TIMEOUT, f"{self.goal.max_duration_s:g} s are over"
        return None


class RunPolicyNode(Node):
    """See the module."""

    def __init__(self, parameter_overrides: Sequence[Parameter] = ()) -> None:
        super().__init__(topics.RUN_NODE, parameter_overrides=list(parameter_overrides))
        self._bound = BoundParameters(self, RunOptions(), state=lambda: "running" if self._run else "idle")
        self._heard = GraphState()
        self._run: PolicyRun | None = None
        self._goal: ServerGoalHandle | None = None
        self._freed: Future | None = None
        self._steps = 0
        self._task = self.create_publisher(String, topics.TASK, qos.LATCHED)
        self.create_subscription(SupervisorState, topics.SUPERVISOR_STATE, self._on_state, qos.LATCHED)
        self.create_subscription(Bool, topics.POLICY_HEARTBEAT, self._on_heartbeat, qos.HEARTBEAT)
        self.create_subscription(TelepathyState, topics.TELEPATHY, self._on_telepathy, qos.EVENT)
        self._asks: dict[Ask, Client] = {
            Ask.ENGAGE: self.create_client(Trigger, topics.ENGAGE),
            Ask.RELEASE: self.create_client(Trigger, topics.RELEASE),
        }
        self._server = ActionServer(
            self, RunPolicy, topics.RUN_POLICY, self._execute, cancel_callback=lambda _goal: CancelResponse.ACCEPT
        )
        # The two services use the action as any client does: one way in, and a cancelled goal is a cancelled goal.
        self._own: ActionClient = ActionClient(self, RunPolicy, topics.RUN_POLICY)
        self._cancel: Client = self.create_client(CancelGoal, f"{topics.RUN_POLICY}/_action/cancel_goal")
        self.create_service(Trigger, "~/start_policy", self._on_start)
        self.create_service(Trigger, "~/cancel_policy", self._on_cancel)
        self.create_timer(STEP_S, self._step, clock=steady_clock())

    def stop(self) -> bool:
        """Last words: the run ends, and with it the motion; True once the arm rests."""
        if self._run is not None:
            self._run.end(Said.NODE_STOPPED, "its node was ended", time.monotonic())
        return self._run is None

    def destroy_node(self) -> None:
        """Ends action server and client with the node."""
        self._server.destroy()
        self._own.destroy()
        super().destroy_node()

    async def _execute(self, handle: ServerGoalHandle) -> RunPolicy.Result:
        """One goal, when the one before it is over: that one ends as preempted, with the arm released."""
        goal: RunPolicy.Goal = handle.request
        if not 0.0 <= goal.max_duration_s < math.inf:
            handle.abort()
            said = f"max_duration_s must be finite and not negative, got {goal.max_duration_s}"
            return RunPolicy.Result(termination_reason=Said.REFUSED, message=said)
        while self._run is not None and self._freed is not None:
            self._run.end(Said.PREEMPTED, "a newer goal took its place", time.monotonic())
            await self._freed
        run = self._run = PolicyRun(goal=goal, options=self._bound.value, started_s=time.monotonic())
        self._goal, self._freed = handle, Future()
        if goal.prompt.strip():
            self._heard.task = ""
            self._task.publish(String(data=goal.prompt))
        self.get_logger().info(f"run_policy: {goal.prompt!r}, {goal.max_duration_s:g} s, engage {goal.engage}")
        await self._freed
        self._finish(handle, run.reason)
        self.get_logger().info(f"run_policy ended, {run.reason}: {run.message}")
        return RunPolicy.Result(
            termination_reason=run.reason, message=run.message, duration_s=run.elapsed_s(time.monotonic())
        )

    def _finish(self, handle: ServerGoalHandle, reason: str) -> None:
        if handle.is_cancel_requested:
            handle.canceled()
        elif reason == Said.TIMEOUT:
            handle.succeed()
        else:
            handle.abort()

    def _step(self) -> None:
        run, now_s = self._run, time.monotonic()
        if run is None or self._goal is None or self._freed is None:
            return
        if self._goal.is_cancel_requested:
            run.end(Said.CANCELLED, "its client cancelled it", now_s)
        ask = run.step(self._heard, now_s)
        if ask is not Ask.NOTHING:
            self._call(ask, run)
        self._steps += 1
        if self._steps % FEEDBACK_STEPS == 0:
            self._goal.publish_feedback(self._feedback(run, now_s))
        if run.is_over:
            self._run, freed = None, self._freed
            freed.set_result(None)

    def _call(self, ask: Ask, run: PolicyRun) -> None:
        def answered(future: Future) -> None:
            said = future.result()
            run.answer(ask, time.monotonic(), refusal="" if said is None or said.success else said.message)

        self._asks[ask].call_async(Trigger.Request()).add_done_callback(answered)

    def _feedback(self, run: PolicyRun, now_s: float) -> RunPolicy.Feedback:
        said = self._heard.supervisor or SupervisorState()
        return RunPolicy.Feedback(
            state="" if self._heard.state is None else self._heard.state.name,
            reason=said.reason,
            reason_text=said.reason_text,
            scale=said.applied_scale,
            elapsed_s=run.elapsed_s(now_s),
        )

    def _on_state(self, message: SupervisorState) -> None:
        self._heard.supervisor, self._heard.supervisor_s = message, time.monotonic()

    def _on_heartbeat(self, _message: Bool) -> None:
        self._heard.heartbeat_s = time.monotonic()

    def _on_telepathy(self, message: TelepathyState) -> None:
        self._heard.task = message.task

    def _on_start(self, _request: Trigger.Request, response: Trigger.Response) -> Trigger.Response:
        options = self._bound.value
        goal = RunPolicy.Goal(
            prompt=options.prompt, max_duration_s=options.max_duration_s, engage=options.start_engages
        )
        self._own.send_goal_async(goal)
        response.success, response.message = True, "started; it waits for engage" if not goal.engage else "started"
        return response

    def _on_cancel(self, _request: Trigger.Request, response: Trigger.Response) -> Trigger.Response:
        response.success = self._run is not None
        response.message = "the run ends, and the arm is released" if response.success else "there is no run"
        if response.success:
            self._cancel.call_async(CancelGoal.Request())  # zeros: every goal
        return response


def main(args: Sequence[str] | None = None) -> int:
    """Starts the node; returns the exit code."""
    return run_node(RunPolicyNode, RunOptions, args, __doc__)


if __name__ == "__main__":
    sys.exit(main())
