# SPDX-License-Identifier: Apache-2.0
import math

import numpy as np
import pytest

from sigma_ros.errors import SigmaError
from sigma_ros.sim.environment import SimArm
from sigma_ros.sim.setups import SOURCE, TARGET, SceneConfig


def trace(arm: SimArm, seed: int) -> np.ndarray:
    arm.reset(seed)
    rng = np.random.default_rng(7)
    states = [arm.snapshot()]
    for _ in range(45):
        arm.step(arm.command_rad + rng.uniform(-0.1, 0.1, 6), 1 / 30)
        states.append(np.concatenate([arm.snapshot(), arm.positions_rad(), arm.velocities_radps()])[: len(states[0])])
    return np.array(states)


def test_the_same_seed_and_commands_give_the_same_episode_bit_for_bit(arm: SimArm) -> None:
    first = trace(arm, 11)
    trace(arm, 12)
    assert np.array_equal(trace(arm, 11), first)
    assert np.array_equal(trace(SimArm(SOURCE), 11), first)


def test_different_seeds_start_differently(arm: SimArm) -> None:
    starts = []
    for seed in range(5):
        arm.reset(seed)
        starts.append(tuple(np.round(arm.snapshot(), 4)))
    assert len(set(starts)) == 5


@pytest.mark.parametrize("setup", [SOURCE, TARGET], ids=lambda s: s.name)
def test_an_episode_starts_at_rest_with_the_brick_flat_on_the_table_outside_the_box(setup: SceneConfig) -> None:
    arm = SimArm(setup)
    for seed in range(30):
        arm.reset(seed)
        before = arm.brick_position_m()
        assert not arm.brick_in_box()
        assert not arm.brick_held()
        assert np.allclose(arm.positions_rad(), arm.command_rad, atol=0.01)
        arm.step(arm.command_rad, 0.5)
        assert np.linalg.norm(arm.brick_position_m() - before) < 0.002
        gap = np.abs(before[:2] - setup.box.centre_m) - np.array(setup.box.size_m[:2]) / 2
        assert gap.max() > setup.brick.size_m[0] / 2


def test_a_brick_let_fall_over_the_box_lies_in_it_and_one_beside_it_does_not(arm: SimArm) -> None:
    arm.reset(0)
    x, y = arm.setup.box.centre_m
    arm.place_brick((x, y, 0.12), yaw_rad=0.4)
    assert not arm.brick_in_box()  # still falling
    arm.step(arm.command_rad, 1.0)
    assert arm.brick_in_box()
    assert arm.brick_position_m()[2] > 0.0
    arm.place_brick((x, y + 0.5 * arm.setup.box.size_m[1] + 0.04, 0.02), yaw_rad=0.0)
    arm.step(arm.command_rad, 1.0)
    assert not arm.brick_in_box()


@pytest.mark.parametrize("rate_hz", [30.0, 50.0, 99.0])
def test_time_does_not_drift_whatever_the_step(arm: SimArm, rate_hz: float) -> None:
    arm.reset(1)
    for _ in range(int(4 * rate_hz)):
        arm.step(arm.command_rad, 1.0 / rate_hz)
    assert abs(arm.time_ns - int(4 * rate_hz) / rate_hz * 1e9) < 2e6


@pytest.mark.parametrize("command", [[math.nan] * 6, [0.0] * 5 + [math.inf], [0.0] * 5])
def test_a_senseless_command_is_refused_and_nothing_moves(arm: SimArm, command: list[float]) -> None:
    arm.reset(2)
    before = arm.snapshot()
    with pytest.raises(SigmaError, match="6 finite joint positions"):
        arm.step(np.array(command), 0.1)
    assert np.array_equal(arm.snapshot(), before)
    assert arm.time_ns == 0


def test_a_command_beyond_the_limits_stops_at_them(arm: SimArm) -> None:
    arm.reset(3)
    for _ in range(60):
        arm.step(np.array([9.0, -1.6, 1.5, 1.1, 9.0, 9.0]), 1 / 30)
    upper = arm.contract.upper_rad
    assert arm.positions_rad()[[0, 4, 5]] == pytest.approx(upper[[0, 4, 5]], abs=0.02)
