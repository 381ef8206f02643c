# SPDX-License-Identifier: Apache-2.0
"""How late chunks are: a model of latency that is the same for the same seed, and which chunk is in force when."""

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float64
from numpy import ndarray

from sigma_ros.errors import UsageError
from sigma_ros.evaluation.log import DecisionTrack, ReplayLog
from sigma_ros.evaluation.scoring import metrics
from sigma_ros.policy.job import Job, PassGap, Step
from sigma_ros.values import Chunk

_MS = 1_000_000

REMEMBER_SHARE = 0.15
"""What an update of the memory without a chunk takes of an inference (measured on the small model)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Latency:
    """How long an inference takes: a fixed part, uniform jitter up to `jitter_ms` on top, and now and then a spike.

    `remember_share`: the part of it that a job takes which makes no base chunk.
    """

    fixed_ms: float = 0.0
    jitter_ms: float = 0.0
    spike_ms: float = 0.0
    spike_share: float = 0.0
    seed: int = 0
    remember_share: float = REMEMBER_SHARE

    @property
    def name(self) -> str:
        """As it is written on the command line."""
        jitter = f"~{self.jitter_ms:g}" if self.jitter_ms else ""
        spike = f"!{self.spike_ms:g}@{self.spike_share:g}" if self.spike_share else ""
        return f"{self.fixed_ms:g}{jitter}{spike}"

    def of(self, epoch: int, tick: int) -> int:
        """Nanoseconds for a tick's inference: the same for the same seed, epoch and tick."""
        jitter, spike = np.random.default_rng([self.seed, epoch, tick]).random(2)
        extra_ms = self.spike_ms if spike < self.spike_share else 0.0
        return round((self.fixed_ms + jitter * self.jitter_ms + extra_ms) * _MS)

    def of_job(self, job: Job) -> int:
        """Nanoseconds for a job of the policy loop; a gap takes no time."""
        if isinstance(job, PassGap):
            return 0
        whole_ns = self.of(job.request.item.epoch, job.request.item.tick)
        return whole_ns if isinstance(job, Step) else round(self.remember_share * whole_ns)


@dataclass(frozen=True, slots=True, kw_only=True)
class Arrival:
    """A chunk and when it is there; `took_ns` is its inference alone, without waiting."""

    chunk: Chunk
    stamp_ns: int
    took_ns: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Delivery:
    """What came of the planning ticks: arrivals in order; planning ticks that found the one before still waiting.

    `overruns`: how often the worker was so far behind that its queue was dropped, and the memory with it. `late_ticks`:
    ticks that were worked on more than one tick late (only on the wall clock).
    """

    arrivals: tuple[Arrival, ...]
    skipped: int
    overruns: int = 0
    late_ticks: int = 0


def parse_latencies(text: str, *, seed: int = 0) -> tuple[Latency, ...]:
    """`0,30,100~20,100!500@0.05`: milliseconds, `~` jitter, `!` height and `@` share of spikes.

    Raises:
        UsageError: a part cannot be read, or is below 0.
    """
    return tuple(_parse(part.strip(), seed) for part in text.split(","))


def _parse(part: str, seed: int) -> Latency:
    rest, _, spikes = part.partition("!")
    fixed, _, jitter = rest.partition("~")
    height, _, share = spikes.partition("@")
    try:
        numbers = [float(number or 0.0) for number in (fixed, jitter, height, share)]
    except ValueError:
        numbers = [np.nan]
    if not fixed or not np.isfinite(numbers).all() or min(numbers) < 0.0 or numbers[3] > 1.0:
        raise UsageError(
            "this is no latency",
            where="--latency",
            expected="such as 0,30,100~20,100!500@0.05 (milliseconds)",
            got=part,
        )
    return Latency(fixed_ms=numbers[0], jitter_ms=numbers[1], spike_ms=numbers[2], spike_share=numbers[3], seed=seed)


def in_force(log: ReplayLog, arrivals: Sequence[Arrival]) -> list[Arrival | None]:
    """For each tick the newest chunk that is there at the tick's stamp, of the tick's epoch, and reaches that far."""
    ticks = log.ticks
    waiting = deque(arrivals)
    newest: Arrival | None = None
    chosen: list[Arrival | None] = []
    for epoch, tick, stamp_ns in zip(ticks.epoch.tolist(), ticks.tick.tolist(), ticks.stamp_ns.tolist(), strict=True):
        while waiting and (waiting[0].chunk.epoch, waiting[0].stamp_ns) <= (epoch, stamp_ns):
            newest = waiting.popleft()
        usable = (
            newest is not None and newest.chunk.epoch == epoch and 0 <= tick - newest.chunk.tick < newest.chunk.horizon
        )
        chosen.append(newest if usable else None)
    return chosen


# The cost of late chunks: what is executed at each tick, and commanded, against what was recorded for it.


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


def latency_row(name: str, runs: Sequence[tuple[ReplayLog, Delivery]]) -> LatencyRow:
    """Pools the recordings of one latency."""
    costs = [_cost(log, delivery) for log, delivery in runs]
    row: dict[str, Any] = {key: sum(counted[key] for counted, _ in costs) for key in costs[0][0]}
    values = {key: np.concatenate([arrays[key] for _, arrays in costs]) for key in costs[0][1]}
    ages, took = values["ages_ns"], values["took_ns"]
    row |= {key: _mean(values[key]) for key in ("baseline_mse", "sigma_mse", "sigma_jump_mean_deg")}
    row |= {f"{arm}_rmse_deg": float(np.sqrt(_mean(values[arm]))) for arm in ("baseline", "sigma", "commanded")}
    return LatencyRow(
        name=name,
        latency_ms_mean=_mean(ages) / 1e6,
        latency_ms_max=float(ages.max()) / 1e6 if len(ages) else np.nan,
        **row,
        tick_ms_p50=metrics.percentile_ms(took, 50),
        tick_ms_p99=metrics.percentile_ms(took, 99),
    )


def _cost(log: ReplayLog, delivery: Delivery) -> tuple[dict[str, int], dict[str, ndarray]]:
    """One recording's part of a row: counts, and squared errors per tick [deg^2, normalised], ages, times, jumps."""
    chosen = in_force(log, delivery.arrivals)
    base, sigma = _executed(log, chosen)
    known = np.isfinite(log.ticks.action_rad).all(axis=1) & np.isfinite(sigma).all(axis=1)
    target, base, sigma = log.ticks.action_rad[known], base[known], sigma[known]
    normalise, arrivals = log.policy.normalise, delivery.arrivals
    ages = np.array([arrival.stamp_ns - arrival.chunk.stamp_ns for arrival in arrivals], dtype=np.int64)
    took = np.array([arrival.took_ns for arrival in arrivals], dtype=np.int64)
    planning_ns = log.run.replan_ticks * log.contract.tick_period_ns
    used = {id(arrival) for arrival in chosen if arrival is not None}
    missing = np.array([arrival is None for arrival in chosen], dtype=bool)
    counts = {
        "ticks": int(np.count_nonzero(log.ticks.valid)),
        "chunks": len(ages),
        "late": int(np.count_nonzero(ages > planning_ns)),
        "deadline_misses": int(np.count_nonzero(took > planning_ns)),
        "skipped": delivery.skipped,
        "overruns": delivery.overruns,
        "late_ticks": delivery.late_ticks,
        "superseded": sum(id(arrival) not in used for arrival in arrivals[:-1]),
        "uncovered_ticks": int(np.count_nonzero((np.cumsum(~missing) > 0) & log.ticks.valid & missing)),
        "holds": log.decisions.holds,
    }
    return counts, {
        "ages_ns": ages,
        "took_ns": took,
        "baseline_mse": ((normalise(base) - normalise(target)) ** 2).mean(axis=1),
        "sigma_mse": ((normalise(sigma) - normalise(target)) ** 2).mean(axis=1),
        "baseline": (np.degrees(base - target) ** 2).mean(axis=1),
        "sigma": (np.degrees(sigma - target) ** 2).mean(axis=1),
        "sigma_jump_mean_deg": _jumps_deg(log, chosen),
        "commanded": _commanded_deg(log, log.decisions) if len(log.decisions) else np.empty(0),
    }


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
