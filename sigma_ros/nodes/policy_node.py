# SPDX-License-Identifier: Apache-2.0
"""`sigma_policy`: cameras and joints in, action chunks out. It only wires; the work is in `PolicySession`.

Configure loads contract and checkpoint and lists everything that is wrong; activate starts. Callbacks only store,
inference has its own thread, so a slow or hung model never blocks parameters, services or shutdown.
"""

import functools
import sys
import traceback
from collections.abc import Callable, Sequence

from rclpy.clock import JumpThreshold
from rclpy.duration import Duration
from rclpy.impl.rcutils_logger import RcutilsLogger
from rclpy.lifecycle import LifecycleNode, LifecycleState, TransitionCallbackReturn
from rclpy.parameter import Parameter
from sensor_msgs.msg import CompressedImage, Image, JointState
from std_msgs.msg import String
from std_srvs.srv import SetBool, Trigger

from sigma_ros.contract import Camera, Contract
from sigma_ros.errors import SigmaError
from sigma_ros.nodes import qos, topics
from sigma_ros.nodes.clocks import steady_clock
from sigma_ros.nodes.diagnostics import Diagnostics
from sigma_ros.nodes.image_messages import image_view
from sigma_ros.nodes.node_options import PolicyOptions
from sigma_ros.nodes.parameters import BoundParameters
from sigma_ros.nodes.policy_health import PolicyHealth
from sigma_ros.nodes.policy_model import PolicyModel, load_policy
from sigma_ros.nodes.policy_output import PolicyOutput
from sigma_ros.nodes.policy_session import PolicySession
from sigma_ros.nodes.process import run_node
from sigma_ros.nodes.sensor_messages import joint_positions, stamp_ns

TICK_POLL_S = 0.005
CLOCK_JUMP = JumpThreshold(
    min_forward=Duration(seconds=0.5), min_backward=Duration(nanoseconds=-1), on_clock_change=True
)
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
        self._load = load
        self._model: PolicyModel | None = None
        self._session: PolicySession | None = None
        self._output: PolicyOutput | None = None
        self._health: PolicyHealth | None = None
        self._diagnostics: Diagnostics | None = None
        self._wired: list[Callable[[], object]] = []
        self._bound = BoundParameters(self, PolicyOptions(), state=self._state_name, applied=self._apply)
        self.create_service(Trigger, "~/reset_memory", self._on_reset_memory)
        self.create_service(SetBool, "~/pause", self._on_pause)
        self._task = self._bound.value.task
        self.create_subscription(String, "~/task", self._on_task, qos.LATCHED)
        self._outcome_guard = self.create_guard_condition(self._on_outcome)
        if self._bound.value.autostart:
            self._autostart_timer = self.create_timer(0.0, self._autostart, clock=steady_clock())

    @logged
    def on_configure(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Loads contract and checkpoint; fails with every problem listed."""
        self._model = self._load(self._bound.value, self.get_logger())
        self._output = PolicyOutput(self, self._model, lockstep=self._bound.value.lockstep)
        self._output.publish_info(self._bound.value)
        return super().on_configure(state)

    @logged
    def on_activate(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Subscribes and starts inference."""
        assert self._model is not None
        assert self._output is not None
        self._session = PolicySession(
            self._model.contract,
            self._model.runtime,
            image_size_px=self._model.image_size_px,
            memory_stride=self._model.memory_stride,
            options=self._bound.value,
            check_units=self._model.runtime.check_units,
            on_tick=self._output.tick,
            wake=self._outcome_guard.trigger,
        )
        self._session.set_task(self._task)
        self._health = PolicyHealth(self._session, self._model)
        self._diagnostics = Diagnostics(self, hardware_id=self._model.contract.name, tasks=self._health.tasks())
        self._wire(self._model.contract)
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
        """Last words: no more chunks."""
        self._unwire()
        return True

    def _wire(self, contract: Contract) -> None:
        lockstep = self._bound.value.lockstep
        sensor_qos = qos.SENSOR_RELIABLE if lockstep else qos.SENSOR
        inputs: list[tuple[type, str, Callable[..., None]]] = [
            (JointState, contract.joint_state_topic, self._on_joints)
        ]
        for camera in contract.cameras:
            store = functools.partial(self._on_image, camera)
            if lockstep or camera.message_type == "sensor_msgs/msg/Image":
                inputs.append((Image, topics.raw_topic(camera), store))
            if lockstep or camera.message_type != "sensor_msgs/msg/Image":
                inputs.append((CompressedImage, topics.compressed_topic(camera), store))
        for kind, topic, callback in inputs:
            subscription = self.create_subscription(kind, topic, callback, sensor_qos)
            self._wired.append(functools.partial(self.destroy_subscription, subscription))
        self._wire_timer(qos.HEARTBEAT_PERIOD_NS * 1e-9, self._on_heartbeat)
        if not lockstep:
            self._wire_timer(TICK_POLL_S, self._advance)
            jump = self.get_clock().create_jump_callback(CLOCK_JUMP, post_callback=self._on_clock_jump)
            self._wired.append(jump.unregister)

    def _wire_timer(self, period_s: float, callback: Callable[[], None]) -> None:
        timer = self.create_timer(period_s, callback, clock=steady_clock())
        self._wired.append(functools.partial(self.destroy_timer, timer))

    def _unwire(self) -> None:
        for undo in self._wired:
            undo()
        self._wired = []
        if self._diagnostics is not None:
            self._diagnostics.destroy()
            self._diagnostics = None
        if self._session is not None and not self._session.close(CLOSE_TIMEOUT_S):
            self.get_logger().error("the inference thread hangs; it is left behind")
        self._session = None

    def _unload(self) -> None:
        if self._output is not None:
            self._output.destroy()
        self._output = None
        self._model = None

    def _on_image(self, camera: Camera, message: Image | CompressedImage) -> None:
        if self._session is not None:
            self._session.push_image(camera.name, stamp_ns(message.header.stamp), image_view(message))
            self._advance()

    def _on_joints(self, message: JointState) -> None:
        if self._session is None or (self._bound.value.lockstep and not message.name):
            return  # in lockstep, a joint state without names only tells the supervisor that none is to come
        names, positions_rad = joint_positions(message)
        self._session.push_joints(stamp_ns(message.header.stamp), names, positions_rad)
        self._advance()

    def _advance(self) -> None:
        if self._session is not None:
            live = not self._bound.value.lockstep
            self._session.advance(self.get_clock().now().nanoseconds if live else None)

    def _on_outcome(self) -> None:
        if self._session is None or self._output is None or self._health is None:
            return
        for outcome in self._session.outcomes():
            self._output.publish(outcome)
            self._health.note(outcome)
            if outcome.error is not None:
                self.get_logger().error(f"inference failed, a new epoch begins:\n{outcome.error}")
                self._session.reset()
                return

    def _on_heartbeat(self) -> None:
        if self._session is not None and self._output is not None:
            self._output.heartbeat(healthy=self._session.healthy)

    def _on_task(self, message: String) -> None:
        self._task = message.data
        if self._session is not None:
            self._session.set_task(message.data)
            self.get_logger().info(f"task: {self._session.task}")

    def _on_clock_jump(self, _jump: object) -> None:
        if self._session is not None:
            self.get_logger().warning("the clock jumped, a new epoch begins")
            self._session.reset()

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
        response.message = f"window and memory cleared, epoch {self._session.epoch}"
        return response

    def _on_pause(self, request: SetBool.Request, response: SetBool.Response) -> SetBool.Response:
        if self._session is None:
            response.message = f"the policy is {self._state_name()}; activate it first"
            return response
        (self._session.pause if request.data else self._session.resume)()
        response.success = True
        response.message = "paused: no chunks until resumed" if request.data else "running, in a new epoch"
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
