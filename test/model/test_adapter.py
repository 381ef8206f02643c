# SPDX-License-Identifier: Apache-2.0
"""Laws of the risk-aware blend; numbers of reference are those of `sigma_ros.risk`, which uses no torch."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from sigma_ros.model.adapter import R_REF, References, SigmaTelepathyAdapter, reference_tau
from sigma_ros.risk import assess, scale_of
from sigma_ros.values import AdapterSettings

RATIO = st.floats(0.0, 100.0)
COSINE = st.floats(-1.0, 1.0)
UNIT = st.floats(0.0, 1.0)
BAD = st.sampled_from([math.nan, math.inf, -math.inf])


@st.composite
def bounds(draw):
    low, high = sorted((draw(UNIT), draw(UNIT)))
    return {"min_scale": low, "max_scale": high, "risk_temperature": draw(st.floats(0.01, 10.0))}


def report_of(options, *, residual=0.0, factor=1.0, alignment=1.0, size=12):
    adapter = SigmaTelepathyAdapter(**options)
    return adapter.assess(
        telepathy_residual=torch.full((1, 4, 6), residual * R_REF, dtype=torch.float64),
        telepathy_factors=torch.full((1, 4, size // 4), factor * reference_tau(size) / size**0.5, dtype=torch.float64),
        alignment=torch.tensor([alignment], dtype=torch.float64),
    )


@given(options=bounds(), residual=RATIO, factor=st.floats(1e-3, 100.0), alignment=COSINE)
def test_batches_of_tensors_and_plain_numbers_agree(options, residual, factor, alignment):
    report = report_of(options, residual=residual, factor=factor, alignment=alignment)
    risk = assess(
        residual_ratio=float(report.residual_ratio),
        factor_ratio=float(report.factor_ratio),
        alignment=float(report.alignment),
    )
    assert float(report.residual_ratio) == pytest.approx(residual, rel=1e-12, abs=1e-150)  # squares underflow
    for name in ("residual_term", "factor_term", "alignment_term"):
        assert float(getattr(report, name)) == pytest.approx(getattr(risk, name), rel=1e-12, abs=1e-12)
    assert float(report.scale) == pytest.approx(scale_of(risk, AdapterSettings(**options)), rel=1e-12, abs=1e-15)


@given(options=bounds(), bad=BAD, where=st.sampled_from(["residual", "factor", "alignment"]))
def test_anything_that_is_not_finite_gives_zero(options, bad, where):
    assert float(report_of(options, **{where: bad}).scale) == 0.0


@given(seed=st.integers(0, 1000), bad=BAD)
def test_a_base_that_is_not_finite_is_given_back_as_it_is(seed, bad):
    generator = torch.Generator().manual_seed(seed)
    base = torch.randn(2, 6, generator=generator)
    base[0, 3] = bad
    blended = blend(base, torch.full((2, 6), 0.05), min_scale=1.0)
    assert torch.equal(blended[0, :3], base[0, :3])
    assert torch.allclose(blended[1], base[1] + 0.05)


def blend(base, residual, factors=None, **options):
    return SigmaTelepathyAdapter(**options)(
        base_action_vector=base,
        telepathy_residual=residual,
        telepathy_factors=torch.full((base.shape[0], 8, 256), 1.14) if factors is None else factors,
    )


def test_scale_zero_gives_the_base_bit_for_bit_whatever_the_residual():
    base = torch.randn(3, 16, 6)
    for residual in (torch.randn(3, 16, 6), torch.full((3, 16, 6), math.nan)):
        assert torch.equal(blend(base, residual, max_scale=0.0), base)


def test_scale_one_adds_the_whole_residual():
    base, residual = torch.randn(3, 6), 0.01 * torch.randn(3, 6)
    torch.testing.assert_close(blend(base, residual), base + residual)


def test_each_sample_of_a_batch_has_its_own_scale():
    base, residual = torch.zeros(2, 6), torch.full((2, 6), 0.05)
    residual[1] = 1e6
    blended = blend(base, residual)
    assert torch.allclose(blended[0], residual[0])
    assert torch.equal(blended[1], base[1])


def test_the_cards_call_without_alignment_judges_residual_and_factors_only():
    adapter = SigmaTelepathyAdapter(min_scale=0.0, max_scale=1.0, risk_temperature=1.0)
    report = adapter.assess(telepathy_residual=torch.zeros(1, 6), telepathy_factors=torch.full((1, 8, 256), 1.14))
    assert float(report.alignment_term) == 0.0
    assert float(report.scale) == 1.0


@pytest.mark.parametrize("value", [0.0, -1.0, math.nan, math.inf])
def test_references_must_be_finite_and_above_zero(value):
    with pytest.raises(ValueError, match="r_ref must be finite and above 0"):
        References(r_ref=value, tau_ref=1.0)
