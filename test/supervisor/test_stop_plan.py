# SPDX-License-Identifier: Apache-2.0
"""Laws of the certificate: what it promises keeps the limits, and it does not refuse what is plainly possible."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy import ndarray
from supervision import LAW, motion_limits

from sigma_ros.errors import ContractError
from sigma_ros.supervisor.limits import MotionLimits
from sigma_ros.supervisor.stop_plan import MAX_STOP_TICKS, StopPlanner

unit = st.floats(-1.0, 1.0)
LIMITS = motion_limits()
PLANNER = StopPlanner(LIMITS)


@st.composite
def planners(draw: st.DrawFn) -> StopPlanner:
    """Robots of any speed, at any rate."""
    speed = draw(st.floats(0.2, 4.0))
    acceleration = speed * draw(st.floats(3.0, 20.0))
    jerk = acceleration * draw(st.floats(5.0, 60.0))
    period_s = draw(st.sampled_from([0.005, 0.01, 0.02, 1.0 / 30.0, 0.1]))
    one = np.ones(2)
    return StopPlanner(
        motion_limits(
            2,
            velocity_radps=speed * one,
            acceleration_radps2=acceleration * one,
            jerk_radps3=jerk * one,
            period_s=period_s,
        )
    )


def state(planner: StopPlanner, share: tuple[float, float, float]) -> ndarray:
    """Three commands with position, velocity and acceleration at these shares of their limits."""
    q = share[0] * planner.upper
    w, b = share[1] * planner.w_max, share[2] * planner.b_max
    return np.stack([q - 2.0 * w + b, q - w, q])


@LAW
@given(planners(), st.tuples(unit, unit, unit), st.integers(1, 3))
def test_a_certified_stop_keeps_every_limit_and_ends_at_rest(
    planner: StopPlanner, share: tuple[float, float, float], candidates: int
) -> None:
    recent = state(planner, share)
    certified, stops = planner.certify(recent[:2], np.repeat(recent[2:], candidates, axis=0))
    for candidate in range(candidates):
        for joint in np.flatnonzero(certified[candidate]):
            stop = stops[candidate, joint]
            whole = np.concatenate([recent[:, joint], stop, stop[-1:]])
            w, b, j = (np.diff(whole, n) for n in (1, 2, 3))
            assert np.abs(w[2:]).max() <= planner.w_max[joint] + 1e-12
            assert np.abs(b[1:]).max() <= planner.b_max[joint] + 1e-12
            assert np.abs(j).max() <= planner.jerk[joint] + 1e-12
            assert stop.max() <= planner.upper[joint] + 1e-12
            assert stop.min() >= planner.lower[joint] - 1e-12
            assert abs(w[-1]) < 1e-12
            assert abs(w[-2]) < 1e-12


@LAW
@given(planners(), unit)
def test_a_resting_arm_inside_its_range_is_certified_where_it_is(planner: StopPlanner, share: float) -> None:
    recent = state(planner, (share, 0.0, 0.0))
    certified, stops = planner.certify(recent[:2], recent[2:])
    assert certified.all()
    assert (stops == recent[2][None, :, None]).all()


@LAW
@given(st.floats(0.05, 1.0))
def test_a_joint_at_its_end_and_moving_outwards_is_not_certified(speed: float) -> None:
    recent = state(PLANNER, (1.0, speed, 0.0))
    certified, _ = PLANNER.certify(recent[:2], recent[2:])
    assert not certified.any()


@LAW
@given(planners(), unit, unit)
def test_far_from_the_ends_every_state_that_can_keep_its_speed_limit_is_certified(
    planner: StopPlanner, speed: float, push: float
) -> None:
    recent = state(planner, (0.0, speed, push))
    w, b = recent[2] - recent[1], recent[2] - 2.0 * recent[1] + recent[0]
    coast = w + np.sign(b) * sum(np.maximum(np.abs(b) - k * planner.jerk, 0.0) for k in range(1, planner.ticks))
    distance = planner.w_max * planner.ticks
    free = (np.abs(coast) <= planner.w_max * 0.999) & (distance < 1.4)
    wide = StopPlanner(_widened(planner))
    certified, _ = wide.certify(recent[:2], recent[2:])
    assert certified[0][free].all()


def _widened(planner: StopPlanner) -> MotionLimits:
    dt = 0.02
    return motion_limits(
        2,
        lower_rad=np.full(2, -100.0),
        upper_rad=np.full(2, 100.0),
        velocity_radps=planner.w_max / dt,
        acceleration_radps2=planner.b_max / dt**2,
        jerk_radps3=planner.jerk / dt**3,
        period_s=dt,
    )


@LAW
@given(st.tuples(unit, unit, unit))
def test_mirrored_states_have_mirrored_stops(share: tuple[float, float, float]) -> None:
    recent = state(PLANNER, share)
    certified, stops = PLANNER.certify(recent[:2], recent[2:])
    mirrored_certified, mirrored_stops = PLANNER.certify(-recent[:2], -recent[2:])
    assert (certified == mirrored_certified).all()
    np.testing.assert_allclose(stops[certified], -mirrored_stops[certified], atol=1e-12)


@LAW
@given(st.tuples(unit, unit, unit))
def test_trying_every_length_and_trying_a_few_agree_on_what_is_safe(share: tuple[float, float, float]) -> None:
    recent = state(PLANNER, share)
    alone, _ = PLANNER.certify(recent[:2], recent[2:])
    among, _ = PLANNER.certify(recent[:2], np.repeat(recent[2:], 4, axis=0))
    assert (among == alone).all()


def test_the_step_range_is_the_jerk_limit_around_the_coasting_step() -> None:
    recent = state(PLANNER, (0.1, 0.2, 0.1))
    low, high = PLANNER.step_range(recent)
    np.testing.assert_allclose(high - low, 2.0 * 100.0 * 0.02**3)
    w, b = recent[2] - recent[1], recent[2] - 2.0 * recent[1] + recent[0]
    np.testing.assert_allclose(0.5 * (low + high), recent[2] + w + b)


@pytest.mark.parametrize(("broken", "size"), [("jerk", 110.0), ("acceleration", 10.1), ("velocity", 2.01)])
def test_a_stream_beyond_one_limit_is_noticed(broken: str, size: float) -> None:
    k = np.arange(4.0)[:, None] * np.ones(3)
    dt = 0.02
    stream = {
        "jerk": np.where(k == 3.0, size * dt**3, 0.0),
        "acceleration": 0.5 * size * dt**2 * k**2 - 0.02 * k,
        "velocity": size * dt * k - 0.1,
    }[broken]
    assert not PLANNER.keeps_limits(stream).any()
    assert PLANNER.keeps_limits(stream * 0.9).all()


def test_an_arm_that_needs_too_long_to_stop_is_refused() -> None:
    with pytest.raises(ContractError, match=f"at most {MAX_STOP_TICKS}"):
        StopPlanner(motion_limits(jerk_radps3=np.full(3, 0.01)))


def test_stops_are_as_short_as_ruckigs() -> None:
    """Ruckig (community version) is the reference for the time-optimal stop in continuous time."""
    ruckig = pytest.importorskip("ruckig", reason="ruckig is not installed")
    rng = np.random.default_rng(0)
    generator, trajectory = ruckig.Ruckig(1), ruckig.Trajectory(1)
    request = ruckig.InputParameter(1)
    request.control_interface = ruckig.ControlInterface.Velocity
    request.max_acceleration, request.max_jerk = [10.0], [100.0]
    for _ in range(300):
        recent = state(PLANNER, (0.0, float(rng.uniform(-0.7, 0.7)), float(rng.uniform(-0.5, 0.5))))
        _, stops = PLANNER.certify(recent[:2], recent[2:])
        moving = np.flatnonzero(np.abs(np.diff(stops[0, 0])) > 1e-12)
        ours_s = 0.02 * (moving[-1] + 2 if moving.size else 0)
        request.current_velocity = [float((recent[2] - recent[1])[0]) / 0.02]
        request.current_acceleration = [float((recent[2] - 2 * recent[1] + recent[0])[0]) / 0.02**2]
        request.target_velocity, request.target_acceleration = [0.0], [0.0]
        generator.calculate(request, trajectory)
        assert ours_s <= trajectory.duration + 3 * 0.02


def test_the_checks_are_sharper_than_the_promised_tolerance() -> None:
    """The promise is 1e-6; a stream over by twice that is refused, one over by rounding is not."""
    k = np.arange(4.0)[:, None] * np.ones(3)
    for over, kept in ((2e-6, False), (1e-12, True)):
        jerk = np.where(k == 3.0, (100.0 + over) * 0.02**3, 0.0)
        acceleration = 0.5 * (10.0 + over) * 0.02**2 * k**2 - 0.02 * k
        velocity = (2.0 + over) * 0.02 * k - 0.1
        for stream in (jerk, acceleration, velocity):
            assert PLANNER.keeps_limits(stream).all() == kept
    outside = np.repeat([[0.0], [0.0], [0.0], [1e-9]], 3, axis=1)
    for end in (PLANNER.upper, PLANNER.lower):
        assert not PLANNER.keeps_limits(end + np.sign(end) * outside).any()
        assert PLANNER.keeps_limits(end + np.sign(end) * 1e-4 * outside).all()


def test_a_stop_that_needs_a_nanometre_beyond_the_range_is_not_certified() -> None:
    stopping = state(PLANNER, (0.0, 0.3, 0.0))
    _, stops = PLANNER.certify(stopping[:2], stopping[2:])
    reach = stops[0, 0, -1] - stopping[2, 0]
    for sign in (1.0, -1.0):
        for gap, safe in ((1e-9, True), (-1e-9, False)):
            at_end = sign * (stopping - stopping[2] + PLANNER.upper - reach - gap)
            certified, _ = PLANNER.certify(at_end[:2], at_end[2:])
            assert certified.all() == safe


def test_only_what_comes_after_the_first_three_commands_is_judged() -> None:
    past = np.array([1.6, 1.55, 1.51, 1.48])[:, None] * np.ones(3)
    gentle = StopPlanner(
        motion_limits(velocity_radps=np.full(3, 9.0), acceleration_radps2=np.full(3, 99.0), jerk_radps3=np.full(3, 9e3))
    )
    assert gentle.keeps_limits(past).all()
    assert gentle.keeps_limits(-past).all()
    assert not gentle.keeps_limits(past + 0.03).any()
