# SPDX-License-Identifier: Apache-2.0
"""The supervisor: the only author of commands.

Invariant: **every published command has a certified stop behind it, and new targets are taken only in
ENGAGING, RUN and BASE_ONLY; in every other state the stored stop is played to rest.**

No clock is read here. `now_ns` is the caller's own monotonic clock and decides ages and timeouts.
`observation_now_ns` is the clock of header stamps (ROS time) at the same moment; chunks are timed by it.
Where both are one clock (lockstep, offline replay) it may be left out.
"""

import math
from collections.abc import Collection
from dataclasses import replace

import numpy as np
from numpy import ndarray

from sigma_ros.contract import Contract
from sigma_ros.errors import ContractError
from sigma_ros.supervisor.chunks import Verdict, refused
from sigma_ros.supervisor.command_loop import CommandOutcome
from sigma_ros.supervisor.guard import MotionGuard
from sigma_ros.supervisor.identity import IN_PROCESS, Source
from sigma_ros.supervisor.limits import MotionLimits, SupervisorLimits
from sigma_ros.supervisor.reasons import Answer, Counters, Decision, Reason, State
from sigma_ros.supervisor.state_machine import StateMachine
from sigma_ros.values import NS_PER_S, Chunk

_DONE = Answer(success=True, reason=Reason.OK)


class Supervisor:
    """Turns chunks into certified commands, one per control period; see the module's text.

    Inputs that cannot be used are refused with a reason; no method raises because of them.
    """

    def __init__(self, contract: Contract, limits: SupervisorLimits | None = None) -> None:
        self.contract = contract
        self._machine = StateMachine(contract, limits or SupervisorLimits())

    @property
    def state(self) -> State:
        """The state in force."""
        return self._machine.state

    @property
    def limits(self) -> SupervisorLimits:
        """The settings in force."""
        return self._machine.limits

    @property
    def counters(self) -> Counters:
        """The counts so far."""
        return self._machine.counters

    @property
    def is_resting(self) -> bool:
        """Whether the arm was told the same position three times, and nothing else is to come; also without an arm."""
        return self._machine.loop.is_resting

    @property
    def estop_heard(self) -> bool:
        """Whether the emergency stop's publisher was ever heard."""
        return self._machine.monitor.estop_heard

    # What comes in

    def on_chunk(
        self, chunk: Chunk, now_ns: int, observation_now_ns: int | None = None, *, source: Source = IN_PROCESS
    ) -> Verdict:
        """Judges a chunk that has just arrived and, if it may be executed, takes it over."""
        machine = self._machine
        observation_ns = now_ns if observation_now_ns is None else observation_now_ns
        refusal = machine.monitor.policy.judge_chunk(chunk, source, now_ns)
        epoch, following = machine.stream.seen.epoch, machine.is_following
        verdict = machine.stream.offer(chunk, now_ns, observation_ns, moving=following, source=source, refusal=refusal)
        machine.count("accepted_chunks" if verdict.accepted else "refused_chunks")
        if verdict.accepted and following and chunk.epoch != epoch:
            machine.start_anew(refused(Reason.EPOCH_CHANGED, f"epoch {chunk.epoch}"))
        return verdict

    def on_joints(self, stamp_ns: int, positions_rad: ndarray, now_ns: int) -> Verdict:
        """Takes a joint state: one position per joint in contract order; `stamp_ns` is its header stamp."""
        machine = self._machine
        verdict = machine.monitor.push_joints(stamp_ns, positions_rad, now_ns)
        if not verdict.accepted:
            machine.count("refused_joint_states")
        if verdict.reason is Reason.JOINTS_IMPLAUSIBLE and self.state is not State.DISENGAGED:
            machine.latch(State.STOPPED, verdict)
        return verdict

    def on_estop(self, pressed: bool, now_ns: int, *, source: Source = IN_PROCESS) -> None:  # noqa: FBT001 (as Bool)
        """A heartbeat of an emergency stop. Pressed latches at once; silence later counts as pressed."""
        machine = self._machine
        silent = machine.monitor.estop_fault(now_ns)
        if silent is not None and self.estop_heard:
            machine.latch(State.ESTOP, silent)
        machine.monitor.hear_estop(now_ns, pressed=pressed, source=source)
        if pressed:
            machine.latch(State.ESTOP, refused(Reason.ESTOP_PRESSED, source.name))

    def on_policy_heartbeat(self, now_ns: int, *, healthy: bool = True, source: Source = IN_PROCESS) -> None:
        """A policy's process is alive; `healthy` False (a gap, a pause) of the one that is followed asks for HOLD."""
        self._machine.monitor.hear_heartbeat(now_ns, healthy=healthy, source=source)

    def on_enabling(self, held: bool, now_ns: int, *, source: Source = IN_PROCESS) -> None:  # noqa: FBT001 (as Bool)
        """A beat of the enabling device, where `require_enabling` asks for one: let go, only `engage` leads on."""
        machine = self._machine
        machine.monitor.enabling.hear(source, now_ns, held=held)
        if machine.limits.require_enabling and not held:
            machine.hold(refused(Reason.NOT_ENABLED, source.label))

    def on_graph(self, *, foreign: tuple[str, ...], estop_publishers: Collection[str]) -> None:
        """What the shell sees of the others: who else publishes commands, and which emergency stops are there."""
        self._machine.monitor.foreign = foreign
        self._machine.monitor.estops.note_present(estop_publishers)

    # What an operator or the shell asks for

    def engage(self, now_ns: int) -> Answer:
        """Takes the arm over where it stands, for the one policy that is live; a chunk moves it."""
        machine, policy = self._machine, self._machine.monitor.policy
        if self.state.is_latched:
            return _no(Reason.LATCHED, machine.why.reason.name)
        if self.state.may_move:
            return Answer(success=True, reason=Reason.ALREADY_ENGAGED)
        before, binding = policy.binding, machine.monitor.candidate(now_ns)
        if isinstance(binding, Verdict):
            return _refusal(binding)
        policy.binding = binding
        refusal = machine.monitor.engage_fault(now_ns) or self._take_over()
        policy.binding = before
        if refusal is not None:
            return _refusal(refusal)
        machine.engage(binding)
        return _DONE

    def _take_over(self) -> Verdict | None:
        """Begins to command where the arm stands, or says why it cannot."""
        if self.state is not State.DISENGAGED:
            return None
        pose = self._machine.monitor.joints.resting_pose()
        begun = pose if isinstance(pose, Verdict) else self._machine.loop.start(pose)
        return None if begun.accepted else begun

    def release(self) -> Answer:
        """Brings the arm to rest and ends the commands, whatever else is wrong: the servos keep the last one."""
        self._machine.release()
        return _DONE

    def estop(self) -> Answer:
        """Latches ESTOP, as the button does."""
        self._machine.latch(State.ESTOP, refused(Reason.ESTOP_REQUESTED))
        return _DONE

    def stop(self, reason: Reason, detail: str = "") -> None:
        """Latches STOPPED for something that only the shell can see (a foreign publisher, an error)."""
        self._machine.latch(State.STOPPED, refused(reason, detail))

    def reset_stop(self, now_ns: int) -> Answer:
        """Leaves STOPPED or ESTOP for DISENGAGED once the cause is gone and the arm rests. Never engages."""
        machine = self._machine
        if not self.state.is_latched:
            return _no(Reason.NOT_LATCHED)
        fault = machine.reset_fault(now_ns)
        if fault is not None:
            return _refusal(fault)
        machine.reset()
        return _DONE

    def set_ceiling(self, ceiling: float) -> Answer:
        """The user's bound on the adapter's scale, exactly within [0, 1]; in force at the next tick."""
        if isinstance(ceiling, bool) or not isinstance(ceiling, int | float) or not 0.0 <= ceiling <= 1.0:
            return _no(Reason.SETTING_REFUSED, f"scale_ceiling must be within [0, 1], got {ceiling!r}")
        self._machine.loop.user_ceiling = float(ceiling)
        return _DONE

    def tighten(self, **changes: float) -> Answer:
        """Tightens motion limits; while engaged the arm is brought to rest first and then goes on."""
        machine = self._machine
        before = machine.pending or self.limits
        try:
            limits = before.tightened(**changes)
            motion = self._usable_motion(limits)
        except (ContractError, TypeError) as error:
            return _no(Reason.SETTING_REFUSED, str(error))
        if machine.loop.track is None:
            machine.apply(limits)
            return _DONE
        rest = machine.loop.track.stop_rad[-1]
        outside = (rest < motion.lower_rad) | (rest > motion.upper_rad)
        if outside.any() and limits.position_margin_rad > before.position_margin_rad:
            joint = self.contract.joint_names[int(np.argmax(outside))]
            return _no(Reason.SETTING_REFUSED, f"{joint} is outside the new limits; move it inside first")
        if motion.workspace is not None and motion.workspace.depth_m(rest) > 0.0:
            return _no(Reason.SETTING_REFUSED, "the tool is below the new plane; move it up first")
        machine.pending = limits
        if self.state.may_move:
            machine.hold(refused(Reason.LIMITS_CHANGED))
        return _DONE

    def configure(self, limits: SupervisorLimits) -> Answer:
        """Replaces all settings, also by looser ones; only while DISENGAGED."""
        if self.state is not State.DISENGAGED:
            return _no(Reason.SETTING_REFUSED, f"only while DISENGAGED, the state is {self.state.name}")
        try:
            self._usable_motion(limits)
        except (ContractError, AttributeError) as error:
            return _no(Reason.SETTING_REFUSED, str(error))
        self._machine.configure(limits)
        return _DONE

    def _usable_motion(self, limits: SupervisorLimits) -> MotionLimits:
        """The motion limits, tried out: a robot that could not stop in time under them is refused."""
        motion = limits.motion(self.contract)
        MotionGuard(motion)
        return motion

    # The control tick

    def tick(self, now_ns: int, observation_now_ns: int | None = None) -> Decision:
        """One control period: judges the situation, forms the command, and says both."""
        machine, monitor = self._machine, self._machine.monitor
        monitor.tick(now_ns, now_ns if observation_now_ns is None else observation_now_ns)
        timing = (monitor.tick_gap_max_s, monitor.late_ticks)
        if timing != (self.counters.tick_gap_max_s, self.counters.late_ticks):
            machine.counters = replace(self.counters, tick_gap_max_s=timing[0], late_ticks=timing[1])
        machine.judge()
        if machine.loop.track is None:
            return self._decision(None)
        following, fault = machine.is_following, not self.state.may_move
        outcome = machine.loop.step(machine.stream, monitor, following=following, fault=fault)
        machine.count("ticks")
        machine.learn(outcome)
        return self._decision(outcome)

    def _decision(self, outcome: CommandOutcome | None) -> Decision:
        machine, monitor = self._machine, self._machine.monitor
        machine.stop_is_published = True
        stream, loop = machine.stream, machine.loop
        track, chunk = loop.track, stream.chunk
        clipped: tuple[str, ...] = ()
        if outcome is not None:
            names = self.contract.joint_names
            clipped = tuple(name for name, bounded in zip(names, outcome.clipped, strict=True) if bounded)
        arrived_ns = stream.arrived_ns
        return Decision(
            state=machine.state,
            reason=machine.why.reason,
            reason_text=machine.why.text,
            command_rad=None if track is None else track.command_rad,
            stop_rad=None if track is None else track.stop_rad,
            clipped_joints=clipped,
            miss_rad=0.0 if outcome is None else outcome.miss_rad,
            requested_scale=0.0 if chunk is None else chunk.scale,
            scale_ceiling=min(loop.user_ceiling, loop.ceiling.own),
            applied_scale=0.0 if track is None else loop.ceiling.applied,
            chunk_id=stream.last_id,
            epoch=stream.last_epoch,
            chunk_accepted=stream.last_verdict.accepted,
            chunk_age_s=math.inf if arrived_ns is None else (monitor.now_ns - arrived_ns) / NS_PER_S,
            joint_state_age_s=monitor.joint_age_s(monitor.now_ns),
            observation_age_s=math.inf if chunk is None else chunk.observation_age_ns / NS_PER_S,
            counters=machine.counters,
            followed_policy=monitor.policy.instance,
            other_policies=monitor.policy.others(monitor.now_ns),
        )


def _no(reason: Reason, detail: str = "") -> Answer:
    return Answer(success=False, reason=reason, detail=detail)


def _refusal(verdict: Verdict) -> Answer:
    return Answer(success=False, reason=verdict.reason, detail=verdict.detail)
