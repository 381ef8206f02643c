# SPDX-License-Identifier: Apache-2.0
"""Arrays in, numbers out: errors of an arm, jumps at chunk borders, jerk and limit checks of commands.

Less is better for every number here. Errors are squared differences in the policy's normalised action
space (as trained), or degrees per joint (as a person reads them).
"""

import itertools
import math
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float64, Int64
from numpy import ndarray

from sigma_ros.contract import Contract
from sigma_ros.evaluation.log import SCORED_STEPS, ReplayLog, TickTrack
from sigma_ros.policy.schedule import SCORE_STRIDE_TICKS
from sigma_ros.values import NS_PER_S, Chunk

CHUNK_STEPS = 8
"""Steps of the middle scale: `mse_chk` (design, section 5)."""

SPANS = {"vec": 1, "chk": CHUNK_STEPS, "trj": SCORED_STEPS}
"""Steps that each of the three errors averages over."""

TRJ = tuple(SPANS).index("trj")
"""Place of the trajectory among the spans."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Samples:
    """The scored windows of one replay: which ticks they begin at, and which inferences answer for them."""

    tick_index: Int64[ndarray, " samples"]
    inference_index: Int64[ndarray, " samples"]

    def __len__(self) -> int:
        return int(self.tick_index.shape[0])


def scored_ticks(ticks: TickTrack) -> Int64[ndarray, " samples"]:
    """Indices of the ticks to score: valid, on the epoch's 16-tick raster, with 16 recorded actions from there on."""
    n = len(ticks)
    candidates = np.flatnonzero(ticks.valid & (ticks.tick % SCORE_STRIDE_TICKS == 0))
    ends = candidates + SCORED_STEPS - 1
    candidates, ends = candidates[ends < n], ends[ends < n]
    unbroken = (ticks.epoch[ends] == ticks.epoch[candidates]) & (
        ticks.tick[ends] - ticks.tick[candidates] == SCORED_STEPS - 1
    )
    recorded = np.concatenate([[0], np.cumsum(np.isfinite(ticks.action_rad).all(axis=1))])
    complete = recorded[ends + 1] - recorded[candidates] == SCORED_STEPS
    return candidates[unbroken & complete]


def samples_of(log: ReplayLog) -> Samples:
    """Pairs each scored tick with the policy's answer for it; ticks without one (a stopped run) are left out."""
    answers = {(entry.chunk.epoch, entry.chunk.tick): i for i, entry in enumerate(log.inferences)}
    places = scored_ticks(log.ticks)
    keys = zip(log.ticks.epoch[places].tolist(), log.ticks.tick[places].tolist(), strict=True)
    found = np.array([answers.get(key, -1) for key in keys], dtype=np.int64)
    return Samples(tick_index=places[found >= 0], inference_index=found[found >= 0])


def mean_or_nan(values: ndarray) -> float:
    """The mean; of nothing it is not a number."""
    return float(np.mean(values)) if values.size else math.nan


def window_mse(squared: Float64[ndarray, "samples steps dof"], steps: int) -> Float64[ndarray, " samples"]:
    """Mean squared error of each window over its first `steps` steps and all joints."""
    return squared[:, :steps].mean(axis=(1, 2))


def step_mse(squared: Float64[ndarray, "samples steps dof"]) -> Float64[ndarray, " steps"]:
    """Mean squared error of each horizon step over windows and joints; NaN without windows."""
    if not len(squared):
        return np.full(squared.shape[1], np.nan)
    return squared.mean(axis=(0, 2))


def joint_mse(squared: Float64[ndarray, "samples steps dof"], steps: int) -> Float64[ndarray, " dof"]:
    """Mean squared error of each joint over the first `steps` steps; NaN without windows."""
    if not len(squared):
        return np.full(squared.shape[2], np.nan)
    return squared[:, :steps].mean(axis=(0, 1))


def joint_rmse_deg(error_deg: Float64[ndarray, "samples steps dof"], steps: int) -> Float64[ndarray, " dof"]:
    """Root mean squared error of each joint in degrees over the first `steps` steps; NaN without windows."""
    if not len(error_deg):
        return np.full(error_deg.shape[2], np.nan)
    return np.sqrt(np.mean(error_deg[:, :steps] ** 2, axis=(0, 1)))


def border_jumps_deg(log: ReplayLog) -> dict[str, Float64[ndarray, "borders dof"]]:
    """How far a new chunk's first step is from what the previous chunk planned for that tick, per arm."""
    published = [entry.chunk for entry in log.inferences if entry.published]
    jumps: dict[str, list[ndarray]] = {"baseline": [], "sigma": []}
    for old, new in itertools.pairwise(published):
        ahead = new.tick - old.tick
        if new.epoch == old.epoch and ahead < old.horizon:
            jumps["baseline"].append(new.base_rad[0] - old.base_rad[ahead])
            jumps["sigma"].append(new.blended_rad(new.scale)[0] - old.blended_rad(old.scale)[ahead])
    dof = log.contract.dof
    return {arm: np.abs(np.degrees(np.array(rows).reshape(-1, dof))) for arm, rows in jumps.items()}


@dataclass(frozen=True, slots=True, kw_only=True)
class Executed:
    """The published chunks as they would be executed: of each the steps until the next one.

    A NaN row stands where the next chunk does not follow on.
    """

    stamp_ns: Int64[ndarray, " steps"]
    baseline_rad: Float64[ndarray, "steps dof"]
    sigma_rad: Float64[ndarray, "steps dof"]


def executed(log: ReplayLog) -> Executed:
    """The steps that both arms would have executed, without latency and without a supervisor."""
    dof = log.contract.dof
    chunks = [entry.chunk for entry in log.inferences if entry.published]
    stamps: list[ndarray] = [np.empty(0, dtype=np.int64)]
    base: list[ndarray] = [np.empty((0, dof))]
    sigma: list[ndarray] = [np.empty((0, dof))]
    for i, chunk in enumerate(chunks):
        ahead = _ticks_until(chunk, chunks[i + 1] if i + 1 < len(chunks) else None)
        steps = min(ahead or SCORED_STEPS, chunk.horizon)
        broken = ahead != steps
        stamps.append(chunk.stamp_ns + np.arange(steps + broken) * chunk.step_period_ns)
        gap = np.full((int(broken), dof), np.nan)
        base.append(np.concatenate([chunk.base_rad[:steps], gap]))
        sigma.append(np.concatenate([chunk.blended_rad(chunk.scale)[:steps], gap]))
    return Executed(stamp_ns=np.concatenate(stamps), baseline_rad=np.concatenate(base), sigma_rad=np.concatenate(sigma))


def _ticks_until(chunk: Chunk, following: Chunk | None) -> int | None:
    """Ticks to the next chunk of the same epoch, None at the epoch's last."""
    if following is None or following.epoch != chunk.epoch:
        return None
    return following.tick - chunk.tick


def command_runs(command_rad: Float64[ndarray, "decisions dof"]) -> list[Float64[ndarray, "run dof"]]:
    """Splits commands into stretches without a pause; derivatives are taken inside a stretch only."""
    active = np.isfinite(command_rad).all(axis=1)
    edges = np.flatnonzero(np.diff(active.astype(np.int8), prepend=0, append=0))
    return [command_rad[start:end] for start, end in edges.reshape(-1, 2)]


def derivative_peaks(runs: list[ndarray], period_s: float, order: int, dof: int) -> tuple[ndarray, float]:
    """Per joint the largest |d^order/dt^order| of the commands, and the root mean square over all; NaN if none."""
    rows = [np.diff(run, n=order, axis=0) / period_s**order for run in runs if len(run) > order]
    if not rows:
        return np.full(dof, np.nan), math.nan
    values = np.concatenate(rows)
    return np.abs(values).max(axis=0), float(np.sqrt(np.mean(values**2)))


def limit_breaches(command_rad: Float64[ndarray, "decisions dof"], contract: Contract) -> int:
    """Commands beyond a hard position or speed limit of the contract, counted by the report's own arithmetic.

    Independent of the supervisor's counter; a slack of 1e-6 allows for rounding. A run of commands begins where the
    arm is: a joint that stood outside its limits may be led inside, if it never goes further out on the way.
    """
    slack = 1e-6
    period_s = contract.command_period_ns / NS_PER_S
    count = 0
    for run in command_runs(command_rad):
        outside: Float64[ndarray, "commands dof"] = np.maximum(contract.lower_rad - run, run - contract.upper_rad)
        depth = np.maximum(outside, 0.0)
        led_inside: Bool[ndarray, " dof"] = (np.diff(depth, axis=0) <= slack).all(axis=0) & (depth[-1] <= slack)
        count += int(np.count_nonzero(((outside > slack) & ~led_inside).any(axis=1)))
        speed = np.abs(np.diff(run, axis=0)) / period_s
        count += int(np.count_nonzero((speed > contract.max_velocity_radps + slack).any(axis=1)))
    return count


def percentile_ms(host_ns: Int64[ndarray, " calls"], percent: float) -> float:
    """Percentile of measured times in milliseconds; NaN without any."""
    return float(np.percentile(host_ns, percent)) / 1e6 if len(host_ns) else math.nan
