# SPDX-License-Identifier: Apache-2.0
"""Chunk borders: whatever the latency and however chunks disagree, commands keep one tick's limits."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from supervision import CONTRACT, EASY, LAW, MIDDLE, MS, PERIOD, QUICK_LAW, Bench, chunk_of

from sigma_ros.supervisor.chunks import spline_of, take_over
from sigma_ros.supervisor.limits import limit_excess
from sigma_ros.supervisor.reasons import State
from sigma_ros.supervisor.trajectory import MAX_CROSSFADE_STEPS, ChunkStream

STEP = CONTRACT.tick_period_ns
LIMITS = EASY.motion(CONTRACT)
REPLAN_NS = 8 * STEP
STITCHINGS = {"latest": 0, "crossfade": 4}


def sway(start_ns: int, origin_ns: int, horizon: int = 50, size: float = 0.2) -> np.ndarray:
    """A smooth plan of all joints around the middle, as steps from `start_ns` on; at rest at `origin_ns`."""
    times_s = (start_ns - origin_ns + STEP * np.arange(horizon)) * 1e-9
    return MIDDLE + size * (1.0 - np.cos(2.0 * times_s))[:, None]


def drive(latencies_ms: list[int], jumps_rad: list[float], *, fade: int) -> tuple[Bench, np.ndarray]:
    """A chunk every eight steps, each arriving late by its latency and beside the plan by its jump."""
    bench = Bench(pose=MIDDLE.copy())
    origin = bench.stamp_ns
    waiting: list[tuple[int, object]] = []
    bench.offer(sway(origin, origin), crossfade_steps=fade)
    bench.tick()
    assert bench.engage().success
    plans = [
        (origin + (i + 1) * REPLAN_NS, latency * MS, jump)
        for i, (latency, jump) in enumerate(zip(latencies_ms, jumps_rad, strict=True))
    ]
    while plans or waiting:
        bench.tick()
        while plans and plans[0][0] <= bench.stamp_ns:
            stamp, latency, jump = plans.pop(0)
            bench.next_id += 1
            base = sway(stamp, origin) + jump
            waiting.append(
                (stamp + latency, chunk_of(base, chunk_id=bench.next_id, stamp_ns=stamp, crossfade_steps=fade))
            )
        for due, chunk in [entry for entry in waiting if entry[0] <= bench.stamp_ns]:
            bench.supervisor.on_chunk(chunk, bench.now_ns, bench.stamp_ns)
            waiting.remove((due, chunk))
    bench.tick(20)
    return bench, bench.commands


def worst_excess(commands: np.ndarray) -> float:
    held = np.concatenate([np.repeat(commands[:1], 3, axis=0), commands])
    return max(limit_excess(LIMITS, held[i : i + 4]) for i in range(len(commands)))


borders = st.lists(st.tuples(st.integers(0, 500), st.floats(-0.6, 0.6)), min_size=1, max_size=8)


@pytest.mark.parametrize("stitching", STITCHINGS)
@QUICK_LAW
@given(borders=borders)
def test_no_command_jumps_beyond_one_ticks_limit_at_any_border_with_any_latency(
    stitching: str, borders: list[tuple[int, float]]
) -> None:
    bench, commands = drive([latency for latency, _ in borders], [j for _, j in borders], fade=STITCHINGS[stitching])
    assert worst_excess(commands) <= 1e-6
    assert bench.last.counters.violations == 0
    assert np.abs(np.diff(commands, axis=0)).max() <= (LIMITS.velocity_radps * LIMITS.period_s).max() + 1e-9


@QUICK_LAW
@given(st.lists(st.integers(0, 470), min_size=2, max_size=6))
def test_chunks_that_agree_leave_no_border_whatever_their_latency(latencies_ms: list[int]) -> None:
    """Steps are matched by stamp: late chunks of one plan give the commands that punctual ones give."""
    zeros = [0.0] * len(latencies_ms)
    late, late_commands = drive(latencies_ms, zeros, fade=0)
    _, punctual_commands = drive([0] * len(latencies_ms), zeros, fade=0)
    assert State.HOLD not in late.states
    shared = min(len(late_commands), len(punctual_commands))
    np.testing.assert_allclose(late_commands[:shared], punctual_commands[:shared], atol=2e-4)


@LAW
@given(st.integers(0, 45), st.floats(0.0, 500.0))
def test_a_step_is_played_at_its_stamp_and_never_from_the_chunks_start(tick: int, latency_ms: float) -> None:
    old = spline_of(chunk_of(sway(0, 0)))
    stamp = tick * STEP
    chunk = chunk_of(sway(stamp, 0) + 0.1, stamp_ns=stamp)
    now = stamp + round(latency_ms * MS)
    spline = take_over(old, chunk, now_ns=now)
    due = -(-(now - stamp) // STEP)
    after = stamp + np.arange(due + 2, 48) * STEP
    alone = spline_of(chunk)
    np.testing.assert_allclose(spline.positions_rad(after, 0.0), alone.positions_rad(after, 0.0), atol=1e-12)
    past = np.arange(max(0, stamp - 3 * STEP), min(now - 2 * STEP, 46 * STEP), STEP // 2)
    if len(past):
        np.testing.assert_allclose(spline.positions_rad(past, 0.0), old.positions_rad(past, 0.0), atol=1e-12)


@LAW
@given(st.integers(1, 30))
def test_a_refreshed_residual_on_the_same_base_leaves_the_base_where_it_was(ticks: int) -> None:
    base = sway(0, 0)
    old = spline_of(chunk_of(base))
    fresh = chunk_of(base[ticks:], stamp_ns=ticks * STEP, residual_rad=np.full_like(base[ticks:], 0.05))
    spline = take_over(old, fresh, now_ns=ticks * STEP + 10 * MS)
    times = np.arange(ticks * STEP, 45 * STEP, PERIOD, dtype=np.int64)
    np.testing.assert_allclose(spline.positions_rad(times, 0.0), old.positions_rad(times, 0.0), atol=1e-12)


def test_a_chunk_may_ask_to_be_faded_in_but_not_for_ever() -> None:
    stream = ChunkStream(CONTRACT, EASY)
    stream.offer(chunk_of(sway(0, 0)), 0, 0, moving=False)
    late = chunk_of(sway(STEP, 0) + 0.1, chunk_id=1, stamp_ns=STEP, crossfade_steps=1000)
    stream.offer(late, 0, STEP, moving=True)
    faded = take_over(spline_of(chunk_of(sway(0, 0))), late, now_ns=STEP, crossfade_steps=MAX_CROSSFADE_STEPS)
    assert stream.spline is not None
    np.testing.assert_array_equal(stream.spline.base_rad, faded.base_rad)


def naive(latencies_ms: list[int]) -> np.ndarray:
    """What many do: each chunk is played from its first step on when it arrives."""
    arrivals = [(k * REPLAN_NS + latency * MS, k * REPLAN_NS) for k, latency in enumerate(latencies_ms)]
    commands = []
    for now in range(0, len(latencies_ms) * REPLAN_NS, PERIOD):
        arrived, stamp = max((entry for entry in arrivals if entry[0] <= now), default=(0, 0))
        commands.append(sway(stamp, 0)[min(49, (now - arrived) // STEP)])
    return np.array(commands)


def test_naive_switching_jumps_where_stitching_by_stamp_does_not() -> None:
    latencies = [0, 400, 20, 350, 60, 400, 0, 300]
    limit = (LIMITS.velocity_radps * LIMITS.period_s).max()
    _, ours = drive(latencies, [0.0] * len(latencies), fade=0)
    assert np.abs(np.diff(naive(latencies), axis=0)).max() > 2.0 * limit
    assert np.abs(np.diff(ours, axis=0)).max() < 0.5 * limit
