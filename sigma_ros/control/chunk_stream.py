# SPDX-License-Identifier: Apache-2.0
"""The chunks as they arrive: which are taken, what course they make, and what the newest says of the residual."""

import numpy as np

from sigma_ros.contract import Contract
from sigma_ros.control.ceiling import allowed_scale, is_opposed, residual_cap
from sigma_ros.control.chunk_check import ChunkCheck, Seen, Verdict, refused
from sigma_ros.control.chunks import Course, course_of, take_over
from sigma_ros.control.limits import SupervisorLimits
from sigma_ros.control.motion_guard import Request
from sigma_ros.control.reasons import Reason
from sigma_ros.control.source import IN_PROCESS, Source
from sigma_ros.control.start_gate import Lead
from sigma_ros.values import NS_PER_S, Chunk

_DEFAULT_AGE_TICKS = 30
_HINT_TICKS = 5
"""The course's velocity and acceleration are taken over this many control periods to either side."""

MAX_CROSSFADE_STEPS = 16
"""A chunk that asks for more is faded in over this many."""

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
        self.course: Course | None = None
        self.author = IN_PROCESS
        self.delay_ns = 0
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
        old = self.course if moving and chunk.epoch == self.seen.epoch else None
        steps = min(MAX_CROSSFADE_STEPS, max(round(self._limits.crossfade_steps), chunk.crossfade_steps))
        self.course = (
            course_of(chunk) if old is None else take_over(old, chunk, now_ns=observation_now_ns, crossfade_steps=steps)
        )
        self.seen = Seen(
            chunk_id=chunk.chunk_id, epoch=chunk.epoch, stamp_ns=chunk.stamp_ns, barrier_ns=self.seen.barrier_ns
        )
        self._opposed = self._opposed + 1 if is_opposed(chunk) else 0
        self.chunk, self.arrived_ns, self.delay_ns = chunk, now_ns, max(0, observation_now_ns - chunk.stamp_ns)
        return verdict

    def drop(self, barrier_ns: int | None) -> None:
        """Forgets the course. Only chunks stamped at or after `barrier_ns` are taken from now on, whatever their id."""
        self.seen = Seen() if barrier_ns is None else Seen(barrier_ns=barrier_ns)
        self.chunk, self.course = None, None

    def forget_order(self) -> None:
        """What was seen bounds ids and epochs no longer: the policy may be another process, which counts from 0."""
        self.seen = Seen(barrier_ns=self.seen.barrier_ns)

    def fault(self, observation_now_ns: int) -> Verdict | None:
        """Why there is no target now."""
        if self.chunk is None or self.course is None:
            return refused(Reason.WAITING_FOR_CHUNK)
        if observation_now_ns > self.course.end_ns:
            return refused(Reason.CHUNK_EXHAUSTED, f"chunk {self.chunk.chunk_id}")
        age_ns = observation_now_ns - self.chunk.stamp_ns
        if age_ns > self.max_age_ns:
            return refused(Reason.CHUNK_EXPIRED, f"{age_ns / 1e9:.3f} s, limit {self.max_age_ns / 1e9:.3f} s")
        return None

    def request(self, now_ns: int, *, scale: float, lead: Lead | None) -> Request | None:
        """Where the course is at `now_ns` (observation clock), one and two control periods on, and how it moves."""
        if self.course is None:
            return None
        period = self._period_ns
        hint = _HINT_TICKS * period
        times = now_ns + np.array([0, period, 2 * period, -hint, hint], dtype=np.int64)
        positions = self.course.positions_rad(times, scale)
        if lead is not None:
            positions = lead.towards(positions, times)
        here, before, after = positions[0], positions[3], positions[4]
        hint_s = hint / NS_PER_S
        return Request(
            upcoming_rad=positions[:3],
            velocity_radps=(after - before) / (2.0 * hint_s),
            acceleration_radps2=(after - 2.0 * here + before) / hint_s**2,
        )

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
