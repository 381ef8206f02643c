# SPDX-License-Identifier: Apache-2.0
"""The first motion after a start, a gap or a reset: where it may begin, and how it meets the policy's course."""

import math
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
"""Of the quintic 10 s^3 - 15 s^4 + 6 s^5, whose ends are at rest."""

_SHARE_OF_LIMITS = 0.4
_SHORTEST_LEAD_S = 0.2


@dataclass(frozen=True, slots=True, kw_only=True)
class Lead:
    """An offset from the course that fades smoothly: all of it at `start_ns`, none after `duration_ns`."""

    offset_rad: Float64[ndarray, " dof"]
    start_ns: int
    duration_ns: int

    def offsets_rad(self, times_ns: Int64[ndarray, " times"]) -> Float64[ndarray, "times dof"]:
        """What to add to the course at each time."""
        s = np.clip((times_ns - self.start_ns) / self.duration_ns, 0.0, 1.0)
        left = 1.0 - s**3 * (10.0 - 15.0 * s + 6.0 * s**2)
        faded: Float64[ndarray, "times dof"] = left[:, None] * self.offset_rad
        return faded

    def is_over(self, now_ns: int) -> bool:
        """Whether nothing of the offset is left."""
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
    """A lead from where the arm stands to the course, slow enough for the ramp speed and part of the limits."""
    offset = anchor_rad - course.positions_rad(np.array([now_ns], dtype=np.int64), scale)[0]
    size = np.abs(offset)
    duration_s = max(
        _SHORTEST_LEAD_S,
        float(np.max(_PEAK_SPEED * size)) / limits.ramp_speed_radps,
        float(np.max(_PEAK_SPEED * size / (_SHARE_OF_LIMITS * motion.velocity_radps))),
        math.sqrt(float(np.max(_PEAK_ACCELERATION * size / (_SHARE_OF_LIMITS * motion.acceleration_radps2)))),
        math.cbrt(float(np.max(_PEAK_JERK * size / (_SHARE_OF_LIMITS * motion.jerk_radps3)))),
    )
    return Lead(offset_rad=offset, start_ns=now_ns, duration_ns=round(duration_s * NS_PER_S))


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


def anchor_of(
    measured_rad: Float64[ndarray, " dof"],
    last_command_rad: Float64[ndarray, " dof"] | None,
    *,
    contract: Contract,
    motion: MotionLimits,
    tolerance_rad: float,
) -> Float64[ndarray, " dof"] | Verdict:
    """Where commands begin: at the last command where the arm still is there, else at the measured pose.

    The last command is preferred because the measured pose lags it by the servo's steady-state error, and
    starting there would be a step. A pose outside the limits by no more than the tolerance is moved onto them;
    further outside is refused.
    """
    anchor = measured_rad
    if last_command_rad is not None:
        anchor = np.where(np.abs(measured_rad - last_command_rad) <= tolerance_rad, last_command_rad, measured_rad)
    inside = np.clip(anchor, motion.lower_rad, motion.upper_rad)
    outside = np.abs(inside - anchor)
    worst = int(np.argmax(outside))
    if outside[worst] > tolerance_rad:
        return refused(Reason.JOINTS_OUTSIDE, f"{contract.joint_names[worst]} by {outside[worst]:.3f} rad")
    return inside
