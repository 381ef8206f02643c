# SPDX-License-Identifier: Apache-2.0
"""`sigma_policy`: cameras and joints in, action chunks out. It only wires; the work is in `PolicySession`.

Configure loads contract and checkpoint and lists everything that is wrong; activate starts. Callbacks only store,
inference has its own process (or thread), so a slow or hung model never blocks parameters, services or shutdown.
"""

import functools
import sys
import traceback
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

from rclpy.impl.implementation_singleton import rclpy_implementation
from rclpy.impl.rcutils_logger import RcutilsLogger
from rclpy.lifecycle import LifecycleNode, LifecycleState, TransitionCallbackReturn
from rclpy.parameter import Parameter
from rclpy.timer import Timer
from std_msgs.msg import String
from std_srvs.srv import SetBool, Trigger

from sigma_ros.errors import SigmaError
from sigma_ros.nodes.policy.health import PolicyHealth
from sigma_ros.nodes.policy.model import PolicyModel, load_policy
from sigma_ros.nodes.policy.options import PolicyOptions
from sigma_ros.nodes.policy.ports import PolicyInput, PolicyOutput
from sigma_ros.nodes.policy.session import PolicySession
from sigma_ros.nodes.shared import qos, topics
from sigma_ros.nodes.shared.diagnostics import Diagnostics
from sigma_ros.nodes.shared.parameters import BoundParameters
from sigma_ros.nodes.shared.process import run_node
from sigma_ros.nodes.shared.qos import steady_clock
from sigma_ros.policy.job import Failed, Lost
from sigma_ros.values import Certificate

CLOSE_TIMEOUT_S = 2.0

Load = Callable[[PolicyOptions, RcutilsLogger], PolicyModel]


def logged(transition: Callable[..., TransitionCallbackReturn]) -> Callable[..., TransitionCallbackReturn]:
    """Rclpy swallows exceptions of transitions; this logs them first. A `SigmaError` is a plain failure."""

    @functools.wraps(transition)
    def wrapped(node: "PolicyNode", state: LifecycleState) -> TransitionCallbackReturn:
        try:
            return transition(node, state)
        except SigmaError as error:
            node.get_logger().error(str(error))
            node.exit_code = error.exit_code
            return TransitionCallbackReturn.FAILURE
        except Exception:
            node.get_logger().error(f"{transition.__name__} failed:\n{traceback.format_exc()}")
            node.exit_code = 1
            raise

    return wrapped


class PolicyNode(LifecycleNode):
    """See the module."""

    def __init__(self, parameter_overrides: Sequence[Parameter] = (), *, load: Load = load_policy) -> None:
        super().__init__(topics.POLICY_NODE, parameter_overrides=list(parameter_overrides))
        self.exit_code = 0
        self.finished = False
        self.loading = False
        self._load = load
        self._model: PolicyModel | None = None
        self._session: PolicySession | None = None
        self._output: PolicyOutput | None = None
        self._health: PolicyHealth | None = None
        self._diagnostics: Diagnostics | None = None
        self._input: PolicyInput | None = None
        self._certificate: Certificate | None = None
        self._heartbeat_timer: Timer | None = None
        self._bound = BoundParameters(self, PolicyOptions(), state=self._state_name, applied=self._apply)
        self.create_service(Trigger, "~/reset_memory", self._on_reset_memory)
        self.create_service(SetBool, "~/pause", self._on_pause)
        self.create_service(Trigger, "~/save_state", self._on_save_state)
        self.create_service(Trigger, "~/restore_state", self._on_restore_state)
        self._task = self._bound.value.task
        self.create_subscription(String, "~/task", self._on_task, qos.LATCHED)
        self._outcome_guard = self.create_guard_condition(self._on_outcome)
        if self._bound.value.autostart:
            self._autostart_timer = self.create_timer(0.0, self._autostart, clock=steady_clock())

    @logged
    def on_configure(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Loads contract and checkpoint; fails with every problem listed."""
        self.loading = True  # a signal need not wait for it: see process
        try:
            contract = topics.contract_name(self, self._bound.value.contract)
            self._model = self._load(replace(self._bound.value, contract=contract), self.get_logger())
        finally:
            self.loading = False
        self._output = PolicyOutput(
            self,
            self._model,
            lockstep=self._bound.value.lockstep,
            trajectory_for_viewers=self._bound.value.trajectory_for_viewers,
        )
        self._output.publish_info(self._bound.value)
        return super().on_configure(state)

    @logged
    def on_activate(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Subscribes and starts inference."""
        if self._model is None or self._output is None:
            raise SigmaError("an inference of before still hangs", remedy="restart the process")
        self._session = PolicySession(
            self._model.contract,
            self._model.runtime,
            image_size_px=self._model.image_size_px,
            memory_stride=self._model.memory_stride,
            options=self._bound.value,
            on_tick=self._output.tick,
            wake=self._wake,
        )
        self._session.set_task(self._task)
        self._health = PolicyHealth(self._session, self._model)
        self._diagnostics = Diagnostics(self, hardware_id=self._model.contract.name, tasks=self._health.tasks())
        self._input = PolicyInput(self, self._session, self._model.contract, lockstep=self._bound.value.lockstep)
        self._heartbeat_timer = self.create_timer(
            qos.HEARTBEAT_PERIOD_NS * 1e-9, self._on_heartbeat, clock=steady_clock()
        )
        return super().on_activate(state)

    @logged
    def on_deactivate(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Stops inference; window and memory end with it."""
        self._unwire()
        return super().on_deactivate(state)

    @logged
    def on_cleanup(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Lets the model go."""
        self._unload()
        return super().on_cleanup(state)

    @logged
    def on_shutdown(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Ends from any state."""
        self._unwire()
        self._unload()
        self.finished = True
        return super().on_shutdown(state)

    def stop(self) -> bool:
        """Last words: no more chunks, and no process is left behind."""
        self._unwire()
        if self._model is not None:
            self._model.close()
        return True

    def _unwire(self) -> None:
        if self._input is not None:
            self._input.destroy()
        if self._heartbeat_timer is not None:
            self.destroy_timer(self._heartbeat_timer)
        if self._diagnostics is not None:
            self._diagnostics.destroy()
        self._input = self._heartbeat_timer = self._diagnostics = None
        if self._session is not None and not self._session.thread.close(CLOSE_TIMEOUT_S):
            self.get_logger().error("the inference thread hangs; it is left behind, and the model with it")
            self._model = None
        self._session = None

    def _unload(self) -> None:
        if self._output is not None:
            self._output.destroy()
        if self._model is not None:
            self._model.close()
        self._output = self._model = None

    def _wake(self) -> None:
        """Called from the inference thread, which may outlive the node when an inference hangs."""
        with suppress(rclpy_implementation.InvalidHandle):
            self._outcome_guard.trigger()

    def _on_outcome(self) -> None:
        if self._session is None or self._output is None or self._health is None:
            return
        for outcome in self._session.thread.outcomes():
            self._tell_certificate(self._session, self._output)
            self._output.publish(outcome)
            self._health.note(outcome)
            if isinstance(outcome, Lost):
                continue
            if isinstance(outcome, Failed):
                self.get_logger().error(f"inference failed, a new epoch begins:\n{outcome.error}")
                self._session.reset()
                return
        if self._session.recover():
            self.get_logger().info("inference goes on in a new process, in a new epoch with the memory of before")
        elif self._session.thread.problem:
            self.get_logger().error(f"no inference: {self._session.thread.problem}", throttle_duration_sec=1.0)
            self._on_heartbeat()

    def _tell_certificate(self, session: PolicySession, output: PolicyOutput) -> None:
        certificate = session.thread.certificate
        if certificate is not None and certificate is not self._certificate:
            self._certificate = certificate
            output.certified(certificate, self._bound.value)
            tell = self.get_logger().info if certificate.holds else self.get_logger().error
            tell(f"certificate: {certificate.line}")

    def _on_heartbeat(self) -> None:
        if self._session is not None and self._output is not None:
            self._output.heartbeat(healthy=self._session.healthy)

    def _on_task(self, message: String) -> None:
        self._task = message.data
        if self._session is not None:
            self._session.set_task(message.data)
            self.get_logger().info(f"task: {self._session.clock.task}")

    def _apply(self, old: PolicyOptions, new: PolicyOptions) -> None:
        if new.task != old.task:
            self._task = new.task
        if self._session is not None:
            self._session.options = new
            if new.task != old.task:
                self._session.set_task(new.task)
        if self._output is not None:
            self._output.publish_info(new)

    def _on_reset_memory(self, _request: Trigger.Request, response: Trigger.Response) -> Trigger.Response:
        if self._session is None:
            response.message = f"the policy is {self._state_name()}; activate it first"
            return response
        self._session.reset()
        response.success = True
        response.message = f"window and memory cleared, epoch {self._session.clock.epoch}"
        return response

    def _on_pause(self, request: SetBool.Request, response: SetBool.Response) -> SetBool.Response:
        if self._session is None:
            response.message = f"the policy is {self._state_name()}; activate it first"
            return response
        (self._session.pause if request.data else self._session.resume)()
        response.success = True
        response.message = "paused: no chunks until resumed" if request.data else "running, in a new epoch"
        return response

    def _on_save_state(self, _request: Trigger.Request, response: Trigger.Response) -> Trigger.Response:
        return self._with_state_file(response, lambda session, file: f"{session.save(file)} commits are in {file}")

    def _on_restore_state(self, _request: Trigger.Request, response: Trigger.Response) -> Trigger.Response:
        return self._with_state_file(
            response, lambda session, file: f"{session.restore(file)} commits from {file}, epoch {session.clock.epoch}"
        )

    def _with_state_file(
        self, response: Trigger.Response, act: Callable[[PolicySession, Path], str]
    ) -> Trigger.Response:
        file = self._bound.value.state_path
        if self._session is None or file is None:
            state = f"the policy is {self._state_name()}; activate it first"
            response.message = state if self._session is None else "start the node with the parameter state_file"
            return response
        try:
            response.message = act(self._session, file)
            response.success = True
        except SigmaError as error:
            response.message = str(error)
        return response

    def _state_name(self) -> str:
        return str(self._state_machine.current_state[1])

    def _autostart(self) -> None:
        self.destroy_timer(self._autostart_timer)
        for trigger in (self.trigger_configure, self.trigger_activate):
            if trigger() is not TransitionCallbackReturn.SUCCESS:
                self.exit_code = self.exit_code or 1
                self.finished = True
                return
        self.get_logger().info("active")


def main(args: Sequence[str] | None = None) -> int:
    """Starts the node; returns the exit code."""
    return run_node(PolicyNode, PolicyOptions, args, __doc__)


if __name__ == "__main__":
    sys.exit(main())
