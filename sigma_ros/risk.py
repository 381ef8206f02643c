# SPDX-License-Identifier: Apache-2.0
"""The adapter's formula on scalars: shared by the model, the supervisor and the evaluation.

Source: the model card gives the shape (reads residuals, norms and cosines; scale in
[min, max]; large or misaligned residuals go to 0); the terms are our choice.
"""

import math

from sigma_ros.values import AdapterSettings, Risk


def assess(*, residual_ratio: float, factor_ratio: float, alignment: float) -> Risk:
    """Turns the three ratios into risk terms, each >= 0 and 0 when calm.

    `residual_ratio` counts above 1, `factor_ratio` beyond a factor of 2 either way, `alignment` below 1.
    A value that is not finite, or a factor ratio <= 0 (tau vanished), gives an infinite term.
    """
    return Risk(
        residual_ratio=residual_ratio,
        factor_ratio=factor_ratio,
        alignment=alignment,
        residual_term=_residual_term(residual_ratio),
        factor_term=_factor_term(factor_ratio),
        alignment_term=_alignment_term(alignment),
    )


def scale_of(risk: Risk, settings: AdapterSettings) -> float:
    """Scale in [min_scale, max_scale], non-increasing in each term; 0 when any term is not finite."""
    total = risk.total
    if not math.isfinite(total):
        return 0.0
    weight = math.exp(-total / settings.risk_temperature)
    if weight == 1.0:
        return settings.max_scale  # min + (max - min) may differ from max in the last bit
    span = settings.max_scale - settings.min_scale
    return min(settings.max_scale, settings.min_scale + span * weight)


def _residual_term(ratio: float) -> float:
    return max(0.0, ratio - 1.0) if math.isfinite(ratio) else math.inf


def _factor_term(ratio: float) -> float:
    if not math.isfinite(ratio) or ratio <= 0.0:
        return math.inf
    return max(0.0, abs(math.log(ratio)) - math.log(2.0))


def _alignment_term(cosine: float) -> float:
    return 1.0 - min(1.0, max(0.0, cosine)) if math.isfinite(cosine) else math.inf
