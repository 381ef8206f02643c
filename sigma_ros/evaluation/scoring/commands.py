# SPDX-License-Identifier: Apache-2.0
"""What the supervisor made of the chunks: the commanded path, how much of the residual passed, what bounded a joint."""

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float64, Int64
from numpy import ndarray

from sigma_ros.contract import Contract
from sigma_ros.evaluation.log import DecisionTrack
from sigma_ros.evaluation.scoring.metrics import mean_or_nan
from sigma_ros.values import NS_PER_S

LIMITS = ("position", "speed", "acceleration", "jerk", "room to stop")
"""What can bound a joint's command, in the order in which they are looked for."""

_AT_LIMIT = 0.99
"""A command that uses this share of a limit is said to be bounded by it."""

_SCALE_TOLERANCE = 1e-9


def commands_at(
    track: DecisionTrack, stamps_ns: Int64[ndarray, " stamps"], *, period_ns: int
) -> Float64[ndarray, "stamps dof"]:
    """The commanded path at some times [rad], linear between two commands one period apart; NaN where there is none.

    Times that go back begin a new stretch, in the track as in the stamps; stretches belong together in order.
    """
    path_rad = np.full((len(stamps_ns), track.command_rad.shape[1]), np.nan)
    own, asked = _stretches(track.stamp_ns), _stretches(stamps_ns)
    for stretch in np.intersect1d(own, asked):
        rows = asked == stretch
        path_rad[rows] = _interpolated(
            track.stamp_ns[own == stretch], track.command_rad[own == stretch], stamps_ns[rows], period_ns
        )
    return path_rad


def _stretches(stamps_ns: Int64[ndarray, " stamps"]) -> Int64[ndarray, " stamps"]:
    """Numbers the stretches in which time goes on."""
    return np.concatenate([[0], np.cumsum(np.diff(stamps_ns) < 0)])[: len(stamps_ns)]


def _interpolated(
    known_ns: Int64[ndarray, " commands"],
    command_rad: Float64[ndarray, "commands dof"],
    stamps_ns: Int64[ndarray, " stamps"],
    period_ns: int,
) -> Float64[ndarray, "stamps dof"]:
    last = len(known_ns) - 1
    before = np.searchsorted(known_ns, stamps_ns, side="right") - 1
    inside = before >= 0
    before = np.maximum(before, 0)
    after = np.minimum(before + 1, last)
    exact = known_ns[before] == stamps_ns
    since_ns, gap_ns = stamps_ns - known_ns[before], known_ns[after] - known_ns[before]
    share = np.where(exact | (gap_ns <= 0), 0.0, since_ns / np.maximum(gap_ns, 1))[:, None]
    between = command_rad[before] + share * (command_rad[after] - command_rad[before])
    path_rad = np.where(exact[:, None], command_rad[before], between)
    covered = inside & (exact | ((gap_ns > 0) & (gap_ns <= 1.5 * period_ns)))
    return np.where(covered[:, None], path_rad, np.nan)


def bounding_limits(track: DecisionTrack, contract: Contract) -> Int64[ndarray, "decisions dof"]:
    """Which of `LIMITS` each bounded joint's command was at, counted from 1; 0: the joint was not bounded.

    From the commands alone, with the contract's limits: a position at its end, else the largest used share of speed,
    acceleration and jerk. Where none is used up, the command was kept short so that a stop stays possible (or by
    limits that were set tighter than the contract's).
    """
    found = np.where(track.clipped, len(LIMITS), 0)
    if not found.any():
        return found
    command = track.command_rad
    dt = contract.command_period_ns / NS_PER_S
    bounds = (contract.max_velocity_radps, contract.max_acceleration_radps2, contract.max_jerk_radps3)
    used = np.full((len(bounds), *command.shape), np.nan)
    for order, bound in enumerate(bounds, start=1):
        used[order - 1, order:] = np.abs(np.diff(command, n=order, axis=0)) / dt**order / bound
    used = np.nan_to_num(used)
    fastest = used.argmax(axis=0) + 2
    found = np.where(track.clipped & (used.max(axis=0) >= _AT_LIMIT), fastest, found)
    tolerance = 1e-6
    at_end = (command <= contract.lower_rad + tolerance) | (command >= contract.upper_rad - tolerance)
    return np.where(track.clipped & at_end, 1, found)


def held_back(track: DecisionTrack) -> Bool[ndarray, " decisions"]:
    """The ticks with a command whose scale was below the one that its chunk asked for."""
    return is_commanded(track) & (track.applied_scale < track.requested_scale - _SCALE_TOLERANCE)


def is_commanded(track: DecisionTrack) -> Bool[ndarray, " decisions"]:
    """The ticks with a command."""
    return np.isfinite(track.command_rad).all(axis=1)


@dataclass(frozen=True, slots=True, kw_only=True)
class HeldBack:
    """How much of the residual the supervisor let through. Means are over the ticks with a command; NaN without any.

    `share` is the part of the asked scale that was not applied; `reasons` are those of the ticks in which that was so.
    """

    requested_scale_mean: float
    applied_scale_mean: float
    share: float
    ticks: int
    reasons: dict[str, int]


def residual_held_back(tracks: Sequence[DecisionTrack]) -> HeldBack:
    """Over all recordings."""
    asked, applied = (
        np.concatenate([getattr(t, name)[is_commanded(t)] for t in tracks])
        for name in ("requested_scale", "applied_scale")
    )
    known = np.isfinite(applied) & np.isfinite(asked)
    reasons: Counter[str] = Counter()
    for track in tracks:
        reasons.update(track.reason[i] for i in np.flatnonzero(held_back(track)))
    total = float(asked[known].sum())
    return HeldBack(
        requested_scale_mean=mean_or_nan(asked[known]),
        applied_scale_mean=mean_or_nan(applied[np.isfinite(applied)]),
        share=float(np.maximum(asked[known] - applied[known], 0.0).sum()) / total if total else math.nan,
        ticks=sum(reasons.values()),
        reasons=dict(sorted(reasons.items())),
    )
