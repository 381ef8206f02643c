# SPDX-License-Identifier: Apache-2.0
"""The first motion after a start, a gap or a reset: where it may begin, and how it meets the policy's course."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float64, Int64
from numpy import ndarray

from sigma_ros.contract import Contract
from sigma_ros.control.chunk_check import ACCEPTED, Verdict, refused
from sigma_ros.control.chunks import Course
from sigma_ros.control.limits import MotionLimits, SupervisorLimits
from sigma_ros.control.reasons import Reason
from sigma_ros.values import NS_PER_S, Chunk

_PEAK_SPEED, _PEAK_ACCELERATION, _PEAK_JERK = 1.875, 5.7735, 60.0
"""Of a distance 1 bridged in time 1 by the quintic from rest to rest."""

_JOIN_ACCELERATION, _JOIN_JERK = 4.6, 60.0
"""Of a speed 1 taken up in time 1, the way that the course gained meanwhile included."""

_SHARE_OF_LIMITS = 0.4
_SHORTEST_LEAD_S = 0.2


@dataclass(frozen=True, slots=True, kw_only=True)
class Lead:
    """The way from where the arm stands to the course: a share of the course that rises from 0 to 1.

    Targets lie between the anchor and the course at every time, however the course moves. The share is the quintic
    from rest to rest, so that motion begins at rest at the anchor and goes over into the course without a jump of
    velocity or acceleration.
    """

    start_ns: int
    duration_ns: int
    anchor_rad: Float64[ndarray, " dof"]

    def towards(
        self, course_rad: Float64[ndarray, "times dof"], times_ns: Int64[ndarray, " times"]
    ) -> Float64[ndarray, "times dof"]:
        """The targets in place of the course's positions: the anchor before the start, the course after the end."""
        s = np.clip((times_ns - self.start_ns) / self.duration_ns, 0.0, 1.0)[:, None]
        share = s**3 * (10.0 - 15.0 * s + 6.0 * s**2)
        targets: Float64[ndarray, "times dof"] = np.where(
            s == 1.0, course_rad, self.anchor_rad + share * (course_rad - self.anchor_rad)
        )
        return targets

    def is_over(self, now_ns: int) -> bool:
        """Whether the course itself is the target."""
        return now_ns >= self.start_ns + self.duration_ns


def lead_to(
    course: Course,
    anchor_rad: Float64[ndarray, " dof"],
    now_ns: int,
    *,
    scale: float,
    motion: MotionLimits,
    limits: SupervisorLimits,
) -> Lead:
    """A lead from where the arm stands to the course, slow enough for the ramp speed and part of the limits.

    What the course itself moves meanwhile comes on top; the guard bounds the sum.
    """
    step_ns = round(motion.period_s * NS_PER_S)
    before, now, after = course.positions_rad(now_ns + step_ns * np.arange(-1, 2, dtype=np.int64), scale)
    duration_s = _lead_duration_s(
        np.abs(anchor_rad - now),
        np.abs(after - before) / (2.0 * motion.period_s),
        motion=motion,
        speed=limits.ramp_speed_radps,
    )
    return Lead(start_ns=now_ns, duration_ns=round(duration_s * NS_PER_S), anchor_rad=anchor_rad)


def _lead_duration_s(
    offset: Float64[ndarray, " dof"], velocity: Float64[ndarray, " dof"], *, motion: MotionLimits, speed: float
) -> float:
    share = _SHARE_OF_LIMITS
    bounds = (
        _PEAK_SPEED * offset / np.minimum(speed, share * motion.velocity_radps),
        np.sqrt(_PEAK_ACCELERATION * offset / (share * motion.acceleration_radps2)),
        np.cbrt(_PEAK_JERK * offset / (share * motion.jerk_radps3)),
        _JOIN_ACCELERATION * velocity / (share * motion.acceleration_radps2),
        np.sqrt(_JOIN_JERK * velocity / (share * motion.jerk_radps3)),
    )
    return max(_SHORTEST_LEAD_S, *(float(bound.max()) for bound in bounds))


def gate(
    chunk: Chunk,
    course: Course,
    anchor_rad: Float64[ndarray, " dof"],
    now_ns: int,
    *,
    scale: float,
    contract: Contract,
    limits: SupervisorLimits,
) -> Verdict:
    """Whether motion may begin: OK, RAMPING (only with `start_ramp`), or START_POSE with the numbers.

    The chunk fits if its first step (the pose it was made for) or its target at this moment is where the arm is.
    """
    now = course.positions_rad(np.array([now_ns], dtype=np.int64), scale)[0]
    offsets = [np.abs(target - anchor_rad) for target in (chunk.blended_rad(scale)[0], now)]
    offset = min(offsets, key=lambda o: float(np.max(o)))
    worst = int(np.argmax(offset))
    distance = float(offset[worst])
    if distance <= limits.start_tolerance_rad:
        return ACCEPTED
    detail = f"{contract.joint_names[worst]} by {distance:.3f} rad"
    if limits.start_ramp and distance <= limits.max_start_offset_rad:
        return Verdict(accepted=True, reason=Reason.RAMPING, detail=detail)
    allowed = limits.max_start_offset_rad if limits.start_ramp else limits.start_tolerance_rad
    return refused(Reason.START_POSE, f"{detail}, {allowed:g} rad are allowed")


def lead_inside(
    anchor_rad: Float64[ndarray, " dof"],
    inside_rad: Float64[ndarray, " dof"],
    now_ns: int,
    *,
    motion: MotionLimits,
    limits: SupervisorLimits,
) -> Lead:
    """A lead from a resting pose to another one that stands still."""
    offset = np.abs(inside_rad - anchor_rad)
    duration_s = _lead_duration_s(offset, np.zeros_like(offset), motion=motion, speed=limits.ramp_speed_radps)
    return Lead(start_ns=now_ns, duration_ns=round(duration_s * NS_PER_S), anchor_rad=anchor_rad)


def inside_of(
    anchor_rad: Float64[ndarray, " dof"], *, contract: Contract, motion: MotionLimits, tolerance_rad: float
) -> Float64[ndarray, " dof"] | Verdict:
    """The nearest pose inside the limits; further outside than the tolerance is refused."""
    inside = np.clip(anchor_rad, motion.lower_rad, motion.upper_rad)
    outside = np.abs(inside - anchor_rad)
    worst = int(np.argmax(outside))
    if outside[worst] > tolerance_rad:
        return refused(Reason.JOINTS_OUTSIDE, f"{contract.joint_names[worst]} by {outside[worst]:.3f} rad")
    return inside
