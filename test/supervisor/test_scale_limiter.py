# SPDX-License-Identifier: Apache-2.0
"""Laws of the scale: never more than any bound, quick down, slow up, and zero when in doubt."""

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from supervision import CONTRACT, LAW, chunk_of

from sigma_ros.risk import assess
from sigma_ros.supervisor.limits import SupervisorLimits
from sigma_ros.supervisor.reasons import Reason
from sigma_ros.supervisor.scale_limiter import (
    ScaleInputs,
    ScaleLimiter,
    allowed_scale,
    is_opposed,
    part_of_limit,
    residual_cap,
    trained_age_s,
)
from sigma_ros.values import AdapterSettings

LIMITS = SupervisorLimits()
DT = 0.02
EASE = ScaleInputs(
    fault=False, heartbeat_age=0.0, chunk_delay=0.0, chunk_age=0.0, missed=False, chunk_cap=1.0, opposed=False
)
unit = st.floats(0.0, 1.0)
any_number = st.floats(allow_nan=True, allow_infinity=True)
strains = st.builds(
    ScaleInputs,
    fault=st.booleans(),
    heartbeat_age=st.floats(0.0, 3.0),
    chunk_delay=st.floats(0.0, 3.0),
    chunk_age=st.floats(0.0, 3.0),
    missed=st.booleans(),
    chunk_cap=unit,
    opposed=st.booleans(),
)


def after(
    ceiling: ScaleLimiter, scale_inputs: ScaleInputs = EASE, *, target: float = 1.0, user: float = 1.0, dt: float = DT
) -> ScaleLimiter:
    return ceiling.after(scale_inputs, target=target, user_ceiling=user, limits=LIMITS, dt_s=dt)


def ticks(ceiling: ScaleLimiter, count: int, scale_inputs: ScaleInputs = EASE, **more: float) -> ScaleLimiter:
    for _ in range(count):
        ceiling = after(ceiling, scale_inputs, **more)
    return ceiling


@LAW
@given(st.lists(st.tuples(strains, any_number, unit), min_size=1, max_size=40))
def test_the_scale_stays_in_range_and_changes_no_faster_than_allowed(
    steps: list[tuple[ScaleInputs, float, float]],
) -> None:
    ceiling = ScaleLimiter()
    for scale_inputs, target, user in steps:
        before = ceiling
        ceiling = after(before, scale_inputs, target=target, user=user)
        assert 0.0 <= ceiling.applied <= 1.0
        assert 0.0 <= ceiling.own <= 1.0
        assert ceiling.applied - before.applied <= LIMITS.scale_rise_per_s * DT + 1e-12
        assert before.applied - ceiling.applied <= DT / LIMITS.scale_fall_s + 1e-12
        goal = max(0.0, min(target, user, ceiling.own)) if math.isfinite(target) else 0.0
        assert ceiling.applied <= max(goal, before.applied - DT / LIMITS.scale_fall_s) + 1e-12


@pytest.mark.parametrize(
    ("change", "cause"),
    [
        ({"fault": True}, Reason.SCALE_FAULT),
        ({"opposed": True}, Reason.SCALE_RESIDUAL_OPPOSED),
        ({"heartbeat_age": 1.0}, Reason.SCALE_HEARTBEAT),
        ({"heartbeat_age": math.nan}, Reason.SCALE_HEARTBEAT),
        ({"chunk_delay": 1.0}, Reason.SCALE_DELAY),
        ({"chunk_age": math.inf}, Reason.SCALE_AGE),
        ({"chunk_cap": 0.0}, Reason.SCALE_RESIDUAL_LARGE),
    ],
)
def test_trouble_takes_the_scale_to_zero_within_a_tenth_of_a_second(change: dict[str, Any], cause: Reason) -> None:
    ceiling = ticks(ScaleLimiter(own=1.0, applied=1.0), 5, replace(EASE, **change))
    assert ceiling.applied == pytest.approx(0.0, abs=1e-12)
    assert ceiling.own == pytest.approx(0.0, abs=1e-12)
    assert ceiling.cause is cause


def test_missing_the_request_for_long_lowers_the_scale_but_now_and_then_does_not() -> None:
    rare = ScaleLimiter(applied=1.0)
    for tick in range(500):
        rare = after(rare, replace(EASE, missed=tick % 10 == 0))
    assert (rare.own, rare.applied, rare.cause) == (1.0, 1.0, Reason.OK)
    jump = ticks(ScaleLimiter(applied=1.0), 20, replace(EASE, missed=True))
    assert (jump.own, jump.applied, jump.cause) == (1.0, 1.0, Reason.OK), "the arm catches up with a new chunk"
    often = ticks(ScaleLimiter(applied=1.0), 100, replace(EASE, missed=True))
    assert (often.own, often.cause) == (0.0, Reason.SCALE_MISSES)


@LAW
@given(st.lists(st.tuples(strains, any_number, unit), min_size=1, max_size=40))
def test_what_is_judged_does_not_depend_on_what_the_ceiling_did(steps: list[tuple[ScaleInputs, float, float]]) -> None:
    judged, undisturbed = ScaleLimiter(), ScaleLimiter()
    for scale_inputs, target, user in steps:
        judged = after(judged, scale_inputs, target=target, user=user)
        undisturbed = after(undisturbed, replace(EASE, chunk_cap=scale_inputs.chunk_cap), target=target, user=user)
        assert judged.asked == undisturbed.asked


@LAW
@given(st.lists(st.tuples(strains, any_number, unit), min_size=1, max_size=40))
def test_lateness_age_and_opposition_never_hand_the_arm_to_a_base_that_is_worse(
    steps: list[tuple[ScaleInputs, float, float]],
) -> None:
    late = undisturbed = ScaleLimiter()
    for scale_inputs, target, user in steps:
        worse = replace(scale_inputs, base_is_worse=True)
        late = after(late, worse, target=target, user=user)
        ease = replace(worse, chunk_delay=0.0, chunk_age=0.0, opposed=False)
        undisturbed = after(undisturbed, ease, target=target, user=user)
        assert late == undisturbed


@LAW
@given(strains, any_number, unit, unit)
def test_motion_begins_with_what_the_scale_may_be_and_never_more(
    scale_inputs: ScaleInputs, target: float, user: float, cap: float
) -> None:
    waiting = ticks(ScaleLimiter(), 3, scale_inputs)
    begun = waiting.starting(target=target, user_ceiling=user, chunk_cap=cap)
    allowed = max(0.0, min(target, user, cap)) if math.isfinite(target) else 0.0
    assert begun == replace(waiting, applied=min(allowed, waiting.own), asked=allowed)


@LAW
@given(st.floats(0.0, 2.0), st.floats(0.0, 2.0), st.floats(0.01, 2.0))
def test_a_delay_counts_from_what_was_trained_for_up_to_the_limit(
    age_s: float, trained_s: float, limit_s: float
) -> None:
    part = part_of_limit(age_s, trained_s=trained_s, limit_s=limit_s)
    assert (part == 0.0) == (age_s <= trained_s)
    assert part_of_limit(age_s, trained_s=0.0, limit_s=limit_s) == pytest.approx(age_s / limit_s)
    if age_s >= limit_s and age_s > trained_s:
        assert part >= 1.0 - 1e-9
    assert part_of_limit(age_s, trained_s=trained_s + 0.1, limit_s=limit_s) <= part or part >= 1.0


def test_a_chunk_that_was_trained_for_no_delay_is_trained_for_no_age() -> None:
    base = np.zeros((50, CONTRACT.dof))
    assert trained_age_s(chunk_of(base)) == 0.0
    assert trained_age_s(chunk_of(base, trained_delay_s=0.3)) == pytest.approx(0.3 + 16 / CONTRACT.fps, abs=1e-6)


def test_a_new_ceiling_is_open_and_nothing_is_applied_yet() -> None:
    assert ScaleLimiter() == ScaleLimiter(own=1.0, applied=0.0, miss_rate=0.0, calm_s=0.0, cause=Reason.OK)
    assert ticks(ScaleLimiter(applied=0.999), 5).applied == 1.0


def test_the_ceiling_recovers_only_after_a_calm_time_and_then_slowly() -> None:
    fallen = ticks(ScaleLimiter(applied=1.0), 500, replace(EASE, fault=True))
    waiting = ticks(fallen, round(LIMITS.recover_after_s / DT) - 1)
    assert waiting.own == 0.0
    assert waiting.cause is Reason.SCALE_FAULT, "the cause is kept until it is overcome"
    rising = ticks(waiting, 52)
    assert 0.0 < rising.own <= LIMITS.recover_per_s * 52 * DT + 1e-9
    disturbed = ticks(after(rising, replace(EASE, fault=True)), round(LIMITS.recover_after_s / DT) - 1)
    assert disturbed.own < rising.own
    assert ticks(rising, 500).own == 1.0
    assert ticks(rising, 500).cause is Reason.OK


def test_the_users_ceiling_acts_at_once_and_needs_no_recovery() -> None:
    down = after(ScaleLimiter(applied=1.0), user=0.9)
    assert down.applied == pytest.approx(0.9)
    assert down.own == 1.0
    up = ticks(down, 10, user=1.0)
    assert up.applied == pytest.approx(1.0)


@LAW
@given(unit, st.floats(0.0, 5.0), st.floats(0.1, 8.0), st.floats(-1.0, 1.0))
def test_a_chunk_cannot_ask_for_more_than_its_own_risk_allows(scale: float, r: float, f: float, cosine: float) -> None:
    claimed = assess(residual_ratio=0.0, factor_ratio=1.0, alignment=1.0)
    honest = assess(residual_ratio=r, factor_ratio=f, alignment=cosine)
    lying = replace(claimed, residual_ratio=r, factor_ratio=f, alignment=cosine)
    base = np.zeros((4, CONTRACT.dof))
    settings = AdapterSettings(risk_temperature=0.7)
    allowed = allowed_scale(chunk_of(base, scale=scale, risk=lying, settings=settings))
    assert allowed == allowed_scale(chunk_of(base, scale=scale, risk=honest, settings=settings))
    assert allowed <= min(scale, math.exp(-honest.total / 0.7)) + 1e-12


@LAW
@given(st.floats(0.0, 5.0), st.floats(0.0, 5.0))
def test_more_risk_never_allows_more(low: float, high: float) -> None:
    low, high = sorted((low, high))
    base = np.zeros((4, CONTRACT.dof))

    def scale(ratio: float) -> float:
        return allowed_scale(chunk_of(base, risk=assess(residual_ratio=ratio, factor_ratio=1.0, alignment=1.0)))

    assert scale(high) <= scale(low)


@pytest.mark.parametrize("broken", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("name", ["residual_ratio", "factor_ratio", "alignment"])
def test_a_risk_that_is_not_finite_allows_nothing(broken: float, name: str) -> None:
    ratios = {"residual_ratio": 1.0, "factor_ratio": 1.0, "alignment": 1.0, name: broken}
    chunk = chunk_of(np.zeros((4, CONTRACT.dof)), risk=assess(**ratios))
    assert allowed_scale(chunk) == 0.0


@LAW
@given(st.floats(0.0, 20.0))
def test_no_correction_exceeds_its_bound(size: float) -> None:
    residual = np.zeros((4, CONTRACT.dof))
    residual[2, 3] = -size
    cap = residual_cap(chunk_of(np.zeros_like(residual), residual_rad=residual), 0.5)
    assert cap * size <= 0.5 + 1e-12
    assert cap == 1.0 or size > 0.5


def test_a_residual_that_undoes_the_bases_motion_is_opposed_and_a_helpful_one_is_not() -> None:
    base = np.linspace(0.0, 0.5, 20)[:, None] * np.ones(CONTRACT.dof)
    assert is_opposed(chunk_of(base, residual_rad=-base))
    assert not is_opposed(chunk_of(base, residual_rad=base))
    assert not is_opposed(chunk_of(base, residual_rad=-0.01 * base)), "small corrections may go against the base"
    assert not is_opposed(chunk_of(base, residual_rad=-base, scale=0.0)), "what is not applied does no harm"
    assert not is_opposed(chunk_of(np.zeros_like(base), residual_rad=base)), "a base at rest cannot be undone"


@pytest.mark.parametrize("size", [0.1, 1.0, 2.0])
def test_whether_a_residual_undoes_the_motion_is_a_matter_of_direction_and_not_of_size(size: float) -> None:
    base = size * np.linspace(0.0, 1.0, 20)[:, None] * np.ones(CONTRACT.dof)
    sideways = np.where(np.arange(CONTRACT.dof) < 4, -1.0, 1.0) * base
    assert is_opposed(chunk_of(base, residual_rad=-base))
    assert not is_opposed(chunk_of(base, residual_rad=sideways)), "a cosine of -1/3"
