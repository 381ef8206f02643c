# SPDX-License-Identifier: Apache-2.0
"""Laws of the guard: limits always, exactness where possible, the goal without ringing where not."""

from collections.abc import Iterator

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy import ndarray
from supervision import LAW, QUICK_LAW, excess, follow, motion_limits

from sigma_ros.supervisor.guard import CLIP_TOLERANCE_RAD, MotionGuard, Request, Track
from sigma_ros.supervisor.stop_plan import StopPlanner

LIMITS = motion_limits(2)
GUARD = MotionGuard(LIMITS)
HALF = MotionGuard(
    motion_limits(
        2,
        lower_rad=np.full(2, -1.3),
        upper_rad=np.full(2, 1.3),
        velocity_radps=np.full(2, 1.8),
        acceleration_radps2=np.full(2, 9.0),
        jerk_radps3=np.full(2, 95.0),
    )
)
anything = st.floats(allow_nan=True, allow_infinity=True, width=64)
goals = arrays(np.float64, st.tuples(st.integers(2, 60), st.just(2)), elements=st.floats(-3.0, 3.0))


def stand(goals: ndarray, every: int = 8) -> ndarray:
    """Each goal stands for some ticks."""
    return np.repeat(goals, every, axis=0)


def drive(guard: MotionGuard, requests: list[Request | None], start: ndarray | None = None) -> ndarray:
    track = guard.rest(np.zeros(2) if start is None else start)
    commands = [track.command_rad]
    for request in requests:
        track = guard.advance(track, request).track
        commands.append(track.command_rad)
    return np.array(commands)


@LAW
@given(goals, st.integers(1, 10))
def test_whatever_is_asked_for_no_limit_is_broken(points: ndarray, every: int) -> None:
    commands, _, _ = follow(GUARD, np.zeros(2), stand(points, every))
    assert excess(commands, LIMITS) < 1e-6


class Reckless(MotionGuard):
    """Its choice of the step to take is as bad as can be."""

    steps: Iterator[ndarray] = iter(())

    def _wanted(self, track: Track, request: Request) -> ndarray:
        return track.command_rad + next(self.steps)


@LAW
@given(goals)
def test_whatever_step_is_chosen_none_is_taken_that_breaks_a_limit(steps: ndarray) -> None:
    """Safety rests on the range of the step and on the certificate, not on how the step was chosen."""
    guard = Reckless(LIMITS)
    guard.steps = iter(0.02 * steps)
    commands = drive(guard, [Request.at(np.ones(2))] * len(steps))
    assert excess(commands, LIMITS) < 1e-6


@LAW
@given(st.lists(arrays(np.float64, (5, 2), elements=anything), min_size=1, max_size=12))
def test_no_number_whatever_breaks_a_limit(poisons: list[ndarray]) -> None:
    requests: list[Request | None] = []
    for poison in poisons:
        requests += [Request.at(np.array([1.0, -1.0]))] * 4
        requests.append(Request(upcoming_rad=poison[:3], velocity_radps=poison[3], acceleration_radps2=poison[4]))
    commands = drive(GUARD, requests)
    assert np.isfinite(commands).all()
    assert excess(commands, LIMITS) < 1e-6


@LAW
@given(goals, st.integers(2, 10))
def test_what_keeps_the_limits_is_followed_exactly(points: ndarray, every: int) -> None:
    """The request is what a tighter guard makes of wild goals: it uses 95 % of each limit, 0.2 rad from the ends."""
    request, _, _ = follow(HALF, np.zeros(2), stand(points, every))
    request = np.concatenate([request, np.repeat(request[-1:], 3, axis=0)])
    commands, clipped, _ = follow(GUARD, np.zeros(2), request[:-3])
    assert not clipped[: len(request) - 3 - 3].any()
    np.testing.assert_allclose(commands[1 : len(request) - 5], request[: len(request) - 6], atol=CLIP_TOLERANCE_RAD)


@pytest.mark.parametrize("goal", [0.01, 0.1, 0.5, 1.0, 1.5, -1.5])
def test_a_step_is_reached_without_ringing_and_nearly_as_fast_as_possible(goal: float) -> None:
    target = np.full(2, goal)
    commands = drive(GUARD, [Request.at(target)] * 150)
    moved = commands[:, 0] / goal
    assert moved.max() <= 1.0 + 1e-3
    assert (np.diff(moved) >= -1e-4).all()
    np.testing.assert_allclose(commands[-1], target, atol=1e-9)
    arrived = 0.02 * int(np.argmax(np.abs(commands[:, 0] - goal) < 1e-3))
    assert arrived <= time_optimal_s(abs(goal)) + 0.1


def time_optimal_s(distance: float, v: float = 2.0, a: float = 10.0, j: float = 100.0) -> float:
    """Rest to rest with limited jerk (textbook seven-segment profile, solved by bisection on the peak speed)."""

    def length(peak: float) -> tuple[float, float]:
        ramp = peak / a + a / j if peak >= a * a / j else 2.0 * (peak / j) ** 0.5
        return peak * ramp, 2.0 * ramp

    if length(v)[0] <= distance:
        return length(v)[1] + (distance - length(v)[0]) / v
    low, high = 0.0, v
    for _ in range(60):
        middle = 0.5 * (low + high)
        low, high = (middle, high) if length(middle)[0] < distance else (low, middle)
    return length(low)[1]


def test_a_moving_goal_is_caught_up_with_and_then_followed_exactly() -> None:
    goals = 0.4 * 0.02 * np.arange(120)[:, None] * np.ones(2) - 0.3
    commands, clipped, _ = follow(GUARD, np.zeros(2), goals)
    assert not clipped[60:-3].any()
    np.testing.assert_allclose(commands[61:-3], goals[60:-3], atol=1e-9)


def test_noise_on_a_goal_is_not_amplified() -> None:
    rng = np.random.default_rng(0)
    t = 0.02 * np.arange(400)[:, None]
    clean = 0.4 * np.sin(2.0 * t) * np.ones(2)
    commands, _, _ = follow(GUARD, np.zeros(2), clean + rng.normal(0.0, 0.01, clean.shape))
    error = commands[51:] - clean[50:]
    assert np.sqrt((error**2).mean()) < 0.015


@LAW
@given(goals)
def test_behind_every_command_is_a_stop_that_keeps_the_limits(points: ndarray) -> None:
    planner = StopPlanner(LIMITS)
    track = GUARD.rest(np.zeros(2))
    for goal in stand(points, 4):
        track = GUARD.advance(track, Request.at(goal)).track
        assert planner.keeps_limits(np.concatenate([track.recent_rad, track.stop_rad])).all()
        assert (track.stop_rad[-3:] == track.stop_rad[-1]).all()


@LAW
@given(goals)
def test_without_a_request_the_arm_comes_to_rest_and_stays(points: ndarray) -> None:
    _, _, track = follow(GUARD, np.zeros(2), stand(points, 4))
    promised = track.stop_rad
    played = []
    for _ in range(len(promised) + 3):
        track = GUARD.advance(track, None).track
        played.append(track.command_rad)
    np.testing.assert_array_equal(played[: len(promised)], promised)
    assert track.is_resting
    assert (GUARD.advance(track, None).track.command_rad == track.command_rad).all()


@QUICK_LAW
@given(goals)
def test_mirrored_goals_give_mirrored_commands(points: ndarray) -> None:
    commands, _, _ = follow(GUARD, np.zeros(2), stand(points, 5))
    mirrored, _, _ = follow(GUARD, np.zeros(2), -stand(points, 5))
    np.testing.assert_allclose(mirrored, -commands, atol=1e-3)


@QUICK_LAW
@given(goals)
def test_joints_do_not_influence_each_other(points: ndarray) -> None:
    swapped, _, _ = follow(GUARD, np.zeros(2), stand(points, 5)[:, ::-1])
    commands, _, _ = follow(GUARD, np.zeros(2), stand(points, 5))
    np.testing.assert_array_equal(swapped[:, ::-1], commands)


@QUICK_LAW
@given(goals, st.floats(-2.0, 2.0))
def test_range_and_goals_moved_together_move_the_commands(points: ndarray, offset: float) -> None:
    moved_limits = motion_limits(2, lower_rad=LIMITS.lower_rad + offset, upper_rad=LIMITS.upper_rad + offset)
    moved, _, _ = follow(MotionGuard(moved_limits), np.full(2, offset), stand(points, 5) + offset)
    commands, _, _ = follow(GUARD, np.zeros(2), stand(points, 5))
    np.testing.assert_allclose(moved - offset, commands, atol=1e-3)


@pytest.mark.parametrize("rate", [0.5, 2.0])
def test_at_another_rate_the_same_step_takes_the_same_time(rate: float) -> None:
    slow = motion_limits(2, period_s=0.02 * rate)
    goal = np.ones(2)
    other = drive(MotionGuard(slow), [Request.at(goal)] * int(100 / rate))
    commands = drive(GUARD, [Request.at(goal)] * 100)
    t = 0.02 * np.arange(len(commands))
    np.testing.assert_allclose(
        np.interp(t, 0.02 * rate * np.arange(len(other)), other[:, 0]), commands[:, 0], atol=0.06
    )


def test_an_infeasible_goal_beyond_the_range_ends_on_the_limit() -> None:
    commands = drive(GUARD, [Request.at(np.array([9.0, -9.0]))] * 200)
    np.testing.assert_allclose(commands[-1], [1.5, -1.5], atol=1e-5)
    assert excess(commands, LIMITS) < 1e-6


def test_miss_and_clipped_tell_how_far_the_request_was() -> None:
    step = GUARD.advance(GUARD.rest(np.zeros(2)), Request.at(np.array([1.0, 0.0])))
    assert step.clipped.tolist() == [True, False]
    np.testing.assert_allclose(step.miss_rad, [1.0 - step.track.command_rad[0], 0.0])
    assert not GUARD.advance(step.track, None).clipped.any()


def test_tracks_cannot_be_written_into() -> None:
    track = GUARD.advance(GUARD.rest(np.zeros(2)), Request.at(np.ones(2))).track
    for array in (track.recent_rad, track.stop_rad):
        with pytest.raises(ValueError, match="read-only"):
            array[0] = 1.0


def test_a_standing_goal_is_where_it_is_at_this_tick_and_the_next_two() -> None:
    request = Request.at(np.array([0.3, -0.4]))
    np.testing.assert_array_equal(request.upcoming_rad, [[0.3, -0.4]] * 3)
    assert (request.velocity_radps == 0.0).all()
    assert (request.acceleration_radps2 == 0.0).all()


def test_an_accelerating_goal_is_caught_up_with_and_then_followed_exactly() -> None:
    t = 0.02 * np.arange(120)[:, None]
    goals = (0.2 + 0.25 * t**2) * np.ones(2)
    commands, clipped, _ = follow(GUARD, np.zeros(2), goals)
    assert not clipped[20:90].any()
    np.testing.assert_allclose(commands[21:91], goals[20:90], atol=1e-9)


@pytest.mark.parametrize("behind", [0.3, 0.6])
def test_a_goal_that_comes_nearer_faster_and_faster_is_met_and_not_run_past(behind: float) -> None:
    """What the goal itself accelerates is not there for braking."""
    t = 0.02 * np.arange(60)[:, None]
    speeds_up = np.minimum(t, 0.4)
    goals = (2.0 * speeds_up**2 + 1.6 * (t - speeds_up) - behind) * np.ones(2)
    commands, _, _ = follow(GUARD, np.zeros(2), goals)
    assert (goals - commands[1:]).max() <= 5e-3


def test_an_impossible_goal_is_run_for_at_full_speed() -> None:
    commands = drive(GUARD, [Request.at(np.full(2, 1.4))] * 60)
    fastest = np.diff(commands[:, 0]).max() / 0.02
    assert fastest > 0.99 * 2.0
    braking = np.abs(np.diff(commands[:, 0], 2)).max() / 0.02**2
    assert braking > 0.99 * 10.0
