# SPDX-License-Identifier: Apache-2.0
"""The supervisor: the only author of commands.

Invariant: **every published command has a certified stop behind it, and new targets are taken only in
ENGAGING, RUN and BASE_ONLY; in every other state the stored stop is played to rest.**

    DISENGAGED --engage--> ENGAGING --chunk passes the start gate--> RUN <--own ceiling 0--> BASE_ONLY
    ENGAGING, RUN, BASE_ONLY --fault--> HOLD --all well for a while--> ENGAGING
    any engaged --joints lost, implausible, not following; foreign publisher--> STOPPED (latched)
    any --emergency stop pressed, called or silent--> ESTOP (latched)
    STOPPED, ESTOP --reset_stop (cause gone, arm at rest)--> DISENGAGED       reset never engages
    any engaged --release, then at rest--> DISENGAGED

No clock is read here. `now_ns` is the caller's own monotonic clock and decides ages and timeouts.
`observation_now_ns` is the clock of header stamps (ROS time) at the same moment; chunks are timed by it.
Where both are one clock (lockstep, offline replay) it may be left out.
"""

import math
from dataclasses import replace

import numpy as np
from jaxtyping import Float64
from numpy import ndarray

from sigma_ros.contract import Contract
from sigma_ros.control.chunk_check import Verdict, refused
from sigma_ros.control.chunk_stream import ChunkStream
from sigma_ros.control.command_loop import VIOLATION_TOLERANCE, CommandLoop, Outcome
from sigma_ros.control.decision import Answer, Counters, Decision
from sigma_ros.control.evidence import Evidence
from sigma_ros.control.limits import SupervisorLimits
from sigma_ros.control.reasons import Reason, State
from sigma_ros.errors import ContractError
from sigma_ros.values import NS_PER_S, Chunk

_DONE = Answer(success=True, reason=Reason.OK)
_NEEDS_OPERATOR = (Reason.RELEASED, Reason.BASE_MISBEHAVES)
"""Reasons for HOLD that do not end by themselves."""


class Supervisor:
    """Turns chunks into certified commands, one per control period; see the module's text.

    Inputs that cannot be used are refused with a reason; no method raises because of them.
    """

    def __init__(self, contract: Contract, limits: SupervisorLimits | None = None) -> None:
        self.contract = contract
        self.limits = limits or SupervisorLimits()
        self.state = State.DISENGAGED
        self.counters = Counters()
        self._why = refused(Reason.NOT_ENGAGED)
        self._evidence = Evidence(contract, self.limits)
        self._stream = ChunkStream(contract, self.limits)
        self._loop = CommandLoop(contract, self.limits)
        self._outcome: Outcome | None = None
        self._well_since_ns: int | None = None
        self._pending: SupervisorLimits | None = None

    # What comes in

    def on_chunk(self, chunk: Chunk, now_ns: int, observation_now_ns: int | None = None) -> Verdict:
        """Judges a chunk that has just arrived and, if it may be executed, takes it over."""
        observation_ns = now_ns if observation_now_ns is None else observation_now_ns
        epoch = self._stream.seen.epoch
        following = self._is_following
        verdict = self._stream.offer(chunk, now_ns, observation_ns, moving=following)
        self._count("accepted_chunks" if verdict.accepted else "refused_chunks")
        if verdict.accepted and following and chunk.epoch != epoch:
            self._loop.lead = None
            self._enter(State.ENGAGING, refused(Reason.EPOCH_CHANGED, f"epoch {chunk.epoch}"))
        return verdict

    def on_joints(self, stamp_ns: int, positions_rad: Float64[ndarray, " dof"], now_ns: int) -> Verdict:
        """Takes a joint state, in contract order; `stamp_ns` is its header stamp."""
        verdict = self._evidence.joints.push(stamp_ns, positions_rad, now_ns)
        if not verdict.accepted:
            self._count("refused_joint_states")
        if verdict.reason is Reason.JOINTS_IMPLAUSIBLE and self.state is not State.DISENGAGED:
            self._latch(State.STOPPED, verdict)
        return verdict

    def on_estop(self, pressed: bool, now_ns: int) -> None:  # noqa: FBT001 (mirrors std_msgs/Bool)
        """The emergency stop's heartbeat. Pressed latches at once; silence later counts as pressed."""
        self._evidence.hear_estop(now_ns, pressed=pressed)
        if pressed:
            self._latch(State.ESTOP, refused(Reason.ESTOP_PRESSED))

    def on_policy_heartbeat(self, now_ns: int, *, healthy: bool = True) -> None:
        """The policy's process is alive; `healthy` False (a gap, a pause) asks for HOLD."""
        self._evidence.hear_heartbeat(now_ns, healthy=healthy)

    # What an operator or the shell asks for

    def engage(self, now_ns: int) -> Answer:
        """Takes the arm over where it stands. Motion begins only with a chunk that passes the start gate."""
        if self.state.is_latched:
            return _no(Reason.LATCHED, self._why.reason.name)
        if self.state.may_move:
            return Answer(success=True, reason=Reason.ALREADY_ENGAGED)
        fault = self._evidence.estop_fault(now_ns) or self._evidence.fault(now_ns)
        sample = self._evidence.joints.sample
        if fault is not None or sample is None:
            return _refusal(fault or refused(Reason.JOINTS_MISSING))
        if self.state is State.DISENGAGED:
            begun = self._loop.start(sample.positions_rad)
            if not begun.accepted:
                return _refusal(begun)
            self._stream.drop(self._evidence.observation_now_ns or None)
        self._count("engagements")
        self._enter(State.ENGAGING, refused(Reason.WAITING_FOR_CHUNK))
        return _DONE

    def release(self) -> Answer:
        """Brings the arm to rest and lets go: no commands after that, the servos keep the last one."""
        if self.state.is_latched:
            return _no(Reason.LATCHED, self._why.reason.name)
        if self.state is not State.DISENGAGED:
            self._hold(refused(Reason.RELEASED))
        return _DONE

    def estop(self) -> Answer:
        """Latches ESTOP, as the button does."""
        self._latch(State.ESTOP, refused(Reason.ESTOP_REQUESTED))
        return _DONE

    def stop(self, reason: Reason, detail: str = "") -> None:
        """Latches STOPPED for something that only the shell can see (a foreign publisher, an error)."""
        self._latch(State.STOPPED, refused(reason, detail))

    def reset_stop(self, now_ns: int) -> Answer:
        """Leaves STOPPED or ESTOP for DISENGAGED once the cause is gone and the arm rests. Never engages."""
        if not self.state.is_latched:
            return _no(Reason.NOT_LATCHED)
        fault = self._evidence.estop_fault(now_ns)
        if fault is not None:
            return _refusal(fault)
        if not self._loop.is_resting:
            return _no(Reason.STILL_MOVING)
        self._evidence.forget_streams()
        self._disengage()
        return _DONE

    def set_ceiling(self, ceiling: float) -> Answer:
        """The user's bound on the adapter's scale, exactly within [0, 1]; in force at the next tick."""
        if isinstance(ceiling, bool) or not isinstance(ceiling, int | float) or not 0.0 <= ceiling <= 1.0:
            return _no(Reason.SETTING_REFUSED, f"scale_ceiling must be within [0, 1], got {ceiling!r}")
        self._loop.user_ceiling = float(ceiling)
        return _DONE

    def tighten(self, **changes: float) -> Answer:
        """Tightens motion limits; while engaged the arm is brought to rest first and then goes on."""
        try:
            limits = (self._pending or self.limits).tightened(**changes)
            motion = limits.motion(self.contract)
        except (ContractError, TypeError) as error:
            return _no(Reason.SETTING_REFUSED, str(error))
        if self._loop.track is None:
            self._apply(limits)
            return _DONE
        rest = self._loop.track.stop_rad[-1]
        outside = (rest < motion.lower_rad) | (rest > motion.upper_rad)
        if outside.any():
            joint = self.contract.joint_names[int(np.argmax(outside))]
            return _no(Reason.SETTING_REFUSED, f"{joint} is outside the new limits; move it inside first")
        self._pending = limits
        if self.state.may_move:
            self._hold(refused(Reason.LIMITS_CHANGED))
        return _DONE

    # The control tick

    def tick(self, now_ns: int, observation_now_ns: int | None = None) -> Decision:
        """One control period: judges the situation, forms the command, and says both."""
        evidence = self._evidence
        evidence.tick(now_ns, now_ns if observation_now_ns is None else observation_now_ns)
        if self.counters.tick_gap_max_s < evidence.tick_gap_max_s:
            self.counters = replace(self.counters, tick_gap_max_s=evidence.tick_gap_max_s)
        self._judge(evidence.now_ns)
        self._outcome = None
        if self._loop.track is not None:
            self._command(evidence.now_ns)
        return self._decision(evidence.now_ns)

    def _judge(self, now_ns: int) -> None:
        evidence = self._evidence
        estop = evidence.estop_fault(now_ns)
        if estop is not None:
            self._latch(State.ESTOP, estop)
        if self.state.is_latched or self.state is State.DISENGAGED:
            return
        lost = evidence.stop_fault(now_ns)
        if lost is not None:
            self._latch(State.STOPPED, lost)
            return
        fault = evidence.fault(now_ns)
        if fault is None and self._is_following:
            fault = self._stream.fault(evidence.observation_now_ns)
        if fault is not None:
            self._hold(fault)
        elif self.state is State.HOLD:
            self._recover(now_ns)
        elif self.state is State.ENGAGING:
            self._start()
        else:
            self._run()

    def _recover(self, now_ns: int) -> None:
        """HOLD without a present fault: apply what waited for rest, then go on if that is allowed."""
        if self._loop.is_resting and self._pending is not None:
            self._apply(self._pending)
        if self._why.reason is Reason.RELEASED and self._loop.is_resting:
            self._disengage()
        if self.state is not State.HOLD or self._why.reason in _NEEDS_OPERATOR or self._pending is not None:
            return
        if self._well_since_ns is None:
            self._well_since_ns = now_ns
        if now_ns - self._well_since_ns >= self.limits.resume_after_s * NS_PER_S:
            self._enter(State.ENGAGING, refused(Reason.WAITING_FOR_CHUNK))

    def _start(self) -> None:
        """ENGAGING: stand still until a chunk passes the gate; then RUN, or first a ramp to it."""
        if self._loop.lead is not None:
            if self._loop.lead.is_over(self._evidence.observation_now_ns):
                self._run()
            return
        verdict = self._loop.pass_gate(self._stream, self._evidence.observation_now_ns)
        if verdict.reason is not Reason.STILL_MOVING:
            self._why = verdict
        if verdict.accepted and verdict.reason is Reason.OK:
            self._run()

    def _run(self) -> None:
        ceiling = self._loop.ceiling
        base_only = ceiling.own == 0.0
        self._enter(State.BASE_ONLY if base_only else State.RUN, Verdict(accepted=True, reason=ceiling.cause))

    def _command(self, now_ns: int) -> None:
        following = self._is_following
        outcome = self._loop.step(self._stream, self._evidence, following=following, fault=not self.state.may_move)
        self._outcome = outcome
        self._count("ticks")
        if outcome.clipped.any():
            self._count("clipped_ticks")
        if outcome.excess > VIOLATION_TOLERANCE:
            self._count("violations")
            self._latch(State.STOPPED, refused(Reason.VIOLATION, f"by {outcome.excess:.3g}"))
        if following and outcome.base_misbehaves:
            self._hold(refused(Reason.BASE_MISBEHAVES, f"{outcome.miss_rad:.3f} rad from its request"))
        self._watch_tracking(now_ns)

    def _watch_tracking(self, now_ns: int) -> None:
        joints, track = self._evidence.joints, self._loop.track
        if not self._is_following or track is None:
            joints.calm()
            return
        tracking = joints.tracking(track.command_rad, now_ns)
        if not tracking.accepted:
            self._latch(State.STOPPED, tracking)

    # Transitions

    @property
    def _is_following(self) -> bool:
        return self.state in (State.RUN, State.BASE_ONLY) or (
            self.state is State.ENGAGING and self._loop.lead is not None
        )

    def _enter(self, state: State, why: Verdict) -> None:
        self.state, self._why = state, why

    def _hold(self, why: Verdict) -> None:
        """Enters HOLD, or stays there for a newer reason; an operator's reason is kept."""
        self._well_since_ns = None
        if why.reason is Reason.CLOCK_JUMP:
            self._evidence.forget_streams()
        if self.state is State.HOLD and self._why.reason in _NEEDS_OPERATOR and why.reason is not Reason.RELEASED:
            return
        if self.state is not State.HOLD:
            self._count("holds")
            self._abandon(None if why.reason is Reason.CLOCK_JUMP else self._evidence.observation_now_ns)
        self._enter(State.HOLD, why)

    def _latch(self, state: State, why: Verdict) -> None:
        """Enters STOPPED or ESTOP; ESTOP is never left for STOPPED, and the first reason stays."""
        if self.state is state or self.state is State.ESTOP:
            return
        self._count("stops")
        self._abandon(self._evidence.observation_now_ns)
        self._enter(state, why)

    def _abandon(self, barrier_ns: int | None) -> None:
        self._stream.drop(barrier_ns)
        self._loop.lead = None

    def _disengage(self) -> None:
        self._loop.end()
        if self._pending is not None:
            self._apply(self._pending)
        self._enter(State.DISENGAGED, refused(Reason.NOT_ENGAGED))

    def _apply(self, limits: SupervisorLimits) -> None:
        self.limits, self._pending = limits, None
        self._loop.apply(limits)

    def _count(self, counter: str) -> None:
        self.counters = replace(self.counters, **{counter: getattr(self.counters, counter) + 1})

    # What goes out

    def _decision(self, now_ns: int) -> Decision:
        stream, loop = self._stream, self._loop
        track, outcome, chunk = loop.track, self._outcome, stream.chunk
        clipped = (
            ()
            if outcome is None
            else tuple(
                name for name, bounded in zip(self.contract.joint_names, outcome.clipped, strict=True) if bounded
            )
        )
        return Decision(
            state=self.state,
            reason=self._why.reason,
            reason_text=self._why.text,
            command_rad=None if track is None else track.command_rad,
            stop_rad=None if track is None else track.stop_rad,
            clipped_joints=clipped,
            miss_rad=0.0 if outcome is None else outcome.miss_rad,
            requested_scale=0.0 if chunk is None else chunk.scale,
            scale_ceiling=min(loop.user_ceiling, loop.ceiling.own),
            applied_scale=loop.applied_scale if track is not None else 0.0,
            chunk_id=stream.last_id,
            epoch=stream.last_epoch,
            chunk_accepted=stream.last_verdict.accepted,
            chunk_age_s=math.inf
            if chunk is None or stream.arrived_ns is None
            else (now_ns - stream.arrived_ns) / NS_PER_S,
            joint_state_age_s=self._evidence.joint_age_s(now_ns),
            observation_age_s=math.inf if chunk is None else chunk.observation_age_ns / NS_PER_S,
            counters=self.counters,
        )


def _no(reason: Reason, detail: str = "") -> Answer:
    return Answer(success=False, reason=reason, detail=detail)


def _refusal(verdict: Verdict) -> Answer:
    return Answer(success=False, reason=verdict.reason, detail=verdict.detail)
