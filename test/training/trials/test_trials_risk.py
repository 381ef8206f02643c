# SPDX-License-Identifier: Apache-2.0
"""A study of risk: exact AUROC, false alarms as rare as promised, no length of an episode as a signal."""

import math
from dataclasses import replace

import numpy as np
import pytest

from sigma_ros.errors import UsageError
from training.trials.risk import auroc, conformal_threshold, folds, main, markdown, study
from training.trials.signals import LoggedEpisode


def episode(
    number: int, *, success: bool, level: float, plans: int = 12, late_level: float | None = None
) -> LoggedEpisode:
    """Signals around a level; from 5.4 s on around another one."""
    rng, times_s = np.random.default_rng(number), np.arange(plans) / 2
    noise = rng.normal(0.0, 0.05, plans)
    height = np.where(times_s > 5.4, level if late_level is None else late_level, level) + noise
    names = ("three-term risk", "residual ratio", "small norm of tau", "reversals")
    return LoggedEpisode(
        name=f"run/{number}",
        seed=number,
        success=success,
        times_s=times_s,
        signals=dict.fromkeys(names, rng.random(plans)) | {"disagreement": height},
        embedding=rng.normal(level, 1.0, (plans, 5)),
    )


def test_the_auroc_is_the_share_of_pairs_in_the_right_order() -> None:
    scores, failed = np.array([1.0, 2.0, 2.0, 3.0, 4.0]), np.array([False, False, True, False, True])
    pairs = [(bad > good) + 0.5 * (bad == good) for bad in scores[failed] for good in scores[~failed]]
    at, low, high = auroc(scores, failed)
    assert at == pytest.approx(np.mean(pairs))
    assert low <= at <= high
    assert all(math.isnan(value) for value in auroc(scores, np.zeros(5, dtype=bool)))


def test_fresh_successes_exceed_the_conformal_threshold_as_rarely_as_promised() -> None:
    rng = np.random.default_rng(0)
    shares = []
    for _ in range(400):
        scores = rng.gamma(2.0, size=139)
        shares.append(float((scores[39:] > conformal_threshold(scores[:39])).mean()))
    assert 0.03 < np.mean(shares) <= 0.055


def test_too_few_successes_give_no_threshold_rather_than_a_guess() -> None:
    assert conformal_threshold(np.arange(18.0)) == math.inf
    assert conformal_threshold(np.arange(19.0)) == 18.0


def test_a_signal_that_tells_is_told_from_one_that_does_not() -> None:
    calm = [episode(i, success=True, level=0.0) for i in range(30)]
    fresh = [episode(100 + i, success=i % 4 > 0, level=0.0 if i % 4 else 2.0) for i in range(40)]
    rows = {row.signal: row for row in study([(calm, fresh)], until_s=5.4)}
    assert rows["disagreement"].auroc[0] == 1.0
    assert rows["disagreement"].found == (10, 10)
    assert rows["disagreement"].false_alarms[0] <= 4
    assert rows["novelty"].auroc[0] > 0.9
    assert 0.2 < rows["three-term risk"].auroc[0] < 0.8
    assert "noise spread" not in rows, "nobody measured it"
    assert "| disagreement | free | 1.00" in markdown(list(rows.values()))


def test_what_comes_after_the_time_limit_of_the_study_is_no_signal() -> None:
    calm = [episode(i, success=True, level=0.0) for i in range(30)]
    late = [episode(100 + i, success=False, level=0.0, plans=20, late_level=9.0) for i in range(20)]
    rows = {row.signal: row for row in study([(calm, [*late, *calm])], until_s=5.4)}
    assert 0.3 < rows["disagreement"].auroc[0] < 0.7
    assert rows["disagreement"].found[0] <= 3


def test_no_episode_is_judged_by_one_of_its_own_seed_and_each_is_judged_once() -> None:
    episodes = [replace(episode(i, success=i != 7, level=0.0), seed=i % 12) for i in range(36)]
    splits = folds(episodes)
    assert sorted(e.name for _, judged in splits for e in judged) == sorted(e.name for e in episodes)
    assert not any({e.seed for e in calm} & {e.seed for e in judged} for calm, judged in splits)


def test_thresholds_of_the_other_folds_are_exceeded_as_rarely_as_promised_by_noise_alone() -> None:
    """In sample the largest of few successes can never be a false alarm."""
    groups = [[episode(99 * k + i, success=True, level=0.0) for i in range(25)] for k in range(8)]
    told = [row for group in groups for row in study(folds(group), until_s=5.4)]
    alarms = [row.false_alarms for row in told if row.signal == "disagreement"]
    assert 0 < sum(false for false, _ in alarms) <= 0.1 * sum(of for _, of in alarms)


def test_nothing_to_calibrate_with_is_refused(tmp_path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(UsageError, match="too few episodes"):
        study([([episode(0, success=False, level=0.0)], [episode(1, success=True, level=0.0)])], until_s=5.4)
    assert main(["--runs", str(tmp_path)]) == 2
    assert "too few episodes" in capsys.readouterr().err
