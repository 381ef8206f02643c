# SPDX-License-Identifier: Apache-2.0
"""What the supervisor says: the answer to a service, and the decision of a tick."""

from dataclasses import dataclass

from jaxtyping import Float64
from numpy import ndarray

from sigma_ros.control.reasons import Reason, State


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """The answer to a service call or a setting."""

    success: bool
    reason: Reason
    detail: str = ""

    @property
    def text(self) -> str:
        """One sentence for people."""
        return self.reason.text(self.detail)


@dataclass(frozen=True, slots=True, kw_only=True)
class Counters:
    """Counts since the start; none ever falls. `violations` must stay 0.

    `late_ticks` came more than two control periods after the one before.
    """

    ticks: int = 0
    clipped_ticks: int = 0
    accepted_chunks: int = 0
    refused_chunks: int = 0
    refused_joint_states: int = 0
    holds: int = 0
    stops: int = 0
    engagements: int = 0
    violations: int = 0
    late_ticks: int = 0
    tick_gap_max_s: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Decision:
    """One tick. `command_rad` is None while nothing is to be published (DISENGAGED before the first engage).

    `stop_rad` holds the commands that would bring the arm to rest after this one, one control period apart:
    the rest of a trajectory piece. `scale_ceiling` is the lower of the user's and the own ceiling. Ages are
    infinite where there is nothing yet; `chunk_age_s` counts from arrival. `followed_policy` is the instance that is
    followed; `other_policies` are publishers of chunks or heartbeats that are not.
    """

    state: State
    reason: Reason
    reason_text: str
    command_rad: Float64[ndarray, " dof"] | None
    stop_rad: Float64[ndarray, "ticks dof"] | None
    clipped_joints: tuple[str, ...]
    miss_rad: float
    requested_scale: float
    scale_ceiling: float
    applied_scale: float
    chunk_id: int
    epoch: int
    chunk_accepted: bool
    chunk_age_s: float
    joint_state_age_s: float
    observation_age_s: float
    counters: Counters
    followed_policy: str = ""
    other_policies: tuple[str, ...] = ()
