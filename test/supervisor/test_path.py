# SPDX-License-Identifier: Apache-2.0
"""Supervision along the path: what is too fast is slowed on it, what jumped is joined by all joints together."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy import ndarray
from supervision import CONTRACT, EASY, MIDDLE, PERIOD, QUICK_LAW, Bench, chunk_of, excess

from sigma_ros.supervisor.chunks import spline_of
from sigma_ros.supervisor.limits import SupervisorLimits
from sigma_ros.supervisor.path import slowings, ways_back
from sigma_ros.supervisor.reasons import Reason, State

MOTION = EASY.motion(CONTRACT)
STEP_S = CONTRACT.tick_period_ns * 1e-9
OFF_PATH_RAD = 0.005
HORIZON = 60
REACTIVE = replace(EASY, keep_path=False)


def curve(phase: ndarray, seed: int) -> ndarray:
    """SYNTHETIC: a smooth closed curve through the middle, every joint at another frequency; begins at rest."""
    rng = np.random.default_rng(seed)
    ways = rng.uniform(0.5, 1.5, 6) * 0.3
    turns = rng.choice([1.0, 1.5, 2.0, 2.5], 6)
    return MIDDLE + ways * (1.0 - np.cos(turns * phase[:, None]))


def pace(radps: float, ticks: int = HORIZON) -> ndarray:
    """Phase at each step of a chunk: from rest to a steady pace."""
    t = STEP_S * np.arange(ticks)
    return radps * (t - 0.2 * (1.0 - np.exp(-t / 0.2)))


def hurried(limits: SupervisorLimits, seed: int, radps: float) -> tuple[Bench, float]:
    """An arm that is asked to go along the curve at some pace, and how far it got from the chunk's own course."""
    bench = Bench(limits=limits, pose=curve(np.zeros(1), seed)[0]).running()
    base = curve(pace(radps), seed)
    bench.offer(base)
    spline = spline_of(chunk_of(base))
    bench.tick(45)
    course = spline.positions_rad(np.linspace(0, spline.end_ns, 20_000).astype(np.int64), 0.0)
    return bench, max(float(np.abs(course - command).max(axis=1).min()) for command in bench.commands)


@QUICK_LAW
@given(seed=st.integers(0, 1000), radps=st.floats(2.0, 8.0))
def test_a_course_that_is_too_fast_is_followed_on_its_own_path(seed: int, radps: float) -> None:
    bench, off_rad = hurried(EASY, seed, radps)
    assert off_rad <= OFF_PATH_RAD
    assert excess(bench.commands, MOTION) <= 1e-6
    assert bench.last.state is State.RUN


@pytest.mark.parametrize("radps", [0.5, 6.0])
def test_the_targets_are_those_of_this_tick_and_the_next_two(radps: float) -> None:
    bench, _ = hurried(EASY, 3, radps)
    loop = bench.supervisor._machine.loop
    assert loop.track is not None
    targets = loop._path.follow(
        bench.supervisor._machine.stream, loop.track, bench.stamp_ns + PERIOD, scale=0.0, lead=None, reach=None
    )
    assert targets.shape == (3, CONTRACT.dof)


def test_bounding_each_joint_alone_leaves_that_path() -> None:
    assert hurried(EASY, 3, 6.0)[1] <= OFF_PATH_RAD
    assert hurried(REACTIVE, 3, 6.0)[1] >= 10.0 * OFF_PATH_RAD


def test_a_course_that_keeps_the_limits_is_followed_exactly_and_in_time() -> None:
    bench, _ = hurried(EASY, 3, 1.0)
    assert bench.last.counters.clipped_ticks == 0
    np.testing.assert_array_equal(bench.commands, hurried(REACTIVE, 3, 1.0)[0].commands)


@QUICK_LAW
@given(
    seed=st.integers(0, 1000), size=st.floats(0.01, 0.3), shares=st.lists(st.floats(-1.0, 1.0), min_size=6, max_size=6)
)
def test_a_course_that_jumped_is_joined_by_all_joints_together(seed: int, size: float, shares: list[float]) -> None:
    """At the same time, in less than a second, and from then on exactly."""
    bench = Bench(pose=curve(np.zeros(1), seed)[0]).running()
    bench.offer(curve(pace(1.0), seed))
    bench.tick(15)
    begin = 15 * PERIOD / CONTRACT.tick_period_ns
    jumped = curve(pace(1.0, 120), seed)[round(begin) :] + size * np.array(shares)
    bench.offer(jumped)
    bench.tick(45)
    joined = [d.miss_rad <= 1e-9 for d in bench.decisions[-45:]]
    assert all(joined[-3:])
    assert excess(bench.commands, MOTION) <= 1e-6


def test_a_joint_that_is_asked_beyond_its_range_does_not_hold_back_the_others() -> None:
    bench = Bench().running()
    base = bench.sway(size=0.2)
    base[:, 5] += pace(1.5, 50)
    bench.offer(base)
    bench.tick(45)
    alone = Bench().running()
    alone.offer(np.concatenate((base[:, :5], np.repeat(alone.pose[5], 50)[:, None]), axis=1))
    alone.tick(45)
    np.testing.assert_allclose(bench.last.command_rad[:5], alone.last.command_rad[:5], atol=1e-9)
    assert bench.last.command_rad[5] == pytest.approx(CONTRACT.upper_rad[5], abs=1e-6)


def test_what_the_arm_lagged_by_is_forgotten_by_a_policy_that_has_seen_it() -> None:
    """A chunk for where the arm was at its stamp goes on from there: neither back nor ahead."""
    bench, _ = hurried(EASY, 3, 6.0)
    stream = bench.supervisor._machine.stream
    assert bench.stamp_ns - stream.course_ns(bench.stamp_ns) > 5 * PERIOD
    here, before = bench.commands[-1], bench.commands[-2]
    ahead = here + (here - before) * (CONTRACT.tick_period_ns / PERIOD) * np.arange(50)[:, None] * 0.5
    bench.offer(np.clip(ahead, CONTRACT.lower_rad, CONTRACT.upper_rad))
    bench.tick(12)
    assert abs(bench.stamp_ns - stream.course_ns(bench.stamp_ns)) <= 8 * PERIOD
    assert bench.last.counters.violations == 0


@pytest.mark.parametrize("rates", [(1.0, 1.0), (0.9, 0.85), (0.3, 0.32)])
def test_a_slowing_goes_on_smoothly_from_the_rates_before_and_ends_steadily_at_its_own(
    rates: tuple[float, float],
) -> None:
    """For many ticks: the first differences are the last one's, the last ones nothing."""
    before, now = rates
    ways = slowings(rates, np.array([[400]]), 403)
    assert ways.shape == (17, 403)
    np.testing.assert_allclose(ways[:, 0], min(1.0, 2.0 * now - before), atol=0.002 + abs(now - before) * 0.02)
    np.testing.assert_allclose(ways[:, -1], np.linspace(1.0, 0.0, 17), atol=1e-12)
    assert np.abs(np.diff(ways, axis=1)[:, -5:]).max() < 1e-3
    assert ((ways >= 0.0) & (ways <= 1.0)).all()


@given(st.lists(st.floats(-0.2, 0.2), min_size=3, max_size=3))
def test_a_way_back_leaves_with_offset_velocity_and_acceleration_and_ends_at_rest_on_the_course(
    way: list[float],
) -> None:
    e0, v0, a0 = way[0], way[1] / 100.0, way[2] / 10_000.0
    newest = np.array([e0 + v0 * k + a0 * k * k / 2.0 for k in (-2.0, -1.0, 0.0)])[:, None]
    left = ways_back(newest, np.array([400, 500]))[0, :, 0]
    begun = np.array([e0 + v0 * k + a0 * k * k / 2.0 for k in (1.0, 2.0, 3.0)])
    np.testing.assert_allclose(left[:3], begun, atol=1e-4 * max(abs(x) for x in way) + 1e-12)
    assert (left[400 - 1 :] == 0.0).all(), "from its last tick on nothing is left"
    assert abs(left[397]) <= 1e-3 * np.abs(left).max() + 1e-12


def test_the_tools_speed_is_kept_by_slowing_along_the_path() -> None:
    capped = replace(EASY, cap_tool_speed=True, max_tool_speed_mps=0.15)
    bench, off_rad = hurried(capped, 3, 4.0)
    assert off_rad <= OFF_PATH_RAD
    assert Reason.TOOL_SPEED in [d.reason for d in bench.decisions]
    assert excess(bench.commands, capped.motion(CONTRACT)) <= 1e-6
