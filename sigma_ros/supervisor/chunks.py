# SPDX-License-Identifier: Apache-2.0
"""Whether a chunk may be executed: present, finite, fresh, plausible, in this order.

The checks trust nothing about the value: whatever is in its fields, the answer is a reason, not an exception.
"""

import math
from dataclasses import dataclass
from numbers import Real

import numpy as np
from jaxtyping import Float64, Int64
from numpy import ndarray

from sigma_ros.contract import Contract, shortened
from sigma_ros.supervisor.limits import SupervisorLimits
from sigma_ros.supervisor.reasons import Reason
from sigma_ros.values import NS_PER_S, AdapterSettings, Chunk, frozen_array

MAX_HORIZON_STEPS = 256
MAX_TRAINED_DELAY_S = 5.0

_MIN_HORIZON_STEPS = 2
_LONGEST_DETAIL = 400
_STAMP_BOUND_NS = 1 << 62
_PERIOD_TOLERANCE = 0.01


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """What became of a message: `reason` is OK if it was accepted, `detail` holds the numbers."""

    accepted: bool
    reason: Reason
    detail: str = ""

    @property
    def text(self) -> str:
        """One sentence for people."""
        return self.reason.text(self.detail)


ACCEPTED = Verdict(accepted=True, reason=Reason.OK)


def refused(reason: Reason, detail: str = "") -> Verdict:
    """A refusal with its reason; of a long text its beginning."""
    return Verdict(accepted=False, reason=reason, detail=detail[:_LONGEST_DETAIL])


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """The newest chunk accepted; -1 where there was none. `barrier_ns` refuses stamps before the last stop."""

    chunk_id: int = -1
    epoch: int = -1
    stamp_ns: int = -_STAMP_BOUND_NS
    barrier_ns: int = -_STAMP_BOUND_NS


class ChunkCheck:
    """Judges chunks for one robot. Holds constants only."""

    def __init__(self, contract: Contract, limits: SupervisorLimits) -> None:
        self._names = contract.joint_names
        self._period_ns = contract.tick_period_ns
        self._span = contract.upper_rad - contract.lower_rad
        self._low, self._high = contract.lower_rad - self._span, contract.upper_rad + self._span
        self._limits = limits
        oldest = max((contract.joint_state_max_age_ns, *(camera.max_age_ns for camera in contract.cameras)))
        self.max_observation_age_ns = round(limits.max_observation_age_s * NS_PER_S) or oldest

    def judge(self, chunk: Chunk, seen: Seen, observation_now_ns: int) -> Verdict:
        """Whether the chunk may be executed now, on the observation clock."""
        try:
            return (
                self._present(chunk)
                or self._finite(chunk)
                or self._fresh(chunk, seen, observation_now_ns)
                or self._plausible(chunk)
                or ACCEPTED
            )
        except (TypeError, ValueError, AttributeError, OverflowError, IndexError) as error:
            return refused(Reason.CHUNK_MALFORMED, f"{type(error).__name__}: {error}")

    def _present(self, chunk: Chunk) -> Verdict | None:
        counts = (chunk.chunk_id, chunk.epoch, chunk.tick, chunk.crossfade_steps)
        times = (chunk.stamp_ns, chunk.step_period_ns, chunk.observation_age_ns, chunk.inference_ns)
        numbers = (*counts, *times)
        if not all(isinstance(n, int) and abs(n) < _STAMP_BOUND_NS for n in numbers):
            return refused(Reason.CHUNK_MALFORMED, f"integers expected, got {numbers}")
        for name, array in (("base", chunk.base_rad), ("residual", chunk.residual_rad)):
            if type(array) is not np.ndarray or array.dtype != np.float64:
                return refused(Reason.CHUNK_MALFORMED, f"{name} is not an array of float64")
        risk = chunk.risk
        if not isinstance(chunk.settings, AdapterSettings) or not all(
            isinstance(ratio, Real) for ratio in (risk.residual_ratio, risk.factor_ratio, risk.alignment)
        ):
            return refused(Reason.CHUNK_MALFORMED, "risk or settings are no numbers")
        if tuple(chunk.joint_names) != self._names:
            return refused(Reason.CHUNK_NAMES, f"got {shortened(chunk.joint_names)}")
        return self._shapes(chunk)

    def _shapes(self, chunk: Chunk) -> Verdict | None:
        shape, other = chunk.base_rad.shape, chunk.residual_rad.shape
        if len(shape) != 2 or shape != other or shape[1] != len(self._names):
            return refused(Reason.CHUNK_SHAPE, f"base {shape}, residual {other}, {len(self._names)} joints")
        if not _MIN_HORIZON_STEPS <= shape[0] <= MAX_HORIZON_STEPS:
            allowed = f"{_MIN_HORIZON_STEPS} to {MAX_HORIZON_STEPS}"
            return refused(Reason.CHUNK_SHAPE, f"{shape[0]} steps, {allowed} are allowed")
        if abs(chunk.step_period_ns - self._period_ns) > _PERIOD_TOLERANCE * self._period_ns:
            return refused(Reason.CHUNK_PERIOD, f"{chunk.step_period_ns / 1e6:.3f} ms, not {self._period_ns / 1e6:.3f}")
        return None

    def _finite(self, chunk: Chunk) -> Verdict | None:
        for name, array in (("base", chunk.base_rad), ("residual", chunk.residual_rad)):
            bad = ~np.isfinite(array)
            if bad.any():
                step, joint = (int(i) for i in np.argwhere(bad)[0])
                return refused(Reason.CHUNK_NOT_FINITE, f"{name}, step {step}, {self._names[joint]}")
        for name in ("scale", "trained_delay_s"):
            if not np.isfinite(getattr(chunk, name)):
                return refused(Reason.CHUNK_NOT_FINITE, f"{name} {getattr(chunk, name)}")
        return None

    def _fresh(self, chunk: Chunk, seen: Seen, now_ns: int) -> Verdict | None:
        if chunk.epoch < seen.epoch:
            return refused(Reason.CHUNK_OLD_EPOCH, f"epoch {chunk.epoch}, now {seen.epoch}")
        if chunk.chunk_id <= seen.chunk_id or chunk.stamp_ns <= seen.stamp_ns:
            return refused(Reason.CHUNK_OUT_OF_ORDER, f"id {chunk.chunk_id} after {seen.chunk_id}")
        if chunk.stamp_ns < seen.barrier_ns:
            return refused(Reason.CHUNK_BEFORE_STOP, f"{(seen.barrier_ns - chunk.stamp_ns) / 1e6:.0f} ms before it")
        return self._young(chunk, now_ns)

    def _young(self, chunk: Chunk, now_ns: int) -> Verdict | None:
        limits = self._limits
        age_s = (now_ns - chunk.stamp_ns) / NS_PER_S
        if age_s > limits.max_chunk_delay_s:
            return refused(Reason.CHUNK_STALE, f"{age_s:.3f} s, limit {limits.max_chunk_delay_s:g} s")
        if -age_s > limits.max_stamp_lead_s:
            return refused(Reason.CHUNK_FROM_FUTURE, f"{-age_s:.3f} s ahead, limit {limits.max_stamp_lead_s:g} s")
        if not 0 <= chunk.observation_age_ns <= self.max_observation_age_ns:
            limit_ms = self.max_observation_age_ns / 1e6
            return refused(
                Reason.OBSERVATION_STALE, f"{chunk.observation_age_ns / 1e6:.0f} ms, limit {limit_ms:.0f} ms"
            )
        return None

    def _plausible(self, chunk: Chunk) -> Verdict | None:
        if not 0.0 <= chunk.scale <= 1.0:
            return refused(Reason.CHUNK_IMPLAUSIBLE, f"scale {chunk.scale}")
        if not 0.0 <= chunk.trained_delay_s <= MAX_TRAINED_DELAY_S:
            return refused(Reason.CHUNK_IMPLAUSIBLE, f"trained for a delay of {chunk.trained_delay_s} s")
        outside = ((chunk.base_rad < self._low) | (chunk.base_rad > self._high)).any(axis=0)
        if outside.any():
            joint = int(np.argmax(outside))
            worst = float(np.max(np.abs(chunk.base_rad[:, joint])))
            return refused(Reason.CHUNK_IMPLAUSIBLE, f"{self._names[joint]} at up to {worst:.3g} rad")
        largest = np.max(np.abs(chunk.residual_rad), axis=0)
        if (largest > self._span).any():
            joint = int(np.argmax(largest - self._span))
            return refused(Reason.CHUNK_IMPLAUSIBLE, f"residual of {self._names[joint]} is {largest[joint]:.3g} rad")
        return None


# The chunk in execution as a smooth function of time, and how the next one takes over.
#
# Chunk steps come at the policy's rate (30 Hz), commands go out at the control rate (50 Hz). Between
# them runs a uniform cubic B-spline whose control points are the steps. Why not straight lines: their
# velocity jumps at each step, so at 50 Hz a perfectly smooth motion needs several times the jerk it
# really has (a recorded CR5 episode: 15 % of ticks over 100 rad/s^3, 0 % with the B-spline). Why not an
# interpolating spline: it overshoots at steps. The derivatives of a B-spline are those of its control
# polygon's differences, so **steps that keep the limits at the policy's rate give a curve that keeps
# them at every rate**, and straight motion is reproduced exactly. The price: where the motion
# accelerates with `a`, the curve passes `a * period^2 / 6` beside the step (2 mrad at 10 rad/s^2).
#
# A new chunk replaces control points from its own first step on; steps already past are never played.


_HISTORY = 5
"""Control points kept from before a chunk's first step, so that the curve is smooth across the switch."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Spline:
    """Base and residual as control points: point `i` belongs to `origin_ns + i * step_ns` (observation clock)."""

    origin_ns: int
    step_ns: int
    base_rad: Float64[ndarray, "points dof"]
    residual_rad: Float64[ndarray, "points dof"]

    @property
    def end_ns(self) -> int:
        """The last step's time; after it there is no target."""
        return self.origin_ns + (self.base_rad.shape[0] - 1) * self.step_ns

    def positions_rad(self, times_ns: Int64[ndarray, " times"], scale: float) -> Float64[ndarray, "times dof"]:
        """`base + scale * residual` at each time, held constant before the first and after the last step.

        With scale 0 the residual does not enter at all.
        """
        index, weights = self._basis(times_ns)
        base: Float64[ndarray, "times dof"] = np.einsum("tk,tkd->td", weights, self.base_rad[index])
        if scale == 0.0:
            return base
        return base + scale * np.einsum("tk,tkd->td", weights, self.residual_rad[index])

    def _basis(
        self, times_ns: Int64[ndarray, " times"]
    ) -> tuple[Int64[ndarray, "times 4"], Float64[ndarray, "times 4"]]:
        last = self.base_rad.shape[0] - 1
        u = np.clip((times_ns - self.origin_ns) / self.step_ns, 0.0, float(last))
        whole = np.floor(u)
        f = u - whole
        index = np.clip(whole.astype(np.int64)[:, None] + np.arange(-1, 3), 0, last)
        g = 1.0 - f
        weights = np.stack((g**3, 3.0 * f**3 - 6.0 * f**2 + 4.0, 3.0 * g**3 - 6.0 * g**2 + 4.0, f**3), axis=1) / 6.0
        return index, weights


def spline_of(chunk: Chunk) -> Spline:
    """A chunk on its own, without a past."""
    return Spline(
        origin_ns=chunk.stamp_ns,
        step_ns=chunk.step_period_ns,
        base_rad=chunk.base_rad,
        residual_rad=chunk.residual_rad,
    )


def alone_of(chunk: Chunk) -> Spline:
    """A chunk on its own that moves on straight before its first step, so that the curve does not start at rest."""
    back = np.arange(-_HISTORY, 0.0)[:, None]

    def with_past(points: Float64[ndarray, "points dof"]) -> Float64[ndarray, "points dof"]:
        return frozen_array(np.concatenate((points[0] + back * (points[1] - points[0]), points)))

    return Spline(
        origin_ns=chunk.stamp_ns - _HISTORY * chunk.step_period_ns,
        step_ns=chunk.step_period_ns,
        base_rad=with_past(chunk.base_rad),
        residual_rad=with_past(chunk.residual_rad),
    )


def take_over(old: Spline | None, chunk: Chunk, *, now_ns: int, crossfade_steps: int = 0) -> Spline:
    """The course after a new chunk: the old one's steps before `now_ns`, the chunk's from there on.

    With `crossfade_steps` = n > 0 the first n steps still to come go over from old to new in equal shares,
    as far as the old chunk reaches.
    """
    if old is None or old.end_ns < chunk.stamp_ns:
        return spline_of(chunk)
    times = chunk.stamp_ns + chunk.step_period_ns * np.arange(-_HISTORY, chunk.horizon, dtype=np.int64)
    first_future = max(0, math.ceil((now_ns - chunk.stamp_ns) / chunk.step_period_ns))
    share = _shares(chunk, old, times[_HISTORY:], first_future, crossfade_steps)
    return Spline(
        origin_ns=int(times[0]),
        step_ns=chunk.step_period_ns,
        base_rad=_joined(_polygon(old, old.base_rad, times), chunk.base_rad, share),
        residual_rad=_joined(_polygon(old, old.residual_rad, times), chunk.residual_rad, share),
    )


def _shares(
    chunk: Chunk, old: Spline, times_ns: Int64[ndarray, " horizon"], first_future: int, steps: int
) -> Float64[ndarray, "horizon 1"]:
    """Share of the new chunk in each of its steps: 0 for past ones, rising over `steps`, 1 after the old one's end."""
    share = np.clip((np.arange(chunk.horizon) - first_future + 1.0) / (steps + 1.0), 0.0, 1.0)
    share[times_ns > old.end_ns] = 1.0
    return share[:, None]


def _joined(
    past: Float64[ndarray, "points dof"], new: Float64[ndarray, "horizon dof"], share: Float64[ndarray, "horizon 1"]
) -> Float64[ndarray, "points dof"]:
    ahead = past[_HISTORY:]
    blended = np.where(share == 1.0, new, ahead + share * (new - ahead))
    return frozen_array(np.concatenate((past[:_HISTORY], blended)))


def _polygon(
    spline: Spline, points: Float64[ndarray, "points dof"], times_ns: Int64[ndarray, " times"]
) -> Float64[ndarray, "times dof"]:
    """The control polygon at other times; exact where the two grids agree (to a millionth of a step)."""
    last = points.shape[0] - 1
    u = np.clip((times_ns - spline.origin_ns) / spline.step_ns, 0.0, float(last))
    near = np.rint(u)
    u = np.where(np.abs(u - near) < 1e-6, near, u)
    low = np.minimum(np.floor(u).astype(np.int64), last)
    high = np.minimum(low + 1, last)
    f = (u - low)[:, None]
    return points[low] * (1.0 - f) + points[high] * f
