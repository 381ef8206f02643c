# SPDX-License-Identifier: Apache-2.0
"""Is the difference between two arms more than chance? Paired bootstrap, permutation test, effect size.

Both arms are measured on the same windows, so only their differences are resampled. Windows of one
episode resemble each other: with enough episodes whole episodes are resampled, as Field and Welsh
(2007) do for clustered data; with fewer the unit is the window, and the result says so.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np
from jaxtyping import Float64, Int64
from numpy import ndarray
from scipy import stats

from sigma_ros.evaluation.scoring.metrics import mean_or_nan

MIN_EPISODES = 5
"""Fewer episodes than this cannot carry a bootstrap over episodes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """Sigma minus baseline on a score where less is better: a negative difference is a gain.

    `low` and `high` bound the difference with `confidence`, `relative_low` and `relative_high` its share of the
    baseline (a ratio of means: both are resampled, so a gain never reaches beyond -100 %); `effect_size` is Cohen's
    d of the paired differences; `p_value` is of the two-sided sign-flip permutation test. NaN where undefined.
    """

    baseline: float
    sigma: float
    difference: float
    low: float
    high: float
    relative_low: float
    relative_high: float
    confidence: float
    effect_size: float
    p_value: float
    unit: Literal["episode", "window"]
    units: int

    @property
    def relative(self) -> float:
        """The difference as a share of the baseline; NaN where the baseline is 0."""
        return self.difference / self.baseline if self.baseline else math.nan

    @property
    def verdict(self) -> Literal["better", "worse", "equal", "undecided"]:
        """What both intervals allow to say: `equal` only where every single difference is exactly 0."""
        if self.difference == self.low == self.high == 0.0:
            return "equal"
        if self.high < 0.0 and not self.relative_high >= 0.0:
            return "better"
        return "worse" if self.low > 0.0 and not self.relative_low <= 0.0 else "undecided"


def compare(
    baseline: Float64[ndarray, " windows"],
    sigma: Float64[ndarray, " windows"],
    episodes: Int64[ndarray, " windows"],
    *,
    seed: int = 0,
    confidence: float = 0.95,
    resamples: int = 5000,
) -> Comparison:
    """Compares two paired arms; `episodes` numbers the episode each window belongs to.

    The mean weighs every window alike, also when episodes are resampled (a ratio of sums).
    """
    difference = sigma - baseline
    unit: Literal["episode", "window"] = "window"
    sums, counts, reference = difference, np.ones_like(difference), baseline
    if len(np.unique(episodes)) >= MIN_EPISODES:
        unit = "episode"
        sums, counts = _per_episode(difference, episodes)
        reference, _ = _per_episode(baseline, episodes)
    low, high = interval(sums, counts, seed=seed, confidence=confidence, resamples=resamples)
    relative_low, relative_high = math.nan, math.nan
    if np.all(reference > 0.0):
        relative_low, relative_high = interval(sums, reference, seed=seed, confidence=confidence, resamples=resamples)
    return Comparison(
        baseline=mean_or_nan(baseline),
        sigma=mean_or_nan(sigma),
        difference=mean_or_nan(difference),
        low=low,
        high=high,
        relative_low=relative_low,
        relative_high=relative_high,
        confidence=confidence,
        effect_size=_effect_size(sums / counts),
        p_value=_p_value(sums, seed=seed, resamples=resamples),
        unit=unit,
        units=len(sums),
    )


def interval(
    sums: Float64[ndarray, " units"],
    counts: Float64[ndarray, " units"],
    *,
    seed: int,
    confidence: float,
    resamples: int,
) -> tuple[float, float]:
    """Bootstrap interval (BCa) of sum(sums) / sum(counts) when units are drawn with replacement.

    No difference anywhere gives (0, 0); else fewer than two units give (NaN, NaN), and units that all
    agree an interval of no width.
    """
    if len(sums) and not np.any(sums):
        return 0.0, 0.0
    if len(sums) < 2:
        return math.nan, math.nan
    means = sums / counts
    if np.ptp(means) == 0.0:
        return float(means[0]), float(means[0])
    result = stats.bootstrap(
        (sums, counts),
        lambda s, n, axis: np.sum(s, axis=axis) / np.sum(n, axis=axis),
        paired=True,
        vectorized=True,
        n_resamples=resamples,
        batch=max(1, 2_000_000 // len(sums)),
        confidence_level=confidence,
        method="BCa",
        rng=np.random.default_rng(seed),
    )
    return float(result.confidence_interval.low), float(result.confidence_interval.high)


def rank_correlation(x: Float64[ndarray, " windows"], y: Float64[ndarray, " windows"]) -> tuple[float, float]:
    """Spearman's rho and its two-sided p-value; NaN where either side does not vary or n < 3. Infinity ranks last."""
    usable = ~(np.isnan(x) | np.isnan(y))
    if np.count_nonzero(usable) < 3 or len(np.unique(x[usable])) < 2 or len(np.unique(y[usable])) < 2:
        return math.nan, math.nan
    result = stats.spearmanr(x[usable], y[usable])
    return float(result.statistic), float(result.pvalue)


def _per_episode(values: ndarray, episodes: ndarray) -> tuple[ndarray, ndarray]:
    _, index = np.unique(episodes, return_inverse=True)
    return np.bincount(index, weights=values), np.bincount(index).astype(np.float64)


def _effect_size(means: ndarray) -> float:
    if len(means) < 2:
        return math.nan
    spread = float(np.std(means, ddof=1))
    if spread == 0.0:
        return 0.0 if means[0] == 0.0 else math.nan
    return float(np.mean(means)) / spread


def _p_value(sums: ndarray, *, seed: int, resamples: int) -> float:
    """Two-sided: under no difference the sign of each unit's sum is arbitrary."""
    if len(sums) < 2:
        return math.nan
    if not np.any(sums):
        return 1.0
    result = stats.permutation_test(
        (sums,),
        lambda s, axis: np.sum(s, axis=axis),
        permutation_type="samples",
        vectorized=True,
        n_resamples=resamples,
        batch=max(1, 2_000_000 // len(sums)),
        rng=np.random.default_rng(seed),
    )
    return float(result.pvalue)


def holm[Name](p_values: Mapping[Name, float]) -> dict[Name, float]:
    """Holm's step-down correction for several comparisons."""
    ordered = sorted(p_values, key=lambda name: p_values[name])
    corrected, largest = {}, 0.0
    for place, name in enumerate(ordered):
        largest = max(largest, min(1.0, (len(ordered) - place) * p_values[name]))
        corrected[name] = largest
    return corrected
