# SPDX-License-Identifier: Apache-2.0
"""From course to command: start gate, lead, scale, request, guard, and the check of what comes out."""

from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Bool, Float64
from numpy import ndarray

from sigma_ros.contract import Contract
from sigma_ros.supervisor.chunks import ACCEPTED, Verdict, refused
from sigma_ros.supervisor.contact import ContactWatch
from sigma_ros.supervisor.guard import CLIP_TOLERANCE_RAD, GuardedStep, MotionGuard, Reach, Request, Track
from sigma_ros.supervisor.inputs import ENCODER_COUNT_RAD, InputMonitor
from sigma_ros.supervisor.limits import MotionLimits, SupervisorLimits, limit_excess
from sigma_ros.supervisor.path import PathFollower
from sigma_ros.supervisor.reasons import Reason
from sigma_ros.supervisor.scale_limiter import Follower, ScaleInputs, ScaleLimiter, part_of_limit, trained_age_s
from sigma_ros.supervisor.trajectory import ApproachRamp, ChunkStream, gate, inside_of, lead_inside, ramp_to
from sigma_ros.values import NS_PER_S

VIOLATION_TOLERANCE = 1e-6
"""In SI units, for position, velocity, acceleration and jerk alike."""

_BASE_MISS_S = 1.0
_WORSE_RAD = 1e-3


@dataclass(frozen=True, slots=True, kw_only=True)
class CommandOutcome:
    """One command: how far it is from the request per joint, and the most by which it broke a limit.

    `too_low`: the step that was wanted leads below the tool's plane. `obstacle`: what it would have met, in words.
    `contact`: whether a joint is blocked.
    """

    clipped: Bool[ndarray, " dof"]
    miss_rad: float
    excess: float
    base_misbehaves: bool
    too_low: bool
    obstacle: str
    contact: Verdict


class CommandLoop:
    """Owns the commands: the last ones, the stored stop behind them, and the scale that goes into the next."""

    def __init__(self, contract: Contract, limits: SupervisorLimits) -> None:
        self._contract = contract
        self._ceiling = ScaleLimiter()
        self._contact = ContactWatch(contract, limits)
        self._missed = False
        self._base_miss_s = 0.0
        self._base_is_worse = False
        self._asked, self._base = Follower(), Follower()
        self._has_commanded = False
        self._stood_rad: Float64[ndarray, " dof"] | None = None
        self.is_slowed = False
        self._inside_rad: Float64[ndarray, " dof"] | None = None
        self._way_in: ApproachRamp | None = None
        self.track: Track | None = None
        self.lead: ApproachRamp | None = None
        self.user_ceiling = 1.0
        self.apply(limits)

    def apply(self, limits: SupervisorLimits) -> None:
        """Puts limits in force. Only while there is no track, or while it rests inside them."""
        self.limits = limits
        self._govern(limits.motion(self._contract))
        self._asked, self._base = Follower(), Follower()
        sag_rad = None if self.track is None else self._contact.sag_rad
        self._contact = ContactWatch(self._contract, limits, sag_rad=sag_rad)
        self._path = PathFollower(self._guard, self._contract.command_period_ns)
        self._inside_rad = self._way_in = None
        if self.track is not None:
            self._reach_out_to(self.track.command_rad)
            self.track = self._guard.rest(self.track.command_rad)

    def _reach_out_to(self, pose_rad: Float64[ndarray, " dof"]) -> None:
        """Widens the limits to an arm that stands outside them, and has it led inside; see `_lead_inside`."""
        lower, upper = self._motion.lower_rad, self._motion.upper_rad
        inside = np.clip(pose_rad, lower, upper)
        if float(np.abs(inside - pose_rad).max()) > ENCODER_COUNT_RAD:
            self._inside_rad = inside
            self._govern(
                replace(self._motion, lower_rad=np.minimum(lower, pose_rad), upper_rad=np.maximum(upper, pose_rad))
            )

    def _govern(self, motion: MotionLimits) -> None:
        """Bounds commands by these limits from now on; imagined courses need not keep clear of anything."""
        if motion.collisions is not None and self._stood_rad is not None:
            motion = replace(motion, collisions=motion.collisions.standing_at(self._stood_rad))
        self._motion = motion
        self._guard = MotionGuard(motion)
        self._imagined = self._guard if motion.collisions is None else MotionGuard(replace(motion, collisions=None))

    @property
    def is_resting(self) -> bool:
        """Whether no command changes any more."""
        return self.track is None or self.track.is_resting

    @property
    def applied_scale(self) -> float:
        """What went into the newest command."""
        return self._ceiling.applied

    @property
    def ceiling(self) -> ScaleLimiter:
        """The own ceiling and why it is where it is."""
        return self._ceiling

    def start(self, measured_rad: Float64[ndarray, " dof"]) -> Verdict:
        """Begins to command, standing still at the measured pose, however near an older command was.

        A pose outside the limits by no more than the tolerance is led inside first; see `_lead_inside`.
        """
        self._stood_rad = measured_rad
        self.apply(self.limits)
        inside = inside_of(
            measured_rad, contract=self._contract, motion=self._motion, tolerance_rad=self.limits.start_tolerance_rad
        )
        if isinstance(inside, Verdict):
            return inside
        workspace = self._motion.workspace
        for pose in () if workspace is None else (measured_rad, inside):
            if workspace is not None and workspace.depth_m(pose) > 0.0:
                return refused(Reason.TOOL_BELOW, f"by {1e3 * workspace.depth_m(pose):.1f} mm")
        self._reach_out_to(measured_rad)
        self.track = self._guard.rest(inside if self._inside_rad is None else measured_rad)
        self._has_commanded = False
        self._ceiling = ScaleLimiter()
        return ACCEPTED

    def end(self) -> None:
        """Stops commanding; the servos keep the last command."""
        self.track, self.lead = None, None

    def pass_gate(self, stream: ChunkStream, observation_now_ns: int) -> Verdict:
        """Whether the resting arm may join the course now; sets the lead if so (RAMPING: a long one).

        The first command of all is the anchor itself, so nothing passes before it was published.
        """
        fault = stream.fault(observation_now_ns)
        if fault is not None or self.track is None or stream.chunk is None or stream.spline is None:
            return fault or refused(Reason.WAITING_FOR_CHUNK)
        if not (self.track.is_resting and self._has_commanded) or self._inside_rad is not None:
            return refused(Reason.STILL_MOVING)
        begins = self._ceiling.starting(
            target=stream.allowed_scale, user_ceiling=self.user_ceiling, chunk_cap=stream.residual_cap
        )
        anchor, scale = self.track.command_rad, begins.applied
        verdict = gate(
            stream.chunk,
            stream.spline,
            anchor,
            observation_now_ns,
            scale=scale,
            contract=self._contract,
            limits=self.limits,
        )
        if verdict.accepted:
            self._ceiling = begins
            self.lead = ramp_to(
                stream.spline, anchor, observation_now_ns, scale=scale, motion=self._motion, limits=self.limits
            )
        return verdict

    def step(self, stream: ChunkStream, monitor: InputMonitor, *, following: bool, fault: bool) -> CommandOutcome:
        """The next command: along the course while `following`, else along the stored stop."""
        assert self.track is not None, "start() comes first"
        now_ns = monitor.observation_now_ns
        self._ceiling = self._ceiling.after(
            self._scale_inputs(stream, monitor, fault=fault),
            target=stream.allowed_scale,
            user_ceiling=self.user_ceiling,
            limits=self.limits,
            dt_s=self._motion.period_s,
        )
        if self.lead is not None and self.lead.is_over(stream.course_ns(now_ns)):
            self.lead = None
        reach = self._contact.reach(monitor.joints.sample, now_ns, self._motion)
        request = self._request(stream, self.track, now_ns, reach) if following else None
        if request is None:
            self._path.calm()
        if self._inside_rad is not None:
            request = self._lead_inside(self._inside_rad, self.track, now_ns, fault=fault)
        base_request = stream.request(now_ns, scale=0.0, lead=self.lead) if following else None
        self._judge(stream, monitor, request, base_request)
        before = self.track.recent_rad
        step = self._guard.advance(self.track, request, reach)
        self.is_slowed = step.too_fast or (self._path.rate < 1.0 and self.limits.cap_tool_speed)
        self.track = step.track
        self._has_commanded = True
        excess = limit_excess(self._motion, np.concatenate((before, step.track.recent_rad[2:])))
        return self._outcome(step, excess, self._judge_contact(request, reach, monitor.now_ns, following=following))

    def _request(self, stream: ChunkStream, track: Track, now_ns: int, reach: Reach | None) -> Request | None:
        """What is asked for now: the course, slowed and joined so that the limits leave it as it is where they can."""
        scale = self._ceiling.applied
        targets = None
        if self.limits.keep_path and stream.spline is not None:
            targets = self._path.follow(stream, track, now_ns, scale=scale, lead=self.lead, reach=reach)
        request = stream.request(now_ns, scale=scale, lead=self.lead)
        if request is None or targets is None:
            return request
        return replace(request, upcoming_rad=targets, course_rad=request.upcoming_rad[0])

    def _judge_contact(self, request: Request | None, reach: Reach | None, now_ns: int, *, following: bool) -> Verdict:
        if not following or request is None or reach is None or self.track is None:
            self._contact.calm()
            return ACCEPTED
        asked_rad = request.goal_rad
        held_back = (asked_rad < reach.lower_rad) | (asked_rad > reach.upper_rad)
        return self._contact.judge(self.track.command_rad, held_back, now_ns)

    def _lead_inside(
        self, inside_rad: Float64[ndarray, " dof"], track: Track, now_ns: int, *, fault: bool
    ) -> Request | None:
        """The slow way from a pose just outside the limits to the nearest one inside, certified like any other.

        Until it is over the limits are widened to where the arm stood; a fault stops it, and it begins anew at rest.
        Where something is in the way (a folded arm) they stay so until the next start: the arm sets off from there.
        """
        if self._way_in is not None and self._way_in.is_over(now_ns) and track.is_resting:
            self._inside_rad = self._way_in = None
            if np.abs(track.command_rad - inside_rad).max() <= CLIP_TOLERANCE_RAD:
                self.apply(self.limits)
            return None
        if fault or (self._way_in is None and not (track.is_resting and self._has_commanded)):
            self._way_in = None
            return None
        if self._way_in is None:
            self._way_in = lead_inside(track.command_rad, inside_rad, now_ns, motion=self._motion, limits=self.limits)
        period_ns = round(self._motion.period_s * 1e9)
        times_ns = now_ns + period_ns * np.arange(3, dtype=np.int64)
        return Request(
            upcoming_rad=self._way_in.towards(np.tile(inside_rad, (3, 1)), times_ns),
            velocity_radps=np.zeros_like(inside_rad),
            acceleration_radps2=np.zeros_like(inside_rad),
        )

    def _judge(
        self, stream: ChunkStream, monitor: InputMonitor, request: Request | None, base_request: Request | None
    ) -> None:
        """How far what the chunk asks for, and the base alone, would each be from their own requests if followed.

        The own ceiling has no part in either: a residual that was turned down is not judged by what that does.
        """
        asked = self._ceiling.asked
        if request is not None and (request.course_rad is not None or asked != self._ceiling.applied):
            request = stream.request(monitor.observation_now_ns, scale=asked, lead=self.lead)
        dt_s = self._motion.period_s
        self._asked = self._asked.after(request, self.track, self._imagined, dt_s=dt_s)
        self._base = self._base.after(base_request, self.track, self._imagined, dt_s=dt_s)
        self._missed = self._asked.miss_rad - self._base.miss_rad > self.limits.miss_tolerance_rad
        self._base_is_worse = self._base.usual_miss_rad - self._asked.usual_miss_rad > _WORSE_RAD

    def _outcome(self, step: GuardedStep, excess: float, contact: Verdict) -> CommandOutcome:
        miss_rad = float(step.miss_rad.max())
        asked_for_too_much = miss_rad > self.limits.base_miss_rad and not step.too_fast
        base_alone = self._ceiling.applied == 0.0 or self._base.miss_rad > self.limits.base_miss_rad
        base_misses = asked_for_too_much and base_alone
        self._base_miss_s = self._base_miss_s + self._motion.period_s if base_misses else 0.0
        return CommandOutcome(
            clipped=step.clipped,
            miss_rad=miss_rad,
            excess=excess,
            base_misbehaves=self._base_miss_s > _BASE_MISS_S,
            too_low=step.too_low,
            obstacle=step.obstacle,
            contact=contact,
        )

    def _scale_inputs(self, stream: ChunkStream, monitor: InputMonitor, *, fault: bool) -> ScaleInputs:
        limits = self.limits
        chunk = stream.chunk
        age_ns = 0 if chunk is None else monitor.observation_now_ns - chunk.stamp_ns
        return ScaleInputs(
            fault=fault,
            heartbeat_age=monitor.heartbeat_age_s(monitor.now_ns) / limits.heartbeat_timeout_s,
            chunk_delay=part_of_limit(
                0.0 if chunk is None else stream.delay_ns / NS_PER_S,
                trained_s=0.0 if chunk is None else chunk.trained_delay_s,
                limit_s=limits.max_chunk_delay_s,
            ),
            chunk_age=part_of_limit(
                age_ns / NS_PER_S,
                trained_s=0.0 if chunk is None else trained_age_s(chunk),
                limit_s=stream.max_age_ns / NS_PER_S,
            ),
            missed=self._missed,
            chunk_cap=stream.residual_cap,
            opposed=stream.is_opposed,
            base_is_worse=self._base_is_worse,
        )
