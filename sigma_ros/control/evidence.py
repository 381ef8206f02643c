# SPDX-License-Identifier: Apache-2.0
"""What the supervisor knows about the outside, with ages: joints, heartbeats, emergency stop, clocks."""

from numpy import ndarray

from sigma_ros.contract import Contract
from sigma_ros.control.chunk_check import Verdict, refused
from sigma_ros.control.joint_watch import JointWatch
from sigma_ros.control.limits import SupervisorLimits
from sigma_ros.control.reasons import Reason
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
        self.heartbeat_ns: int | None = None
        self.healthy = True
        self.estop_pressed = False
        self.estop_heard_ns: int | None = None
        self._joints_awaited_ns = 0
        self._started = False

    def configure(self, limits: SupervisorLimits) -> None:
        """Puts settings in force; joint states are awaited anew, heartbeats and the emergency stop stay as heard."""
        self._limits = limits
        self.joints = JointWatch(self._contract, limits)
        self.forget_streams()

    @property
    def estop_heard(self) -> bool:
        """Whether the emergency stop's publisher was ever heard."""
        return self.estop_heard_ns is not None

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

    def hear_heartbeat(self, now_ns: int, *, healthy: bool) -> None:
        """The policy's process is alive; `healthy` is its own word on whether it can act."""
        self.heartbeat_ns = now_ns
        self.healthy = healthy

    def hear_estop(self, now_ns: int, *, pressed: bool) -> None:
        """The emergency stop's publisher is alive, and says whether the button is pressed."""
        self.estop_heard_ns = now_ns
        self.estop_pressed = pressed

    def estop_fault(self, now_ns: int) -> Verdict | None:
        """Why ESTOP must be in force. Once its heartbeat was heard it must go on: silence counts as pressed."""
        if self.estop_pressed:
            return refused(Reason.ESTOP_PRESSED)
        if self.estop_heard_ns is None:
            return refused(Reason.ESTOP_HEARTBEAT, "never heard") if self._limits.require_estop_heartbeat else None
        age_s = (now_ns - self.estop_heard_ns) / NS_PER_S
        if age_s > self._limits.estop_timeout_s:
            return refused(Reason.ESTOP_HEARTBEAT, f"{age_s:.3f} s, limit {self._limits.estop_timeout_s:g} s")
        return None

    def stop_fault(self, now_ns: int) -> Verdict | None:
        """Why the arm must be STOPPED: joint states have been away for too long."""
        sample = self.joints.sample
        since_ns = self._joints_awaited_ns if sample is None else sample.now_ns
        age_s = (now_ns - since_ns) / NS_PER_S
        if age_s > self._limits.joint_stop_s:
            return refused(Reason.JOINTS_LOST, f"{age_s:.3f} s, limit {self._limits.joint_stop_s:g} s")
        return None

    def fault(self, now_ns: int) -> Verdict | None:
        """Why the arm may not move now."""
        if self.clock_fault is not None:
            return self.clock_fault
        hold_s = self.joints.hold_ns / NS_PER_S
        age_s = self.joint_age_s(now_ns)
        if self.joints.sample is None:
            return refused(Reason.JOINTS_MISSING)
        if age_s > hold_s:
            return refused(Reason.JOINTS_STALE, f"{age_s:.3f} s, limit {hold_s:g} s")
        return self._policy_fault(now_ns)

    def joint_age_s(self, now_ns: int) -> float:
        """Age of the newest joint state: since its arrival, or since its stamp if that is longer."""
        sample = self.joints.sample
        if sample is None:
            return float("inf")
        observation_now_ns = self.observation_now_ns + (now_ns - self.now_ns)
        return max(0, now_ns - sample.now_ns, observation_now_ns - sample.stamp_ns) / NS_PER_S

    def heartbeat_age_s(self, now_ns: int) -> float:
        """Age of the policy's heartbeat; 0 where none is required."""
        if not self._limits.require_heartbeat:
            return 0.0
        return float("inf") if self.heartbeat_ns is None else max(0, now_ns - self.heartbeat_ns) / NS_PER_S

    def forget_streams(self) -> None:
        """After a clock jump: what was stamped before it means nothing now."""
        self.joints.forget()
        self._joints_awaited_ns = self.now_ns

    def _lead_s(self, stamp_ns: int, now_ns: int) -> float:
        """By how much a stamp is further in the future than is allowed; the observation clock is carried on."""
        observation_now_ns = self.observation_now_ns + max(0, now_ns - self.now_ns)
        return (stamp_ns - observation_now_ns) / NS_PER_S - self._limits.max_stamp_lead_s

    def _policy_fault(self, now_ns: int) -> Verdict | None:
        if not self.healthy:
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
