# SPDX-License-Identifier: Apache-2.0
"""`score`: replay logs in, every number of the report out. Pure; a replay scored twice gives the same bytes.

Several logs are pooled window by window; an episode is one recording. `timing` is the only part that
was measured on a clock.
"""

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from jaxtyping import Int64
from numpy import ndarray

from sigma_ros.evaluation.log import InferenceEntry, ReplayLog
from sigma_ros.evaluation.scoring import metrics
from sigma_ros.evaluation.scoring.commands import LIMITS, bounding_limits, is_commanded, residual_held_back
from sigma_ros.evaluation.scoring.metrics import SPANS, TRJ, mean_or_nan
from sigma_ros.evaluation.scoring.scores import (
    AdapterScores,
    ArmScores,
    CommandedScores,
    EpisodeScores,
    Scores,
    Smoothness,
    SupervisorScores,
    SweepScores,
    Timing,
)
from sigma_ros.evaluation.scoring.statistics import Comparison, compare, rank_correlation
from sigma_ros.evaluation.scoring.windows import ArmErrors, WindowErrors, actions_of
from sigma_ros.values import NS_PER_S

BATCH = 4
"""Samples per batch of the model card's evaluation: 723 samples are 181 batches."""

HISTOGRAM_BINS = 20
SCALES = tuple(round(0.05 * i, 2) for i in range(21))


def score(*logs: ReplayLog, complete: bool = True) -> Scores:
    """Scores one or more replays of the same checkpoint.

    `complete` False says that recordings are missing, whatever the logs say of themselves.
    """
    if not logs:
        raise ValueError("score needs at least one replay")
    samples = [metrics.samples_of(log) for log in logs]
    tables = [
        actions_of(log, i, samples=found).errors(log.policy.normalise)
        for i, (log, found) in enumerate(zip(logs, samples, strict=True))
    ]
    windows = WindowErrors.joined(tables)
    answers = [log.inferences[i] for log, found in zip(logs, samples, strict=True) for i in found.inference_index]
    return Scores(
        windows=windows,
        samples=len(windows),
        batches=math.ceil(len(windows) / BATCH),
        baseline=_arm(answers, windows.baseline, "baseline_"),
        sigma=_arm(answers, windows.sigma, ""),
        commanded=commanded_scores(windows),
        comparison=compare_arms(windows.baseline, windows.sigma, windows.recording),
        adapter=_adapter(logs, windows),
        sweep=sweep_scales(windows),
        supervisor=_supervisor(logs),
        smoothness=_smoothness(logs),
        timing=_timing(logs),
        episodes=tuple(_episode(log, table) for log, table in zip(logs, tables, strict=True)),
        complete=complete and all(log.complete for log in logs),
    )


def compare_arms(
    before: ArmErrors, after: ArmErrors, recording: Int64[ndarray, " windows"], *, seed: int = 0
) -> dict[str, Comparison]:
    """One arm against another over the same windows, by mse_vec, mse_chk and mse_trj."""
    return {
        f"mse_{name}": compare(before.spans[:, i], after.spans[:, i], recording, seed=seed)
        for i, name in enumerate(SPANS)
    }


def commanded_scores(windows: WindowErrors) -> CommandedScores:
    """What was commanded, over the windows that have commands for all their steps, beside both arms' chunks there."""
    some = windows.rows(windows.commanded.known)
    return CommandedScores(
        **_errors(some.commanded),
        windows=len(some),
        baseline_rmse_deg=_rmse(some.baseline.degrees),
        sigma_rmse_deg=_rmse(some.sigma.degrees),
        commanded_rmse_deg=_rmse(some.commanded.degrees),
        comparison=compare_arms(some.baseline, some.commanded, some.recording),
    )


def _errors(arm: ArmErrors) -> dict[str, Any]:
    """The fields of `ErrorScores`."""
    return {
        **{f"mse_{name}": mean_or_nan(arm.spans[:, i]) for i, name in enumerate(SPANS)},
        "step_mse": tuple(metrics.step_mse(arm.squared).tolist()),
        "joint_mse": {name: tuple(metrics.joint_mse(arm.squared, steps).tolist()) for name, steps in SPANS.items()},
        "joint_rmse_deg": {
            name: tuple(metrics.joint_rmse_deg(arm.degrees, steps).tolist()) for name, steps in SPANS.items()
        },
    }


def _arm(answers: Sequence[InferenceEntry], errors: ArmErrors, prefix: str) -> ArmScores:
    return ArmScores(
        **_errors(errors),
        tau_l2=mean_or_nan(np.array([getattr(entry, f"{prefix}tau_l2") for entry in answers])),
        sem_align=mean_or_nan(np.array([getattr(entry, f"{prefix}sem_align") for entry in answers])),
    )


def _adapter(logs: tuple[ReplayLog, ...], windows: WindowErrors) -> AdapterScores:
    scale = np.array([entry.chunk.scale for log in logs for entry in log.inferences if entry.published])
    error_rho, error_p = rank_correlation(windows.risk, windows.sigma.spans[:, TRJ])
    harm_rho, harm_p = rank_correlation(windows.risk, (2.0 * windows.cross + windows.energy)[:, TRJ])
    return AdapterScores(
        scale_mean=mean_or_nan(scale),
        scale_std=float(np.std(scale)) if len(scale) else math.nan,
        scale_min=float(scale.min()) if len(scale) else math.nan,
        scale_max=float(scale.max()) if len(scale) else math.nan,
        histogram=tuple(np.histogram(scale, bins=HISTOGRAM_BINS, range=(0.0, 1.0))[0].tolist()),
        risk_error_rho=error_rho,
        risk_error_p=error_p,
        risk_harm_rho=harm_rho,
        risk_harm_p=harm_p,
    )


def _supervisor(logs: tuple[ReplayLog, ...]) -> SupervisorScores:
    tracks = [log.decisions for log in logs]
    names = logs[0].contract.joint_names
    clipped = np.concatenate([track.clipped for track in tracks])
    bounded = np.concatenate([bounding_limits(log.decisions, log.contract) for log in logs])
    held = residual_held_back(tracks)
    return SupervisorScores(
        ticks=sum(len(track) for track in tracks),
        commanded=sum(int(np.count_nonzero(is_commanded(track))) for track in tracks),
        clipped=int(np.count_nonzero(clipped.any(axis=1))),
        violations=sum(track.violations for track in tracks),
        breaches=sum(metrics.limit_breaches(log.decisions.command_rad, log.contract) for log in logs),
        refused_chunks=sum(track.refused_chunks for track in tracks),
        holds=sum(track.holds for track in tracks),
        engagements=sum(track.engagements for track in tracks),
        clipped_joints=dict(zip(names, clipped.sum(axis=0).tolist(), strict=True)),
        states=_counted(state for track in tracks for state in track.state),
        reasons=_counted(reason for track in tracks for reason in track.reason),
        applied_scale_mean=held.applied_scale_mean,
        requested_scale_mean=held.requested_scale_mean,
        held_back_share=held.share,
        held_back_ticks=held.ticks,
        held_back_reasons=held.reasons,
        bounded_limits={name: int(np.count_nonzero(bounded == i)) for i, name in enumerate(LIMITS, start=1)},
    )


def _smoothness(logs: tuple[ReplayLog, ...]) -> Smoothness:
    contract = logs[0].contract
    jumps = [metrics.border_jumps_deg(log) for log in logs]
    baseline = np.concatenate([jump["baseline"] for jump in jumps])
    sigma = np.concatenate([jump["sigma"] for jump in jumps])
    runs = [run for log in logs for run in metrics.command_runs(log.decisions.command_rad)]
    period_s = contract.command_period_ns / NS_PER_S
    peaks, rms = metrics.derivative_peaks(runs, period_s, 3, contract.dof)
    executed = [metrics.executed(log) for log in logs]
    planned_rms = {
        arm: metrics.derivative_peaks(
            [run for steps in executed for run in metrics.command_runs(getattr(steps, f"{arm}_rad"))],
            contract.tick_period_ns / NS_PER_S,
            3,
            contract.dof,
        )[1]
        for arm in ("baseline", "sigma")
    }
    return Smoothness(
        baseline_jump_mean_deg=mean_or_nan(baseline),
        baseline_jump_max_deg=float(baseline.max()) if len(baseline) else math.nan,
        sigma_jump_mean_deg=mean_or_nan(sigma),
        sigma_jump_max_deg=float(sigma.max()) if len(sigma) else math.nan,
        baseline_jerk_rms_radps3=planned_rms["baseline"],
        sigma_jerk_rms_radps3=planned_rms["sigma"],
        command_jerk_rms_radps3=rms,
        command_jerk_max_radps3=float(peaks.max()),
    )


def _timing(logs: tuple[ReplayLog, ...]) -> Timing:
    calls = np.array([entry.host_ns for log in logs for entry in log.inferences], dtype=np.int64)
    supervisor = np.concatenate([log.decisions.host_ns for log in logs])
    wall_s = sum(log.wall_ns for log in logs) / NS_PER_S
    return Timing(
        tick_ms_p50=metrics.percentile_ms(calls, 50),
        tick_ms_p99=metrics.percentile_ms(calls, 99),
        supervisor_ms_p50=metrics.percentile_ms(supervisor, 50),
        supervisor_ms_p99=metrics.percentile_ms(supervisor, 99),
        wall_s=wall_s,
        realtime_factor=sum(_replayed_s(log) for log in logs) / wall_s if wall_s else math.nan,
    )


def _replayed_s(log: ReplayLog) -> float:
    stamps = log.ticks.stamp_ns
    return float(stamps[-1] - stamps[0]) / NS_PER_S if len(stamps) else 0.0


def _episode(log: ReplayLog, windows: WindowErrors) -> EpisodeScores:
    scale = np.array([entry.chunk.scale for entry in log.inferences if entry.published])
    arms = {
        "baseline": windows.baseline,
        "sigma": windows.sigma,
        "commanded": windows.rows(windows.commanded.known).commanded,
    }
    mse = {
        f"{arm}_mse_{name}": mean_or_nan(errors.spans[:, i])
        for arm, errors in arms.items()
        for i, name in enumerate(SPANS)
    }
    return EpisodeScores(
        name=log.bag.name,
        samples=len(windows),
        ticks=len(log.ticks),
        invalid_ticks=int(np.count_nonzero(~log.ticks.valid)),
        epochs=len(np.unique(log.ticks.epoch)),
        scale_mean=mean_or_nan(scale),
        losses=log.losses,
        complete=log.complete,
        **mse,
    )


def _rmse(error_deg: ndarray) -> float:
    return float(np.sqrt(np.mean(error_deg**2))) if error_deg.size else math.nan


def _counted(names: Iterable[str]) -> dict[str, int]:
    return dict(sorted(Counter(names).items()))


# What if the scale were fixed? Errors at every scale from the logged base and residual, and the best of them.


def sweep_scales(errors: WindowErrors) -> SweepScores:
    """Pools the windows."""
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
        adapter_against_best=compare(errors.at_scale(used)[:, TRJ], errors.sigma.spans[:, TRJ], errors.recording),
    )


def best_scale(errors: WindowErrors) -> float:
    """The scale in [0, 1] with the least mean mse_trj: the parabola's lowest point. NaN where it is flat."""
    cross, energy = errors.cross[:, TRJ].sum(), errors.energy[:, TRJ].sum()
    if not energy > 0.0 or not np.isfinite(cross):
        return math.nan
    return float(np.clip(-cross / energy, 0.0, 1.0))


def _means(errors: WindowErrors, scale: float) -> list[float]:
    return errors.at_scale(scale).mean(axis=0).tolist() if len(errors) else [math.nan] * len(SPANS)
