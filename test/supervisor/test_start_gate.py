# SPDX-License-Identifier: Apache-2.0
"""The first motion: begins where the arm is, at rest, and meets the course smoothly."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from supervision import CONTRACT, EASY, LAW, MIDDLE, MS, chunk_of, excess, resting_chunk

from sigma_ros.supervisor.chunks import Verdict, spline_of
from sigma_ros.supervisor.limits import SupervisorLimits
from sigma_ros.supervisor.reasons import Reason
from sigma_ros.supervisor.trajectory import gate, inside_of, ramp_to
from sigma_ros.values import Chunk

MOTION = EASY.motion(CONTRACT)
RAMP = SupervisorLimits(start_ramp=True)


def passes(chunk: Chunk, anchor: np.ndarray, now_ns: int = 0, limits: SupervisorLimits = EASY) -> Verdict:
    return gate(chunk, spline_of(chunk), anchor, now_ns, scale=0.0, contract=CONTRACT, limits=limits)


@pytest.mark.parametrize(("offset", "accepted"), [(0.0, True), (0.0499, True), (0.0501, False), (-0.2, False)])
def test_the_first_target_must_be_where_the_arm_is(offset: float, accepted: bool) -> None:
    pose = np.array(MIDDLE)
    pose[1] += offset
    verdict = passes(resting_chunk(pose), MIDDLE)
    assert verdict.accepted is accepted
    if not accepted:
        assert verdict.reason is Reason.START_POSE
        assert "shoulder_lift" in verdict.text


def test_with_a_ramp_it_may_be_further_but_not_any_distance() -> None:
    assert passes(resting_chunk(MIDDLE + 0.5), MIDDLE, limits=RAMP).reason is Reason.RAMPING
    assert passes(resting_chunk(MIDDLE + 0.01), MIDDLE, limits=RAMP).reason is Reason.OK
    assert passes(resting_chunk(MIDDLE + 1.01), MIDDLE, limits=RAMP).reason is Reason.START_POSE


def test_a_chunk_made_for_this_pose_passes_although_it_has_moved_on() -> None:
    moving = MIDDLE + 0.02 * np.arange(50)[:, None]
    assert passes(chunk_of(moving), MIDDLE, now_ns=300 * MS).accepted
    assert not passes(chunk_of(moving + 0.1), MIDDLE, now_ns=300 * MS).accepted


@LAW
@given(st.floats(-1.0, 1.0), st.floats(-0.4, 0.4), st.integers(0, 500))
def test_a_lead_begins_at_rest_at_the_anchor_and_ends_on_the_course(offset: float, speed: float, delay_ms: int) -> None:
    t = np.arange(60)[:, None] / 30.0
    spline = spline_of(chunk_of(0.3 + 0.5 * speed * t * np.ones(6)))
    now = delay_ms * MS
    anchor = spline.positions_rad(np.array([now]), 0.0)[0] + offset
    lead = ramp_to(spline, anchor, now, scale=0.0, motion=MOTION, limits=RAMP)
    times = now + 20 * MS * np.arange(0, 60)
    there = spline.positions_rad(times, 0.0)
    path = lead.towards(there, times)
    np.testing.assert_array_equal(path[0], anchor)
    assert np.abs(np.diff(path[:2], axis=0)).max() < 2e-3
    after = times >= now + lead.duration_ns
    np.testing.assert_array_equal(path[after], there[after])
    assert lead.is_over(now + lead.duration_ns)
    assert not lead.is_over(now + lead.duration_ns - 1)


@LAW
@given(st.integers(0, 2**32 - 1), st.floats(0.0, 2.0), st.floats(-1.0, 1.0))
def test_a_lead_never_leaves_the_way_between_the_arm_and_the_course_however_rough_the_course_is(
    seed: int, roughness: float, offset: float
) -> None:
    spline = spline_of(chunk_of(roughness * np.random.default_rng(seed).standard_normal((50, 6))))
    anchor = spline.positions_rad(np.array([0]), 0.0)[0] + offset
    lead = ramp_to(spline, anchor, 0, scale=0.0, motion=MOTION, limits=RAMP)
    times = 20 * MS * np.arange(-5, 100)
    there = spline.positions_rad(times, 0.0)
    path = lead.towards(there, times)
    assert (path >= np.minimum(there, anchor) - 1e-12).all()
    assert (path <= np.maximum(there, anchor) + 1e-12).all()


@LAW
@given(st.floats(0.01, 1.0))
def test_a_lead_over_a_distance_keeps_every_limit_and_the_ramp_speed(offset: float) -> None:
    spline = spline_of(resting_chunk(np.zeros(6)))
    lead = ramp_to(spline, np.full(6, offset), 0, scale=0.0, motion=MOTION, limits=RAMP)
    times = 20 * MS * np.arange(0, lead.duration_ns // (20 * MS) + 3)
    path = lead.towards(np.zeros((times.size, 6)), times)
    assert excess(path, MOTION) <= 0.0
    assert np.abs(np.diff(path, axis=0)).max() / 0.02 <= RAMP.ramp_speed_radps + 1e-9
    assert (np.diff(path[:, 0]) <= 1e-12).all(), "it goes straight there"


@pytest.mark.parametrize(("outside", "accepted"), [(0.0, True), (0.04, True), (0.06, False), (2.0, False)])
def test_the_way_in_of_an_arm_slightly_outside_ends_on_its_limit_and_far_outside_there_is_none(
    outside: float, accepted: bool
) -> None:
    pose = np.array(MIDDLE)
    pose[0] = CONTRACT.upper_rad[0] + outside
    result = inside_of(pose, contract=CONTRACT, motion=MOTION, tolerance_rad=0.05)
    if accepted:
        assert isinstance(result, np.ndarray)
        assert result[0] == CONTRACT.upper_rad[0]
    else:
        assert isinstance(result, Verdict)
        assert result.reason is Reason.JOINTS_OUTSIDE
        assert "shoulder_pan" in result.text
