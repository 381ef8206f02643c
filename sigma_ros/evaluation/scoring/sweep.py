# SPDX-License-Identifier: Apache-2.0
"""What if the scale were fixed? Errors at every scale from the logged base and residual, and the best of them."""

import math

import numpy as np

from sigma_ros.evaluation.scoring.metrics import SPANS, TRJ
from sigma_ros.evaluation.scoring.scores import SweepScores
from sigma_ros.evaluation.scoring.statistics import compare
from sigma_ros.evaluation.scoring.windows import WindowErrors

SCALES = tuple(round(0.05 * i, 2) for i in range(21))


def sweep_scales(errors: WindowErrors, *, seed: int = 0) -> SweepScores:
    """Pools the windows; `seed` is that of the bootstrap."""
    means = np.array([_means(errors, scale) for scale in SCALES])
    best = best_scale(errors)
    used = 0.0 if math.isnan(best) else best
    at_best = _means(errors, used)
    return SweepScores(
        scales=SCALES,
        mse_vec=tuple(means[:, 0].tolist()),
        mse_chk=tuple(means[:, 1].tolist()),
        mse_trj=tuple(means[:, 2].tolist()),
        best_scale=best,
        best_mse_vec=at_best[0],
        best_mse_chk=at_best[1],
        best_mse_trj=at_best[2],
        adapter_against_best=compare(
            errors.at_scale(used)[:, TRJ], errors.sigma.spans[:, TRJ], errors.recording, seed=seed
        ),
    )


def best_scale(errors: WindowErrors) -> float:
    """The scale in [0, 1] with the least mean mse_trj: the parabola's lowest point. NaN where it is flat."""
    cross, energy = errors.cross[:, TRJ].sum(), errors.energy[:, TRJ].sum()
    if not energy > 0.0 or not np.isfinite(cross):
        return math.nan
    return float(np.clip(-cross / energy, 0.0, 1.0))


def _means(errors: WindowErrors, scale: float) -> list[float]:
    return errors.at_scale(scale).mean(axis=0).tolist() if len(errors) else [math.nan] * len(SPANS)
