# SPDX-License-Identifier: Apache-2.0
"""The live supervisor node over real DDS, in this process: what it hears, says and refuses."""

import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
from node_fakes import AUTHOR, TIMEOUT_S, call, make_chunk, small_contract, spin_until
from rcl_interfaces.srv import SetParameters
from rclpy.node import Node
from rclpy.parameter import Parameter
from rclpy.qos import QoSProfile, ReliabilityPolicy
from sensor_msgs.msg import JointState
from sigma_ros.msg import ActionChunk, SupervisorState
from sigma_ros.srv import Paired
from std_msgs.msg import Bool, Float64MultiArray
from std_srvs.srv import Trigger

from sigma_ros.nodes.shared import qos, topics
from sigma_ros.nodes.shared.messages import chunk_message
from sigma_ros.nodes.shared.sensor_messages import COMMAND_KINDS, Command, joint_state_message, stamp_ns
from sigma_ros.nodes.supervisor.live import pause_ns
from sigma_ros.nodes.supervisor_node import SupervisorNode
from sigma_ros.supervisor.identity import Author

pytestmark = pytest.mark.ros
BEST_EFFORT = QoSProfile(depth=1, reliability=ReliabilityPolicy.BEST_EFFORT)
MOVING = (SupervisorState.ENGAGING, SupervisorState.RUN, SupervisorState.BASE_ONLY)
POSE = np.array([0.1, -0.2, 0.3, -0.1, 0.05, 0.2])


class Rig(Node):
    """A robot at rest, a policy that proposes to stay there, and an operator, in one test node."""

    def __init__(self, contract, executor) -> None:
        super().__init__("test_rig")
        self.contract = contract
        self.executor_ = executor
        self.states: list[SupervisorState] = []
        self.commands: list[Command] = []
        self.alive = True
        self.chunk_id = 0
        self.measured = POSE
        self.author = AUTHOR
        self.joints = self.create_publisher(JointState, contract.joint_state_topic, qos.SENSOR)
        self.chunks = self.create_publisher(ActionChunk, topics.ACTION_CHUNK, qos.CHUNK)
        self.heartbeat = self.create_publisher(Bool, topics.POLICY_HEARTBEAT, qos.HEARTBEAT)
        kind = COMMAND_KINDS[contract.command_type].message
        self.create_subscription(SupervisorState, topics.SUPERVISOR_STATE, self.states.append, qos.LATCHED)
        self.create_subscription(kind, contract.command_topic, self.commands.append, qos.COMMAND)
        self.create_timer(0.02, self._live)

    def _live(self) -> None:
        at_ns = self.get_clock().now().nanoseconds
        names = tuple(reversed(self.contract.joint_names))
        self.joints.publish(joint_state_message(at_ns=at_ns, names=names, positions_rad=self.measured[::-1]))
        if self.alive:
            self.heartbeat.publish(Bool(data=True))

    def propose(self, **changes: object) -> None:
        """A chunk as of now: stay at the measured pose, with a residual of 0.01 rad."""
        self.chunk_id += 1
        values = {"base_rad": np.tile(self.measured, (50, 1)), "chunk_id": self.chunk_id} | changes
        stamp_ns = self.get_clock().now().nanoseconds - 20_000_000
        self.chunks.publish(chunk_message(make_chunk(self.contract, stamp_ns=stamp_ns, **values), self.author))

    def until(self, done: Callable[[], object], what: str) -> None:
        spin_until(self.executor_, done, what=what)

    def next_state(self) -> SupervisorState:
        seen = len(self.states)
        self.until(lambda: len(self.states) > seen, "a state")
        return self.states[-1]

    def in_state(self, state: int) -> None:
        self.until(lambda: self.states and self.states[-1].state == state, f"state {state}")

    def ask(self, service: str) -> Trigger.Response:
        return call(self.executor_, self, service)

    def set(self, **values: object) -> tuple[bool, str]:
        request = SetParameters.Request(
            parameters=[Parameter(n, value=v).to_parameter_msg() for n, v in values.items()]
        )
        place = f"/{topics.SUPERVISOR_NODE}/set_parameters"
        [result] = call(self.executor_, self, place, request, SetParameters).results
        return result.successful, result.reason

    def engage(self) -> Trigger.Response:
        """Engages once joints and heartbeat have been heard, as an operator would who reads the reason."""
        end_s = time.monotonic() + TIMEOUT_S
        while not (answer := self.ask(topics.ENGAGE)).success:
            assert time.monotonic() < end_s, answer.message
            if self.states[-1].state == SupervisorState.STOPPED:  # this machine stalled
                self.ask(topics.RESET_STOP)
        return answer

    def run(self) -> None:
        """Engages and proposes until the arm follows."""
        end_s = time.monotonic() + TIMEOUT_S
        while self.next_state().state != SupervisorState.RUN:
            assert time.monotonic() < end_s, self.states[-1].reason_text
            if self.states[-1].state in (SupervisorState.DISENGAGED, SupervisorState.HOLD, SupervisorState.STOPPED):
                self.engage()
            self.propose()


@pytest.fixture
def contract():
    return small_contract()


@pytest.fixture
def start(executor, monkeypatch):
    def make(
        contract, *, alive: bool = True, measured: np.ndarray = POSE, **overrides: object
    ) -> tuple[Rig, SupervisorNode]:
        monkeypatch.setattr("sigma_ros.nodes.supervisor_node.load_contract", lambda _name: contract)
        parameters = [Parameter(name, value=value) for name, value in overrides.items()]
        supervisor = SupervisorNode(parameters)
        rig = Rig(contract, executor)
        rig.alive, rig.measured = alive, measured
        executor.add_node(supervisor)
        executor.add_node(rig)
        rig.until(lambda: rig.states, "the first state")
        return rig, supervisor

    return make


def test_it_starts_disengaged_and_says_nothing_to_the_arm(contract, start):
    rig, _ = start(contract)
    rig.propose()
    for _ in range(5):
        assert rig.next_state().state == SupervisorState.DISENGAGED
    assert not rig.commands


def test_a_late_joiner_gets_the_state(contract, start, executor):
    rig, _ = start(contract)
    late: list[SupervisorState] = []
    rig.create_subscription(SupervisorState, topics.SUPERVISOR_STATE, late.append, qos.LATCHED)
    rig.until(lambda: late, "the latched state")


def test_engage_is_refused_with_a_reason_while_something_is_missing(contract, start):
    rig, _ = start(contract, alive=False)
    rig.until(lambda: rig.states[-1].joint_state_age < 0.1, "joint states")
    answer = rig.ask(topics.ENGAGE)
    while "heartbeat" not in answer.message:  # a supervisor that was held up at its start says that first, rightly
        assert not answer.success
        answer = rig.ask(topics.ENGAGE)
    assert not answer.success


def test_an_arm_that_reports_degrees_is_refused_by_its_joints_and_sent_nothing(contract, start):
    rig, _ = start(contract, measured=np.array([48.0, -52.0, 45.0, 50.0, 82.0, 40.0]))
    end_s = time.monotonic() + TIMEOUT_S
    while "radians" not in (answer := rig.ask(topics.ENGAGE)).message:  # none has come yet
        assert not answer.success
        assert time.monotonic() < end_s, answer.message
        rig.next_state()
    assert (answer.success, "shoulder_pan at 48 rad" in answer.message) == (False, True)
    rig.propose()
    assert rig.next_state().state == SupervisorState.DISENGAGED
    assert not rig.commands


def test_engaged_with_a_chunk_it_runs_at_50_hz_where_the_chunk_says(contract, start):
    rig, _ = start(contract)
    end_s = time.monotonic() + TIMEOUT_S

    def is_there(state):  # the way onto the course is led; the scale is there from its first command
        expected = POSE + state.applied_scale * 0.01
        return state.requested_scale == 0.5 and np.allclose(rig.commands[-1].data, expected, atol=2e-3)

    while not is_there(state := rig.next_state()):  # a machine that stalls leads to HOLD
        assert time.monotonic() < end_s, state.reason_text
        rig.run()
        rig.propose()
    assert 0.0 <= state.applied_scale <= 0.5


@pytest.mark.parametrize("profile", [qos.EVENT, BEST_EFFORT], ids=["reliable", "best effort"])
def test_the_emergency_stop_latches_whatever_its_publisher_offers(contract, start, profile):
    rig, _ = start(contract)
    button = rig.create_publisher(Bool, topics.E_STOP, profile)
    rig.run()
    rig.until(button.get_subscription_count, "the e-stop subscription")
    button.publish(Bool(data=True))
    rig.in_state(SupervisorState.ESTOP)
    button.publish(Bool(data=False))
    for _ in range(5):
        assert rig.next_state().state == SupervisorState.ESTOP
    assert not rig.ask(topics.ENGAGE).success
    beat = rig.create_timer(0.05, lambda: button.publish(Bool(data=False)))
    end_s = time.monotonic() + TIMEOUT_S
    while rig.states[-1].state == SupervisorState.ESTOP:  # where beats come late, it latches again
        assert time.monotonic() < end_s, rig.ask(topics.RESET_STOP).message
        rig.ask(topics.RESET_STOP)
        rig.next_state()
    assert rig.states[-1].state == SupervisorState.DISENGAGED, "a reset never engages"
    rig.destroy_timer(beat)


def test_a_second_publisher_of_commands_is_refused_and_stops_a_running_arm(contract, start):
    rig, _ = start(contract)
    rig.run()
    other = rig.create_publisher(Float64MultiArray, contract.command_topic, qos.COMMAND)
    rig.in_state(SupervisorState.STOPPED)
    assert rig.states[-1].reason == "FOREIGN_PUBLISHER"
    assert "test_rig" in rig.states[-1].reason_text
    for _ in range(20):
        rig.next_state()
    answer = rig.ask(topics.RESET_STOP)
    assert not answer.success, "the other one still publishes"
    assert "test_rig" in answer.message
    rig.destroy_publisher(other)
    while not rig.ask(topics.RESET_STOP).success:
        rig.next_state()
    rig.engage()


def test_law_one_command_of_a_stranger_stops_the_arm_though_its_publisher_is_gone_before_anybody_looks(
    contract, start, monkeypatch
):
    monkeypatch.setattr("sigma_ros.nodes.supervisor.live.FOREIGN_CHECK_S", 1e6)
    rig, _ = start(contract)
    end_s = time.monotonic() + TIMEOUT_S
    while rig.states[-1].reason != "FOREIGN_PUBLISHER":  # where the machine stalls, the arm stands already
        assert time.monotonic() < end_s, rig.states[-1].reason_text
        rig.run()
        stranger = rig.create_publisher(Float64MultiArray, contract.command_topic, qos.COMMAND)
        rig.until(lambda: stranger.get_subscription_count() > 1, "the arm and the supervisor")  # noqa: B023
        stranger.publish(Float64MultiArray(data=list(POSE + 0.3)))
        rig.until(lambda: rig.states[-1].state not in MOVING, "a stop")
        rig.destroy_publisher(stranger)
    assert rig.states[-1].state == SupervisorState.STOPPED
    assert "test_rig" in rig.states[-1].reason_text


def test_a_second_policy_is_named_at_once_and_nothing_of_it_counts(contract, start):
    rig, _ = start(contract)
    rig.run()
    silent = rig.create_publisher(ActionChunk, topics.ACTION_CHUNK, qos.CHUNK)
    other = rig.create_publisher(ActionChunk, topics.ACTION_CHUNK, qos.CHUNK)
    rig.until(other.get_subscription_count, "the subscription")
    assert not rig.next_state().other_policies, "an endpoint that says nothing is no second policy"
    assert rig.states[-1].followed_policy == AUTHOR.instance
    first, refused = rig.chunks, rig.states[-1].refused_chunks
    rig.chunks, sent_s = other, time.monotonic()
    rig.propose(base_rad=np.tile(POSE + 0.3, (50, 1)), chunk_id=10_000)
    rig.until(lambda: rig.states[-1].other_policies, "the other one's name")
    assert time.monotonic() - sent_s < 0.3
    assert "test_rig" in rig.states[-1].other_policies[0]
    assert rig.states[-1].refused_chunks == refused + 1
    rig.chunks = first
    rig.propose()
    rig.next_state()
    np.testing.assert_allclose(rig.commands[-1].data, POSE, atol=0.02)
    rig.destroy_publisher(silent)


def test_a_second_heartbeat_never_masks_the_death_of_the_policy_that_is_followed(contract, start):
    rig, _ = start(contract)
    rig.run()
    other = rig.create_publisher(Bool, topics.POLICY_HEARTBEAT, qos.HEARTBEAT)
    rig.create_timer(0.02, lambda: other.publish(Bool(data=True)))
    rig.until(lambda: rig.states[-1].other_policies, "the other one's name")
    rig.alive = False
    rig.in_state(SupervisorState.HOLD)
    assert rig.states[-1].reason == "HEARTBEAT_LOST"
    rig.in_state(SupervisorState.DISENGAGED)
    assert rig.states[-1].reason == "AUTHORITY_AGED"


def test_a_policy_that_was_started_again_needs_another_engage(contract, start):
    rig, _ = start(contract)
    rig.run()
    rig.author = Author(robot=contract.name, instance="another")
    while not rig.states[-1].other_policies or rig.states[-1].state == SupervisorState.RUN:
        rig.propose()
        rig.next_state()
    assert rig.states[-1].state in (SupervisorState.HOLD, SupervisorState.STOPPED)
    assert rig.ask(topics.RELEASE).success
    rig.run()
    assert rig.states[-1].followed_policy == "another"


def test_a_chunk_for_another_robot_is_refused(contract, start):
    rig, _ = start(contract)
    rig.run()
    refused = rig.states[-1].refused_chunks
    rig.author = Author(robot="another_arm", instance=AUTHOR.instance)
    rig.propose(base_rad=np.tile(POSE + 0.3, (50, 1)))
    rig.until(lambda: rig.states[-1].refused_chunks > refused, "the refusal")
    assert not rig.states[-1].chunk_accepted


def test_one_station_of_the_emergency_stop_never_clears_another(contract, start):
    rig, _ = start(contract)
    pressed, calm = (rig.create_publisher(Bool, topics.E_STOP, qos.EVENT) for _ in range(2))
    rig.until(lambda: pressed.get_subscription_count() and calm.get_subscription_count(), "the subscriptions")
    rig.create_timer(0.02, lambda: calm.publish(Bool(data=False)))
    pressed.publish(Bool(data=True))
    rig.in_state(SupervisorState.ESTOP)
    for _ in range(20):
        rig.next_state()
    answer = rig.ask(topics.RESET_STOP)
    assert not answer.success
    assert "pressed" in answer.message


def test_with_pairing_only_the_token_leads_to_motion_and_anybody_may_stop(contract, start, capsys):
    rig, supervisor = start(contract, pairing=True)
    token = capsys.readouterr().err.split()[-1]
    assert "engage_paired" in rig.ask(topics.ENGAGE).message

    def paired(given: str) -> Paired.Response:
        return call(rig.executor_, rig, topics.ENGAGE_PAIRED, Paired.Request(token=given), Paired)

    end_s = time.monotonic() + 10.0
    while not (answer := paired(token)).success:
        assert time.monotonic() < end_s, answer.message
    assert rig.ask(topics.RELEASE).success
    assert rig.ask(topics.ESTOP_SERVICE).success
    assert "wrong token" in paired("guessed").message
    assert not rig.ask(topics.RESET_STOP).success
    assert supervisor.drive.state == "ESTOP"


def test_an_enabling_device_that_is_let_go_holds_the_arm(contract, start):
    rig, _ = start(contract, require_enabling=True, enabling_timeout_s=0.2)
    device, is_held = rig.create_publisher(Bool, topics.ENABLE, qos.EVENT), [True]
    rig.create_timer(0.01, lambda: device.publish(Bool(data=is_held[0])))
    rig.run()
    is_held[0] = False
    rig.until(lambda: "enabling device" in rig.states[-1].reason_text, "the reason")
    assert rig.states[-1].state != SupervisorState.RUN


def test_a_malformed_chunk_is_counted_and_harmless(contract, start):
    rig, supervisor = start(contract)
    rig.run()
    rig.chunks.publish(ActionChunk(horizon=3, joint_names=["a"]))
    rig.until(lambda: supervisor.drive._health._malformed, "the malformed chunk")
    assert rig.next_state().state == SupervisorState.RUN


def test_the_ceiling_acts_at_run_time(contract, start):
    rig, _ = start(contract)
    rig.run()
    assert rig.set(scale_ceiling=0.0) == (True, "")
    rig.propose()
    rig.until(lambda: rig.states[-1].applied_scale == 0.0, "scale 0")
    assert rig.states[-1].scale_ceiling == 0.0


def test_settings_that_do_not_fit_together_stop_the_start(contract, start):
    with pytest.raises(Exception, match="joint_hold_s"):
        start(contract, joint_hold_s=1.0, joint_stop_s=0.5)


def test_a_trajectory_contract_gets_pieces_that_end_at_rest(contract, start):
    rig, _ = start(replace(contract, command_type="trajectory_msgs/msg/JointTrajectory"))
    rig.run()
    rig.until(lambda: len(rig.commands) > 5, "pieces")
    for piece in rig.commands:
        assert list(piece.points[-1].velocities) == [0.0] * 6
        times = [p.time_from_start.nanosec for p in piece.points]
        assert times == sorted(times)
        assert times[0] == 20_000_000


def test_a_joint_state_contract_gets_commands_by_name(contract, start):
    rig, _ = start(replace(contract, command_type="sensor_msgs/msg/JointState"))
    rig.run()
    rig.until(lambda: len(rig.commands) > 5, "commands")
    last = rig.commands[-1]
    assert tuple(last.name) == contract.joint_names
    np.testing.assert_allclose(last.position, rig.measured, atol=0.02)
    assert stamp_ns(last.header.stamp) > 0


def test_a_lockstep_supervisor_cannot_reach_the_robot(contract, start, executor, monkeypatch):
    monkeypatch.setattr("sigma_ros.nodes.supervisor_node.load_contract", lambda _name: contract)
    supervisor = SupervisorNode([Parameter("lockstep", value=True)])
    executor.add_node(supervisor)
    published = dict(supervisor.get_publisher_names_and_types_by_node(topics.SUPERVISOR_NODE, "/"))
    assert contract.command_topic not in published
    assert f"/{topics.REPLAY_COMMANDS}" in published


def test_with_real_time_scheduling_the_middlewares_threads_come_before_other_programs() -> None:
    """They hold locks that the tick waits for. In a process of its own, for scheduling is not given back."""
    program = """
import os, threading
from sigma_ros.nodes.supervisor_node import take_priority
stay = threading.Event()
other = threading.Thread(target=stay.wait)
other.start()
said = take_priority(5)
print(said, "|", *(os.sched_getparam(thread).sched_priority for thread in (0, other.native_id)))
stay.set()
"""
    told = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout
    if "SCHED_FIFO" not in told:
        pytest.skip("real-time scheduling is not permitted here")
    assert told.rpartition("|")[2].split() == ["5", "4"]


@pytest.mark.parametrize(
    ("busy_ms", "left_ms", "sleeps_ms"),
    [(1, 19, 0), (10, 19, 0), (11, 19, 8), (20, 19, 8), (20, 6, 3), (20, 0, 0), (40, -20, 0)],
)
def test_a_flood_leaves_other_programs_room_and_the_next_tick_its_time(
    busy_ms: int, left_ms: int, sleeps_ms: int
) -> None:
    ms = 1_000_000
    assert pause_ns(busy_ms * ms, left_ms * ms, 20 * ms) == sleeps_ms * ms
