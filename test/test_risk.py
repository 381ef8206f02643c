# SPDX-License-Identifier: Apache-2.0
"""Laws of the adapter's scalar formula: bounds, monotone, exact at the ends, fail-closed."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sigma_ros.risk import assess, scale_of
from sigma_ros.values import AdapterSettings

RATIO = st.floats(min_value=1e-3, max_value=1e3)
COSINE = st.floats(min_value=-1.0, max_value=1.0)
BAD = st.sampled_from([math.nan, math.inf, -math.inf])


@st.composite
def settings(draw: st.DrawFn) -> AdapterSettings:
    low = draw(st.floats(min_value=0.0, max_value=1.0))
    high = draw(st.floats(min_value=low, max_value=1.0))
    return AdapterSettings(
        min_scale=low, max_scale=high, risk_temperature=draw(st.floats(min_value=1e-2, max_value=1e2))
    )


@given(RATIO, RATIO, COSINE, settings())
def test_scale_stays_between_its_bounds(residual: float, factor: float, cosine: float, chosen: AdapterSettings) -> None:
    scale = scale_of(assess(residual_ratio=residual, factor_ratio=factor, alignment=cosine), chosen)
    assert chosen.min_scale <= scale <= chosen.max_scale


@given(RATIO, RATIO, COSINE, settings(), st.floats(min_value=0.0, max_value=1e3))
def test_scale_never_rises_when_a_risk_term_does(
    residual: float, factor: float, cosine: float, chosen: AdapterSettings, more: float
) -> None:
    calm = scale_of(assess(residual_ratio=residual, factor_ratio=factor, alignment=cosine), chosen)
    away = max(factor, 1.0) + more
    for worse in (
        assess(residual_ratio=residual + more, factor_ratio=factor, alignment=cosine),
        assess(residual_ratio=residual, factor_ratio=factor, alignment=max(-1.0, cosine - more)),
    ):
        assert scale_of(worse, chosen) <= calm
    near = scale_of(assess(residual_ratio=residual, factor_ratio=max(factor, 1.0), alignment=cosine), chosen)
    assert scale_of(assess(residual_ratio=residual, factor_ratio=away, alignment=cosine), chosen) <= near


@given(settings())
def test_no_risk_gives_exactly_the_maximum_and_extreme_risk_the_minimum(chosen: AdapterSettings) -> None:
    calm = assess(residual_ratio=1.0, factor_ratio=1.0, alignment=1.0)
    assert calm.total == 0.0
    assert scale_of(calm, chosen) == chosen.max_scale
    extreme = assess(residual_ratio=1e9, factor_ratio=1.0, alignment=1.0)
    assert scale_of(extreme, chosen) == pytest.approx(chosen.min_scale, abs=1e-12)


@given(BAD, st.integers(min_value=0, max_value=2), settings())
def test_anything_not_finite_closes_the_adapter(bad: float, where: int, chosen: AdapterSettings) -> None:
    ratios = [1.0, 1.0, 1.0]
    ratios[where] = bad
    risk = assess(residual_ratio=ratios[0], factor_ratio=ratios[1], alignment=ratios[2])
    assert scale_of(risk, chosen) == 0.0
    vanished = assess(residual_ratio=1.0, factor_ratio=0.0, alignment=1.0)
    assert scale_of(vanished, chosen) == 0.0


@given(RATIO, RATIO, COSINE, settings())
def test_scale_is_continuous(residual: float, factor: float, cosine: float, chosen: AdapterSettings) -> None:
    here = assess(residual_ratio=residual, factor_ratio=factor, alignment=cosine)
    step = 1e-9
    near = assess(residual_ratio=residual + step, factor_ratio=factor * (1 + step), alignment=min(1.0, cosine + step))
    assert abs(scale_of(here, chosen) - scale_of(near, chosen)) <= 1e-5


@pytest.mark.parametrize(
    "wrong",
    [
        {"min_scale": -0.1},
        {"max_scale": 1.0000001},
        {"min_scale": 0.6, "max_scale": 0.5},
        {"risk_temperature": 0.0},
        {"max_scale": math.nan},
        {"risk_temperature": math.inf},
    ],
)
def test_senseless_settings_cannot_be_built(wrong: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=r"scale|temperature"):
        AdapterSettings(**wrong)
