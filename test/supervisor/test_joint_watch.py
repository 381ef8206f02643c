# SPDX-License-Identifier: Apache-2.0
"""Joint states as evidence: refusals with reasons, and whether the arm follows."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from supervision import CONTRACT, LAW, MIDDLE, MS

from sigma_ros.supervisor.inputs import ENCODER_COUNT_RAD, JointWatch
from sigma_ros.supervisor.limits import SupervisorLimits
from sigma_ros.supervisor.reasons import Reason

PERIOD = 20 * MS


def watch(**changes: Any) -> JointWatch:
    built = JointWatch(CONTRACT, SupervisorLimits(**changes))
    assert built.push(1000 * MS, MIDDLE, 0).accepted
    return built


@pytest.mark.parametrize(
    ("positions", "reason"),
    [
        (np.zeros(5), Reason.JOINTS_SHAPE),
        (np.zeros(7), Reason.JOINTS_SHAPE),
        (np.zeros((1, 6)), Reason.JOINTS_SHAPE),
        (np.zeros(0), Reason.JOINTS_SHAPE),
        ("six", Reason.JOINTS_SHAPE),
        (None, Reason.JOINTS_SHAPE),
        ([None] * 6, Reason.JOINTS_NOT_FINITE),
        (np.full(6, np.nan), Reason.JOINTS_NOT_FINITE),
        (np.array([0, 0, 0, 0, 0, np.inf]), Reason.JOINTS_NOT_FINITE),
        (np.array([0, -45.0, 0, 0, 0, 0]), Reason.JOINTS_UNITS),
        (np.array([0, 0, 0, 90.0, 0, 0]), Reason.JOINTS_UNITS),
    ],
)
def test_what_is_not_six_finite_positions_is_refused(positions: Any, reason: Reason) -> None:
    observed = watch()
    before = observed.sample
    assert observed.push(1020 * MS, positions, PERIOD).reason is reason
    assert observed.sample is before
    assert observed.refusals == 1


@pytest.mark.parametrize(("counts", "rests"), [(0.0, True), (2.9, True), (3.1, False), (3.9, False)])
def test_an_arm_rests_whose_newest_readings_agree_within_three_encoder_counts(counts: float, rests: bool) -> None:
    observed = watch()
    away = np.zeros(6)
    away[2] = counts * ENCODER_COUNT_RAD
    for number in (1, 2):
        assert observed.push(1000 * MS + number * PERIOD, MIDDLE + away * (number == 2), number * PERIOD).accepted
    pose = observed.resting_pose()
    assert isinstance(pose, np.ndarray) == rests


@pytest.mark.parametrize("stamp", [1000 * MS, 999 * MS, -5, 1 << 63, 1.5, "now", None])
def test_a_stamp_that_is_not_newer_is_refused(stamp: Any) -> None:
    assert watch().push(stamp, MIDDLE, PERIOD).reason is Reason.JOINTS_STAMP


@pytest.mark.parametrize(
    ("jump", "elapsed_ms", "accepted"),
    [(0.19, 20, True), (0.21, 20, False), (6.28, 100, False), (0.09, 1, True), (0.9, 100, True)],
)
def test_a_joint_that_moves_faster_than_it_can_is_implausible(jump: float, elapsed_ms: int, accepted: bool) -> None:
    positions = np.array(MIDDLE)
    positions[4] += jump
    verdict = watch().push((1000 + elapsed_ms) * MS, positions, PERIOD)
    assert verdict.accepted is accepted
    if not accepted:
        assert verdict.reason is Reason.JOINTS_IMPLAUSIBLE
        assert "wrist_roll" in verdict.text


@LAW
@given(arrays(np.float64, st.integers(0, 8), elements=st.floats(allow_nan=True, allow_infinity=True)), st.integers())
def test_no_numbers_make_the_watch_raise_or_keep_nonsense(positions: np.ndarray, stamp: int) -> None:
    observed = watch()
    with np.errstate(all="ignore"):
        observed.push(stamp, positions, PERIOD)
    assert observed.sample is not None
    assert np.isfinite(observed.sample.positions_rad).all()


def test_ages_count_from_arrival() -> None:
    observed = watch()
    assert observed.age_ns(70 * MS) == 70 * MS
    observed.forget()
    assert observed.age_ns(70 * MS) is None
    assert observed.push(1, MIDDLE, 80 * MS).accepted, "after forgetting, any stamp begins anew"


def test_the_hold_limit_is_the_contracts_unless_set() -> None:
    assert watch().hold_ns == CONTRACT.joint_state_max_age_ns
    assert watch(joint_hold_s=0.3).hold_ns == 300 * MS


def follow(observed: JointWatch, commands: np.ndarray, measured: np.ndarray) -> list[Reason]:
    reasons = []
    for index, (command, position) in enumerate(zip(commands, measured, strict=True)):
        now = (index + 1) * PERIOD
        assert observed.push(1000 * MS + now, position, now).accepted
        reasons.append(observed.tracking(command, now).reason)
    return reasons


def lag(commands: np.ndarray, ticks: int) -> np.ndarray:
    return np.concatenate([np.repeat(commands[:1], ticks, axis=0), commands[:-ticks]])


def sway(ticks: int = 100) -> np.ndarray:
    return MIDDLE + 0.4 * np.sin(0.06 * np.arange(ticks))[:, None] * np.ones(6)


def test_an_arm_that_follows_late_is_fine() -> None:
    commands = sway()
    assert set(follow(watch(), commands, lag(commands, 6))) == {Reason.OK}


def test_an_arm_that_stays_behind_for_half_a_second_is_not_tracking() -> None:
    commands = np.repeat(MIDDLE[None] + 0.7, 40, axis=0)
    wiggle = MIDDLE + 0.01 * np.sin(np.arange(40))[:, None] * np.ones(6)
    reasons = follow(watch(), commands, wiggle)
    first = reasons.index(Reason.TRACKING)
    assert first * 20 == 500
    assert set(reasons[:first]) == {Reason.OK}


def test_a_tracking_error_that_ends_in_time_is_forgotten() -> None:
    commands = np.repeat(MIDDLE[None], 80, axis=0)
    commands[0:20] += 0.7
    commands[40:60] += 0.7
    wiggle = MIDDLE + 0.01 * np.sin(np.arange(80))[:, None] * np.ones(6)
    assert set(follow(watch(), commands, wiggle)) == {Reason.OK}


def test_joint_states_that_freeze_while_the_arm_is_commanded_to_move_are_noticed() -> None:
    commands = sway()
    reasons = follow(watch(), commands, np.repeat(MIDDLE[None], len(commands), axis=0))
    assert Reason.JOINTS_FROZEN in reasons[:30]


def test_joints_that_hold_things_and_unchecked_arms_are_not_judged() -> None:
    commands = np.repeat(MIDDLE[None], 60, axis=0)
    commands[:, 5] += np.linspace(0.0, 0.8, 60)
    still = np.repeat(MIDDLE[None], 60, axis=0)
    assert set(follow(watch(), commands, still)) == {Reason.OK}
    assert set(follow(watch(check_tracking=False), sway(60), still)) == {Reason.OK}
    assert Reason.JOINTS_FROZEN in follow(watch(untracked_joints=()), commands, still)


def test_calm_forgets_the_evidence() -> None:
    observed = watch()
    commands = np.repeat(MIDDLE[None] + 0.7, 20, axis=0)
    follow(observed, commands, MIDDLE + 0.01 * np.sin(np.arange(20))[:, None] * np.ones(6))
    observed.calm()
    assert observed.tracking(commands[0], 30 * PERIOD).accepted
