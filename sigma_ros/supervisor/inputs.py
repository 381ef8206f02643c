# SPDX-License-Identifier: Apache-2.0
"""What the supervisor knows about the outside, with ages: joints, heartbeats, emergency stop, clocks."""

from collections import deque
from collections.abc import Collection
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float64
from numpy import ndarray

from sigma_ros.contract import Contract
from sigma_ros.supervisor.chunks import ACCEPTED, Verdict, refused
from sigma_ros.supervisor.identity import IN_PROCESS, Binding, EnablingWatch, EstopWatch, PolicyWatch, Source
from sigma_ros.supervisor.limits import SupervisorLimits
from sigma_ros.supervisor.reasons import Reason
from sigma_ros.values import NS_PER_S, frozen_array

# Joint states as evidence: are they there, finite, fresh and plausible, and does the arm follow?


_STAMP_BOUND_NS = 1 << 62
_JUMP_RAD = 0.1
"""A change below this is never a teleport, however close two stamps are."""

ENCODER_COUNT_RAD = 2.0 * np.pi / 4096.0
"""One step of the STS3215's encoder."""

_POSE_SAMPLES = (3, 5)
"""A resting pose is the mean of at least and at most so many joint states."""

_REST_COUNTS = 3
"""Joint states of a resting arm differ by at most this many encoder counts."""

_TRACKING_NS = NS_PER_S // 2
_FROZEN_NS = 3 * NS_PER_S // 10
_FROZEN_COMMAND_RAD = 0.1
_FROZEN_MEASURED_RAD = 1e-3


@dataclass(frozen=True, slots=True, kw_only=True)
class JointReading:
    """One accepted joint state: `now_ns` is its arrival on the supervisor's clock."""

    stamp_ns: int
    now_ns: int
    positions_rad: Float64[ndarray, " dof"]


class JointWatch:
    """Keeps the newest joint state and the evidence about tracking; `missing` says why there is no `sample`."""

    def __init__(self, contract: Contract, limits: SupervisorLimits) -> None:
        self._names = contract.joint_names
        self._limits = limits
        span = contract.upper_rad - contract.lower_rad
        self._low, self._high = contract.lower_rad - span, contract.upper_rad + span
        self.hold_ns = round(limits.joint_hold_s * NS_PER_S) or contract.joint_state_max_age_ns
        self._judged = np.array([name not in limits.untracked_joints for name in self._names])
        self.sample: JointReading | None = None
        self._recent: deque[ndarray] = deque(maxlen=_POSE_SAMPLES[1])
        self.refusals = 0
        self.missing = refused(Reason.JOINTS_MISSING)
        self._off_since_ns: int | None = None
        self._pairs: deque[tuple[int, ndarray, ndarray]] = deque(maxlen=64)

    def push(self, stamp_ns: int, positions_rad: ndarray, now_ns: int) -> Verdict:
        """Takes positions in contract order, or says why not. JOINTS_IMPLAUSIBLE must stop the arm."""
        verdict = self._judge(stamp_ns, positions_rad)
        if verdict.accepted:
            positions = frozen_array(np.array(positions_rad, dtype=np.float64))
            self.sample = JointReading(stamp_ns=stamp_ns, now_ns=now_ns, positions_rad=positions)
            self._recent.append(positions)
        else:
            self.refusals += 1
            self.missing = verdict
        return verdict

    def forget(self) -> None:
        """Drops what was measured, after a clock jump or a reset."""
        self.sample, self.missing = None, refused(Reason.JOINTS_MISSING)
        self._recent.clear()
        self.calm()

    def calm(self) -> None:
        """Drops the evidence about tracking: nothing is commanded, or commands start anew."""
        self._off_since_ns = None
        self._pairs.clear()

    def resting_pose(self) -> Float64[ndarray, " dof"] | Verdict:
        """Where the arm rests [rad]: the mean of the newest joint states, which must agree; or why that is not known.

        Where joints do not follow commands (a recording), the newest joint state.
        """
        if self.sample is None:
            return self.missing
        newest = self.sample.positions_rad
        if not self._limits.check_tracking:
            return newest
        if len(self._recent) < _POSE_SAMPLES[0]:
            return refused(Reason.JOINTS_MISSING, f"{len(self._recent)} of {_POSE_SAMPLES[0]} that are needed")
        off = np.abs(np.array(self._recent) - newest)
        agree = (off <= _REST_COUNTS * ENCODER_COUNT_RAD).all(axis=1)[::-1]
        count = len(agree) if agree.all() else int(np.argmin(agree))
        if count < _POSE_SAMPLES[0]:
            worst = int(np.argmax(off.max(axis=0)))
            return refused(Reason.JOINTS_MOVING, f"{self._names[worst]} by {off[:, worst].max():.4f} rad")
        pose: Float64[ndarray, " dof"] = np.mean(list(self._recent)[-count:], axis=0)
        return pose

    def age_ns(self, now_ns: int) -> int | None:
        """Time since the newest joint state arrived; None without one."""
        return None if self.sample is None else max(0, now_ns - self.sample.now_ns)

    def tracking(self, command_rad: Float64[ndarray, " dof"], now_ns: int) -> Verdict:
        """Whether the measured joints follow the commands, called once per tick with what was published."""
        if not self._limits.check_tracking or self.sample is None:
            return ACCEPTED
        measured = self.sample.positions_rad
        error = np.where(self._judged, np.abs(command_rad - measured), 0.0)
        worst = int(np.argmax(error))
        if error[worst] <= self._limits.tracking_error_rad:
            self._off_since_ns = None
        elif self._off_since_ns is None:
            self._off_since_ns = now_ns
        elif now_ns - self._off_since_ns >= _TRACKING_NS:
            return refused(Reason.TRACKING, f"{self._names[worst]} is {error[worst]:.3f} rad from its command")
        return self._frozen(command_rad, measured, now_ns)

    def _frozen(self, command: Float64[ndarray, " dof"], measured: Float64[ndarray, " dof"], now_ns: int) -> Verdict:
        self._pairs.append((now_ns, command, measured))
        while len(self._pairs) > 1 and now_ns - self._pairs[1][0] >= _FROZEN_NS:
            self._pairs.popleft()
        if now_ns - self._pairs[0][0] < _FROZEN_NS:
            return ACCEPTED
        commanded = np.array([pair[1] for pair in self._pairs])
        moved = np.ptp(np.array([pair[2] for pair in self._pairs]), axis=0)
        asked = np.where(self._judged, np.ptp(commanded, axis=0), 0.0)
        stuck = (asked > _FROZEN_COMMAND_RAD) & (moved < _FROZEN_MEASURED_RAD)
        if stuck.any():
            return refused(Reason.JOINTS_FROZEN, f"{self._names[int(np.argmax(stuck))]}")
        return ACCEPTED

    def _judge(self, stamp_ns: int, positions_rad: ndarray) -> Verdict:
        if not isinstance(stamp_ns, int) or abs(stamp_ns) >= _STAMP_BOUND_NS:
            return refused(Reason.JOINTS_STAMP, f"{stamp_ns!r}")
        try:
            positions = np.asarray(positions_rad, dtype=np.float64)
        except (TypeError, ValueError):
            return refused(Reason.JOINTS_SHAPE, "not numbers")
        if positions.shape != (len(self._names),):
            return refused(Reason.JOINTS_SHAPE, f"shape {positions.shape}, {len(self._names)} joints expected")
        finite = np.isfinite(positions)
        if not finite.all():
            return refused(Reason.JOINTS_NOT_FINITE, self._names[int(np.argmin(finite))])
        foreign = (positions < self._low) | (positions > self._high)
        if foreign.any():
            worst = int(np.argmax(foreign))
            return refused(Reason.JOINTS_UNITS, f"{self._names[worst]} at {positions[worst]:.3g} rad")
        return ACCEPTED if self.sample is None else self._judge_motion(stamp_ns, positions, self.sample)

    def _judge_motion(self, stamp_ns: int, positions: Float64[ndarray, " dof"], last: JointReading) -> Verdict:
        if stamp_ns <= last.stamp_ns:
            return refused(Reason.JOINTS_STAMP, f"{(last.stamp_ns - stamp_ns) / 1e6:.1f} ms before the last one")
        change = np.abs(positions - last.positions_rad)
        worst = int(np.argmax(change))
        speed = float(change[worst]) / ((stamp_ns - last.stamp_ns) / NS_PER_S)
        if change[worst] > _JUMP_RAD and speed > self._limits.max_measured_speed_radps:
            return refused(
                Reason.JOINTS_IMPLAUSIBLE, f"{self._names[worst]} by {change[worst]:.3f} rad, {speed:.1f} rad/s"
            )
        return ACCEPTED


_LATE_PERIODS = 2


class InputMonitor:
    """Latest facts and the two clocks. `fault` names what forbids motion now, `stop_fault` what must latch."""

    def __init__(self, contract: Contract, limits: SupervisorLimits) -> None:
        self._contract = contract
        self._limits = limits
        self.joints = JointWatch(contract, limits)
        self.now_ns = 0
        self.observation_now_ns = 0
        self.tick_gap_max_s = 0.0
        self.late_ticks = 0
        self.clock_fault: Verdict | None = None
        self.policy = PolicyWatch(contract)
        self.estops = EstopWatch()
        self.enabling = EnablingWatch()
        self.foreign: tuple[str, ...] = ()
        self._joints_awaited_ns = 0
        self._started = False

    def configure(self, limits: SupervisorLimits) -> None:
        """Puts settings in force; joint states are awaited anew, heartbeats and the emergency stop stay as heard."""
        self._limits = limits
        self.joints = JointWatch(self._contract, limits)
        self.forget_streams()

    @property
    def estop_heard(self) -> bool:
        """Whether any emergency stop's publisher was ever heard."""
        return self.estops.is_heard

    def tick(self, now_ns: int, observation_now_ns: int) -> None:
        """Moves both clocks to this tick and judges how they moved; the own clock never goes back."""
        now_ns = max(now_ns, self.now_ns)
        self.clock_fault = self._judge_clocks(now_ns, observation_now_ns) if self._started else None
        self.now_ns = now_ns
        self.observation_now_ns = observation_now_ns
        sample = self.joints.sample
        if not self._started and sample is not None and self._lead_s(sample.stamp_ns, now_ns) > 0.0:
            self.joints.forget()
        self._started = True

    def push_joints(self, stamp_ns: int, positions_rad: ndarray, now_ns: int) -> Verdict:
        """Takes a joint state, or says why not. One from the future would outlive all that come after it."""
        if self._started and isinstance(stamp_ns, int):
            lead_s = self._lead_s(stamp_ns, now_ns)
            if lead_s > 0.0:
                return refused(Reason.JOINTS_FROM_FUTURE, f"{lead_s:.3f} s beyond what is allowed")
        return self.joints.push(stamp_ns, positions_rad, now_ns)

    def hear_heartbeat(self, now_ns: int, *, healthy: bool, source: Source = IN_PROCESS) -> None:
        """A policy's process is alive; `healthy` is its own word on whether it can act."""
        self.policy.hear_heartbeat(source, now_ns, healthy=healthy)

    def hear_estop(self, now_ns: int, *, pressed: bool, source: Source = IN_PROCESS) -> None:
        """A station of the emergency stop is alive, and says whether its button is pressed."""
        self.estops.hear(source, now_ns, pressed=pressed, timeout_s=self._limits.estop_timeout_s)

    def estop_fault(self, now_ns: int) -> Verdict | None:
        """Why ESTOP must be in force. Once a station was heard it must go on: silence counts as pressed."""
        limits = self._limits
        return self.estops.fault(now_ns, timeout_s=limits.estop_timeout_s, required=limits.require_estop_heartbeat)

    def stop_fault(self, now_ns: int) -> Verdict | None:
        """Why the arm must be STOPPED: somebody else commands it, or joint states have been away for too long."""
        return self.foreign_fault or self._lost_fault(now_ns)

    @property
    def foreign_fault(self) -> Verdict | None:
        """Who else publishes commands."""
        return refused(Reason.FOREIGN_PUBLISHER, ", ".join(self.foreign)) if self.foreign else None

    def latch_cause(self, reasons: Collection[Reason], now_ns: int) -> Verdict | None:
        """Why a stop that was latched for `reasons` must stay: one of its causes, or what would latch it again."""
        judges_joints = any(reason.name.startswith("JOINTS") or reason is Reason.TRACKING for reason in reasons)
        return self.estop_fault(now_ns) or self.foreign_fault or (self.joint_fault(now_ns) if judges_joints else None)

    def engage_fault(self, now_ns: int) -> Verdict | None:
        """Why the arm must not be taken over; the policy that would be followed is `policy.binding` already."""
        return self.estop_fault(now_ns) or self.foreign_fault or self.fault(now_ns)

    def candidate(self, now_ns: int) -> Binding | Verdict:
        """The only policy that is live now."""
        return self.policy.candidate(now_ns, heartbeat_timeout_s=self._limits.heartbeat_timeout_s)

    def _lost_fault(self, now_ns: int) -> Verdict | None:
        sample = self.joints.sample
        since_ns = self._joints_awaited_ns if sample is None else sample.now_ns
        age_s = (now_ns - since_ns) / NS_PER_S
        if age_s > self._limits.joint_stop_s:
            return refused(Reason.JOINTS_LOST, f"{age_s:.3f} s, limit {self._limits.joint_stop_s:g} s")
        return None

    def fault(self, now_ns: int) -> Verdict | None:
        """Why the arm may not move now."""
        limits = self._limits
        enabling = limits.require_enabling and self.enabling.fault(now_ns, timeout_s=limits.enabling_timeout_s)
        return (
            # First, for it is the only one that does not end by itself: another fault must not hide it.
            enabling
            or self.clock_fault
            or self.joint_fault(now_ns)
            or self._policy_fault(now_ns)
            # A late station is waited for, so that the arm has gone only a short way when silence means ESTOP.
            or self.estops.late(now_ns, limit_s=limits.estop_hold_s)
            or None
        )

    def joint_fault(self, now_ns: int) -> Verdict | None:
        """Why the measured pose cannot be trusted now: there is none, or it is old."""
        hold_s = self.joints.hold_ns / NS_PER_S
        age_s = self.joint_age_s(now_ns)
        if self.joints.sample is None:
            return self.joints.missing
        return refused(Reason.JOINTS_STALE, f"{age_s:.3f} s, limit {hold_s:g} s") if age_s > hold_s else None

    def joint_age_s(self, now_ns: int) -> float:
        """Age of the newest joint state: since its arrival, or since its stamp if that is longer."""
        sample = self.joints.sample
        if sample is None:
            return float("inf")
        observation_now_ns = self.observation_now_ns + (now_ns - self.now_ns)
        return max(0, now_ns - sample.now_ns, observation_now_ns - sample.stamp_ns) / NS_PER_S

    def heartbeat_age_s(self, now_ns: int) -> float:
        """Age of the policy's heartbeat, of the one that is followed if one is; 0 where none is required."""
        return self.policy.heartbeat_age_s(now_ns) if self._limits.require_heartbeat else 0.0

    def forget_streams(self) -> None:
        """After a clock jump: what was stamped before it means nothing now."""
        self.joints.forget()
        self._joints_awaited_ns = self.now_ns

    def _lead_s(self, stamp_ns: int, now_ns: int) -> float:
        """By how much a stamp is further in the future than is allowed; the observation clock is carried on."""
        observation_now_ns = self.observation_now_ns + max(0, now_ns - self.now_ns)
        return (stamp_ns - observation_now_ns) / NS_PER_S - self._limits.max_stamp_lead_s

    def _policy_fault(self, now_ns: int) -> Verdict | None:
        if not self.policy.is_healthy:
            return refused(Reason.POLICY_UNHEALTHY)
        age_s = self.heartbeat_age_s(now_ns)
        if age_s == float("inf"):
            return refused(Reason.HEARTBEAT_MISSING)
        if age_s > self._limits.heartbeat_timeout_s:
            return refused(Reason.HEARTBEAT_LOST, f"{age_s:.3f} s, limit {self._limits.heartbeat_timeout_s:g} s")
        return None

    def _judge_clocks(self, now_ns: int, observation_now_ns: int) -> Verdict | None:
        own_s = (now_ns - self.now_ns) / NS_PER_S
        other_s = (observation_now_ns - self.observation_now_ns) / NS_PER_S
        self.tick_gap_max_s = max(self.tick_gap_max_s, own_s)
        self.late_ticks += own_s > _LATE_PERIODS * self._contract.command_period_ns / NS_PER_S
        if other_s < 0.0 or other_s - own_s > self._limits.clock_jump_s:
            return refused(Reason.CLOCK_JUMP, f"by {other_s - own_s:+.3f} s")
        if own_s > self._limits.max_tick_gap_s:
            return refused(Reason.TICK_OVERRUN, f"{own_s:.3f} s between ticks")
        return None
