# SPDX-License-Identifier: Apache-2.0
"""What the supervisor knows about the outside, with ages: joints, heartbeats, emergency stop, clocks."""

from numpy import ndarray

from sigma_ros.contract import Contract
from sigma_ros.control.chunk_check import Verdict, refused
from sigma_ros.control.estop_watch import EstopWatch
from sigma_ros.control.joint_watch import JointWatch
from sigma_ros.control.limits import SupervisorLimits
from sigma_ros.control.policy_watch import Binding, PolicyWatch
from sigma_ros.control.reasons import Reason
from sigma_ros.control.source import IN_PROCESS, Source
from sigma_ros.values import NS_PER_S

_LATE_PERIODS = 2


class Evidence:
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

    def latch_cause(self, reason: Reason, now_ns: int) -> Verdict | None:
        """Why a stop that was latched for `reason` must stay: its cause, or what would latch it again."""
        judges_joints = reason.name.startswith("JOINTS") or reason is Reason.TRACKING
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
        return (
            self.clock_fault or self.joint_fault(now_ns) or self._policy_fault(now_ns) or self._late_estop_fault(now_ns)
        )

    def _late_estop_fault(self, now_ns: int) -> Verdict | None:
        """A station is late: the arm waits for it, so that it has gone only a short way when silence means ESTOP."""
        silence_s, limit_s = self.estops.silence_s(now_ns), self._limits.estop_hold_s
        return refused(Reason.ESTOP_LATE, f"{silence_s:.3f} s, limit {limit_s:g} s") if silence_s > limit_s else None

    def joint_fault(self, now_ns: int) -> Verdict | None:
        """Why the measured pose cannot be trusted now: there is none, or it is old."""
        hold_s = self.joints.hold_ns / NS_PER_S
        age_s = self.joint_age_s(now_ns)
        if self.joints.sample is None:
            return refused(Reason.JOINTS_MISSING)
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
