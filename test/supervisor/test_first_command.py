# SPDX-License-Identifier: Apache-2.0
"""The first command after engage is where the joint states say the arm is; from there motion keeps every limit."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy import ndarray
from supervision import CONTRACT, MIDDLE, MS, QUICK_LAW, Bench, excess

from sigma_ros.supervisor.inputs import ENCODER_COUNT_RAD
from sigma_ros.supervisor.limits import SupervisorLimits
from sigma_ros.supervisor.reasons import Reason, State

MOTION = SupervisorLimits().motion(CONTRACT)


def first_command(bench: Bench) -> ndarray:
    before = len(bench.commands)
    bench.tick()
    command: ndarray = bench.commands[before]
    return command


def moved_by_hand(limits: SupervisorLimits, shift: list[float]) -> Bench:
    """Ran, was released, and its arm was moved by hand since."""
    bench = Bench(limits).running()
    bench.supervisor.release()
    bench.tick(15)
    bench.pose = bench.pose + np.array(shift)
    bench.tick(15)
    return bench


@QUICK_LAW
@given(st.lists(st.floats(-0.5, 0.5), min_size=6, max_size=6), st.sampled_from([0.0, 0.05, 0.5]))
def test_it_is_within_an_encoder_count_of_the_measured_pose_wherever_a_hand_moved_the_arm(
    shift: list[float], tolerance: float
) -> None:
    bench = moved_by_hand(SupervisorLimits(start_tolerance_rad=tolerance), shift)
    measured = np.array(bench.pose)
    if bench.engage().success:
        assert np.abs(first_command(bench) - measured).max() <= ENCODER_COUNT_RAD
    else:
        inside = np.clip(measured, MOTION.lower_rad, MOTION.upper_rad)
        assert np.abs(measured - inside).max() > tolerance


@QUICK_LAW
@given(st.floats(0.002, 0.049), st.booleans(), st.integers(0, 60))
def test_from_just_outside_its_limits_the_arm_is_led_inside_at_ramp_speed_and_only_then_follows(
    outside: float, upper: bool, fault_tick: int
) -> None:
    pose = np.array(MIDDLE)
    pose[0] = MOTION.upper_rad[0] + outside if upper else MOTION.lower_rad[0] - outside
    bench = Bench(SupervisorLimits(), pose=pose)
    bench.tick(3)
    assert bench.engage().success
    for tick in range(120):
        bench.heartbeat = not fault_tick <= tick < fault_tick + 8
        bench.offer()
        bench.tick()
    commands = bench.commands
    assert np.abs(commands[0] - pose).max() <= ENCODER_COUNT_RAD
    beyond = np.maximum(commands - MOTION.upper_rad, MOTION.lower_rad - commands).max(axis=1)
    assert (np.diff(np.maximum(beyond, 0.0)) <= 1e-9).all(), "never further outside"
    assert beyond[-1] <= 1e-9
    wide = replace(MOTION, lower_rad=np.minimum(MOTION.lower_rad, pose), upper_rad=np.maximum(MOTION.upper_rad, pose))
    assert excess(commands, wide) < 1e-6
    assert np.abs(np.diff(commands, axis=0)).max() / 0.02 <= 0.25 + 1e-6
    led = np.array([d.command_rad for d in bench.decisions if d.state in (State.RUN, State.BASE_ONLY)])
    assert led.size
    assert np.maximum(led - MOTION.upper_rad, MOTION.lower_rad - led).max() <= 1e-9
    assert bench.last.counters.violations == 0


@pytest.mark.parametrize("fault", ["heartbeat", "joints"])
def test_a_fault_stops_an_arm_on_its_way_inside(fault: str) -> None:
    pose = np.array(MIDDLE)
    pose[0] = MOTION.upper_rad[0] + 0.045
    bench = Bench(SupervisorLimits(), pose=pose)
    bench.tick(3)
    assert bench.engage().success
    for _ in range(12):
        bench.offer()
        bench.tick()
    assert MOTION.upper_rad[0] < bench.commands[-1, 0] < pose[0], "under way"
    setattr(bench, fault, False)
    bench.tick(25)
    rest = bench.commands[-10:, 0]
    assert (rest == rest[0]).all()
    assert rest[0] > MOTION.upper_rad[0]


def test_a_folded_arm_whose_way_inside_is_barred_sets_off_from_where_it_came_to_stand() -> None:
    """It stood to the end of that way, its limits became narrower than where it was, and that was a violation."""
    folded = np.array([0.05, -1.72, 1.55, 1.06, 0.09, 0.12])
    lift = replace(CONTRACT.joints[1], lower_rad=-1.45)
    contract = replace(CONTRACT, joints=(CONTRACT.joints[0], lift, *CONTRACT.joints[2:]))
    bench = Bench(SupervisorLimits(start_tolerance_rad=0.5, avoid_collisions=True), contract=contract, pose=folded)
    bench.tick(3)
    assert bench.engage().success
    unfolding = np.minimum(np.arange(250)[:, None] / 30.0, 2.0) * np.array([0.0, 0.3, -0.3, 0.0, 0.0, 0.0])
    for tick in range(160):
        since = max(0, tick - 100) * 30 // 50
        bench.offer(folded + unfolding[since : since + 50])
        bench.tick()
    assert folded[1] < bench.commands[99, 1] < -1.5, "its upper arm was raised until its wrist would meet its shoulder"
    assert bench.last.counters.violations == 0
    assert bench.last.state is State.RUN, bench.last.reason_text
    assert bench.commands[:, 1].min() >= folded[1] - 1e-9, "never further outside"
    assert bench.commands[-1, 1] > lift.lower_rad


def test_one_wrong_joint_state_does_not_say_where_the_arm_is() -> None:
    bench = Bench(SupervisorLimits())
    bench.tick(5)
    bench.supervisor.estop()
    bench.tick(3)
    assert bench.supervisor.reset_stop(bench.now_ns).success
    lie = np.array(bench.pose)
    lie[0] += 0.7
    bench.supervisor.on_joints(bench.stamp_ns + MS, lie, bench.now_ns)
    assert bench.supervisor.engage(bench.now_ns).reason is Reason.JOINTS_MISSING
    bench.tick(10)
    assert bench.engage().success
    assert np.abs(first_command(bench) - MIDDLE).max() <= ENCODER_COUNT_RAD


def test_an_arm_in_motion_is_not_taken_over_and_one_that_trembles_by_a_count_is() -> None:
    bench = Bench(SupervisorLimits())
    for _ in range(5):
        bench.pose = bench.pose + 0.01
        bench.tick()
    answer = bench.supervisor.engage(bench.now_ns)
    assert answer.reason is Reason.JOINTS_MOVING
    assert bench.tick().command_rad is None
    rest = np.array(bench.pose)
    for number in range(10):
        bench.pose = rest + (number % 2) * ENCODER_COUNT_RAD
        bench.tick()
    assert bench.supervisor.engage(bench.now_ns).success
    assert np.abs(first_command(bench) - rest).max() <= ENCODER_COUNT_RAD


@pytest.mark.parametrize("count", [0, 1, 2])
def test_too_few_joint_states_are_refused(count: int) -> None:
    bench = Bench(SupervisorLimits(), joints=False)
    bench.tick(2)
    for number in range(count):
        bench.supervisor.on_joints(bench.stamp_ns + number, MIDDLE, bench.now_ns)
    assert bench.supervisor.engage(bench.now_ns).reason is Reason.JOINTS_MISSING
