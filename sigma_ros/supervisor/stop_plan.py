# SPDX-License-Identifier: Apache-2.0
"""The certificate: can the arm, from here, still come to rest inside every limit?

Definitions, per joint, on commands `q` one control period `dt` apart:
`v_k = (q_k - q_{k-1}) / dt`, `a_k = (v_k - v_{k-1}) / dt`, `j_k = (a_k - a_{k-1}) / dt`.

Why a stream made with it never breaks a limit (induction over ticks):
- Claim: at every tick there is a stored sequence of commands that continues the published ones,
  keeps all four limits at each of its ticks and ends at rest (three equal commands).
- Start: the arm rests inside its position limits; "stay" is such a sequence.
- Step: a new command is published only when (a) it keeps the four limits itself and (b) a new
  stopping sequence was found for the state after it; that sequence replaces the stored one. In every
  other case the next command of the stored sequence is published, which keeps the limits by the
  claim, and its remainder is stored. Either way the claim holds at the next tick.
Nothing is assumed about whoever asks for commands: this is the Black-Box Simplex rule
(arXiv 2102.12981). Both checks are made on the literal positions that would be published, so
rounding does not accumulate. Joints are independent: one joint's refusal does not hold back another.

The stopping sequence is a shortest one in discrete time. Let `neutral` bring the acceleration to zero
at full jerk, and let `brake_N` decelerate as hard as the limits allow while still able to end with zero
acceleration after N ticks. The least N is taken for which braking suffices, and the mixture of the two
that removes exactly the velocity: a mixture of sequences that keep linear limits keeps them too.
"""

import math

import numpy as np
from jaxtyping import Bool, Float64
from numpy import ndarray

from sigma_ros.errors import ContractError
from sigma_ros.supervisor.limits import MotionLimits

MAX_STOP_TICKS = 400
"""A robot that needs longer to stop than this many ticks is refused."""

_TOLERANCE_RAD = 1e-12
_JERK_TOLERANCE_RADPS3 = 1e-7
_ROUNDING = 1e-10
_ROUNDING_RAD = 1e-15
"""Velocities per tick below this part of the jerk limit, or this many rad, are rounding and count as none."""

_LENGTHS_AROUND = np.arange(-3.0, 2.0)


class StopPlanner:
    """Limits per tick of some joints, and stopping sequences for many states of them at once.

    Velocity `w` is in rad per tick, acceleration `b` in rad per tick^2. Holds constants only.

    Raises:
        ContractError: the robot needs more than `MAX_STOP_TICKS` ticks to stop.
    """

    def __init__(self, limits: MotionLimits, *, speed_factor: float = 1.0) -> None:
        dt = limits.period_s
        self.lower = limits.lower_rad
        self.upper = limits.upper_rad
        self.w_max = limits.velocity_radps * dt
        self.b_max = limits.acceleration_radps2 * dt**2
        self.jerk = limits.jerk_radps3 * dt**3
        self._rounding = _ROUNDING * self.jerk
        self._still = (2.0 * self._rounding + _ROUNDING_RAD)[:, None]
        self._jerk_tolerance = _JERK_TOLERANCE_RADPS3 * dt**3
        self.ticks = _longest_stop_ticks(self.w_max * speed_factor, self.b_max, self.jerk)
        if self.ticks > MAX_STOP_TICKS:
            raise ContractError(
                "a full stop would take too long",
                expected=f"at most {MAX_STOP_TICKS} control periods",
                got=f"{self.ticks}",
                remedy="raise the acceleration and jerk limits, or lower the speed limit",
            )
        self._k = np.arange(1.0, self.ticks + 1.0)
        self._ramp = self.jerk[:, None] * self._k
        self._all_lengths = self._k[None, None, :]
        self._all_tails = (-self.jerk[:, None, None] * np.maximum(self._k[:, None] - self._k, 0.0))[None]

    def certify(
        self,
        recent: Float64[ndarray, "2 dof"],
        candidates: Float64[ndarray, "candidates dof"],
        within: tuple[Float64[ndarray, " dof"], Float64[ndarray, " dof"]] | None = None,
    ) -> tuple[Bool[ndarray, "candidates dof"], Float64[ndarray, "candidates dof ticks"]]:
        """Whether the arm can stop inside all limits after each candidate, and the stop's positions.

        The candidate's own step is checked by `step_range`; here only what comes after it.
        `recent` are the last two commands, oldest first. `within` narrows the position limits for this question.
        """
        lower, upper = self.lower, self.upper
        if within is not None:
            lower, upper = np.maximum(lower, within[0]), np.minimum(upper, within[1])
        w = candidates - recent[1]
        b = w - (recent[1] - recent[0])
        found, b_plan = self.shortest_stop(w, b, self.b_max)
        w_plan = w[:, :, None] + b_plan.cumsum(axis=2)
        w_plan[np.abs(w_plan) < self._still] = 0.0
        q_plan = candidates[:, :, None] + w_plan.cumsum(axis=2)
        inside = (
            (w_plan.max(axis=2) <= self.w_max + _TOLERANCE_RAD)
            & (w_plan.min(axis=2) >= -self.w_max - _TOLERANCE_RAD)
            & (q_plan.max(axis=2) <= upper + _TOLERANCE_RAD)
            & (q_plan.min(axis=2) >= lower - _TOLERANCE_RAD)
        )
        return found & inside, q_plan

    def shortest_stop(
        self,
        w: Float64[ndarray, "candidates dof"],
        b: Float64[ndarray, "candidates dof"],
        b_max: Float64[ndarray, "*candidates dof"],
    ) -> tuple[Bool[ndarray, "candidates dof"], Float64[ndarray, "candidates dof ticks"]]:
        """The accelerations that bring `w` and `b` to zero soonest, then zeros; False where there are none.

        `b_max` bounds the braking, which is against the direction in which the joint would be left
        drifting. A row that is False means nothing.
        """
        # neutral_k = b - clip(b, -k j, k j): acceleration to zero at full jerk; the speed left then is
        # drift = w + sum_k neutral_k.
        neutral = np.minimum(np.maximum(b[:, :, None] - self._ramp, 0.0), b[:, :, None] + self._ramp)
        drift = neutral.sum(axis=2) + w
        sign = np.where(drift > 0.0, 1.0, -1.0)
        # Mirrored so that drift > 0: brake_k = max(b - k j, -b_max), at length N also >= tail_k = -j (N - k)+, which
        # lets it end with zero acceleration; left_N = w + sum_k max(brake_k, tail_k).
        brake = np.maximum((b * sign)[:, :, None] - self._ramp, -b_max[..., None])
        n, tail = self._lengths(w * sign, b * sign, b_max)
        brakes = np.maximum(brake[:, :, None, :], tail)
        left = brakes.sum(axis=3) + (w * sign)[:, :, None]
        enough = (left <= self._rounding[:, None]) & (
            np.abs(b)[:, :, None] <= n * self.jerk[:, None] + self._rounding[:, None]
        )
        # The least N with left_N <= 0 and |b| <= N j; then (1 - s) neutral + s brake with s = drift / (drift - left_N)
        # removes the speed exactly: drift + s (left_N - drift) = 0.
        row, joint = np.arange(w.shape[0])[:, None], np.arange(w.shape[1])
        chosen = enough.argmax(axis=2)
        drift = drift * sign
        share = drift / np.maximum(drift - left[row, joint, chosen], 1e-300)
        share = np.minimum(share, 1.0)[:, :, None]
        sequence: Float64[ndarray, "candidates dof ticks"] = neutral * (1.0 - share) + brakes[row, joint, chosen] * (
            share * sign[:, :, None]
        )
        return enough[row, joint, chosen], sequence

    def _lengths(
        self, w: Float64[ndarray, "candidates dof"], b: Float64[ndarray, "candidates dof"], b_max: ndarray
    ) -> tuple[Float64[ndarray, "#candidates #dof lengths"], Float64[ndarray, "#candidates dof lengths ticks"]]:
        """Lengths of stops to try, rising, with the most that each lets `b` be away from 0 at every tick.

        All lengths for one candidate; for many, a few around the time-optimal stop in continuous time
        (`w`, `b` mirrored so that braking is negative). The least length was within -4..+1 of it in 21,000
        random states; missing it costs a longer stop, never a wrong one.
        """
        if w.shape[0] == 1:
            return self._all_lengths, self._all_tails
        top = np.minimum(np.sqrt(np.maximum(0.5 * b * b + w * self.jerk, 0.0)), b_max)
        held = np.maximum(w - (2.0 * top * top - b * b) / (2.0 * self.jerk), 0.0) / np.maximum(top, 1e-300)
        estimate = np.ceil((2.0 * top + b) / self.jerk + held)
        n = np.clip(estimate[:, :, None] + _LENGTHS_AROUND, 1.0, self.ticks)
        return n, -self.jerk[:, None, None] * np.maximum(n[:, :, :, None] - self._k, 0.0)

    def step_range(
        self, recent: Float64[ndarray, "3 dof"]
    ) -> tuple[Float64[ndarray, " dof"], Float64[ndarray, " dof"]]:
        """Lowest and highest next command that keeps the four limits at that one tick."""
        w = recent[2] - recent[1]
        b = w - (recent[1] - recent[0])
        low = recent[2] + np.maximum(w + np.maximum(b - self.jerk, -self.b_max), -self.w_max)
        high = recent[2] + np.minimum(w + np.minimum(b + self.jerk, self.b_max), self.w_max)
        return np.maximum(low, self.lower), np.minimum(high, self.upper)

    def keeps_limits(self, stream: Float64[ndarray, "ticks dof"]) -> Bool[ndarray, " dof"]:
        """Whether commands 3, 4, ... of a stream keep all four limits, given the first three."""
        return np.asarray(self.keep_each(stream).all(axis=0))

    def keep_each(self, stream: Float64[ndarray, "*runs ticks dof"]) -> Bool[ndarray, "*runs later dof"]:
        """Whether each of commands 3, 4, ... keeps all four limits, given the three before it."""
        w = np.diff(stream, axis=-2)
        b = np.diff(w, axis=-2)
        tolerance = self._jerk_tolerance
        later = stream[..., 3:, :]
        kept: Bool[ndarray, "*runs later dof"] = (
            (np.abs(np.diff(b, axis=-2)) <= self.jerk + tolerance)
            & (np.abs(b[..., 1:, :]) <= self.b_max + tolerance)
            & (np.abs(w[..., 2:, :]) <= self.w_max + tolerance)
            & (later <= self.upper + _TOLERANCE_RAD)
            & (later >= self.lower - _TOLERANCE_RAD)
        )
        return kept


def _longest_stop_ticks(
    w_max: Float64[ndarray, " dof"], b_max: Float64[ndarray, " dof"], jerk: Float64[ndarray, " dof"]
) -> int:
    """Ticks of the longest stop from a state inside the limits: full speed ahead, still accelerating."""
    peak = np.minimum(b_max, np.sqrt(w_max * jerk))
    start = np.minimum(b_max, np.sqrt(2.0 * w_max * jerk))
    return math.ceil(float((w_max / peak + peak / jerk + start / jerk).max())) + 3
