# SPDX-License-Identifier: Apache-2.0
"""The cost of late chunks: what is executed at each tick, and commanded, against what was recorded for it."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float64
from numpy import ndarray

from sigma_ros.evaluation import metrics
from sigma_ros.evaluation.latency import Arrival, Delivery, in_force
from sigma_ros.evaluation.replay_log import DecisionTrack, ReplayLog


@dataclass(frozen=True, slots=True, kw_only=True)
class LatencyRow:
    """One latency over all recordings. NaN: undefined.

    `late`: chunks that arrived more than a planning period after their tick; `deadline_misses`: inferences that alone
    took longer than that; `skipped`, `overruns`, `late_ticks`: see `latency.Delivery`; `superseded`: chunks that
    arrived and were replaced before a tick used them; `uncovered_ticks`: valid ticks after the first chunk without a
    step for them. Errors are of the step that is executed at each tick.
    """

    name: str
    latency_ms_mean: float
    latency_ms_max: float
    ticks: int
    chunks: int
    late: int
    skipped: int
    overruns: int
    late_ticks: int
    superseded: int
    uncovered_ticks: int
    baseline_mse: float
    sigma_mse: float
    baseline_rmse_deg: float
    sigma_rmse_deg: float
    sigma_jump_mean_deg: float
    commanded_rmse_deg: float
    holds: int
    deadline_misses: int
    tick_ms_p50: float
    tick_ms_p99: float


@dataclass(frozen=True, slots=True, kw_only=True)
class _Cost:
    """One recording's part of a row; arrays of squared errors per tick, and of chunk ages at arrival."""

    ages_ns: ndarray
    took_ns: ndarray
    late: int
    superseded: int
    uncovered: int
    baseline: ndarray
    sigma: ndarray
    baseline_deg: ndarray
    sigma_deg: ndarray
    jumps_deg: ndarray
    commanded_deg: ndarray
    holds: int


def latency_row(name: str, runs: Sequence[tuple[ReplayLog, Delivery]]) -> LatencyRow:
    """Pools the recordings of one latency."""
    logs = [log for log, _ in runs]
    costs = [_cost(log, delivery) for log, delivery in runs]

    def joined(field: str) -> ndarray:
        return np.concatenate([getattr(cost, field) for cost in costs])

    ages, took = joined("ages_ns"), joined("took_ns")
    planning_ns = [log.run.replan_ticks * log.contract.tick_period_ns for log in logs]
    misses = sum(int(np.count_nonzero(cost.took_ns > limit)) for cost, limit in zip(costs, planning_ns, strict=True))
    return LatencyRow(
        name=name,
        latency_ms_mean=_mean(ages) / 1e6,
        latency_ms_max=float(ages.max()) / 1e6 if len(ages) else np.nan,
        ticks=sum(int(np.count_nonzero(log.ticks.valid)) for log in logs),
        chunks=len(ages),
        late=sum(cost.late for cost in costs),
        skipped=sum(delivery.skipped for _, delivery in runs),
        overruns=sum(delivery.overruns for _, delivery in runs),
        late_ticks=sum(delivery.late_ticks for _, delivery in runs),
        superseded=sum(cost.superseded for cost in costs),
        uncovered_ticks=sum(cost.uncovered for cost in costs),
        baseline_mse=_mean(joined("baseline")),
        sigma_mse=_mean(joined("sigma")),
        baseline_rmse_deg=float(np.sqrt(_mean(joined("baseline_deg")))),
        sigma_rmse_deg=float(np.sqrt(_mean(joined("sigma_deg")))),
        sigma_jump_mean_deg=_mean(joined("jumps_deg")),
        commanded_rmse_deg=float(np.sqrt(_mean(joined("commanded_deg")))),
        holds=sum(cost.holds for cost in costs),
        deadline_misses=misses,
        tick_ms_p50=metrics.percentile_ms(took, 50),
        tick_ms_p99=metrics.percentile_ms(took, 99),
    )


def _cost(log: ReplayLog, delivery: Delivery) -> _Cost:
    chosen = in_force(log, delivery.arrivals)
    base, sigma = _executed(log, chosen)
    target = log.ticks.action_rad
    normalise = log.policy.normalise
    known = np.isfinite(target).all(axis=1) & np.isfinite(sigma).all(axis=1)
    ages = np.array([arrival.stamp_ns - arrival.chunk.stamp_ns for arrival in delivery.arrivals], dtype=np.int64)
    planning_ns = log.run.replan_ticks * log.contract.tick_period_ns
    used = {id(arrival) for arrival in chosen if arrival is not None}
    begun = np.cumsum([arrival is not None for arrival in chosen]) > 0
    return _Cost(
        ages_ns=ages,
        took_ns=np.array([arrival.took_ns for arrival in delivery.arrivals], dtype=np.int64),
        late=int(np.count_nonzero(ages > planning_ns)),
        superseded=sum(id(arrival) not in used for arrival in delivery.arrivals[:-1]),
        uncovered=int(np.count_nonzero(begun & log.ticks.valid & np.array([arrival is None for arrival in chosen]))),
        baseline=((normalise(base[known]) - normalise(target[known])) ** 2).mean(axis=1),
        sigma=((normalise(sigma[known]) - normalise(target[known])) ** 2).mean(axis=1),
        baseline_deg=(np.degrees(base[known] - target[known]) ** 2).mean(axis=1),
        sigma_deg=(np.degrees(sigma[known] - target[known]) ** 2).mean(axis=1),
        jumps_deg=_jumps_deg(log, chosen),
        commanded_deg=_commanded_deg(log, log.decisions) if len(log.decisions) else np.empty(0),
        holds=log.decisions.holds,
    )


def _executed(log: ReplayLog, chosen: Sequence[Arrival | None]) -> tuple[ndarray, ndarray]:
    base = np.full(log.ticks.action_rad.shape, np.nan)
    sigma = base.copy()
    for row, (arrival, tick) in enumerate(zip(chosen, log.ticks.tick.tolist(), strict=True)):
        if arrival is not None:
            chunk = arrival.chunk
            step = tick - chunk.tick
            base[row] = chunk.base_rad[step]
            sigma[row] = chunk.base_rad[step] if chunk.scale == 0.0 else _blend(arrival, step)
    return base, sigma


def _blend(arrival: Arrival, step: int) -> Float64[ndarray, " dof"]:
    chunk = arrival.chunk
    return chunk.base_rad[step] + chunk.scale * chunk.residual_rad[step]


def _jumps_deg(log: ReplayLog, chosen: Sequence[Arrival | None]) -> ndarray:
    """Where a tick takes a new chunk: how far that is from what the old one planned for the same tick."""
    jumps = []
    for old, new, tick in zip(chosen, chosen[1:], log.ticks.tick[1:].tolist(), strict=False):
        if old is None or new is None or old is new or old.chunk.epoch != new.chunk.epoch:
            continue
        if tick - old.chunk.tick < old.chunk.horizon:
            ahead = _blend(new, tick - new.chunk.tick) - _blend(old, tick - old.chunk.tick)
            jumps.append(np.abs(np.degrees(ahead)))
    return np.array(jumps).reshape(-1)


def _commanded_deg(log: ReplayLog, decisions: DecisionTrack) -> ndarray:
    """Squared distance of each command from the action that was recorded for the tick at or before it."""
    order = np.argsort(log.ticks.stamp_ns, kind="stable")
    stamps = log.ticks.stamp_ns[order]
    place = np.searchsorted(stamps, decisions.stamp_ns, side="right") - 1
    target = log.ticks.action_rad[order[np.maximum(place, 0)]]
    error = np.degrees(decisions.command_rad - target)
    known = np.isfinite(error).all(axis=1) & (place >= 0)
    return (error[known] ** 2).mean(axis=1)


def _mean(values: ndarray) -> float:
    return float(np.mean(values)) if len(values) else np.nan
