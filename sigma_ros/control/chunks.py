# SPDX-License-Identifier: Apache-2.0
"""The chunk in execution as a smooth function of time, and how the next one takes over.

Chunk steps come at the policy's rate (30 Hz), commands go out at the control rate (50 Hz). Between
them runs a uniform cubic B-spline whose control points are the steps. Why not straight lines: their
velocity jumps at each step, so at 50 Hz a perfectly smooth motion needs several times the jerk it
really has (a recorded CR5 episode: 15 % of ticks over 100 rad/s^3, 0 % with the B-spline). Why not an
interpolating spline: it overshoots at steps. The derivatives of a B-spline are those of its control
polygon's differences, so **steps that keep the limits at the policy's rate give a curve that keeps
them at every rate**, and straight motion is reproduced exactly. The price: where the motion
accelerates with `a`, the curve passes `a * period^2 / 6` beside the step (2 mrad at 10 rad/s^2).

A new chunk replaces control points from its own first step on; steps already past are never played.
"""

import math
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float64, Int64
from numpy import ndarray

from sigma_ros.values import Chunk, frozen_array

_HISTORY = 5
"""Control points kept from before a chunk's first step, so that the curve is smooth across the switch."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Course:
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


def course_of(chunk: Chunk) -> Course:
    """A chunk on its own, without a past."""
    return Course(
        origin_ns=chunk.stamp_ns,
        step_ns=chunk.step_period_ns,
        base_rad=chunk.base_rad,
        residual_rad=chunk.residual_rad,
    )


def take_over(old: Course | None, chunk: Chunk, *, now_ns: int, crossfade_steps: int = 0) -> Course:
    """The course after a new chunk: the old one's steps before `now_ns`, the chunk's from there on.

    With `crossfade_steps` = n > 0 the first n steps still to come go over from old to new in equal shares,
    as far as the old chunk reaches.
    """
    if old is None or old.end_ns < chunk.stamp_ns:
        return course_of(chunk)
    times = chunk.stamp_ns + chunk.step_period_ns * np.arange(-_HISTORY, chunk.horizon, dtype=np.int64)
    first_future = max(0, math.ceil((now_ns - chunk.stamp_ns) / chunk.step_period_ns))
    share = _shares(chunk, old, times[_HISTORY:], first_future, crossfade_steps)
    return Course(
        origin_ns=int(times[0]),
        step_ns=chunk.step_period_ns,
        base_rad=_joined(_polygon(old, old.base_rad, times), chunk.base_rad, share),
        residual_rad=_joined(_polygon(old, old.residual_rad, times), chunk.residual_rad, share),
    )


def _shares(
    chunk: Chunk, old: Course, times_ns: Int64[ndarray, " horizon"], first_future: int, steps: int
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
    course: Course, points: Float64[ndarray, "points dof"], times_ns: Int64[ndarray, " times"]
) -> Float64[ndarray, "times dof"]:
    """The control polygon at other times; exact where the two grids agree (to a millionth of a step)."""
    last = points.shape[0] - 1
    u = np.clip((times_ns - course.origin_ns) / course.step_ns, 0.0, float(last))
    near = np.rint(u)
    u = np.where(np.abs(u - near) < 1e-6, near, u)
    low = np.minimum(np.floor(u).astype(np.int64), last)
    high = np.minimum(low + 1, last)
    f = (u - low)[:, None]
    return points[low] * (1.0 - f) + points[high] * f
