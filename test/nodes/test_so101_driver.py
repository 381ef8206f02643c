# SPDX-License-Identifier: Apache-2.0
"""The SO-101 on its bus, with LeRobot's own classes against a simulated bus: it holds, follows, and never lets go."""

import json
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from feetech_bus import CURRENT, GOAL, LOAD, PRESENT, TEMPERATURE, TORQUE, TORQUE_LIMIT, FeetechBus, Servo
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from node_fakes import spin_until
from rclpy.node import Node
from rclpy.parameter import Parameter
from sensor_msgs.msg import JointState
from std_msgs.msg import Float64MultiArray

from sigma_ros.contract_file import load_contract
from sigma_ros.errors import SigmaError, UsageError
from sigma_ros.nodes.driver.arm import FollowerArm
from sigma_ros.nodes.driver.last_line import LastLine, torque_for_tip_force
from sigma_ros.nodes.shared import qos
from sigma_ros.nodes.shared.sensor_messages import array_message
from sigma_ros.nodes.so101_driver import So101Driver

pytestmark = pytest.mark.ros
for _name in ("scservo_sdk", "serial", "deepdiff"):
    pytest.importorskip(_name, reason="the bus needs sigma_ros[arm]")
CONTRACT = load_contract("so101")
LOW, HIGH = 1000, 3000
STARTS = (2048, 1500, 2500, 2100, 2048, 2200)


@pytest.fixture
def bus(monkeypatch):
    made = FeetechBus({i + 1: Servo(position=p, low=LOW, high=HIGH, homing=7) for i, p in enumerate(STARTS)})
    made.keep_time(monkeypatch)
    yield made
    made.close()


@pytest.fixture
def calibration(tmp_path: Path) -> Path:
    entry = {"drive_mode": 0, "homing_offset": 7, "range_min": LOW, "range_max": HIGH}
    file = tmp_path / "my_arm.json"
    file.write_text(json.dumps({name: {"id": i + 1, **entry} for i, name in enumerate(CONTRACT.joint_names)}))
    return file


def rad(counts) -> np.ndarray:
    return (np.array(counts) - 2048) * 2.0 * np.pi / 4096


@pytest.fixture
def arm(bus, calibration):
    arm = FollowerArm(bus.port, calibration, CONTRACT, zero="encoder")
    arm.connect()
    yield arm
    arm.close()


def torque(bus: FeetechBus) -> list[int]:
    return [servo.registers[TORQUE] for servo in bus.servos.values()]


def test_the_torque_comes_on_at_the_pose_the_arm_has(arm, bus) -> None:
    assert torque(bus) == [1] * 6
    assert [servo.get(GOAL) for servo in bus.servos.values()] == list(STARTS)
    first_torque = next(i for i, (address, _, value) in enumerate(bus.writes) if (address, value) == (TORQUE, 1))
    assert {address for address, _, _ in bus.writes[:first_torque]} >= {GOAL}
    np.testing.assert_allclose(arm.read_rad(), rad(STARTS))


def test_a_goal_comes_back_to_the_count(arm, bus) -> None:
    for counts in ([1001, 1502, 2503, 2104, 2055, 1206], [2999, 1000, 3000, 1777, 2048, 2222]):
        arm.write_rad(rad(counts))
        arm.read_rad()  # the bus works in order, and a write has no answer of its own
        assert [servo.get(GOAL) for servo in bus.servos.values()] == counts


def test_a_goal_outside_the_calibrated_range_is_brought_to_its_end(arm, bus) -> None:
    arm.write_rad(np.full(6, 5.0))
    arm.read_rad()
    assert [servo.get(GOAL) for servo in bus.servos.values()] == [HIGH] * 6


def test_closing_and_connecting_again_never_touch_torque_or_goal(arm, bus, calibration) -> None:
    arm.write_rad(rad([2100] * 6))
    arm.read_rad()
    bus.writes.clear()
    arm.close()
    again = FollowerArm(bus.port, calibration, CONTRACT, zero="encoder")
    again.connect()
    assert torque(bus) == [1] * 6
    assert not [entry for entry in bus.writes if entry[0] in (TORQUE, GOAL)]
    again.close()


def test_servos_with_another_calibration_are_refused(bus, calibration) -> None:
    bus.servos[3].put(11, 2900)
    with pytest.raises(SigmaError, match="another calibration"):
        FollowerArm(bus.port, calibration, CONTRACT, zero="encoder").connect()
    assert torque(bus) == [0] * 6


def test_a_port_that_is_not_there_is_named(calibration) -> None:
    with pytest.raises(SigmaError, match="no_such_port"):
        FollowerArm("/dev/no_such_port", calibration, CONTRACT, zero="encoder").connect()


class Operator(Node):
    """The supervisor's side of the topics."""

    def __init__(self) -> None:
        super().__init__("test_operator")
        self.poses: list[np.ndarray] = []
        self.commands = self.create_publisher(Float64MultiArray, CONTRACT.command_topic, qos.COMMAND)
        self.create_subscription(JointState, CONTRACT.joint_state_topic, self._on_joints, qos.SENSOR)

    def _on_joints(self, message: JointState) -> None:
        assert tuple(message.name) == CONTRACT.joint_names
        self.poses.append(np.array(message.position))


@pytest.fixture
def rig(bus, calibration, executor):
    driver = So101Driver([Parameter("port", value=bus.port), Parameter("calibration", value=str(calibration))])
    operator = Operator()
    executor.add_node(driver)
    executor.add_node(operator)
    spin_until(executor, lambda: len(operator.poses) > 2, what="joint states")
    spin_until(executor, operator.commands.get_subscription_count, what="the driver to listen")
    return driver, operator


def command(operator: Operator, values: np.ndarray, executor, done: Callable[[], object], what: str) -> None:
    """Commands again and again, as the supervisor does: one message alone may come before the two have met."""

    def asked() -> object:
        operator.commands.publish(array_message(values))
        return done()

    spin_until(executor, asked, what=what)


def refused_since(driver: So101Driver, before: int) -> bool:
    return driver._refused > before


def test_the_driver_follows_commands_and_holds_when_they_stop(rig, bus, executor) -> None:
    _, operator = rig
    np.testing.assert_allclose(operator.poses[-1], rad(STARTS), atol=1e-9)
    target = rad(STARTS) + 0.1
    command(operator, target, executor, lambda: np.abs(operator.poses[-1] - target).max() < 0.002, "the arm to follow")
    seen = len(operator.poses)
    spin_until(executor, lambda: len(operator.poses) > seen + 10, what="silence")
    assert np.abs(operator.poses[-1] - target).max() < 0.002
    assert torque(bus) == [1] * 6


def test_a_first_command_far_from_the_arm_is_refused(rig, bus, executor) -> None:
    driver, operator = rig
    command(operator, rad(STARTS) + 0.5, executor, lambda: driver._refused, "a refusal")
    assert [servo.get(GOAL) for servo in bus.servos.values()] == list(STARTS)
    assert "rad from where" in driver._why


def test_commands_that_are_not_finite_or_too_short_are_refused(rig, executor) -> None:
    driver, operator = rig
    for values in (np.full(6, np.nan), np.zeros(5)):
        before = driver._refused
        command(operator, values, executor, partial(refused_since, driver, before), "a refusal")
    assert driver._goal is None


def test_a_lost_bus_stops_the_joint_states_and_its_return_needs_a_command_near_the_arm(rig, bus, executor) -> None:
    driver, operator = rig
    command(operator, rad(STARTS), executor, lambda: driver._followed, "the driver to follow")
    bus.silent = True
    spin_until(executor, lambda: driver._losses, what="the loss to be noticed")
    assert "lost" in driver._bus().text
    seen = len(operator.poses)
    executor.spin_once(timeout_sec=0.1)
    assert len(operator.poses) <= seen + 1
    bus.silent = False
    for servo in bus.servos.values():
        servo.put(PRESENT, servo.get(PRESENT) - 200)
        servo.registers[TORQUE] = 0
    spin_until(executor, lambda: driver._connected, what="the bus to come back")
    assert not driver._followed
    assert torque(bus) == [1] * 6
    assert [servo.get(GOAL) for servo in bus.servos.values()] == [position - 200 for position in STARTS]


def test_without_a_calibration_file_the_driver_does_not_start(executor) -> None:
    with pytest.raises(UsageError, match="calibration must be given"):
        So101Driver()


# The last line


anything = st.floats(allow_nan=True, allow_infinity=True)


@given(st.lists(st.tuples(arrays(np.float64, 6, elements=anything | st.floats(-4.0, 4.0)), st.floats(0.0, 1.0))))
def test_noise_in_the_supervisors_place_never_leaves_position_and_speed(noise) -> None:
    start, now_s = rad(STARTS), 10.0
    line, before = LastLine(CONTRACT, start_rad=start, now_s=now_s), rad(STARTS)
    lower, upper = np.minimum(CONTRACT.lower_rad, start), np.maximum(CONTRACT.upper_rad, start)
    for wanted, passed_s in noise:
        now_s += passed_s
        goal = line.grant(wanted, now_s)
        assert ((goal >= lower) & (goal <= upper)).all()
        assert (np.abs(goal - before) <= 1.25 * CONTRACT.max_velocity_radps * min(passed_s, 0.1) + 1e-12).all()
        before = goal


def test_the_last_line_lets_the_supervisors_own_speed_pass() -> None:
    line = LastLine(CONTRACT, start_rad=np.zeros(6), now_s=0.0)
    goal: np.ndarray = np.zeros(6)
    for tick in range(1, 30):
        goal = goal + 0.02 * CONTRACT.max_velocity_radps
        np.testing.assert_array_equal(line.grant(goal, 0.02 * tick), goal)
    assert line.bounded == 0


def test_noise_on_the_command_topic_moves_the_servos_no_faster_than_the_contract(rig, bus, executor) -> None:
    driver, operator = rig
    command(operator, rad(STARTS), executor, lambda: driver._followed, "the driver to follow")
    bus.writes.clear()
    rng = np.random.default_rng(0)

    def written() -> list[int]:
        operator.commands.publish(array_message(rng.uniform(-1.0, 1.0, 6)))
        return [value for address, id_, value in bus.writes if (address, id_) == (GOAL, 1)]

    spin_until(executor, lambda: len(written()) > 20, what="twenty goals")
    goals = np.array(written())
    farthest = 0.1 * 1.25 * CONTRACT.max_velocity_radps[0] * 4096 / (2.0 * np.pi) + 1
    assert np.abs(np.diff(goals)).max() <= farthest
    assert driver._last_line.bounded > 0


def test_a_second_publisher_of_commands_is_not_followed(rig, executor) -> None:
    driver, operator = rig
    command(operator, rad(STARTS), executor, lambda: driver._followed, "the driver to follow")
    second = Operator.__new__(Operator)
    Node.__init__(second, "second_operator")
    second.commands = second.create_publisher(Float64MultiArray, CONTRACT.command_topic, qos.COMMAND)
    executor.add_node(second)
    before = driver._refused
    command(second, rad(STARTS) + 0.1, executor, partial(refused_since, driver, before), "a refusal")
    assert "second_operator" in driver._why
    np.testing.assert_allclose(driver._goal.at(0.0), rad(STARTS))
    second.destroy_node()


def test_torque_limits_are_set_and_read_back_at_each_connection(bus, calibration) -> None:
    arm = FollowerArm(bus.port, calibration, CONTRACT, zero="encoder", torque_limit=0.6, gripper_torque_limit=0.3)
    for _ in range(2):
        for servo in bus.servos.values():
            servo.put(TORQUE_LIMIT, 1000)
        arm.connect()
        assert [servo.get(TORQUE_LIMIT) for servo in bus.servos.values()] == [600] * 5 + [300]
        arm.close()


def test_what_bounds_the_force_at_the_tool_is_set_and_read_back_too(bus, calibration) -> None:
    limits = torque_for_tip_force(CONTRACT, 50.0)
    arm = FollowerArm(bus.port, calibration, CONTRACT, zero="encoder", most_torque=limits)
    arm.connect()
    read_back = [servo.get(TORQUE_LIMIT) for servo in bus.servos.values()]
    assert read_back == [int(1000 * min(1.0, limits[name])) for name in CONTRACT.joint_names[:5]] + [500]
    arm.close()


def test_a_servo_that_does_not_take_its_torque_limit_is_named(bus, calibration) -> None:
    bus.servos[4].fixed = frozenset({TORQUE_LIMIT})
    bus.servos[4].put(TORQUE_LIMIT, 1000)
    with pytest.raises(SigmaError, match=CONTRACT.joint_names[3]):
        FollowerArm(bus.port, calibration, CONTRACT, zero="encoder", torque_limit=0.6).connect()


def test_load_current_and_temperature_are_told(rig, bus, executor) -> None:
    driver, _ = rig
    bus.servos[2].put(LOAD, 950)
    bus.servos[2].put(CURRENT, 100)
    driver._health_s = 0.0
    spin_until(executor, lambda: driver._servos.load[1] > 0.9, what="the load to be read")
    assert CONTRACT.joint_names[1] in driver._servo_status().text
    assert driver._servos.current_a[1] == pytest.approx(0.65)
    bus.servos[3].registers[TEMPERATURE] = 71
    driver._health_s = 0.0
    spin_until(executor, lambda: driver._servos.temperature_c[2] == 71.0, what="the temperature to be read")
    assert "71" in driver._servo_status().text
