# SPDX-License-Identifier: Apache-2.0
"""Scored windows as columns: what each arm missed by, and what any other fixed scale would have missed by.

The error at scale s is a parabola in s, so three numbers per window and span give every scale without another
inference: `baseline + 2 s cross + s^2 energy`. The columns come from a replay's log or from a report's
`chunks.parquet`, with the same arithmetic.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Self

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from jaxtyping import Float64, Int64
from numpy import ndarray

from sigma_ros.errors import SigmaError
from sigma_ros.evaluation.log import SCORED_STEPS, ReplayLog
from sigma_ros.evaluation.report.chunk_table import action_map
from sigma_ros.evaluation.scoring import metrics
from sigma_ros.evaluation.scoring.metrics import SPANS
from sigma_ros.evaluation.scoring.scores import SweepScores
from sigma_ros.evaluation.scoring.statistics import compare

Normalise = Callable[[ndarray], ndarray]
"""Radians to the normalised actions in which errors are measured."""

_COLUMNS = ("recording", "epoch", "tick", "base_rad", "residual_rad", "target_rad", "scale", "risk")


@dataclass(frozen=True, slots=True, kw_only=True)
class WindowErrors:
    """One row per scored window. Errors are mean squares of normalised actions over the spans vec, chk, trj.

    `recording` numbers the recording in the report. `cross` is the mean of (base - target) * residual, `energy` that
    of residual^2.
    """

    recording: Int64[ndarray, " windows"]
    epoch: Int64[ndarray, " windows"]
    tick: Int64[ndarray, " windows"]
    scale: Float64[ndarray, " windows"]
    risk: Float64[ndarray, " windows"]
    baseline: Float64[ndarray, "windows spans"]
    sigma: Float64[ndarray, "windows spans"]
    cross: Float64[ndarray, "windows spans"]
    energy: Float64[ndarray, "windows spans"]

    def __len__(self) -> int:
        return len(self.tick)

    def at_scale(self, scale: float) -> Float64[ndarray, "windows spans"]:
        """Errors had every chunk been blended with this scale; 0 is the baseline, bit for bit."""
        return self.baseline + 2.0 * scale * self.cross + scale * scale * self.energy

    def rows(self, index: ndarray) -> "WindowErrors":
        """Some of the windows, by index or mask."""
        return WindowErrors(**{field.name: getattr(self, field.name)[index] for field in fields(self)})

    @classmethod
    def joined(cls, parts: Sequence["WindowErrors"]) -> Self:
        """All windows of several tables, in order."""
        return cls(
            **{field.name: np.concatenate([getattr(part, field.name) for part in parts]) for field in fields(cls)}
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class WindowActions:
    """The scored windows' actions in radians, which errors in any action space can be computed from."""

    recording: Int64[ndarray, " windows"]
    epoch: Int64[ndarray, " windows"]
    tick: Int64[ndarray, " windows"]
    scale: Float64[ndarray, " windows"]
    risk: Float64[ndarray, " windows"]
    target_rad: Float64[ndarray, "windows steps dof"]
    base_rad: Float64[ndarray, "windows steps dof"]
    residual_rad: Float64[ndarray, "windows steps dof"]

    @classmethod
    def joined(cls, parts: Sequence["WindowActions"]) -> Self:
        """All windows of several reports of one recording each, numbered anew."""
        columns = {
            field.name: np.concatenate([getattr(part, field.name) for part in parts])
            for field in fields(cls)
            if field.name != "recording"
        }
        numbers = np.repeat(np.arange(len(parts), dtype=np.int64), [len(part.tick) for part in parts])
        return cls(recording=numbers, **columns)

    def errors(self, normalise: Normalise) -> WindowErrors:
        """What both arms missed by in the given action space."""
        target = normalise(self.target_rad)
        base = normalise(self.base_rad)
        blended = self.base_rad + self.scale[:, None, None] * self.residual_rad
        sigma = np.where(self.scale[:, None, None] == 0.0, self.base_rad, blended)
        miss = base - target
        residual = normalise(self.base_rad + self.residual_rad) - base
        return WindowErrors(
            recording=self.recording,
            epoch=self.epoch,
            tick=self.tick,
            scale=self.scale,
            risk=self.risk,
            baseline=_spans(miss**2),
            sigma=_spans((normalise(sigma) - target) ** 2),
            cross=_spans(miss * residual),
            energy=_spans(residual**2),
        )


def windows_of(log: ReplayLog, recording: int = 0) -> WindowErrors:
    """The scored windows of a replay; `recording` is its number in the report."""
    samples = metrics.samples_of(log)
    chunks = [log.inferences[i].chunk for i in samples.inference_index]
    shape = samples.target_rad.shape
    actions = WindowActions(
        recording=np.full(len(samples), recording, dtype=np.int64),
        epoch=np.array([chunk.epoch for chunk in chunks], dtype=np.int64),
        tick=np.array([chunk.tick for chunk in chunks], dtype=np.int64),
        scale=np.array([chunk.scale for chunk in chunks], dtype=np.float64),
        risk=np.array([chunk.risk.total for chunk in chunks], dtype=np.float64),
        target_rad=samples.target_rad,
        base_rad=samples.baseline_rad,
        residual_rad=np.array([chunk.residual_rad[:SCORED_STEPS] for chunk in chunks]).reshape(shape),
    )
    return actions.errors(log.policy.normalise)


def read_windows(path: Path) -> tuple[WindowActions, Normalise]:
    """The scored windows of a report's `chunks.parquet`, and the map to the action space that it was scored in.

    Raises:
        SigmaError: the file cannot be read, or is of an older report that holds no recorded actions.
    """
    try:
        schema = pq.read_schema(path)
        missing = [name for name in _COLUMNS if name not in schema.names]
        if missing:
            raise SigmaError(
                "the report's chunks cannot be compared",
                where=path,
                expected=f"the column {missing[0]}",
                got="a report of an older version",
                remedy="replay the recording again",
            )
        table = pq.read_table(path, columns=list(_COLUMNS))
    except (OSError, pa.ArrowException) as error:
        raise SigmaError("the report's chunks cannot be read", where=path, got=error) from error
    scored = table.filter(table["target_rad"].is_valid())
    scale, offset = action_map(schema)
    dof = len(scale)
    columns = {name: scored[name].to_numpy() for name in ("recording", "epoch", "tick", "scale", "risk")}
    actions = WindowActions(
        **columns, **{name: _matrix(scored[name], dof) for name in ("target_rad", "base_rad", "residual_rad")}
    )
    return actions, lambda rad: rad * scale + offset


def _matrix(column: pa.ChunkedArray, dof: int) -> Float64[ndarray, "windows steps dof"]:
    rows = [np.asarray(row.values.to_numpy()).reshape(-1, dof)[:SCORED_STEPS] for row in column]
    return np.array(rows, dtype=np.float64).reshape(-1, SCORED_STEPS, dof)


def _spans(values: Float64[ndarray, "windows steps dof"]) -> Float64[ndarray, "windows spans"]:
    return np.stack([metrics.window_mse(values, steps) for steps in SPANS.values()], axis=1)


# What if the scale were fixed? Errors at every scale from the logged base and residual, and the best of them.


SCALES = tuple(round(0.05 * i, 2) for i in range(21))
_TRJ = tuple(SPANS).index("trj")


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
            errors.at_scale(used)[:, _TRJ], errors.sigma[:, _TRJ], errors.recording, seed=seed
        ),
    )


def best_scale(errors: WindowErrors) -> float:
    """The scale in [0, 1] with the least mean mse_trj: the parabola's lowest point. NaN where it is flat."""
    cross, energy = errors.cross[:, _TRJ].sum(), errors.energy[:, _TRJ].sum()
    if not energy > 0.0 or not np.isfinite(cross):
        return math.nan
    return float(np.clip(-cross / energy, 0.0, 1.0))


def _means(errors: WindowErrors, scale: float) -> list[float]:
    return errors.at_scale(scale).mean(axis=0).tolist() if len(errors) else [math.nan] * len(SPANS)
