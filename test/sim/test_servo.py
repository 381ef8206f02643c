# SPDX-License-Identifier: Apache-2.0
import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sigma_ros.sim.demonstration import demonstrate
from sigma_ros.sim.environment import ServoGoals, SimArm, encoder_reading
from sigma_ros.sim.setups import SOURCE, TARGET, SceneConfig, ServoConfig

TICK_S = 1 / 30
STRETCHED = np.array([0.0, 0.2, 0.0, 0.0, 0.0, 0.2])


def settled(setup: SceneConfig, pose: np.ndarray) -> np.ndarray:
    arm = SimArm(setup)
    for _ in range(150):
        arm.step(pose + np.array(setup.joint_offset_rad), TICK_S)
    return arm.positions_rad() - arm.command_rad


@pytest.mark.parametrize("setup", [SOURCE, TARGET], ids=lambda s: s.name)
@pytest.mark.parametrize("joint", [0, 3, 4])
def test_a_moving_reading_lags_its_command_by_the_configured_time(setup: SceneConfig, joint: int) -> None:
    arm = SimArm(setup)
    speed_radps, step_s = 0.6, 1 / 600
    command = np.array([-0.6, -1.2, 1.0, -0.6, -0.6, 0.2])
    arm.step(command, 3.0)
    still = command[joint] - arm.positions_rad()[joint]
    behind = []
    for step in range(1200):
        command[joint] += speed_radps * step_s
        arm.step(command, step_s)
        if step > 600:
            behind.append(command[joint] - arm.positions_rad()[joint])
    lag_s = (np.mean(behind) - still) / speed_radps
    assert lag_s == pytest.approx(setup.servo.lag_s, abs=0.01)  # friction and gravity change a little on the way


def test_recorded_states_lag_recorded_actions_by_three_frames_as_real_ones_do() -> None:
    with SimArm(SOURCE) as arm:
        episode = demonstrate(arm, 0)
    action, state = episode.commands_rad[:, :5], episode.positions_rad[:, :5]
    errors = [np.abs(action[: len(action) - lag] - state[lag:]).mean() for lag in range(8)]
    assert np.argmin(errors) == 3


def test_gravity_pulls_a_stretched_arm_down_as_far_as_real_servos_let_it() -> None:
    error = settled(SOURCE, STRETCHED)
    assert 0.5 < math.degrees(error[1]) < 4.3  # positive shoulder_lift is forwards and down
    assert abs(math.degrees(error[0])) < 0.3


def test_a_softer_servo_sags_more() -> None:
    soft = replace(SOURCE, servo=ServoConfig(stiffness_nm_per_rad=15.0))
    assert settled(soft, STRETCHED)[1] > 1.7 * settled(SOURCE, STRETCHED)[1]


def test_a_wrong_calibration_shows_as_a_true_angle_that_differs_from_the_reading() -> None:
    offset = (0.05, 0.0, 0.0, 0.0, -0.08, 0.0)
    arm = SimArm(replace(SOURCE, joint_offset_rad=offset))
    command = np.array([0.3, -1.5, 1.4, 1.0, 0.2, 0.1])
    for _ in range(90):
        arm.step(command, TICK_S)
    assert arm.positions_rad() == pytest.approx(command, abs=0.02)
    assert arm.snapshot()[:6] + np.array(offset) == pytest.approx(arm.positions_rad(), abs=0.001)


@settings(deadline=None)
@given(st.floats(-math.pi, math.pi), st.sampled_from([64, 1024, 4096]))
def test_readings_are_whole_counts_within_half_a_count(angle_rad: float, counts: int) -> None:
    reading = encoder_reading(np.array([angle_rad]), counts)[0]
    count_rad = 2 * math.pi / counts
    assert reading / count_rad == pytest.approx(round(reading / count_rad), abs=1e-9)
    assert abs(reading - angle_rad) <= count_rad / 2 + 1e-12


@settings(deadline=None)
@given(st.lists(st.floats(-3.0, 3.0), min_size=1, max_size=40))
def test_goals_never_outrun_the_servos_speed(commands_rad: list[float]) -> None:
    servo, step_s = ServoConfig(bus_delay_s=0.0), 0.01
    goals = ServoGoals(servo, np.zeros(1), step_s)
    track = [np.zeros(1)] + [goals.advance(np.array([command])) for command in commands_rad]
    assert np.abs(np.diff(np.array(track), axis=0)).max() <= servo.max_speed_radps * step_s + 1e-12


def test_a_command_reaches_the_servo_after_the_bus_delay() -> None:
    goals = ServoGoals(ServoConfig(bus_delay_s=0.03, max_speed_radps=1e6), np.zeros(1), 0.01)
    assert [goals.advance(np.ones(1))[0] for _ in range(5)] == [0.0, 0.0, 0.0, 1.0, 1.0]
