# SPDX-License-Identifier: Apache-2.0
"""The first motion after a start, a gap or a reset: where it may begin, and how it meets the policy's course."""

from collections import deque
from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Float64, Int64
from numpy import ndarray

from sigma_ros.contract import Contract
from sigma_ros.supervisor.chunks import (
    ACCEPTED,
    ChunkCheck,
    Seen,
    Spline,
    Verdict,
    alone_of,
    refused,
    spline_of,
    take_over,
)
from sigma_ros.supervisor.guard import Request
from sigma_ros.supervisor.identity import IN_PROCESS, Source
from sigma_ros.supervisor.limits import MotionLimits, SupervisorLimits
from sigma_ros.supervisor.reasons import Reason
from sigma_ros.supervisor.scale_limiter import allowed_scale, is_opposed, residual_cap
from sigma_ros.values import NS_PER_S, Chunk

_PEAK_SPEED, _PEAK_ACCELERATION, _PEAK_JERK = 1.875, 5.7735, 60.0
"""Of a distance 1 bridged in time 1 by the quintic from rest to rest."""

_JOIN_ACCELERATION, _JOIN_JERK = 4.6, 60.0
"""Of a speed 1 taken up in time 1, the way that the course gained meanwhile included."""

_SHARE_OF_LIMITS = 0.4
_SHORTEST_LEAD_S = 0.2


@dataclass(frozen=True, slots=True, kw_only=True)
class ApproachRamp:
    """The way from where the arm stands to the course: a share of the course that rises from 0 to 1.

    Targets lie between the anchor and the course at every time, however the course moves. The share is the quintic
    from rest to rest, so that motion begins at rest at the anchor and goes over into the course without a jump of
    velocity or acceleration.
    """

    start_ns: int
    duration_ns: int
    anchor_rad: Float64[ndarray, " dof"]

    def towards(
        self, spline_rad: Float64[ndarray, "times dof"], times_ns: Int64[ndarray, " times"]
    ) -> Float64[ndarray, "times dof"]:
        """The targets in place of the course's positions: the anchor before the start, the course after the end."""
        s = np.clip((times_ns - self.start_ns) / self.duration_ns, 0.0, 1.0)[:, None]
        share = s**3 * (10.0 - 15.0 * s + 6.0 * s**2)
        targets: Float64[ndarray, "times dof"] = np.where(
            s == 1.0, spline_rad, self.anchor_rad + share * (spline_rad - self.anchor_rad)
        )
        return targets

    def is_over(self, now_ns: int) -> bool:
        """Whether the course itself is the target."""
        return now_ns >= self.start_ns + self.duration_ns


def ramp_to(
    spline: Spline,
    anchor_rad: Float64[ndarray, " dof"],
    now_ns: int,
    *,
    scale: float,
    motion: MotionLimits,
    limits: SupervisorLimits,
) -> ApproachRamp:
    """A lead from where the arm stands to the course, slow enough for the ramp speed and part of the limits.

    What the course itself moves meanwhile comes on top; the guard bounds the sum.
    """
    step_ns = round(motion.period_s * NS_PER_S)
    before, now, after = spline.positions_rad(now_ns + step_ns * np.arange(-1, 2, dtype=np.int64), scale)
    duration_s = _lead_duration_s(
        np.abs(anchor_rad - now),
        np.abs(after - before) / (2.0 * motion.period_s),
        motion=motion,
        speed=limits.ramp_speed_radps,
    )
    return ApproachRamp(start_ns=now_ns, duration_ns=round(duration_s * NS_PER_S), anchor_rad=anchor_rad)


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
    spline: Spline,
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
    now = spline.positions_rad(np.array([now_ns], dtype=np.int64), scale)[0]
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
) -> ApproachRamp:
    """A lead from a resting pose to another one that stands still."""
    offset = np.abs(inside_rad - anchor_rad)
    duration_s = _lead_duration_s(offset, np.zeros_like(offset), motion=motion, speed=limits.ramp_speed_radps)
    return ApproachRamp(start_ns=now_ns, duration_ns=round(duration_s * NS_PER_S), anchor_rad=anchor_rad)


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


# The chunks as they arrive: which are taken, what course they make, and what the newest says of the residual.


_DEFAULT_AGE_TICKS = 30
_HINT_TICKS = 5
"""The course's velocity and acceleration are taken over this many control periods to either side."""

MAX_CROSSFADE_STEPS = 16
"""A chunk that asks for more is faded in over this many."""

_LAGS_KEPT = 128

_OPPOSED_CHUNKS = 4
"""This many chunks in a row whose residual undoes the base's motion: the residual is not trusted."""


class ChunkStream:
    """Accepts or refuses chunks and keeps the course made of those that were accepted."""

    def __init__(self, contract: Contract, limits: SupervisorLimits) -> None:
        self._check = ChunkCheck(contract, limits)
        self._limits = limits
        self._period_ns = contract.command_period_ns
        age_ns = round(limits.max_chunk_age_s * NS_PER_S) or contract.tick_offset_ns(_DEFAULT_AGE_TICKS)
        self.max_age_ns = age_ns
        self.seen = Seen()
        self.chunk: Chunk | None = None
        self.spline: Spline | None = None
        self.author = IN_PROCESS
        self.delay_ns = 0
        self._lag_ns = 0
        self._lags_ns: deque[tuple[int, int]] = deque(maxlen=_LAGS_KEPT)
        self.arrived_ns: int | None = None
        self.last_verdict = refused(Reason.WAITING_FOR_CHUNK)
        self.last_id = 0
        self.last_epoch = 0
        self._opposed = 0

    def offer(
        self,
        chunk: Chunk,
        now_ns: int,
        observation_now_ns: int,
        *,
        moving: bool,
        source: Source = IN_PROCESS,
        refusal: Verdict | None = None,
    ) -> Verdict:
        """Takes a chunk over, or says why not. While `moving` it is joined to the course in execution.

        `refusal`: why it is not even looked at. Another author than before begins a new order of ids and epochs.
        """
        if refusal is None and source != self.author:
            self.drop(self.seen.barrier_ns)
            self.author = source
        verdict = refusal or self._check.judge(chunk, self.seen, observation_now_ns)
        self.last_verdict = verdict
        if verdict.reason is not Reason.CHUNK_MALFORMED:
            self.last_id, self.last_epoch = chunk.chunk_id, chunk.epoch
        if not verdict.accepted:
            return verdict
        old = self.spline if moving and chunk.epoch == self.seen.epoch else None
        steps = min(MAX_CROSSFADE_STEPS, max(round(self._limits.crossfade_steps), chunk.crossfade_steps))
        self.spline = spline_of(chunk) if old is None else self._taken_over(old, chunk, observation_now_ns, steps)
        self.seen = Seen(
            chunk_id=chunk.chunk_id, epoch=chunk.epoch, stamp_ns=chunk.stamp_ns, barrier_ns=self.seen.barrier_ns
        )
        self._opposed = self._opposed + 1 if is_opposed(chunk) else 0
        self.chunk, self.arrived_ns, self.delay_ns = chunk, now_ns, max(0, observation_now_ns - chunk.stamp_ns)
        return verdict

    def _taken_over(self, old: Spline, chunk: Chunk, now_ns: int, steps: int) -> Spline:
        """The policy saw the arm where it was: what it lagged by then is forgotten, what came since goes on."""
        forgotten_ns = next((lag_ns for at_ns, lag_ns in reversed(self._lags_ns) if at_ns <= chunk.stamp_ns), 0)
        self._lags_ns = deque(((at, max(0, lag - forgotten_ns)) for at, lag in self._lags_ns), maxlen=_LAGS_KEPT)
        self._lag_ns -= forgotten_ns
        old = replace(old, origin_ns=old.origin_ns + forgotten_ns)
        return take_over(old, chunk, now_ns=self.course_ns(now_ns), crossfade_steps=steps)

    def course_ns(self, now_ns: int) -> int:
        """The course's own time, which is behind the observation clock by what the arm was slowed."""
        return now_ns - self._lag_ns

    def set_back(self, by_ns: int, now_ns: int) -> None:
        """The arm was slowed by so much in this tick."""
        self._lag_ns += by_ns
        self._lags_ns.append((now_ns, self._lag_ns))

    def drop(self, barrier_ns: int) -> None:
        """Forgets the course. Only chunks stamped at or after `barrier_ns` are taken from now on, whatever their id."""
        self.seen = Seen(barrier_ns=barrier_ns)
        self.chunk, self.spline = None, None
        self._lag_ns = 0
        self._lags_ns.clear()

    def forget_order(self) -> None:
        """What was seen bounds ids and epochs no longer: the policy may be another process, which counts from 0."""
        self.seen = Seen(barrier_ns=self.seen.barrier_ns)

    def fault(self, observation_now_ns: int) -> Verdict | None:
        """Why there is no target now."""
        if self.chunk is None or self.spline is None:
            return refused(Reason.WAITING_FOR_CHUNK)
        if self.course_ns(observation_now_ns) > self.spline.end_ns:
            return refused(Reason.CHUNK_EXHAUSTED, f"chunk {self.chunk.chunk_id}")
        age_ns = observation_now_ns - self.chunk.stamp_ns
        if age_ns > self.max_age_ns:
            return refused(Reason.CHUNK_EXPIRED, f"{age_ns / 1e9:.3f} s, limit {self.max_age_ns / 1e9:.3f} s")
        return None

    def request(self, now_ns: int, *, scale: float, lead: ApproachRamp | None) -> Request | None:
        """Where the course is at `now_ns` (observation clock), one and two control periods on, and how it moves."""
        if self.spline is None:
            return None
        period = self._period_ns
        hint = _HINT_TICKS * period
        times = self.course_ns(now_ns) + np.array([0, period, 2 * period, -hint, hint], dtype=np.int64)
        positions = self.course_rad(times, scale=scale, lead=lead)
        here, before, after = positions[0], positions[3], positions[4]
        hint_s = hint / NS_PER_S
        return Request(
            upcoming_rad=positions[:3],
            velocity_radps=(after - before) / (2.0 * hint_s),
            acceleration_radps2=(after - 2.0 * here + before) / hint_s**2,
        )

    def course_rad(
        self, times_ns: Int64[ndarray, " times"], *, scale: float, lead: ApproachRamp | None, alone: bool = False
    ) -> Float64[ndarray, "times dof"]:
        """The course at times of its own. `alone`: as if the newest chunk had had none before it."""
        spline = alone_of(self.chunk) if alone and self.chunk is not None else self.spline
        assert spline is not None, "there is a course"
        positions = spline.positions_rad(times_ns, scale)
        return positions if lead is None else lead.towards(positions, times_ns)

    def go_alone(self) -> None:
        """The newest chunk's own course is followed from here on."""
        assert self.chunk is not None, "there is a course"
        self.spline = alone_of(self.chunk)

    @property
    def allowed_scale(self) -> float:
        """What the chunk in execution may ask for; 0 without one."""
        return 0.0 if self.chunk is None else allowed_scale(self.chunk)

    @property
    def residual_cap(self) -> float:
        """The scale up to which the residual stays within its bound; 1 without a chunk."""
        return 1.0 if self.chunk is None else residual_cap(self.chunk, self._limits.max_residual_rad)

    @property
    def is_opposed(self) -> bool:
        """Whether the residual has worked against the base for several chunks."""
        return self._opposed >= _OPPOSED_CHUNKS
