# SPDX-License-Identifier: Apache-2.0
"""Which state is in force and why: every transition of the supervisor is in this file.

DISENGAGED --engage--> ENGAGING --chunk passes the start gate--> RUN <--own ceiling 0--> BASE_ONLY
ENGAGING, RUN, BASE_ONLY --fault--> HOLD --all well for a while--> ENGAGING
any engaged --joints lost, implausible, not following; foreign publisher--> STOPPED (latched)
any --emergency stop pressed, called or silent--> ESTOP (latched)
STOPPED, ESTOP --reset_stop (cause gone, arm at rest)--> DISENGAGED       reset never engages
any engaged --release, then at rest--> DISENGAGED
"""

from dataclasses import replace

from sigma_ros.contract import Contract
from sigma_ros.control.chunk_check import Verdict, refused
from sigma_ros.control.chunk_stream import ChunkStream
from sigma_ros.control.command_loop import VIOLATION_TOLERANCE, CommandLoop, Outcome
from sigma_ros.control.decision import Counters
from sigma_ros.control.evidence import Evidence
from sigma_ros.control.limits import SupervisorLimits
from sigma_ros.control.reasons import Reason, State
from sigma_ros.values import NS_PER_S

_NEEDS_OPERATOR = (Reason.RELEASED, Reason.BASE_MISBEHAVES)
"""Reasons for HOLD that do not end by themselves."""


class Situation:
    """The state with its reason, and what it is judged by: evidence, chunks and commands."""

    def __init__(self, contract: Contract, limits: SupervisorLimits) -> None:
        self._contract = contract
        self.limits = limits
        self.evidence = Evidence(contract, limits)
        self.stream = ChunkStream(contract, limits)
        self.loop = CommandLoop(contract, limits)
        self.state = State.DISENGAGED
        self.why = refused(Reason.NOT_ENGAGED)
        self.counters = Counters()
        self.pending: SupervisorLimits | None = None
        self._well_since_ns: int | None = None

    @property
    def is_following(self) -> bool:
        """Whether commands come from the course at this moment."""
        led = self.state is State.ENGAGING and self.loop.lead is not None
        return led or self.state in (State.RUN, State.BASE_ONLY)

    def judge(self) -> None:
        """The transitions that nobody asks for; once per tick, before the command."""
        evidence = self.evidence
        now_ns = evidence.now_ns
        if evidence.heartbeat_age_s(now_ns) > self.limits.heartbeat_timeout_s:
            self.stream.forget_order()
        estop = evidence.estop_fault(now_ns)
        if estop is not None and (evidence.estop_heard or self.state is not State.DISENGAGED):
            self.latch(State.ESTOP, estop)
        if self.state.is_latched or self.state is State.DISENGAGED:
            return
        lost = evidence.stop_fault(now_ns)
        if lost is not None:
            self.latch(State.STOPPED, lost)
            return
        fault = evidence.fault(now_ns)
        if fault is None and self.is_following:
            fault = self.stream.fault(evidence.observation_now_ns)
        if fault is not None:
            self.hold(fault)
        elif self.state is State.HOLD:
            self._recover(now_ns)
        elif self.state is State.ENGAGING:
            self._start()
        else:
            self._run()

    def learn(self, outcome: Outcome) -> None:
        """The transitions that follow from a command just formed."""
        if outcome.clipped.any():
            self.count("clipped_ticks")
        if outcome.excess > VIOLATION_TOLERANCE:
            self.count("violations")
            self.latch(State.STOPPED, refused(Reason.VIOLATION, f"by {outcome.excess:.3g}"))
        if self.is_following and outcome.base_misbehaves:
            self.hold(refused(Reason.BASE_MISBEHAVES, f"{outcome.miss_rad:.3f} rad from its request"))
        if self.is_following and outcome.too_low:
            self.hold(refused(Reason.TOOL_PLANE))
        joints, track = self.evidence.joints, self.loop.track
        if not self.is_following or track is None:
            joints.calm()
            return
        tracking = joints.tracking(track.command_rad, self.evidence.now_ns)
        if not tracking.accepted:
            self.latch(State.STOPPED, tracking)

    def enter(self, state: State, why: Verdict) -> None:
        """Puts a state in force."""
        self.state, self.why = state, why

    def start_anew(self, why: Verdict) -> None:
        """Back to the start gate: the arm is brought to rest and joins the newest chunk from there."""
        self.loop.lead = None
        self.enter(State.ENGAGING, why)

    def hold(self, why: Verdict) -> None:
        """Enters HOLD, or stays there for a newer reason; an operator's reason is kept."""
        self._well_since_ns = None
        if why.reason is Reason.CLOCK_JUMP:
            self.evidence.forget_streams()
        if self.state is State.HOLD:
            if self.why.reason not in _NEEDS_OPERATOR or why.reason in _NEEDS_OPERATOR:
                self.why = why
            return
        self.count("holds")
        self._abandon(None if why.reason is Reason.CLOCK_JUMP else self.evidence.observation_now_ns)
        self.enter(State.HOLD, why)

    def latch(self, state: State, why: Verdict) -> None:
        """Enters STOPPED or ESTOP; ESTOP is never left for STOPPED, and the first reason stays."""
        if self.state is state or self.state is State.ESTOP:
            return
        self.count("stops")
        self._abandon(self.evidence.observation_now_ns)
        self.enter(state, why)

    def disengage(self) -> None:
        """Lets go of the resting arm."""
        self.loop.end()
        if self.pending is not None:
            self.apply(self.pending)
        self.enter(State.DISENGAGED, refused(Reason.NOT_ENGAGED))

    def apply(self, limits: SupervisorLimits) -> None:
        """Puts motion limits in force; the arm must rest inside them."""
        self.limits, self.pending = limits, None
        self.loop.apply(limits)

    def configure(self, limits: SupervisorLimits) -> None:
        """Puts all settings in force; only while DISENGAGED."""
        self.evidence.configure(limits)
        self.stream = ChunkStream(self._contract, limits)
        self.apply(limits)

    def count(self, counter: str) -> None:
        """Adds one to a counter."""
        self.counters = replace(self.counters, **{counter: getattr(self.counters, counter) + 1})

    def _recover(self, now_ns: int) -> None:
        """HOLD without a present fault: apply what waited for rest, then go on if that is allowed."""
        if self.loop.is_resting and self.pending is not None:
            self.apply(self.pending)
        if self.why.reason is Reason.RELEASED and self.loop.is_resting:
            self.disengage()
        if self.state is not State.HOLD or self.why.reason in _NEEDS_OPERATOR or self.pending is not None:
            return
        if self._well_since_ns is None:
            self._well_since_ns = now_ns
        if now_ns - self._well_since_ns >= self.limits.resume_after_s * NS_PER_S:
            self.enter(State.ENGAGING, refused(Reason.WAITING_FOR_CHUNK))

    def _start(self) -> None:
        """ENGAGING: stand still until a chunk passes the gate; then RUN, or first a ramp to it."""
        if self.loop.lead is not None:
            if self.loop.lead.is_over(self.evidence.observation_now_ns):
                self._run()
            return
        verdict = self.loop.pass_gate(self.stream, self.evidence.observation_now_ns)
        if verdict.reason is not Reason.STILL_MOVING:
            self.why = verdict
        if verdict.accepted and verdict.reason is Reason.OK:
            self._run()

    def _run(self) -> None:
        ceiling = self.loop.ceiling
        state = State.BASE_ONLY if ceiling.own == 0.0 else State.RUN
        slowed = self.loop.is_slowed and ceiling.cause in (Reason.OK, Reason.SCALE_MISSES)
        self.enter(state, Verdict(accepted=True, reason=Reason.TOOL_SPEED if slowed else ceiling.cause))

    def _abandon(self, barrier_ns: int | None) -> None:
        self.stream.drop(barrier_ns)
        self.loop.lead = None
