# SPDX-License-Identifier: Apache-2.0
"""How much of the residual may enter the command: the adapter's scale under a ceiling of our own.

`applied = min(requested, recomputed from the chunk's risk, user ceiling, own ceiling)`, slew-limited while the arm
follows, and at once never more than keeps every correction of the chunk within `max_residual_rad`.
The own ceiling falls at once with trouble and rises slowly, and only after all was well for a while.
"""

import math
from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Float64
from numpy import ndarray

from sigma_ros.risk import assess, scale_of
from sigma_ros.supervisor.guard import MotionGuard, Request, Track
from sigma_ros.supervisor.limits import SupervisorLimits
from sigma_ros.supervisor.reasons import Reason
from sigma_ros.values import NS_PER_S, Chunk

_MISS_MEMORY_S = 1.0
_MISS_CALM, _MISS_FULL = 0.4, 0.8
"""Share of recent ticks far from their request: below the first no effect, from the second on scale 0.

A new chunk that jumps is missed for up to 0.4 s until the arm has caught up (share 0.33); a residual that cannot be
followed at all is off after 1.6 s. Our choice: with 0.2 and 0.6 a single jump cost the residual 4 s.
"""

_AGE_CALM = 0.5
"""Ages up to this part of their limit have no effect; at the limit the ceiling is 0."""

_EXECUTED_STEPS = 16
"""A residual that was trained for a delay was trained on so many steps behind it (model card: horizon T = 16)."""

_OPPOSED_COSINE = -0.5
_OPPOSED_RAD = 0.02


@dataclass(frozen=True, slots=True, kw_only=True)
class ScaleInputs:
    """What speaks against the residual at a tick. Ages are parts of their limits, see `part_of_limit`.

    `missed`: what the chunk asks for is further from its own request than the base would be. `opposed`: it undoes the
    base's motion. `base_is_worse`: the base alone would be further from its own requests; then lateness, age and
    opposition are no reasons to hand the arm to it.
    """

    fault: bool
    heartbeat_age: float
    chunk_delay: float
    chunk_age: float
    missed: bool
    chunk_cap: float
    opposed: bool
    base_is_worse: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class ScaleLimiter:
    """The own ceiling and the applied scale, a value that goes from tick to tick.

    `asked` is what would be applied if there were no own ceiling: the residual is judged by that, not by what being
    turned down does to the command.
    """

    own: float = 1.0
    applied: float = 0.0
    asked: float = 0.0
    miss_rate: float = 0.0
    calm_s: float = 0.0
    cause: Reason = Reason.OK

    def after(
        self, scale_inputs: ScaleInputs, *, target: float, user_ceiling: float, limits: SupervisorLimits, dt_s: float
    ) -> "ScaleLimiter":
        """The next tick's ceiling. `target` is what the chunk allows, see `allowed_scale`."""
        miss_rate = self.miss_rate + (float(scale_inputs.missed) - self.miss_rate) * min(1.0, dt_s / _MISS_MEMORY_S)
        cap, cause = _cap(scale_inputs, miss_rate)
        calm_s = self.calm_s + dt_s if cap > self.own else 0.0
        fall, rise = dt_s / limits.scale_fall_s, dt_s * limits.scale_rise_per_s
        own = max(cap, self.own - fall)
        if cap > self.own:
            recovers = calm_s > limits.recover_after_s
            own = min(cap, self.own + dt_s * limits.recover_per_s) if recovers else self.own
            cause = self.cause
        wanted = _wanted(target, user_ceiling)
        return ScaleLimiter(
            own=own,
            applied=min(_slewed(self.applied, min(wanted, own), fall=fall, rise=rise), scale_inputs.chunk_cap),
            asked=min(_slewed(self.asked, wanted, fall=fall, rise=rise), scale_inputs.chunk_cap),
            miss_rate=miss_rate,
            calm_s=calm_s,
            cause=cause if own < 1.0 else Reason.OK,
        )

    def starting(self, *, target: float, user_ceiling: float, chunk_cap: float) -> "ScaleLimiter":
        """As motion begins at rest: the scale is where it may be, since the way onto the course is led.

        Rising from 0 it would give the arm to the base for the first two seconds, however much worse that is.
        """
        asked = max(0.0, min(_wanted(target, user_ceiling), chunk_cap))
        return replace(self, applied=min(asked, self.own), asked=asked)


def allowed_scale(chunk: Chunk) -> float:
    """What a chunk may ask for: its own request, but never more than its risk allows (recomputed here)."""
    risk = assess(
        residual_ratio=chunk.risk.residual_ratio,
        factor_ratio=chunk.risk.factor_ratio,
        alignment=chunk.risk.alignment,
    )
    allowed = min(chunk.scale, scale_of(risk, chunk.settings))
    return allowed if math.isfinite(allowed) else 0.0


def part_of_limit(age_s: float, *, trained_s: float, limit_s: float) -> float:
    """How much of what a limit leaves beyond the age that was trained for is used up: 0 up to there, 1 at the limit."""
    beyond_s = age_s - trained_s
    if beyond_s <= 0.0:
        return 0.0
    return beyond_s / (limit_s - trained_s) if limit_s > trained_s else math.inf


def trained_age_s(chunk: Chunk) -> float:
    """Age of a chunk in execution up to which its residual was trained; 0 where it was trained for no delay."""
    if chunk.trained_delay_s == 0.0:
        return 0.0
    return chunk.trained_delay_s + _EXECUTED_STEPS * chunk.step_period_ns / NS_PER_S


def residual_cap(chunk: Chunk, max_residual_rad: float) -> float:
    """The largest scale at which no correction of the chunk exceeds `max_residual_rad`."""
    largest = float(np.max(np.abs(chunk.residual_rad)))
    return 1.0 if largest <= max_residual_rad else max_residual_rad / largest


def is_opposed(chunk: Chunk) -> bool:
    """Whether the residual, as requested, mostly undoes the base's motion over the chunk."""
    motion: Float64[ndarray, "horizon dof"] = chunk.base_rad - chunk.base_rad[0]
    correction = chunk.scale * chunk.residual_rad
    size, moved = float(np.linalg.norm(correction)), float(np.linalg.norm(motion))
    per_step = size / math.sqrt(correction.size)
    if per_step < _OPPOSED_RAD or moved == 0.0 or size < 0.5 * moved:
        return False
    return float(np.sum(motion * correction)) / (size * moved) < _OPPOSED_COSINE


def _cap(scale_inputs: ScaleInputs, miss_rate: float) -> tuple[float, Reason]:
    """The strictest cap and where it comes from."""
    parts = [
        (0.0 if scale_inputs.fault else 1.0, Reason.SCALE_FAULT),
        (_falling(scale_inputs.heartbeat_age, _AGE_CALM, 1.0), Reason.SCALE_HEARTBEAT),
        (_falling(miss_rate, _MISS_CALM, _MISS_FULL), Reason.SCALE_MISSES),
        (scale_inputs.chunk_cap, Reason.SCALE_RESIDUAL_LARGE),
    ]
    if not scale_inputs.base_is_worse:
        parts += [
            (0.0 if scale_inputs.opposed else 1.0, Reason.SCALE_RESIDUAL_OPPOSED),
            (_falling(scale_inputs.chunk_delay, _AGE_CALM, 1.0), Reason.SCALE_DELAY),
            (_falling(scale_inputs.chunk_age, _AGE_CALM, 1.0), Reason.SCALE_AGE),
        ]
    return min(parts, key=lambda part: part[0])


def _wanted(target: float, user_ceiling: float) -> float:
    """What a chunk may ask for, under the user's ceiling; 0 where it is not finite."""
    return min(target, user_ceiling) if math.isfinite(target) else 0.0


def _slewed(scale: float, goal: float, *, fall: float, rise: float) -> float:
    """A scale in [0, 1] on its way to a goal."""
    return min(1.0, max(0.0, min(max(goal, scale - fall), scale + rise)))


def _falling(value: float, calm: float, full: float) -> float:
    """1 up to `calm`, 0 from `full` on, straight between; 0 when not finite."""
    if not math.isfinite(value):
        return 0.0
    return min(1.0, max(0.0, (full - value) / (full - calm)))


# A command that is only imagined: how far a request would be missed if it were followed within the motion limits.


_USUAL_S = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Follower:
    """An imagined course from tick to tick. `usual_miss_rad` is the mean miss of about the last second."""

    track: Track | None = None
    miss_rad: float = 0.0
    usual_miss_rad: float = 0.0

    def after(self, request: Request | None, arm: Track | None, guard: MotionGuard, *, dt_s: float) -> "Follower":
        """A tick later. It begins where the arm is; without a request nothing is followed, and nothing missed."""
        if request is None or arm is None:
            return Follower()
        step = guard.advance(self.track or arm, request)
        miss_rad = float(step.miss_rad.max())
        usual_rad = self.usual_miss_rad + (miss_rad - self.usual_miss_rad) * min(1.0, dt_s / _USUAL_S)
        return Follower(track=step.track, miss_rad=miss_rad, usual_miss_rad=usual_rad)
