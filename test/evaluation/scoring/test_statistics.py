# SPDX-License-Identifier: Apache-2.0
"""Laws of the paired comparison. Expected values: known means, and scipy's own t-test as the reference."""

import numpy as np
import pytest
from scipy import stats

from sigma_ros.evaluation.scoring.statistics import compare, interval, rank_correlation


def test_the_interval_covers_a_known_mean_about_as_often_as_it_says():
    """400 draws of 40 windows with mean difference -0.5: 95 % +- 3.3 % (three standard errors) must contain it."""
    rng = np.random.default_rng(7)
    hits = 0
    for trial in range(400):
        low, high = interval(rng.normal(-0.5, 1.0, 40), np.ones(40), seed=trial, confidence=0.95, resamples=600)
        hits += low <= -0.5 <= high
    assert 0.917 <= hits / 400 <= 0.983


def test_resampling_episodes_covers_where_resampling_windows_would_not():
    """Windows of an episode share an offset: the interval over windows is far too narrow, that over episodes is not."""
    rng = np.random.default_rng(3)
    episode = np.repeat(np.arange(20), 30)
    covered = {"episode": 0, "window": 0}
    for trial in range(120):
        difference = rng.normal(0.0, 1.0, 20)[episode] + 0.1 * rng.normal(size=600)
        for unit, groups in (("episode", episode), ("window", np.zeros(600, int))):
            result = compare(np.zeros(600), difference, groups, seed=trial, resamples=300)
            assert result.unit == unit
            covered[unit] += result.low <= 0.0 <= result.high
    assert covered["episode"] / 120 > 0.85
    assert covered["window"] / 120 < 0.5


def test_the_relative_interval_is_of_the_ratio_so_no_gain_goes_beyond_all_of_the_error():
    """Windows differ much, the gain does not: 98 % +- 1 % of each. The difference over the mean error hides that."""
    rng = np.random.default_rng(9)
    baseline = rng.gamma(0.5, 1.0, 17)
    result = compare(baseline, baseline * rng.normal(0.02, 0.01, 17).clip(0.0), np.zeros(17, int))
    assert result.low / result.baseline < -1.0
    assert -1.0 < result.relative_low < result.relative < result.relative_high < -0.95


def test_the_relative_interval_covers_the_ratio_of_the_means_about_as_often_as_it_says():
    rng = np.random.default_rng(11)
    hits = 0
    for trial in range(200):
        baseline = rng.gamma(4.0, 0.25, 60)
        result = compare(baseline, baseline * rng.gamma(4.0, 0.2, 60), np.zeros(60, int), seed=trial, resamples=400)
        hits += result.relative_low <= -0.2 <= result.relative_high
    assert 0.90 <= hits / 200 <= 0.99


def test_without_an_error_to_compare_with_there_is_no_relative_interval():
    result = compare(np.zeros(6), np.ones(6), np.zeros(6, int))
    assert np.isnan([result.relative, result.relative_low, result.relative_high]).all()
    assert result.verdict == "worse"


def test_pairing_sees_a_gain_that_is_lost_between_windows():
    """Windows differ by far more than the arms do; the paired interval is at least ten times narrower."""
    rng = np.random.default_rng(5)
    baseline = rng.gamma(2.0, 1.0, 200)
    sigma = baseline - 0.05 + 0.01 * rng.normal(size=200)
    paired = compare(baseline, sigma, np.zeros(200, int))
    spread = np.sqrt(baseline.var(ddof=1) / 200 + sigma.var(ddof=1) / 200)
    assert paired.verdict == "better"
    assert paired.high - paired.low < 2 * 1.96 * spread / 10


def test_the_p_value_agrees_with_a_t_test_on_normal_differences():
    difference = np.random.default_rng(1).normal(0.3, 1.0, 60)
    result = compare(np.zeros(60), difference, np.zeros(60, int))
    assert result.p_value == pytest.approx(stats.ttest_1samp(difference, 0.0).pvalue, abs=0.02)


def test_the_effect_size_is_cohens_d_of_the_differences():
    difference = np.array([1.0, 2.0, 3.0, 4.0])
    result = compare(np.zeros(4), difference, np.zeros(4, int))
    assert result.effect_size == pytest.approx(2.5 / np.std(difference, ddof=1))


def test_equal_arms_are_equal_and_nothing_else_is():
    values = np.random.default_rng(0).gamma(2.0, 1.0, 30)
    same = compare(values, values, np.arange(30) // 5)
    assert (same.verdict, same.difference, same.p_value, same.effect_size) == ("equal", 0.0, 1.0, 0.0)
    assert compare(values[:1], values[:1], np.zeros(1, int)).verdict == "equal"
    nearly = values.copy()
    nearly[3] += 1e-12
    assert compare(values, nearly, np.zeros(30, int)).verdict != "equal"


def test_swapping_the_arms_swaps_the_verdict():
    rng = np.random.default_rng(2)
    baseline = rng.gamma(2.0, 1.0, 50)
    sigma = 0.8 * baseline
    groups = np.arange(50) // 5
    assert compare(baseline, sigma, groups).verdict == "better"
    assert compare(sigma, baseline, groups).verdict == "worse"


def test_the_same_seed_gives_the_same_interval_and_another_seed_nearly_so():
    rng = np.random.default_rng(4)
    baseline, sigma = rng.gamma(2.0, 1.0, 100), rng.gamma(2.0, 1.0, 100)
    groups = np.zeros(100, int)
    assert compare(baseline, sigma, groups, seed=1) == compare(baseline, sigma, groups, seed=1)
    one, other = compare(baseline, sigma, groups, seed=1), compare(baseline, sigma, groups, seed=2)
    assert one.low == pytest.approx(other.low, abs=0.05)


def test_every_window_weighs_alike_when_episodes_are_resampled():
    baseline = np.zeros(106)
    sigma = np.concatenate([np.full(100, 1.0), np.zeros(6)])
    groups = np.concatenate([np.zeros(100, int), np.arange(1, 7)])
    assert compare(baseline, sigma, groups).difference == pytest.approx(100 / 106)


def test_one_window_gives_no_interval_and_no_verdict():
    single = compare(np.array([1.0]), np.array([0.5]), np.zeros(1, int))
    assert single.verdict == "undecided"
    assert np.isnan(single.low)
    empty = compare(np.empty(0), np.empty(0), np.empty(0, int))
    assert np.isnan(empty.difference)
    assert empty.verdict == "undecided"


def test_rank_correlation_is_undefined_without_variation_and_takes_infinite_risk_as_the_largest():
    assert np.isnan(rank_correlation(np.ones(5), np.arange(5.0))[0])
    assert rank_correlation(np.array([0.0, 1.0, np.inf]), np.array([1.0, 2.0, 3.0]))[0] == pytest.approx(1.0)
