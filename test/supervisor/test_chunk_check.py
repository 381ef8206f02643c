# SPDX-License-Identifier: Apache-2.0
"""A chunk is judged present, finite, fresh, plausible; every fault has its reason and none an exception."""

from collections.abc import Callable
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from supervision import CONTRACT, LAW, MIDDLE, MS, Bench, chunk_of, resting_chunk

from sigma_ros.supervisor.chunks import MAX_HORIZON_STEPS, ChunkCheck, Seen
from sigma_ros.supervisor.limits import SupervisorLimits
from sigma_ros.supervisor.reasons import Reason
from sigma_ros.values import Chunk, Risk

CHECK = ChunkCheck(CONTRACT, SupervisorLimits())
NOW = 1000 * MS
SEEN = Seen(chunk_id=5, epoch=2, stamp_ns=800 * MS, barrier_ns=700 * MS)
GOOD = resting_chunk(chunk_id=6, epoch=2, stamp_ns=950 * MS)


def loose(**changes: Any) -> Any:
    """A chunk as a careless sender might build it: nothing is checked."""
    fields = {name: getattr(GOOD, name) for name in Chunk.__slots__}
    return SimpleNamespace(**(fields | changes))


def poisoned(value: float, *, step: int = 3, joint: int = 2, part: str = "base_rad") -> Any:
    array = np.array(getattr(GOOD, part))
    array[step, joint] = value
    return loose(**{part: array})


def test_a_good_chunk_is_accepted() -> None:
    assert CHECK.judge(GOOD, SEEN, NOW).accepted


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"chunk_id": "6"}, Reason.CHUNK_MALFORMED),
        ({"chunk_id": 6.0}, Reason.CHUNK_MALFORMED),
        ({"stamp_ns": float("nan")}, Reason.CHUNK_MALFORMED),
        ({"stamp_ns": 1 << 70}, Reason.CHUNK_MALFORMED),
        ({"epoch": None}, Reason.CHUNK_MALFORMED),
        ({"inference_ns": "1"}, Reason.CHUNK_MALFORMED),
        ({"base_rad": None}, Reason.CHUNK_MALFORMED),
        ({"base_rad": [[0.0] * 6] * 50}, Reason.CHUNK_MALFORMED),
        ({"residual_rad": np.zeros((50, 6), dtype=np.float32)}, Reason.CHUNK_MALFORMED),
        ({"joint_names": None}, Reason.CHUNK_MALFORMED),
        ({"scale": "much"}, Reason.CHUNK_MALFORMED),
        ({"joint_names": ()}, Reason.CHUNK_NAMES),
        ({"joint_names": CONTRACT.joint_names[:5]}, Reason.CHUNK_NAMES),
        ({"joint_names": CONTRACT.joint_names[::-1]}, Reason.CHUNK_NAMES),
        ({"base_rad": np.zeros((50, 5)), "residual_rad": np.zeros((50, 5))}, Reason.CHUNK_SHAPE),
        ({"base_rad": np.zeros((50, 7)), "residual_rad": np.zeros((50, 7))}, Reason.CHUNK_SHAPE),
        ({"base_rad": np.zeros(6), "residual_rad": np.zeros(6)}, Reason.CHUNK_SHAPE),
        ({"residual_rad": np.zeros((49, 6))}, Reason.CHUNK_SHAPE),
        ({"base_rad": np.zeros((0, 6)), "residual_rad": np.zeros((0, 6))}, Reason.CHUNK_SHAPE),
        ({"base_rad": np.zeros((1, 6)), "residual_rad": np.zeros((1, 6))}, Reason.CHUNK_SHAPE),
        ({"base_rad": np.zeros((10_000, 6)), "residual_rad": np.zeros((10_000, 6))}, Reason.CHUNK_SHAPE),
        ({"step_period_ns": 0}, Reason.CHUNK_PERIOD),
        ({"step_period_ns": 20 * MS}, Reason.CHUNK_PERIOD),
        ({"step_period_ns": -33_333_333}, Reason.CHUNK_PERIOD),
        ({"scale": float("nan")}, Reason.CHUNK_NOT_FINITE),
        ({"scale": float("inf")}, Reason.CHUNK_NOT_FINITE),
        ({"trained_delay_s": float("nan")}, Reason.CHUNK_NOT_FINITE),
        ({"trained_delay_s": -0.01}, Reason.CHUNK_IMPLAUSIBLE),
        ({"trained_delay_s": 5.01}, Reason.CHUNK_IMPLAUSIBLE),
        ({"epoch": 1}, Reason.CHUNK_OLD_EPOCH),
        ({"chunk_id": 5}, Reason.CHUNK_OUT_OF_ORDER),
        ({"chunk_id": 4}, Reason.CHUNK_OUT_OF_ORDER),
        ({"stamp_ns": 800 * MS}, Reason.CHUNK_OUT_OF_ORDER),
        ({"stamp_ns": NOW + 51 * MS}, Reason.CHUNK_FROM_FUTURE),
        ({"observation_age_ns": 201 * MS}, Reason.OBSERVATION_STALE),
        ({"observation_age_ns": -1}, Reason.OBSERVATION_STALE),
        ({"scale": 1.0000001}, Reason.CHUNK_IMPLAUSIBLE),
        ({"scale": -1e-9}, Reason.CHUNK_IMPLAUSIBLE),
        ({"base_rad": np.rad2deg(GOOD.base_rad + 0.3)}, Reason.CHUNK_IMPLAUSIBLE),
    ],
)
def test_each_fault_has_its_reason(changes: dict[str, Any], reason: Reason) -> None:
    verdict = CHECK.judge(loose(**changes), SEEN, NOW)
    assert not verdict.accepted
    assert verdict.reason is reason, verdict.text
    assert verdict.text


@pytest.mark.parametrize(
    "changes",
    [
        {"step_period_ns": 33_333_334},
        {"stamp_ns": NOW + 50 * MS},
        {"observation_age_ns": 200 * MS},
        {"scale": 0},
        {"scale": 1},
        {"trained_delay_s": 5.0},
        {"base_rad": np.zeros((2, 6)), "residual_rad": np.zeros((2, 6))},
        {"base_rad": np.zeros((MAX_HORIZON_STEPS, 6)), "residual_rad": np.zeros((MAX_HORIZON_STEPS, 6))},
        {"epoch": 7},
        {"chunk_id": 900},
    ],
)
def test_what_is_just_within_bounds_is_accepted(changes: dict[str, Any]) -> None:
    verdict = CHECK.judge(loose(**changes), SEEN, NOW)
    assert verdict.accepted, verdict.text


@pytest.mark.parametrize(("age_ms", "accepted"), [(0, True), (500, True), (501, False)])
def test_a_chunk_may_take_half_a_second_to_arrive(age_ms: int, accepted: bool) -> None:
    verdict = CHECK.judge(replace(GOOD, stamp_ns=2000 * MS), SEEN, (2000 + age_ms) * MS)
    assert verdict.accepted is accepted
    assert accepted or verdict.reason is Reason.CHUNK_STALE


@pytest.mark.parametrize(("stamp_ms", "accepted"), [(899, False), (900, True), (901, True)])
def test_a_chunk_made_before_the_last_stop_is_refused(stamp_ms: int, accepted: bool) -> None:
    verdict = CHECK.judge(replace(GOOD, stamp_ns=stamp_ms * MS), replace(SEEN, barrier_ns=900 * MS), NOW)
    assert verdict.accepted is accepted
    assert accepted or verdict.reason is Reason.CHUNK_BEFORE_STOP


@pytest.mark.parametrize("part", ["base_rad", "residual_rad"])
@pytest.mark.parametrize(("step", "joint"), [(0, 0), (25, 3), (49, 5)])
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_one_number_that_is_not_finite_refuses_the_chunk(part: str, step: int, joint: int, value: float) -> None:
    verdict = CHECK.judge(poisoned(value, step=step, joint=joint, part=part), SEEN, NOW)
    assert verdict.reason is Reason.CHUNK_NOT_FINITE
    assert CONTRACT.joint_names[joint] in verdict.text
    assert str(step) in verdict.text


@pytest.mark.parametrize(
    ("value", "accepted"), [(-0.0, True), (5e-324, True), (4.0, True), (1e308, False), (-7.0, False)]
)
def test_finite_but_far_outside_the_range_is_implausible(value: float, accepted: bool) -> None:
    verdict = CHECK.judge(poisoned(value), SEEN, NOW)
    assert verdict.accepted is accepted
    assert accepted or (verdict.reason is Reason.CHUNK_IMPLAUSIBLE and "elbow_flex" in verdict.text)


@pytest.mark.parametrize(("value", "accepted"), [(3.3, True), (-3.5, False), (1e308, False)])
def test_a_residual_larger_than_the_joints_range_is_implausible(value: float, accepted: bool) -> None:
    verdict = CHECK.judge(poisoned(value, part="residual_rad"), SEEN, NOW)
    assert verdict.accepted is accepted
    assert accepted or ("residual of elbow_flex" in verdict.text and verdict.reason is Reason.CHUNK_IMPLAUSIBLE)


def test_finite_is_asked_before_fresh_and_fresh_before_plausible() -> None:
    late = 5000 * MS
    assert CHECK.judge(poisoned(np.nan), SEEN, late).reason is Reason.CHUNK_NOT_FINITE
    assert CHECK.judge(poisoned(1e3), SEEN, late).reason is Reason.CHUNK_STALE


def test_observations_may_be_as_old_as_the_contract_says_or_the_setting_allows() -> None:
    assert CHECK.max_observation_age_ns == 200 * MS
    assert ChunkCheck(CONTRACT, SupervisorLimits(max_observation_age_s=0.3)).max_observation_age_ns == 300 * MS


@pytest.mark.parametrize(
    ("changes", "numbers"),
    [
        ({"residual_rad": np.zeros((49, 6))}, "base (50, 6), residual (49, 6), 6 joints"),
        ({"base_rad": np.zeros((1, 6)), "residual_rad": np.zeros((1, 6))}, "1 steps, 2 to 256 are allowed"),
        ({"step_period_ns": 20 * MS}, "20.000 ms, not 33.333"),
        ({"epoch": 1}, "epoch 1, now 2"),
        ({"chunk_id": 4}, "id 4 after 5"),
        ({"stamp_ns": 801 * MS, "observation_age_ns": 250 * MS}, "250 ms, limit 200 ms"),
        ({"stamp_ns": NOW + 100 * MS}, "0.100 s ahead, limit 0.05 s"),
        ({"scale": 1.5}, "scale 1.5"),
    ],
)
def test_a_refusal_tells_the_numbers(changes: dict[str, Any], numbers: str) -> None:
    assert f"({numbers})" in CHECK.judge(loose(**changes), SEEN, NOW).text


def test_late_chunks_are_told_by_how_much() -> None:
    late = CHECK.judge(replace(GOOD, stamp_ns=2000 * MS), SEEN, 2700 * MS)
    assert "(0.700 s, limit 0.5 s)" in late.text
    before = CHECK.judge(replace(GOOD, stamp_ns=850 * MS), replace(SEEN, barrier_ns=900 * MS), NOW)
    assert "(50 ms before it)" in before.text


garbage: st.SearchStrategy[Any] = st.one_of(
    st.none(),
    st.integers(),
    st.floats(),
    st.text(max_size=3),
    st.binary(max_size=3),
    st.lists(st.floats(), max_size=3),
    st.builds(np.zeros, st.integers(0, 3)),
    st.just(np.array(["a"])),
    st.just(np.zeros((50, 6), dtype=complex)),
    st.just(np.zeros((50, 6), dtype=object)),
)


@LAW
@given(st.dictionaries(st.sampled_from(sorted(Chunk.__slots__)), garbage, max_size=4))
def test_no_content_makes_the_check_raise(changes: dict[str, Any]) -> None:
    verdict = CHECK.judge(loose(**changes), SEEN, NOW)
    assert isinstance(verdict.reason, Reason)
    assert verdict.accepted is (verdict.reason is Reason.OK)


@LAW
@given(
    st.dictionaries(st.sampled_from(sorted(Chunk.__slots__)), garbage, max_size=1),
    st.dictionaries(st.sampled_from(sorted(Risk.__slots__)), garbage, max_size=2),
)
def test_nor_does_it_make_a_tick_raise(changes: dict[str, Any], risks: dict[str, Any]) -> None:
    bench = Bench().running()
    risk = SimpleNamespace(**({name: getattr(GOOD.risk, name) for name in Risk.__slots__} | risks))
    good = chunk_of(bench.sway(), residual_rad=np.full((50, 6), 0.1), chunk_id=99, stamp_ns=bench.stamp_ns)
    chunk = replace(good, **({"risk": risk} | changes))  # type: ignore[arg-type]
    bench.supervisor.on_chunk(chunk, bench.now_ns, bench.stamp_ns)
    bench.tick(3)
    assert np.isfinite(bench.last.command_rad).all()
    assert 0.0 <= bench.last.applied_scale <= 1.0


@pytest.mark.parametrize("make", [lambda: None, lambda: 3, SimpleNamespace, lambda: MIDDLE])
def test_what_is_not_a_chunk_at_all_is_malformed(make: Callable[[], Any]) -> None:
    assert CHECK.judge(make(), SEEN, NOW).reason is Reason.CHUNK_MALFORMED
