# SPDX-License-Identifier: Apache-2.0
"""Which state is in force and why. `reasons.TRANSITIONS` says what may follow what; this file, when.

Motion begins in `_set_off` and nowhere else: at rest, under the limits that were last promised, with an operator's
leave that has not aged, through the start gate.
"""

from dataclasses import replace

from sigma_ros.contract import Contract
from sigma_ros.supervisor.chunks import Verdict, refused
from sigma_ros.supervisor.command_loop import VIOLATION_TOLERANCE, CommandLoop, CommandOutcome
from sigma_ros.supervisor.identity import Binding
from sigma_ros.supervisor.inputs import InputMonitor
from sigma_ros.supervisor.limits import SupervisorLimits
from sigma_ros.supervisor.reasons import TRANSITIONS, Counters, Event, Reason, State
from sigma_ros.supervisor.trajectory import ChunkStream
from sigma_ros.values import NS_PER_S

_NEEDS_OPERATOR = (Reason.RELEASED, Reason.BASE_MISBEHAVES, Reason.CONTACT, Reason.NOT_ENABLED)
"""Reasons for HOLD that do not end by themselves."""


class Authority:
    """Counts how long the arm has stood since it was engaged or last moved, in HOLD and in ENGAGING apart.

    Times of all HOLDs since then add up, so that a fault that comes and goes does not keep the leave alive.
    """

    def __init__(self) -> None:
        self._held_ns = 0
        self._waited_ns = 0
        self._at_ns: int | None = None

    def grant(self, now_ns: int) -> None:
        """An operator has engaged."""
        self._held_ns = self._waited_ns = 0
        self._at_ns = now_ns

    def spend(self, state: State, now_ns: int, *, following: bool, limits: SupervisorLimits) -> None:
        """One tick; a pause of the supervisor itself counts as HOLD."""
        passed_ns = 0 if self._at_ns is None else max(0, now_ns - self._at_ns)
        self._at_ns = now_ns
        if following and passed_ns <= limits.max_tick_gap_s * NS_PER_S:
            self._held_ns = self._waited_ns = 0
        elif state is State.ENGAGING and not following:
            self._waited_ns += passed_ns
        else:
            self._held_ns += passed_ns

    def ended(self, limits: SupervisorLimits) -> Verdict | None:
        """Why motion must not begin without another `engage`; None while it may."""
        if not limits.authority_ages:
            return None
        for name, spent_ns, limit_s in (
            ("HOLD", self._held_ns, limits.authority_hold_s),
            ("ENGAGING", self._waited_ns, limits.authority_engaging_s),
        ):
            if spent_ns > limit_s * NS_PER_S:
                return refused(Reason.AUTHORITY_AGED, f"{spent_ns / NS_PER_S:.1f} s of {name}, limit {limit_s:g} s")
        return None


class StateMachine:
    """The state with its reason, and what it is judged by: evidence, chunks and commands."""

    def __init__(self, contract: Contract, limits: SupervisorLimits) -> None:
        self._contract = contract
        self.limits = limits
        self.monitor = InputMonitor(contract, limits)
        self.stream = ChunkStream(contract, limits)
        self.loop = CommandLoop(contract, limits)
        self.state = State.DISENGAGED
        self.why = refused(Reason.NOT_ENGAGED)
        self.counters = Counters()
        self.pending: SupervisorLimits | None = None
        self.stop_is_published = False
        self._stopped_for: set[Reason] = set()
        self._authority = Authority()
        self._is_released = False
        self._well_since_ns: int | None = None

    @property
    def is_following(self) -> bool:
        """Whether commands come from the course at this moment."""
        led = self.state is State.ENGAGING and self.loop.lead is not None
        return led or self.state in (State.RUN, State.BASE_ONLY)

    def judge(self) -> None:
        """The transitions that nobody asks for; once per tick, before the command."""
        monitor = self.monitor
        now_ns = monitor.now_ns
        self._authority.spend(self.state, now_ns, following=self.is_following, limits=self.limits)
        if monitor.clock_fault is not None and monitor.clock_fault.reason is Reason.CLOCK_JUMP:
            monitor.forget_streams()
            self._abandon()
        if monitor.heartbeat_age_s(now_ns) > self.limits.heartbeat_timeout_s:
            self.stream.forget_order()
        estop = monitor.estop_fault(now_ns)
        if estop is not None and (monitor.estop_heard or self.state is not State.DISENGAGED):
            self.latch(State.ESTOP, estop)
        self._at_rest()
        if self.state.is_latched or self.state is State.DISENGAGED or self._is_released:
            return
        lost = monitor.stop_fault(now_ns)
        if lost is not None:
            self.latch(State.STOPPED, lost)
            return
        fault = monitor.fault(now_ns)
        if fault is None and self.is_following:
            fault = self.stream.fault(monitor.observation_now_ns)
        if fault is not None:
            self.hold(fault)
        elif self.state is State.HOLD:
            self._recover(now_ns)
        elif self.state is State.ENGAGING:
            self._set_off()
        else:
            self._run()

    def _at_rest(self) -> None:
        """What was promised for the moment when the arm stands, whatever the state: tighter limits, letting go."""
        if self.is_following or not self.loop.is_resting:
            return
        if self.pending is not None:
            self.apply(self.pending)
        if self._is_released:
            self._let_go(refused(Reason.NOT_ENGAGED))
        aged = self._authority.ended(self.limits)
        if aged is not None and self.state in (State.HOLD, State.ENGAGING):
            self._let_go(replace(aged, detail=f"{aged.detail}; {self.why.text}"))

    def _let_go(self, why: Verdict) -> None:
        """Ends the commands of the resting arm; a latched stop stays latched."""
        self.loop.end()
        self._is_released = False
        self.monitor.policy.binding = None
        self._fire(Event.LET_GO, why)

    def learn(self, outcome: CommandOutcome) -> None:
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
        if self.is_following and outcome.obstacle:
            self.hold(refused(Reason.COLLISION, outcome.obstacle))
        if self.is_following and not outcome.contact.accepted:
            self.hold(outcome.contact)
        joints, track = self.monitor.joints, self.loop.track
        if not self.is_following or track is None:
            joints.calm()
            return
        tracking = joints.tracking(track.command_rad, self.monitor.now_ns)
        if not tracking.accepted:
            self.latch(State.STOPPED, tracking)

    def _fire(self, event: Event, why: Verdict) -> bool:
        """Puts the state after an event in force; False where the event means nothing in this state."""
        state = TRANSITIONS.get((self.state, event))
        if state is None:
            return False
        self.state, self.why = state, why
        return True

    def engage(self, binding: Binding) -> None:
        """An operator gives leave to move, with this policy and no other."""
        self.count("engagements")
        self.monitor.policy.binding = binding
        if binding.chunks is not None and binding.chunks != self.stream.author:
            self.stream.drop(self.stream.seen.barrier_ns)
        self._authority.grant(self.monitor.now_ns)
        self._is_released = False
        self.loop.lead = None
        self._fire(Event.ENGAGE, refused(Reason.WAITING_FOR_CHUNK))

    def start_anew(self, why: Verdict) -> None:
        """Back to the start gate: the arm is brought to rest and joins the newest chunk from there."""
        self.loop.lead = None
        self._fire(Event.NEW_EPOCH, why)

    def hold(self, why: Verdict, event: Event = Event.FAULT) -> None:
        """Enters HOLD, or stays there for a newer reason; an operator's reason is kept."""
        self._well_since_ns = None
        if self.state is State.HOLD:
            if self.why.reason not in _NEEDS_OPERATOR or why.reason in _NEEDS_OPERATOR:
                self.why = why
        elif self._fire(event, why):
            self.count("holds")
            self._abandon()

    def release(self) -> None:
        """Brings the arm to rest and ends the commands there, whatever else is wrong; a latched stop stays latched."""
        self._is_released = self.loop.track is not None
        self.hold(refused(Reason.RELEASED), Event.RELEASE)

    def latch(self, state: State, why: Verdict) -> None:
        """Enters STOPPED or ESTOP; ESTOP is never left for STOPPED, and the first reason stays."""
        if self._fire(Event.STOP if state is State.STOPPED else Event.ESTOP, why):
            self.count("stops")
            self.stop_is_published = False
            self._stopped_for.add(why.reason)
            self._abandon()

    def reset_fault(self, now_ns: int) -> Verdict | None:
        """Why the latched stop stays: its cause, motion, or that it was not told to anybody yet."""
        monitor = self.monitor
        monitor.estops.forget_departed(now_ns, timeout_s=self.limits.estop_timeout_s)
        cause = monitor.latch_cause(self._stopped_for, now_ns)
        if cause is None and not self.loop.is_resting:
            return refused(Reason.STILL_MOVING)
        if cause is None and not self.stop_is_published:
            return refused(Reason.STILL_MOVING, "the stop has only just been latched")
        return cause

    def reset(self) -> None:
        """Leaves a latched stop; the arm rests and the cause is gone."""
        self.monitor.forget_streams()
        self.monitor.policy.binding = None
        self._is_released = False
        self._stopped_for.clear()
        self.loop.end()
        if self.pending is not None:
            self.apply(self.pending)
        self._fire(Event.RESET, refused(Reason.NOT_ENGAGED))

    def apply(self, limits: SupervisorLimits) -> None:
        """Puts motion limits in force; the arm must rest inside them."""
        self.limits, self.pending = limits, None
        self.loop.apply(limits)

    def configure(self, limits: SupervisorLimits) -> None:
        """Puts all settings in force; only while DISENGAGED."""
        self.monitor.configure(limits)
        barrier_ns = self.stream.seen.barrier_ns
        self.stream = ChunkStream(self._contract, limits)
        self.stream.drop(barrier_ns)
        self.apply(limits)

    def count(self, counter: str) -> None:
        """Adds one to a counter."""
        self.counters = replace(self.counters, **{counter: getattr(self.counters, counter) + 1})

    def _recover(self, now_ns: int) -> None:
        """HOLD without a present fault: ends by itself after a while, unless an operator is asked for."""
        if self.why.reason in _NEEDS_OPERATOR:
            return
        if self._well_since_ns is None:
            self._well_since_ns = now_ns
        if now_ns - self._well_since_ns >= self.limits.resume_after_s * NS_PER_S:
            self._fire(Event.WELL, refused(Reason.WAITING_FOR_CHUNK))

    def _set_off(self) -> None:
        """The only way into motion. ENGAGING: stands until a chunk passes the gate; then RUN, or first a ramp."""
        if self.loop.lead is not None:
            if self.loop.lead.is_over(self.stream.course_ns(self.monitor.observation_now_ns)):
                self._run()
            return
        if self.pending is not None or self._authority.ended(self.limits) is not None:
            return
        verdict = self.loop.pass_gate(self.stream, self.monitor.observation_now_ns)
        if verdict.reason is not Reason.STILL_MOVING:
            self.why = verdict
        if verdict.accepted and verdict.reason is Reason.OK:
            self._run()

    def _run(self) -> None:
        ceiling = self.loop.ceiling
        event = Event.SET_OFF_ON_BASE if ceiling.own == 0.0 else Event.SET_OFF
        slowed = self.loop.is_slowed and ceiling.cause in (Reason.OK, Reason.SCALE_MISSES)
        self._fire(event, Verdict(accepted=True, reason=Reason.TOOL_SPEED if slowed else ceiling.cause))

    def _abandon(self) -> None:
        self.stream.drop(self.monitor.observation_now_ns)
        self.loop.lead = None
