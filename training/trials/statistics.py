# SPDX-License-Identifier: Apache-2.0
"""Statistics that a study needs beyond those of one report."""

import math
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float64
from numpy import ndarray
from scipy import stats

_ENDS = (0.025, 0.975)
_RESAMPLES = 4000


@dataclass(frozen=True, slots=True, kw_only=True)
class SeedChange:
    """Change of an error from one arm to another over training seeds, as a share; NaN where undefined."""

    mean: float
    low: float
    high: float
    worse: int
    seeds: int


def change_over_seeds(theirs: Float64[ndarray, " seeds"], ours: Float64[ndarray, " seeds"]) -> SeedChange:
    """What another training run would have made of a comparison, which a (95 %) interval over episodes cannot say.

    `theirs` and `ours` are mean errors of runs that share a training seed. Student's interval of the mean of
    log(ours / theirs): the change is a ratio, and seeds are too few for a bootstrap.
    """
    worse = int(np.count_nonzero(ours > theirs))
    if not (np.all(theirs > 0.0) and np.all(ours > 0.0) and len(ours)):
        return SeedChange(mean=math.nan, low=math.nan, high=math.nan, worse=worse, seeds=len(ours))
    logs = np.log(ours / theirs)
    mean, half = float(logs.mean()), math.nan
    if len(logs) > 1:
        error = float(logs.std(ddof=1)) / math.sqrt(len(logs))
        half = error * float(stats.t.ppf(_ENDS[1], len(logs) - 1))
    return SeedChange(
        mean=math.expm1(mean),
        low=math.expm1(mean - half),
        high=math.expm1(mean + half),
        worse=worse,
        seeds=len(logs),
    )


def nested_interval(
    good: Float64[ndarray, "seeds episodes"],
    counted: Float64[ndarray, "seeds episodes"],
) -> tuple[float, float]:
    """95 % interval of sum(good) / sum(counted): training seeds are drawn with replacement, then episodes within each.

    Percentile bootstrap over two levels (Davison and Hinkley 1997, section 3.8). Episodes are drawn anew for each
    training seed. `counted` is 0 where an episode does not count (no choice was made); NaN where none counts.
    """
    if not counted.sum():
        return math.nan, math.nan
    rng = np.random.default_rng(0)
    seeds, episodes = good.shape
    rows = rng.integers(seeds, size=(_RESAMPLES, seeds))[:, :, None]
    columns = rng.integers(episodes, size=(_RESAMPLES, seeds, episodes))
    total = counted[rows, columns].sum(axis=(1, 2))
    rates = good[rows, columns].sum(axis=(1, 2))[total > 0.0] / total[total > 0.0]
    low, high = np.quantile(rates, _ENDS)
    return float(low), float(high)


def mcnemar(ours: Bool[ndarray, " episodes"], theirs: Bool[ndarray, " episodes"]) -> float:
    """Exact two-sided p of McNemar's test on paired episodes; 1 where the two never differ."""
    better, worse = int(np.sum(ours & ~theirs)), int(np.sum(theirs & ~ours))
    return float(stats.binomtest(better, better + worse).pvalue) if better + worse else 1.0
