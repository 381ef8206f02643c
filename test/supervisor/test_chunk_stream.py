# SPDX-License-Identifier: Apache-2.0
"""The chunks as they arrive: what is asked of the guard, how old a chunk may be, and what is remembered."""

import numpy as np
import pytest
from supervision import CONTRACT, EASY, MIDDLE, MS, PERIOD, chunk_of, resting_chunk

from sigma_ros.supervisor.limits import SupervisorLimits
from sigma_ros.supervisor.reasons import Reason
from sigma_ros.supervisor.trajectory import ApproachRamp, ChunkStream

STEP = CONTRACT.tick_period_ns


def holding(base: np.ndarray, **changes: object) -> ChunkStream:
    stream = ChunkStream(CONTRACT, EASY)
    assert stream.offer(chunk_of(base, **changes), 0, 0, moving=False).accepted
    return stream


def parabola(acceleration: float) -> np.ndarray:
    t = np.arange(60)[:, None] * STEP / 1e9
    return MIDDLE + 0.5 * acceleration * t**2 * np.ones(6)


def test_a_request_is_the_course_now_and_one_and_two_periods_on_with_its_motion() -> None:
    stream = holding(parabola(0.8))
    now = 400 * MS
    request = stream.request(now, scale=0.0, lead=None)
    assert request is not None
    assert stream.spline is not None
    there = stream.spline.positions_rad(np.array([now, now + PERIOD, now + 2 * PERIOD]), 0.0)
    np.testing.assert_array_equal(request.upcoming_rad, there)
    np.testing.assert_allclose(request.velocity_radps, 0.8 * 0.4, atol=1e-9)
    np.testing.assert_allclose(request.acceleration_radps2, 0.8, atol=1e-9)


def test_a_request_carries_the_residual_by_the_scale_and_the_lead() -> None:
    stream = holding(parabola(0.0), residual_rad=np.full((60, 6), 0.1))
    half = stream.request(0, scale=0.5, lead=None)
    assert half is not None
    np.testing.assert_allclose(half.upcoming_rad, np.stack([MIDDLE + 0.05] * 3), atol=1e-12)
    lead = ApproachRamp(start_ns=0, duration_ns=1000 * MS, anchor_rad=MIDDLE - 0.2)
    led = stream.request(0, scale=0.0, lead=lead)
    assert led is not None
    np.testing.assert_array_equal(led.upcoming_rad[0], MIDDLE - 0.2)
    assert ChunkStream(CONTRACT, EASY).request(0, scale=0.0, lead=None) is None


@pytest.mark.parametrize(
    ("limits", "oldest_ns"),
    [(EASY, CONTRACT.tick_offset_ns(30)), (SupervisorLimits(max_chunk_age_s=0.7), 700 * MS)],
)
def test_a_chunk_is_followed_for_thirty_ticks_or_as_long_as_is_set(limits: SupervisorLimits, oldest_ns: int) -> None:
    stream = ChunkStream(CONTRACT, limits)
    assert stream.fault(0).reason is Reason.WAITING_FOR_CHUNK  # type: ignore[union-attr]
    stream.offer(resting_chunk(horizon=50), 0, 0, moving=False)
    assert stream.max_age_ns == oldest_ns
    assert stream.fault(oldest_ns) is None
    assert stream.fault(oldest_ns + 1).reason is Reason.CHUNK_EXPIRED  # type: ignore[union-attr]


def test_a_short_chunk_is_exhausted_at_its_last_step() -> None:
    stream = holding(np.repeat(MIDDLE[None], 10, axis=0))
    assert stream.fault(9 * STEP) is None
    assert stream.fault(9 * STEP + 1).reason is Reason.CHUNK_EXHAUSTED  # type: ignore[union-attr]


def test_after_a_stop_only_chunks_from_then_on_are_taken_whatever_their_number() -> None:
    stream = holding(np.repeat(MIDDLE[None], 50, axis=0), chunk_id=70, epoch=4)
    stream.drop(10 * MS)
    assert stream.spline is None
    early = stream.offer(resting_chunk(chunk_id=71, epoch=4, stamp_ns=9 * MS), 0, 10 * MS, moving=False)
    assert early.reason is Reason.CHUNK_BEFORE_STOP
    assert stream.offer(resting_chunk(chunk_id=0, epoch=0, stamp_ns=10 * MS), 0, 10 * MS, moving=False).accepted


def test_order_can_be_forgotten_but_the_stop_is_not() -> None:
    stream = ChunkStream(CONTRACT, EASY)
    stream.drop(10 * MS)
    stream.offer(resting_chunk(chunk_id=70, epoch=4, stamp_ns=20 * MS), 0, 20 * MS, moving=False)
    again = resting_chunk(chunk_id=0, epoch=0, stamp_ns=30 * MS)
    assert stream.offer(again, 0, 30 * MS, moving=False).reason is Reason.CHUNK_OLD_EPOCH
    stream.forget_order()
    assert stream.offer(resting_chunk(stamp_ns=9 * MS), 0, 30 * MS, moving=False).reason is Reason.CHUNK_BEFORE_STOP
    assert stream.offer(again, 0, 30 * MS, moving=False).accepted


def test_what_was_seen_last_is_told_also_of_a_refused_chunk() -> None:
    stream = holding(np.repeat(MIDDLE[None], 50, axis=0), chunk_id=3, epoch=1)
    stream.offer(resting_chunk(chunk_id=2, epoch=1, stamp_ns=1), 0, 0, moving=True)
    assert (stream.last_id, stream.last_epoch) == (2, 1)
    assert stream.last_verdict.reason is Reason.CHUNK_OUT_OF_ORDER
    assert stream.seen.chunk_id == 3


def test_how_long_a_chunk_was_under_way_is_kept() -> None:
    stream = ChunkStream(CONTRACT, EASY)
    stream.offer(resting_chunk(stamp_ns=10 * MS), 777, 90 * MS, moving=False)
    assert (stream.delay_ns, stream.arrived_ns) == (80 * MS, 777)
    ahead = ChunkStream(CONTRACT, EASY)
    ahead.offer(resting_chunk(stamp_ns=10 * MS), 0, 0, moving=False)
    assert ahead.delay_ns == 0


def test_without_a_chunk_nothing_is_allowed_and_nothing_is_capped() -> None:
    stream = ChunkStream(CONTRACT, EASY)
    assert stream.allowed_scale == 0.0
    assert stream.residual_cap == 1.0
    assert not stream.is_opposed
    assert (stream.last_id, stream.last_epoch) == (0, 0)
