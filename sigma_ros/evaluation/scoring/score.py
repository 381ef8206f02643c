# SPDX-License-Identifier: Apache-2.0
"""`score`: replay logs in, every number of the report out. Pure; a replay scored twice gives the same bytes.

Several logs are pooled window by window; an episode is one recording. `timing` is the only part that
was measured on a clock.
"""

import math
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float64
from numpy import ndarray

from sigma_ros.evaluation.log import ReplayLog
from sigma_ros.evaluation.scoring import metrics
from sigma_ros.evaluation.scoring.metrics import SPANS, Samples
from sigma_ros.evaluation.scoring.scores import (
    AdapterScores,
    ArmScores,
    EpisodeScores,
    Scores,
    Smoothness,
    SupervisorScores,
    Timing,
)
from sigma_ros.evaluation.scoring.statistics import compare, rank_correlation
from sigma_ros.evaluation.scoring.windows import WindowErrors, sweep_scales, windows_of
from sigma_ros.values import NS_PER_S

BATCH = 4
"""Samples per batch of the model card's evaluation: 723 samples are 181 batches."""

HISTOGRAM_BINS = 20


@dataclass(frozen=True, slots=True, kw_only=True)
class _Errors:
    """Squared normalised errors of one log's windows, with what goes along with them."""

    samples: Samples
    baseline: Float64[ndarray, "samples steps dof"]
    sigma: Float64[ndarray, "samples steps dof"]
    full: Float64[ndarray, "samples steps dof"]


def score(*logs: ReplayLog, seed: int = 0, complete: bool = True) -> Scores:
    """Scores one or more replays of the same checkpoint; `seed` is that of the bootstrap alone.

    `complete` False says that recordings are missing, whatever the logs say of themselves.
    """
    if not logs:
        raise ValueError("score needs at least one replay")
    errors = [_errors(log) for log in logs]
    baseline = np.concatenate([e.baseline for e in errors])
    sigma = np.concatenate([e.sigma for e in errors])
    episode = np.concatenate([np.full(len(e.samples), i) for i, e in enumerate(errors)])
    return Scores(
        samples=len(baseline),
        batches=math.ceil(len(baseline) / BATCH),
        baseline=_arm(logs, errors, baseline, "baseline"),
        sigma=_arm(logs, errors, sigma, "sigma"),
        comparison={
            f"mse_{name}": compare(
                metrics.window_mse(baseline, steps), metrics.window_mse(sigma, steps), episode, seed=seed
            )
            for name, steps in SPANS.items()
        },
        adapter=_adapter(logs, errors),
        sweep=sweep_scales(WindowErrors.joined([windows_of(log, i) for i, log in enumerate(logs)]), seed=seed),
        supervisor=_supervisor(logs),
        smoothness=_smoothness(logs),
        timing=_timing(logs),
        episodes=tuple(_episode(log, e) for log, e in zip(logs, errors, strict=True)),
        complete=complete and all(log.complete for log in logs),
    )


def _errors(log: ReplayLog) -> _Errors:
    samples = metrics.samples_of(log)
    normalise = log.policy.normalise
    target = normalise(samples.target_rad)
    shape = samples.target_rad.shape
    chunks = [log.inferences[i].chunk for i in samples.inference_index]
    full = np.array([chunk.blended_rad(1.0)[: shape[1]] for chunk in chunks]).reshape(shape)
    return _Errors(
        samples=samples,
        baseline=(normalise(samples.baseline_rad) - target) ** 2,
        sigma=(normalise(samples.sigma_rad) - target) ** 2,
        full=(normalise(full) - target) ** 2,
    )


def _arm(logs: tuple[ReplayLog, ...], errors: list[_Errors], squared: ndarray, arm: str) -> ArmScores:
    target = np.concatenate([e.samples.target_rad for e in errors])
    proposed = np.concatenate([getattr(e.samples, f"{arm}_rad") for e in errors])
    prefix = "baseline_" if arm == "baseline" else ""
    entries = [log.inferences[i] for log, e in zip(logs, errors, strict=True) for i in e.samples.inference_index]
    return ArmScores(
        mse_vec=_mean(metrics.window_mse(squared, SPANS["vec"])),
        mse_chk=_mean(metrics.window_mse(squared, SPANS["chk"])),
        mse_trj=_mean(metrics.window_mse(squared, SPANS["trj"])),
        tau_l2=_mean(np.array([getattr(entry, f"{prefix}tau_l2") for entry in entries])),
        sem_align=_mean(np.array([getattr(entry, f"{prefix}sem_align") for entry in entries])),
        step_mse=tuple(metrics.step_mse(squared).tolist()),
        joint_mse={name: tuple(metrics.joint_mse(squared, steps).tolist()) for name, steps in SPANS.items()},
        joint_rmse_deg={
            name: tuple(metrics.joint_rmse_deg(proposed, target, steps).tolist()) for name, steps in SPANS.items()
        },
    )


def _adapter(logs: tuple[ReplayLog, ...], errors: list[_Errors]) -> AdapterScores:
    scale = np.array([entry.chunk.scale for log in logs for entry in log.inferences if entry.published])
    chunks = [log.inferences[i].chunk for log, e in zip(logs, errors, strict=True) for i in e.samples.inference_index]
    risk = np.array([chunk.risk.total for chunk in chunks])
    trajectory = {
        arm: np.concatenate([metrics.window_mse(getattr(e, arm), SPANS["trj"]) for e in errors])
        for arm in ("baseline", "sigma", "full")
    }
    error_rho, error_p = rank_correlation(risk, trajectory["sigma"])
    harm_rho, harm_p = rank_correlation(risk, trajectory["full"] - trajectory["baseline"])
    return AdapterScores(
        scale_mean=_mean(scale),
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
    commanded = [np.isfinite(track.command_rad).all(axis=1) for track in tracks]
    applied = np.concatenate([track.applied_scale[active] for track, active in zip(tracks, commanded, strict=True)])
    return SupervisorScores(
        ticks=sum(len(track) for track in tracks),
        commanded=sum(int(np.count_nonzero(active)) for active in commanded),
        clipped=int(np.count_nonzero(clipped.any(axis=1))),
        violations=sum(track.violations for track in tracks),
        breaches=sum(metrics.limit_breaches(log.decisions.command_rad, log.contract) for log in logs),
        refused_chunks=sum(track.refused_chunks for track in tracks),
        holds=sum(track.holds for track in tracks),
        engagements=sum(track.engagements for track in tracks),
        clipped_joints=dict(zip(names, clipped.sum(axis=0).tolist(), strict=True)),
        states=_counted(state for track in tracks for state in track.state),
        reasons=_counted(reason for track in tracks for reason in track.reason),
        applied_scale_mean=_mean(applied[np.isfinite(applied)]),
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
        baseline_jump_mean_deg=_mean(baseline),
        baseline_jump_max_deg=float(baseline.max()) if len(baseline) else math.nan,
        sigma_jump_mean_deg=_mean(sigma),
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


def _episode(log: ReplayLog, errors: _Errors) -> EpisodeScores:
    scale = np.array([entry.chunk.scale for entry in log.inferences if entry.published])
    mse = {
        f"{arm}_mse_{name}": _mean(metrics.window_mse(getattr(errors, arm), steps))
        for arm in ("baseline", "sigma")
        for name, steps in SPANS.items()
    }
    return EpisodeScores(
        name=log.bag.name,
        samples=len(errors.samples),
        ticks=len(log.ticks),
        invalid_ticks=int(np.count_nonzero(~log.ticks.valid)),
        epochs=len(np.unique(log.ticks.epoch)),
        scale_mean=_mean(scale),
        losses=log.losses,
        complete=log.complete,
        **mse,
    )


def _mean(values: ndarray) -> float:
    return float(np.mean(values)) if values.size else math.nan


def _counted(names: Iterable[str]) -> dict[str, int]:
    return dict(sorted(Counter(names).items()))
