# SPDX-License-Identifier: Apache-2.0
"""Laws of the scored windows: every fixed scale follows from the logged base and residual alone."""

import math
from dataclasses import fields, is_dataclass

import numpy as np
import pytest
from synthetic import synthetic_log, with_scale

from sigma_ros.evaluation.report.chunk_table import read_windows
from sigma_ros.evaluation.report.write import write_report
from sigma_ros.evaluation.scoring.score import best_scale, score, sweep_scales
from sigma_ros.evaluation.scoring.windows import WindowErrors, windows_of


def columns(one: WindowErrors, other: WindowErrors) -> dict:
    """Every column of two tables side by side, those of the arms too."""
    found = {}
    for name in (field.name for field in fields(one)):
        pair = getattr(one, name), getattr(other, name)
        parts = [part.name for part in fields(pair[0])] if is_dataclass(pair[0]) else []
        found |= {f"{name}.{part}": tuple(getattr(arm, part) for arm in pair) for part in parts} or {name: pair}
    return found


@pytest.fixture(scope="module")
def log():
    return synthetic_log()


@pytest.mark.parametrize("scale", [0.0, 0.3, 1.0])
def test_the_error_at_a_scale_is_that_of_a_replay_with_it(log, scale):
    measured = score(with_scale(log, scale)).sigma
    expected = windows_of(log).at_scale(scale).mean(axis=0)
    assert (measured.mse_vec, measured.mse_chk, measured.mse_trj) == pytest.approx(tuple(expected), rel=1e-12)


def test_no_scale_on_the_raster_beats_the_best(log):
    sweep = score(log).sweep
    assert 0.0 <= sweep.best_scale <= 1.0
    assert sweep.best_mse_trj <= min(sweep.mse_trj)
    assert sweep.mse_trj[0] == pytest.approx(score(log).baseline.mse_trj, rel=1e-12)


def test_a_residual_that_repairs_everything_wants_scale_one_and_a_harmful_one_zero():
    assert best_scale(windows_of(synthetic_log(residual_share=1.0))) == pytest.approx(1.0)
    assert best_scale(windows_of(synthetic_log(residual_share=-0.5))) == 0.0


def test_without_a_residual_no_scale_is_best():
    log = synthetic_log(residual_share=0.0)
    assert math.isnan(best_scale(windows_of(log)))
    sweep = score(log).sweep
    assert len(set(sweep.mse_trj)) == 1
    assert sweep.adapter_against_best.verdict == "equal"


def test_without_windows_every_number_is_undefined():
    sweep = sweep_scales(windows_of(synthetic_log(ticks=10)))
    assert all(math.isnan(value) for value in (*sweep.mse_trj, sweep.best_scale, sweep.best_mse_trj))


def test_what_a_report_keeps_gives_the_same_errors_as_the_log(log, tmp_path):
    other = synthetic_log(seed=3, gaps=(20, 21), name="other")
    actions, normalise = read_windows(write_report([log, other], score(log, other), tmp_path).chunks)
    kept = actions.errors(normalise)
    direct = WindowErrors.joined([windows_of(log, 0), windows_of(other, 1)])
    for name, (one, other) in columns(kept, direct).items():
        np.testing.assert_array_equal(one, other, err_msg=name)
