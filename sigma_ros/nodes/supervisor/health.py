# SPDX-License-Identifier: Apache-2.0
"""The supervisor's diagnostics: one task per cause."""

from collections.abc import Mapping

from rclpy.event_handler import QoSRequestedIncompatibleQoSInfo

from sigma_ros.contract import Contract
from sigma_ros.nodes.shared.diagnostics import Level, Task, TaskStatus
from sigma_ros.supervisor.chunks import Verdict
from sigma_ros.supervisor.reasons import Decision, Reason, State
from sigma_ros.supervisor.supervisor import Supervisor

_ALARMING = (State.STOPPED, State.ESTOP)


class SupervisorHealth:
    """Notes what the node saw and answers how each cause stands now.

    The node sets `decision` (of the newest tick), `foreign` (who else publishes commands now), `policies` (whose
    publishers of chunks or heartbeats the graph shows, whether they say anything or not) and `clock_publishers` (of
    `/clock`, while it follows that).
    """

    def __init__(self, core: Supervisor, contract: Contract) -> None:
        self._core = core
        self._contract = contract
        self.decision: Decision | None = None
        self.foreign: tuple[str, ...] = ()
        self.policies: tuple[str, ...] = ()
        self.clock_publishers: tuple[str, ...] = ()
        self._verdict: Verdict | None = None
        self._complaint = ""
        self._malformed = 0
        self._last_malformed = ""
        self._refused_joints = 0
        self._last_refused_joints = ""
        self._incompatible = ""
        self._late_seen = 0

    def note_chunk(self, verdict: Verdict) -> None:
        """Takes in what became of a chunk; a refusal is told once even if a good one follows."""
        self._verdict = verdict
        self._complaint = self._complaint if verdict.accepted else verdict.text

    def note_malformed_chunk(self, text: str) -> None:
        """A chunk message that could not even become a value."""
        self._malformed += 1
        self._last_malformed = text
        self._complaint = text

    def note_refused_joints(self, text: str) -> None:
        """A joint state that does not fit the contract."""
        self._refused_joints += 1
        self._last_refused_joints = text

    def note_incompatible(self, info: QoSRequestedIncompatibleQoSInfo) -> None:
        """A publisher of chunks offers less than is asked for: nothing of it arrives."""
        self._incompatible = f"{info.total_count} publisher(s), last policy kind {info.last_policy_kind}"

    def tasks(self) -> Mapping[str, Task]:
        """The tasks by name."""
        return {
            "supervisor/state": self._state,
            "supervisor/staleness": self._staleness,
            "supervisor/chunks": self._chunks,
            "supervisor/limits": self._limits,
            "supervisor/timing": self._timing,
            "supervisor/clock": self._clock,
            "supervisor/estop": self._estop,
            "supervisor/policy": self._policy,
            "supervisor/publishers": self._publishers,
            "io/joint_states": self._joints,
        }

    def _state(self) -> TaskStatus:
        decision = self.decision
        if decision is None:
            return TaskStatus(Level.STALE, "no tick yet")
        level = Level.ERROR if decision.state in _ALARMING else Level.OK
        if decision.state is State.HOLD:
            level = Level.WARN
        counters = decision.counters
        values = {
            "state": decision.state.name,
            "reason": decision.reason.name,
            "engagements": counters.engagements,
            "holds": counters.holds,
            "stops": counters.stops,
            "scale_ceiling": f"{decision.scale_ceiling:.3f}",
            "applied_scale": f"{decision.applied_scale:.3f}",
        }
        return TaskStatus(level, f"{decision.state.name}: {decision.reason_text}", values)

    def _staleness(self) -> TaskStatus:
        decision = self.decision
        if decision is None:
            return TaskStatus(Level.STALE, "no tick yet")
        ages = {
            "joint_state_age_s": f"{decision.joint_state_age_s:.3f}",
            "chunk_age_s": f"{decision.chunk_age_s:.3f}",
            "observation_age_s": f"{decision.observation_age_s:.3f}",
        }
        stale = any(word in decision.reason.name for word in ("STALE", "LOST", "MISSING", "EXPIRED", "EXHAUSTED"))
        return (
            TaskStatus(Level.WARN, decision.reason_text, ages) if stale else TaskStatus(Level.OK, "all is fresh", ages)
        )

    def _chunks(self) -> TaskStatus:
        counters = self._core.counters
        values = {
            "accepted": counters.accepted_chunks,
            "refused": counters.refused_chunks,
            "malformed": self._malformed,
            "last_malformed": self._last_malformed,
        }
        if self._incompatible:
            return TaskStatus(Level.ERROR, f"chunks are offered with incompatible QoS: {self._incompatible}", values)
        complaint, self._complaint = self._complaint, ""
        if complaint:
            return TaskStatus(Level.WARN, complaint, values)
        if self._verdict is None:
            return TaskStatus(Level.STALE, "no chunk yet", values)
        if self.decision is not None and self.decision.reason is Reason.START_POSE:
            return TaskStatus(Level.WARN, self.decision.reason_text, values)
        return TaskStatus(Level.OK if self._verdict.accepted else Level.WARN, self._verdict.text, values)

    @property
    def _avoids_collisions(self) -> bool:
        return self._core.limits.avoid_collisions and bool(self._core.contract.capsules)

    def _limits(self) -> TaskStatus:
        counters = self._core.counters
        share = counters.clipped_ticks / max(1, counters.ticks)
        values = {
            "ticks": counters.ticks,
            "clipped_ticks": counters.clipped_ticks,
            "violations": counters.violations,
            "velocity_scale": self._core.limits.velocity_scale,
            "position_margin_rad": self._core.limits.position_margin_rad,
            "tool_speed_mps": self._core.limits.max_tool_speed_mps if self._core.limits.cap_tool_speed else "any",
            "plane_height_m": self._core.limits.plane_height_m if self._core.limits.keep_above_plane else "none",
            "collision_margin_m": self._core.limits.collision_margin_m if self._avoids_collisions else "none",
        }
        if counters.violations:
            return TaskStatus(Level.ERROR, f"{counters.violations} limit violation(s) in the published stream", values)
        return TaskStatus(Level.OK, f"{share:.1%} of the commands bounded", values)

    def _timing(self) -> TaskStatus:
        counters, limit_s = self._core.counters, self._core.limits.max_tick_gap_s
        late, self._late_seen = counters.late_ticks - self._late_seen, counters.late_ticks
        values = {
            "tick_gap_max_s": f"{counters.tick_gap_max_s:.4f}",
            "late_ticks": counters.late_ticks,
            "limit_s": limit_s,
        }
        if late:
            return TaskStatus(Level.WARN, f"{late} late tick(s) since the last report", values)
        return TaskStatus(Level.OK, f"longest tick gap {counters.tick_gap_max_s * 1e3:.1f} ms", values)

    def _clock(self) -> TaskStatus:
        if len(self.clock_publishers) > 1:
            return TaskStatus(Level.ERROR, f"several publishers of /clock: {', '.join(self.clock_publishers)}")
        if self.decision is not None and self.decision.reason is Reason.CLOCK_JUMP:
            return TaskStatus(Level.WARN, self.decision.reason_text)
        return TaskStatus(Level.OK, "runs evenly")

    def _estop(self) -> TaskStatus:
        if self._core.state is State.ESTOP:
            return TaskStatus(Level.ERROR, "latched: call reset_stop when its cause is gone")
        if not self._core.estop_heard:
            return TaskStatus(Level.WARN, "no emergency stop has been heard: only the service and the power switch")
        return TaskStatus(Level.OK, "its publisher is heard")

    def _policy(self) -> TaskStatus:
        decision = self.decision
        if decision is None:
            return TaskStatus(Level.STALE, "no tick yet")
        values = {"followed": decision.followed_policy, "announced": ", ".join(self.policies)}
        if decision.other_policies:
            return TaskStatus(Level.WARN, f"not followed: {', '.join(decision.other_policies)}", values)
        if decision.reason.name.startswith(("HEARTBEAT", "POLICY")):
            return TaskStatus(Level.WARN, decision.reason_text, values)
        if len(self.policies) > 1:
            return TaskStatus(Level.WARN, f"several are announced: {', '.join(self.policies)}", values)
        return TaskStatus(Level.OK, "no complaint", values)

    def _publishers(self) -> TaskStatus:
        if self.foreign:
            topics = ", ".join(part.topic for part in self._contract.commands)
            return TaskStatus(Level.ERROR, f"also publishing on {topics}: {', '.join(self.foreign)}")
        return TaskStatus(Level.OK, "the only publisher of commands")

    def _joints(self) -> TaskStatus:
        values = {
            "refused": self._refused_joints + self._core.counters.refused_joint_states,
            "last_refused": self._last_refused_joints,
        }
        if self.decision is None or self.decision.joint_state_age_s == float("inf"):
            said = self._last_refused_joints or "none received"
            return TaskStatus(Level.STALE, said, values)
        if self.decision.reason.name.startswith(("JOINTS", "TRACKING", "CONTACT")):
            return TaskStatus(Level.WARN, self.decision.reason_text, values)
        return TaskStatus(Level.OK, f"{self.decision.joint_state_age_s * 1e3:.0f} ms old", values)
