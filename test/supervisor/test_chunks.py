# SPDX-License-Identifier: Apache-2.0
"""Laws of the course: the curve through a chunk, and what happens when the next one takes over."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy import ndarray
from supervision import CONTRACT, LAW, MS, chunk_of

from sigma_ros.supervisor.chunks import Spline, spline_of, take_over

STEP = CONTRACT.tick_period_ns
SIX = 6
chunks = arrays(np.float64, st.tuples(st.integers(2, 40), st.just(SIX)), elements=st.floats(-2.0, 2.0))


def at(spline: Spline, *times_ns: float, scale: float = 0.0) -> ndarray:
    return spline.positions_rad(np.array(times_ns, dtype=np.int64), scale)


def sampled(spline: Spline, *, period_ns: int = 20 * MS, start_ns: int = 0) -> ndarray:
    return at(spline, *range(start_ns, spline.end_ns, period_ns))


def straight(horizon: int = 30, speed: float = 0.01) -> ndarray:
    return speed * np.arange(horizon)[:, None] * np.ones(SIX)


def test_straight_motion_is_reproduced_exactly() -> None:
    spline = spline_of(chunk_of(straight()))
    times = np.arange(STEP, 27 * STEP, 7 * MS)
    np.testing.assert_allclose(at(spline, *times)[:, 0], 0.01 * times / STEP, atol=1e-12)


@LAW
@given(chunks, st.sampled_from([5 * MS, 20 * MS, 33 * MS]))
def test_limits_kept_by_the_steps_are_kept_by_the_curve_at_any_rate(base: ndarray, period_ns: int) -> None:
    """Between the ends; there the curve comes from and goes to a standstill, as if the ends were repeated."""
    padded = np.concatenate([np.repeat(base[:1], 3, axis=0), base, np.repeat(base[-1:], 3, axis=0)])
    curve = sampled(spline_of(chunk_of(base)), period_ns=period_ns)
    for order in (1, 2, 3):
        if len(curve) <= order:
            continue
        bound = np.abs(np.diff(padded, order, axis=0)).max() / STEP**order
        assert (
            np.abs(np.diff(curve, order, axis=0)).max() / period_ns**order
            <= bound * (1.0 + 1e-9) + 1e-12 / period_ns**order
        )


@LAW
@given(chunks)
def test_the_curve_never_leaves_the_range_of_its_steps(base: ndarray) -> None:
    curve = sampled(spline_of(chunk_of(base)), period_ns=3 * MS)
    assert (curve <= base.max(axis=0) + 1e-12).all()
    assert (curve >= base.min(axis=0) - 1e-12).all()


@LAW
@given(chunks, st.floats(-1e6, 1e6))
def test_with_scale_zero_the_residual_does_not_enter(base: ndarray, residual: float) -> None:
    with_residual = spline_of(chunk_of(base, residual_rad=np.full_like(base, residual)))
    without = spline_of(chunk_of(base))
    np.testing.assert_array_equal(sampled(with_residual), sampled(without))


@LAW
@given(chunks, st.floats(0.0, 1.0))
def test_the_curve_of_the_blend_is_the_blend_of_the_curves(base: ndarray, scale: float) -> None:
    residual = base[::-1].copy()
    spline = spline_of(chunk_of(base, residual_rad=residual))
    blend = spline_of(chunk_of(base + scale * residual))
    np.testing.assert_allclose(at(spline, 10 * MS, 50 * MS, scale=scale), at(blend, 10 * MS, 50 * MS), atol=1e-9)


@LAW
@given(chunks, st.integers(-(2**60), 2**60))
def test_moving_all_stamps_changes_nothing(base: ndarray, shift_ns: int) -> None:
    here, there = spline_of(chunk_of(base)), spline_of(chunk_of(base, stamp_ns=shift_ns))
    times = np.arange(0, len(base) * STEP, 20 * MS, dtype=np.int64)
    np.testing.assert_array_equal(here.positions_rad(times, 0.0), there.positions_rad(times + shift_ns, 0.0))


def test_a_course_ends_with_its_last_step() -> None:
    spline = spline_of(chunk_of(straight(horizon=10), stamp_ns=1000))
    assert spline.end_ns == 1000 + 9 * STEP
    np.testing.assert_array_equal(at(spline, spline.end_ns), at(spline, spline.end_ns + 10 * STEP))


@pytest.mark.parametrize("latency_ms", [0, 1, 30, 100, 400])
@pytest.mark.parametrize("steps", [0, 4])
def test_a_chunk_that_says_the_same_changes_nothing(latency_ms: int, steps: int) -> None:
    rng = np.random.default_rng(0)
    plan = np.cumsum(rng.normal(0.0, 0.01, (60, SIX)), axis=0)
    old = spline_of(chunk_of(plan[:50]))
    chunk = chunk_of(plan[8:58], stamp_ns=8 * STEP)
    new = take_over(old, chunk, now_ns=8 * STEP + latency_ms * MS, crossfade_steps=steps)
    times = range(6 * STEP, 45 * STEP, 20 * MS)
    np.testing.assert_allclose(at(new, *times), at(old, *times), atol=1e-12)


def test_stamps_rounded_to_nanoseconds_do_not_shift_the_course() -> None:
    """Ticks 8, 16 of a 30 Hz grid are not whole multiples of the rounded period."""
    plan = straight(70)
    old = spline_of(chunk_of(plan[:50]))
    new = take_over(old, chunk_of(plan[8:58], stamp_ns=CONTRACT.tick_offset_ns(8)), now_ns=CONTRACT.tick_offset_ns(8))
    times = range(5 * STEP, 40 * STEP, 20 * MS)
    np.testing.assert_allclose(at(new, *times), at(old, *times), atol=1e-8)


def test_latest_plays_the_new_chunk_from_now_on_and_keeps_the_past() -> None:
    old = spline_of(chunk_of(np.zeros((50, SIX))))
    chunk = chunk_of(np.ones((50, SIX)), stamp_ns=8 * STEP)
    new = take_over(old, chunk, now_ns=12 * STEP)
    assert (at(new, 9 * STEP, 10 * STEP) == 0.0).all(), "steps already past are not played"
    np.testing.assert_allclose(at(new, 14 * STEP, 30 * STEP), 1.0, atol=1e-12)


def test_before_an_old_chunk_began_it_stood_at_its_first_step() -> None:
    old = spline_of(chunk_of(straight(), stamp_ns=8 * STEP))
    new = take_over(old, chunk_of(straight(), stamp_ns=0), now_ns=0, crossfade_steps=3)
    origin = round((0 - new.origin_ns) / STEP)
    first = np.stack([1.0 - np.array([0.25, 0.5, 0.75]), np.array([0.25, 0.5, 0.75])])
    expected = first[0] * straight()[0, 0] + first[1] * straight()[:3, 0]
    np.testing.assert_allclose(new.base_rad[origin : origin + 3, 0], expected, atol=1e-12)


def test_crossfade_goes_over_in_equal_shares() -> None:
    old = spline_of(chunk_of(np.zeros((50, SIX))))
    chunk = chunk_of(np.ones((50, SIX)), stamp_ns=8 * STEP)
    new = take_over(old, chunk, now_ns=8 * STEP, crossfade_steps=3)
    origin = round((8 * STEP - new.origin_ns) / STEP)
    np.testing.assert_allclose(new.base_rad[origin - 1 : origin + 5, 0], [0.0, 0.25, 0.5, 0.75, 1.0, 1.0])


def test_crossfade_counts_from_the_present_and_carries_the_residual_too() -> None:
    old = spline_of(chunk_of(np.zeros((50, SIX))))
    chunk = chunk_of(np.zeros((50, SIX)), residual_rad=np.ones((50, SIX)), stamp_ns=8 * STEP)
    new = take_over(old, chunk, now_ns=10 * STEP + 1, crossfade_steps=1)
    origin = round((8 * STEP - new.origin_ns) / STEP)
    np.testing.assert_allclose(new.residual_rad[origin : origin + 6, 2], [0.0, 0.0, 0.0, 0.5, 1.0, 1.0])
    assert (new.base_rad == 0.0).all()


def test_where_the_old_chunk_has_ended_the_new_one_rules() -> None:
    old = spline_of(chunk_of(np.zeros((10, SIX))))
    chunk = chunk_of(np.ones((50, SIX)), stamp_ns=8 * STEP)
    new = take_over(old, chunk, now_ns=8 * STEP, crossfade_steps=8)
    origin = round((8 * STEP - new.origin_ns) / STEP)
    assert (new.base_rad[origin + 2 :] == 1.0).all()
    assert new.end_ns == chunk.stamp_ns + 49 * STEP


@pytest.mark.parametrize("gap_steps", [1, 30])
def test_a_chunk_after_the_end_of_the_old_one_stands_alone(gap_steps: int) -> None:
    old = spline_of(chunk_of(np.zeros((10, SIX))))
    chunk = chunk_of(np.ones((20, SIX)), stamp_ns=(9 + gap_steps) * STEP)
    assert take_over(old, chunk, now_ns=chunk.stamp_ns).origin_ns == chunk.stamp_ns
    assert take_over(None, chunk, now_ns=chunk.stamp_ns).origin_ns == chunk.stamp_ns


@LAW
@given(st.integers(0, 500), st.floats(-0.5, 0.5), st.integers(0, 8))
def test_crossfading_makes_the_change_of_course_gentler(latency_ms: int, jump: float, steps: int) -> None:
    """The largest step of the request at a border, against switching at once."""
    plan = straight(80)
    old = spline_of(chunk_of(plan[:50]))
    chunk = chunk_of(plan[8:58] + jump, stamp_ns=8 * STEP)
    now = 8 * STEP + latency_ms * MS
    before, after = at(old, *range(now - 100 * MS, now, 20 * MS)), range(now, now + 600 * MS, 20 * MS)

    def largest(n: int) -> float:
        spline = take_over(old, chunk, now_ns=now, crossfade_steps=n)
        return float(np.abs(np.diff(np.concatenate([before, at(spline, *after)]), axis=0)).max())

    assert largest(steps) <= largest(0) + 1e-9
    assert largest(steps) <= 0.012 + abs(jump) / (steps + 1.0) + 1e-9
