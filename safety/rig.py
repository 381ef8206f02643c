# SPDX-License-Identifier: Apache-2.0
"""The bench for process faults: the real supervisor process over real DDS, between a mock arm and a scripted policy.

MOCK: the arm is a first-order lag on the commanded positions that holds the last one, as position servos do.
Everything that judges is outside the supervisor: commands and states are taken from their topics with the
middleware's sequence numbers and source times, and go to the independent oracle (`safety/oracle.py`).
"""

import contextlib
import math
import os
import signal
import subprocess
import sys
import time
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import psutil
from diagnostic_msgs.msg import DiagnosticArray
from numpy import ndarray
from rcl_interfaces.srv import SetParameters
from rclpy.executors import SingleThreadedExecutor
from rclpy.node import Node
from rclpy.parameter import Parameter
from rclpy.qos import DurabilityPolicy, HistoryPolicy, QoSProfile, ReliabilityPolicy
from sensor_msgs.msg import JointState
from sigma_ros.msg import SupervisorState
from std_msgs.msg import Bool, Float64MultiArray, Header, String
from std_srvs.srv import Trigger
from trajectory_msgs.msg import JointTrajectory

from safety import oracle
from safety.mock_arm import MockArm
from safety.stand_in_policy import DONE, MODE
from sigma_ros.contract_file import load_contract
from sigma_ros.nodes.shared import qos, topics
from sigma_ros.nodes.shared.process import ros_context, use_shipped_dds_profile
from sigma_ros.nodes.shared.qos import steady_clock
from sigma_ros.nodes.shared.sensor_messages import stamp_ns
from sigma_ros.supervisor.reasons import State

# A child process with its log and its resources.


ROOT = Path(__file__).resolve().parents[1]


class Process:
    """A Python process that was started here; `usage` is its entry in the process table."""

    def __init__(self, *command: str, log: Path, stdin: bool = False) -> None:
        with log.open("ab") as out:
            self.popen = subprocess.Popen(
                [sys.executable, *command],
                stdout=out,
                stderr=subprocess.STDOUT,
                stdin=subprocess.PIPE if stdin else subprocess.DEVNULL,
                cwd=ROOT,
            )
        self.usage = psutil.Process(self.popen.pid)

    @property
    def alive(self) -> bool:
        """Whether it still runs (stopped counts as running)."""
        return self.popen.poll() is None

    def signal(self, number: int) -> None:
        """Sends a signal to a living process."""
        if self.alive:
            self.popen.send_signal(number)

    def end(self) -> None:
        """Kills it and waits."""
        if self.alive:
            self.popen.kill()
        self.popen.wait()
        if self.popen.stdin is not None:
            self.popen.stdin.close()

    def resources(self) -> dict[str, float]:
        """Resident memory [MB], file descriptors, threads, CPU seconds; empty when it is gone."""
        try:
            with self.usage.oneshot():
                cpu = self.usage.cpu_times()
                return {
                    "rss_mb": round(self.usage.memory_info().rss / 2**20, 2),
                    "fds": self.usage.num_fds(),
                    "threads": self.usage.num_threads(),
                    "cpu_s": round(cpu.user + cpu.system, 2),
                }
        except psutil.NoSuchProcess:
            return {}


RUNNING = (State.RUN, State.BASE_ONLY)
LISTEN = QoSProfile(
    history=HistoryPolicy.KEEP_LAST,
    depth=500,
    reliability=ReliabilityPolicy.RELIABLE,
    durability=DurabilityPolicy.VOLATILE,
)
_PATIENT = ("--estop_timeout_s", "0.5", "--estop_hold_s", "0.5")
"""The operator's button shares this process with everything else that the bench does."""

_SETTLED_NS = 300_000_000
"""States and commands this old are matched by their source times and judged."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Setup:
    """How the bench is set up: contract (name or file) and whether all follow a `/clock` of the bench."""

    contract: str = "so101"
    sim_time: bool = False

    @property
    def ros_arguments(self) -> tuple[str, ...]:
        """For every process of it."""
        return ("--ros-args", "-p", "use_sim_time:=true") if self.sim_time else ()


class Rig(Node):
    """Arm, operator and monitor in one node; the supervisor and the policy are processes. See the module."""

    def __init__(self, executor: SingleThreadedExecutor, log: Path, *, setup: Setup) -> None:
        super().__init__("fault_rig", parameter_overrides=[Parameter("use_sim_time", value=setup.sim_time)])
        self.contract = load_contract(setup.contract)
        self.setup = setup
        self.log = log
        self._spinner = executor
        executor.add_node(self)
        self.arm = MockArm(np.array([0.1, -0.2, 0.3, -0.1, 0.05, 0.4]))
        self.oracle = oracle.Live(oracle.Limits.read(ROOT / "config" / "oracle_so101.yaml"))
        self.states: deque[tuple[int, SupervisorState]] = deque(maxlen=2000)
        self.commands: deque[tuple[int, ndarray]] = deque(maxlen=2000)
        self.arrivals: deque[tuple[int, int]] = deque(maxlen=2000)
        self.diagnostics: dict[str, tuple[int, int, str]] = {}
        self.other: Process | None = None
        self.done: dict[str, int] = {}
        self.estop = "calm"
        self.foreign: Any = None
        self.lost_commands = 0
        self.gap_ns = 0
        self._waiting_states: deque[tuple[int, SupervisorState]] = deque()
        self._waiting_commands: deque[tuple[int, ndarray, int]] = deque()
        self._sequence = -1
        self._state_sequence = -1
        self.supervisor: Process | None = None
        self.policy: Process | None = None
        self._spare: Process | None = None
        self._listen()
        self._joints = self.create_publisher(JointState, self.contract.joint_state_topic, qos.SENSOR)
        self.estop_publisher = self.create_publisher(Bool, topics.E_STOP, qos.EVENT)
        self._mode = self.create_publisher(String, MODE, qos.EVENT)
        self.create_timer(0.02, self._live, clock=steady_clock())
        self.create_timer(0.02, self._beat, clock=steady_clock())
        self._triggers: dict[str, Any] = {
            name: self.create_client(Trigger, name)
            for name in (topics.ENGAGE, topics.RELEASE, topics.RESET_STOP, topics.ESTOP_SERVICE)
        }
        self._setter: Any = self.create_client(SetParameters, f"/{topics.SUPERVISOR_NODE}/set_parameters")

    def _listen(self) -> None:
        heard = (JointTrajectory, self._on_trajectory) if self._is_trajectory else (Float64MultiArray, self._on_array)
        kind, hear = cast(tuple[type, Callable[..., None]], heard)
        self.create_subscription(kind, self.contract.command_topic, hear, LISTEN)
        self.create_subscription(
            SupervisorState, topics.SUPERVISOR_STATE, cast(Callable[..., None], self._on_state), LISTEN
        )
        self.create_subscription(DiagnosticArray, "/diagnostics", self._on_diagnostics, LISTEN)
        self.create_subscription(Header, DONE, self._on_done, qos.EVENT)

    # What is heard

    @property
    def _is_trajectory(self) -> bool:
        return self.contract.command_type.startswith("trajectory_msgs")

    def _on_array(self, message: Float64MultiArray, info: dict[str, int]) -> None:
        self._on_command(np.array(message.data)[None], info)

    def _on_trajectory(self, message: JointTrajectory, info: dict[str, int]) -> None:
        self._on_command(np.array([point.positions for point in message.points]), info)

    def _on_command(self, points: ndarray, info: dict[str, int]) -> None:
        command = points[0]
        sequence = int(info["publication_sequence_number"])
        lost = max(0, sequence - self._sequence - 1) if self._sequence >= 0 else 0
        self._sequence = sequence
        self.lost_commands += lost
        at_ns = int(info["source_timestamp"])
        self.commands.append((at_ns, command))
        self.arrivals.append((at_ns, int(info["received_timestamp"])))
        self._waiting_commands.append((at_ns, command, lost))
        if np.isfinite(points).all():
            self.arm.follow(points, self.contract.command_period_ns / 1e9)

    def _on_state(self, message: SupervisorState, info: dict[str, int]) -> None:
        sequence = int(info["publication_sequence_number"])
        if 0 <= sequence <= self._state_sequence:
            raise RuntimeError("two supervisors in one ROS domain: set ROS_DOMAIN_ID to a free one (0 to 101)")
        self._state_sequence = sequence
        entry = (int(info["source_timestamp"]), message)
        if self.states:
            self.gap_ns = max(self.gap_ns, entry[0] - self.states[-1][0])
        self.states.append(entry)
        self._waiting_states.append(entry)

    def _on_diagnostics(self, message: DiagnosticArray) -> None:
        for status in message.status:
            node, _, task = status.name.partition(": ")
            if node == topics.SUPERVISOR_NODE:
                self.diagnostics[task] = (time.time_ns(), int.from_bytes(status.level, "little"), status.message)

    def _on_done(self, message: Header) -> None:
        self.done[message.frame_id] = stamp_ns(message.stamp)

    def _live(self) -> None:
        self.arm.move(0.02)
        message = self.arm.message(self.get_clock().now().nanoseconds, self.contract.joint_names)
        if message is not None:
            self._joints.publish(message)
        self._judge(time.time_ns() - _SETTLED_NS)

    def _beat(self) -> None:
        if self.estop in ("calm", "pressed"):
            self.estop_publisher.publish(Bool(data=self.estop == "pressed"))

    def _judge(self, until_ns: int) -> None:
        """Hands what has settled to the oracle: every state is a tick, with the command of the same tick or none."""
        while self._waiting_states and self._waiting_states[0][0] <= until_ns:
            at_ns, state = self._waiting_states.popleft()
            command = None
            while self._waiting_commands and self._waiting_commands[0][0] <= at_ns:
                if command is not None:  # its own state was lost on the way
                    self.oracle.tick(at_ns, State(state.state).name, command)
                _, command, lost = self._waiting_commands.popleft()
                if lost:
                    self.oracle.miss()
            self.oracle.tick(at_ns, State(state.state).name, command)

    # Processes

    def start_supervisor(self, *options: str) -> None:
        """Starts the real supervisor and waits for its first state."""
        self._end_stream()
        since_ns = time.time_ns()
        given = ("--contract", self.setup.contract, *_PATIENT, *options, *self.setup.ros_arguments)
        self.supervisor = Process("-m", "sigma_ros.nodes.supervisor_node", *given, log=self.log)
        self.wait(lambda: self.states and self.states[-1][0] > since_ns, "the supervisor's first state")

    def _end_stream(self) -> None:
        """Judges what is left of the last supervisor; its last command lacks a state if it was killed in between."""
        self._judge(time.time_ns())
        if self.states:
            for at_ns, command, _ in self._waiting_commands:
                self.oracle.tick(at_ns, self.state.name, command)
        self._waiting_commands.clear()
        self._sequence = self._state_sequence = -1
        self.oracle.cut()
        self.oracle.forget_silence()

    def start_policy(self) -> None:
        """Starts the scripted policy, at once if a spare one waits."""
        if self.policy is not None:
            self.policy.end()
        spare, self._spare = self._spare, None
        self.policy = spare if spare is not None and spare.alive else self._new_policy()
        assert self.policy.popen.stdin is not None
        self.policy.popen.stdin.write(b"go\n")
        self.policy.popen.stdin.flush()

    def prepare_policy(self) -> None:
        """Starts a spare policy that waits, imports done, for its turn."""
        if self._spare is None:
            self._spare = self._new_policy()

    def _new_policy(self) -> Process:
        return Process("-m", "safety.stand_in_policy", "--wait", *self.setup.ros_arguments, log=self.log, stdin=True)

    def end(self) -> None:
        """Ends every process."""
        for process in (self.policy, self._spare, self.supervisor, self.other):
            if process is not None:
                process.end()

    # The operator's hands

    @property
    def state(self) -> State:
        """The supervisor's newest state."""
        return State(self.states[-1][1].state)

    @property
    def reason(self) -> str:
        """Its reason."""
        return str(self.states[-1][1].reason)

    def wait(self, done: Callable[[], object], what: str, timeout_s: float = 20.0) -> None:
        """Runs callbacks until `done()`.

        Raises:
            TimeoutError: it did not come true in time; names `what` and the last state.
        """
        end_s = time.monotonic() + timeout_s
        while not done():
            if time.monotonic() > end_s:
                last = f"{self.state.name}: {self.states[-1][1].reason_text}" if self.states else "no state"
                raise TimeoutError(f"waited {timeout_s:g} s in vain for {what}; the last state was {last}")
            self._spinner.spin_once(timeout_sec=0.05)

    def rest(self, seconds: float) -> None:
        """Runs callbacks for a time."""
        end_s = time.monotonic() + seconds
        while (left_s := end_s - time.monotonic()) > 0.0:
            self._spinner.spin_once(timeout_sec=min(0.05, left_s))

    def ask(self, service: str) -> Trigger.Response:
        """Calls a service of the supervisor."""
        client = self._triggers[service]
        self.wait(client.service_is_ready, service)
        future = client.call_async(Trigger.Request())
        self.wait(future.done, f"the answer of {service}")
        return future.result()

    def set_on_supervisor(self, **values: Any) -> list[tuple[bool, str]]:
        """Sets parameters of the supervisor, each on its own."""
        self.wait(self._setter.service_is_ready, "the parameter service")
        request = SetParameters.Request(
            parameters=[Parameter(n, value=v).to_parameter_msg() for n, v in values.items()]
        )
        future = self._setter.call_async(request)
        self.wait(future.done, "the parameter service's answer")
        return [(result.successful, result.reason) for result in future.result().results]

    def policy_mode(self, mode: str) -> int:
        """Makes the policy misbehave; the moment at which the first faulty message went out [ns].

        Said again every second: what is said before a new policy, or one that was stopped for long, is found is lost.
        """
        self.done.pop(mode, None)
        said_s = -math.inf

        def heard() -> bool:
            nonlocal said_s
            if time.monotonic() - said_s > 1.0:
                self._mode.publish(String(data=mode))
                said_s = time.monotonic()
            return mode in self.done

        self.wait(heard, f"the policy's mode {mode}")
        return self.done[mode]

    def policy_ends(self) -> int:
        """Makes the policy end by an exception of its own; the moment at which it was gone [ns]."""
        policy = self.policy
        assert policy is not None
        self._mode.publish(String(data="crash"))
        self.wait(lambda: not policy.alive, "the policy's end")
        return time.time_ns()

    def recover(self, timeout_s: float = 20.0) -> float:
        """Back to RUN or BASE_ONLY as an operator would: reset, engage, wait. Seconds it took."""
        begun_s = time.monotonic()
        while self.state not in RUNNING or self.policy is None or not self.policy.alive:
            if time.monotonic() - begun_s > timeout_s:
                text = self.states[-1][1].reason_text
                raise TimeoutError(f"no recovery within {timeout_s:g} s: {self.state.name}: {text}")
            if self.policy is None or not self.policy.alive:
                self.start_policy()
            if self.state.is_latched:
                self.ask(topics.RESET_STOP)
            elif self.state is State.DISENGAGED or self.reason in ("BASE_MISBEHAVES", "HEARTBEAT_LOST"):
                self.ask(topics.ENGAGE)
            self.rest(0.1)
        return time.monotonic() - begun_s

    def first(self, after_ns: int, seen: Callable[[SupervisorState], bool]) -> tuple[int, SupervisorState] | None:
        """The first state since `after_ns` of which `seen` is true."""
        return next(((at, said) for at, said in self.states if at >= after_ns and seen(said)), None)

    def settle(self) -> None:
        """Lets the oracle judge everything that was published up to now."""
        self.rest(_SETTLED_NS / 1e9 + 0.1)


@contextlib.contextmanager
def _without_shared_memory() -> Iterator[None]:
    """Processes are killed here; see config/fastdds_supervisor.xml, which is not heeded with discovery by LOCALHOST."""
    before = dict(os.environ)
    os.environ["ROS_AUTOMATIC_DISCOVERY_RANGE"] = "SUBNET"
    use_shipped_dds_profile("fastdds_supervisor.xml")
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)


@contextlib.contextmanager
def rig(log: Path, *, setup: Setup = Setup(), before: Callable[[Rig], Any] = lambda _rig: None) -> Iterator[Rig]:
    """A running bench: the supervisor in RUN under the scripted policy. `before` comes before any process starts."""
    with _without_shared_memory(), ros_context([sys.argv[0]]):
        executor = SingleThreadedExecutor()
        node = Rig(executor, log, setup=setup)
        try:
            before(node)
            node.start_supervisor()
            node.start_policy()
            node.recover()
            yield node
        finally:
            node.end()
            executor.remove_node(node)
            node.destroy_node()
            executor.shutdown(timeout_sec=0)


def pause(process: Process | None) -> None:
    """SIGSTOP."""
    assert process is not None
    process.signal(signal.SIGSTOP)


def resume(process: Process | None) -> None:
    """SIGCONT."""
    assert process is not None
    process.signal(signal.SIGCONT)
