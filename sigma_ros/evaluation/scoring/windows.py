# SPDX-License-Identifier: Apache-2.0
"""Scored windows as columns: what each arm missed by, computed once; scores, files, pages and comparisons read it.

The columns come from a replay's log or from a report's `chunks.parquet`, with the same arithmetic. The error at scale s
is a parabola in s, so three numbers per window and span give every scale without another inference:
`baseline + 2 s cross + s^2 energy`.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, Self

import numpy as np
from jaxtyping import Bool, Float64, Int64
from numpy import ndarray

from sigma_ros.evaluation.log import SCORED_STEPS, ReplayLog, scored
from sigma_ros.evaluation.scoring.commands import commands_at
from sigma_ros.evaluation.scoring.metrics import SPANS, Samples, samples_of, window_mse

Normalise = Callable[[ndarray], ndarray]
"""Radians to the normalised actions in which errors are measured."""


class _Columns:
    """A table whose fields are arrays, or tables, with one row per window."""

    __slots__ = ()

    def rows(self, index: ndarray) -> Self:
        """Some of the windows, by index or mask."""
        return _combined([self], lambda columns: columns[0][index])

    @classmethod
    def joined(cls, parts: Sequence[Self]) -> Self:
        """All windows of several tables, in order."""
        return _combined(parts, np.concatenate)


def _combined[Table](parts: Sequence[Table], combine: Callable[[list[ndarray]], ndarray]) -> Table:
    """A table of the parts' kind, each of whose columns is combined from theirs."""
    columns: dict[str, Any] = {}
    for field in fields(parts[0]):  # type: ignore[arg-type]
        values = [getattr(part, field.name) for part in parts]
        columns[field.name] = combine(values) if isinstance(values[0], ndarray) else _combined(values, combine)
    return type(parts[0])(**columns)


@dataclass(frozen=True, slots=True, kw_only=True)
class ArmErrors(_Columns):
    """What one arm missed the recorded actions by: each square in normalised actions, each difference in degrees.

    `spans` are the means of the squares over the steps of vec, chk and trj. NaN: nothing was commanded.
    """

    squared: Float64[ndarray, "windows steps dof"]
    degrees: Float64[ndarray, "windows steps dof"]
    spans: Float64[ndarray, "windows spans"]

    @property
    def known(self) -> Bool[ndarray, " windows"]:
        """The windows of which every step is known."""
        return np.isfinite(self.squared).all(axis=(1, 2))


@dataclass(frozen=True, slots=True, kw_only=True)
class WindowErrors(_Columns):
    """One row per scored window; `recording` numbers the recording in the report.

    `baseline` and `sigma` are the chunks that were proposed for the window, `commanded` is what the supervisor made of
    them. `cross` is the mean of (base - target) * residual over each span, `energy` that of residual^2.
    """

    recording: Int64[ndarray, " windows"]
    epoch: Int64[ndarray, " windows"]
    tick: Int64[ndarray, " windows"]
    scale: Float64[ndarray, " windows"]
    risk: Float64[ndarray, " windows"]
    baseline: ArmErrors
    sigma: ArmErrors
    commanded: ArmErrors
    cross: Float64[ndarray, "windows spans"]
    energy: Float64[ndarray, "windows spans"]

    def __len__(self) -> int:
        return len(self.tick)

    def at_scale(self, scale: float) -> Float64[ndarray, "windows spans"]:
        """Errors had every chunk been blended with this scale; 0 is the baseline, bit for bit."""
        return self.baseline.spans + 2.0 * scale * self.cross + scale * scale * self.energy


@dataclass(frozen=True, slots=True, kw_only=True)
class WindowActions(_Columns):
    """The scored windows' actions in radians, which errors in any action space can be computed from.

    `commanded_rad` is the supervisor's path at the steps' times, NaN where nothing was commanded.
    """

    recording: Int64[ndarray, " windows"]
    epoch: Int64[ndarray, " windows"]
    tick: Int64[ndarray, " windows"]
    scale: Float64[ndarray, " windows"]
    risk: Float64[ndarray, " windows"]
    target_rad: Float64[ndarray, "windows steps dof"]
    base_rad: Float64[ndarray, "windows steps dof"]
    residual_rad: Float64[ndarray, "windows steps dof"]
    commanded_rad: Float64[ndarray, "windows steps dof"]

    def errors(self, normalise: Normalise) -> WindowErrors:
        """What every arm missed by in the given action space."""
        target, base = normalise(self.target_rad), normalise(self.base_rad)
        blended = self.base_rad + self.scale[:, None, None] * self.residual_rad
        sigma_rad = np.where(self.scale[:, None, None] == 0.0, self.base_rad, blended)
        residual = normalise(self.base_rad + self.residual_rad) - base
        return WindowErrors(
            recording=self.recording,
            epoch=self.epoch,
            tick=self.tick,
            scale=self.scale,
            risk=self.risk,
            baseline=missed(self.base_rad, self.target_rad, normalise),
            sigma=missed(sigma_rad, self.target_rad, normalise),
            commanded=missed(self.commanded_rad, self.target_rad, normalise),
            cross=_spans((base - target) * residual),
            energy=_spans(residual**2),
        )


def missed(
    arm_rad: Float64[ndarray, "windows steps dof"],
    target_rad: Float64[ndarray, "windows steps dof"],
    normalise: Normalise,
) -> ArmErrors:
    """What an arm missed the recorded actions by."""
    squared = (normalise(arm_rad) - normalise(target_rad)) ** 2
    return ArmErrors(squared=squared, degrees=np.degrees(arm_rad - target_rad), spans=_spans(squared))


def renumbered[Table: WindowActions | WindowErrors](table: Table, recording: int) -> Table:
    """The table of one recording with another number for it."""
    return replace(table, recording=np.full(len(table.tick), recording, dtype=np.int64))


def actions_of(log: ReplayLog, recording: int = 0, *, samples: Samples | None = None) -> WindowActions:
    """The scored windows of a replay in radians; `recording` is its number in the report."""
    samples = samples if samples is not None else samples_of(log)
    chunks = [log.inferences[i].chunk for i in samples.inference_index]
    shape = (len(samples), SCORED_STEPS, log.contract.dof)
    steps = samples.tick_index[:, None] + np.arange(SCORED_STEPS)
    path_rad = commands_at(log.decisions, log.ticks.stamp_ns, period_ns=log.contract.command_period_ns)
    return WindowActions(
        recording=np.full(len(samples), recording, dtype=np.int64),
        epoch=np.array([chunk.epoch for chunk in chunks], dtype=np.int64),
        tick=np.array([chunk.tick for chunk in chunks], dtype=np.int64),
        scale=np.array([chunk.scale for chunk in chunks], dtype=np.float64),
        risk=np.array([chunk.risk.total for chunk in chunks], dtype=np.float64),
        target_rad=log.ticks.action_rad[steps].reshape(shape),
        base_rad=np.array([scored(chunk.base_rad) for chunk in chunks]).reshape(shape),
        residual_rad=np.array([scored(chunk.residual_rad) for chunk in chunks]).reshape(shape),
        commanded_rad=path_rad[steps].reshape(shape),
    )


def windows_of(log: ReplayLog, recording: int = 0) -> WindowErrors:
    """The scored windows of a replay; `recording` is its number in the report."""
    return actions_of(log, recording).errors(log.policy.normalise)


def _spans(values: Float64[ndarray, "windows steps dof"]) -> Float64[ndarray, "windows spans"]:
    return np.stack([window_mse(values, steps) for steps in SPANS.values()], axis=1)
