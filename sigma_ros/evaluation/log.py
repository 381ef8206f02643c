# SPDX-License-Identifier: Apache-2.0
"""What a replay leaves behind: one frozen `ReplayLog` per bag, filled by `ReplayRecorder`.

The graph-free replay and the replay node fill the same log, so scores and reports cannot tell them
apart. Times are bag time in integer nanoseconds, except fields called `host_ns`, which are measured
on this machine's clock and never enter a score.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Literal, Self

import numpy as np
from jaxtyping import Bool, Float64, Int64, UInt8
from numpy import ndarray

from sigma_ros.contract import Contract
from sigma_ros.values import AdapterSettings, Chunk

SCORED_STEPS = 16
"""Action steps of a chunk that are compared with the recording."""


def scored(steps: Float64[ndarray, "horizon dof"]) -> Float64[ndarray, "scored dof"]:
    """What of a chunk is compared: a shorter one stays at its last step, as the arm does."""
    return steps[np.minimum(np.arange(SCORED_STEPS), len(steps) - 1)]


@dataclass(frozen=True, slots=True, kw_only=True)
class BagFacts:
    """The recording: `losses` counts what could not be used, per reason, empty when nothing was lost.

    `checksummed` is False when the bag's storage carries no checksums, so damage may go unnoticed. `setup` names the
    set-up of a simulated recording. `stamps` is `log` where messages were taken at their
    time of recording.
    """

    name: str
    sha256: str
    storage: str
    duration_s: float
    messages: int
    checksummed: bool
    losses: Mapping[str, int]
    setup: str = ""
    stamps: str = "header"


@dataclass(frozen=True, slots=True, kw_only=True)
class PolicyFacts:
    """The checkpoint, and its map to normalised actions: `normalised = rad * action_scale + action_offset`.

    `trained` is False when the base has random weights, `sigma_trained` when the residual is zero by construction.
    `details` is whatever else is worth showing (parameter counts, head statistics), JSON values only.
    """

    checkpoint_hash: str
    trained: bool
    sigma_trained: bool
    base_id: str
    action_scale: Float64[ndarray, " dof"]
    action_offset: Float64[ndarray, " dof"]
    details: Mapping[str, object] = field(default_factory=dict)

    def normalise(self, rad: Float64[ndarray, "*batch dof"]) -> Float64[ndarray, "*batch dof"]:
        """Radians to the normalised action space in which the policy is trained and scored."""
        return rad * self.action_scale + self.action_offset


@dataclass(frozen=True, slots=True, kw_only=True)
class RunFacts:
    """How the recording was replayed. `mode` tells the path taken; scores do not depend on it."""

    mode: Literal["offline", "nodes"]
    task: str
    settings: AdapterSettings
    replan_ticks: int
    memory_stride: int
    seed: int
    supervised: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class TickTrack:
    """Every tick of the frame clock as columns. Joints are NaN at a gap, actions NaN where none was recorded."""

    epoch: Int64[ndarray, " ticks"]
    tick: Int64[ndarray, " ticks"]
    stamp_ns: Int64[ndarray, " ticks"]
    valid: Bool[ndarray, " ticks"]
    joints_rad: Float64[ndarray, "ticks dof"]
    action_rad: Float64[ndarray, "ticks dof"]
    reasons: Mapping[str, int]

    def __len__(self) -> int:
        return int(self.tick.shape[0])

    @property
    def without_action(self) -> int:
        """Valid ticks for which no action was recorded: nothing can be scored there."""
        return int(np.count_nonzero(self.valid & np.isnan(self.action_rad).any(axis=1)))


@dataclass(frozen=True, slots=True, kw_only=True)
class InferenceEntry:
    """One call of the policy. `published` is False for a chunk that only advanced the memory or was scored."""

    chunk: Chunk
    tau_l2: float
    sem_align: float
    baseline_tau_l2: float
    baseline_sem_align: float
    committed: bool
    published: bool
    host_ns: int


@dataclass(frozen=True, slots=True, kw_only=True)
class DecisionTrack:
    """Every supervisor tick as columns. `command_rad` is NaN where nothing was commanded."""

    stamp_ns: Int64[ndarray, " decisions"]
    state: tuple[str, ...]
    reason: tuple[str, ...]
    command_rad: Float64[ndarray, "decisions dof"]
    requested_scale: Float64[ndarray, " decisions"]
    scale_ceiling: Float64[ndarray, " decisions"]
    applied_scale: Float64[ndarray, " decisions"]
    clipped: Bool[ndarray, "decisions dof"]
    chunk_id: Int64[ndarray, " decisions"]
    host_ns: Int64[ndarray, " decisions"]
    violations: int
    refused_chunks: int
    holds: int
    engagements: int

    def __len__(self) -> int:
        return int(self.stamp_ns.shape[0])


@dataclass(frozen=True, slots=True, kw_only=True)
class Strip:
    """What the cameras saw before a scored tick: per camera four small pictures, oldest first."""

    epoch: int
    tick: int
    error: float
    images: Mapping[str, tuple[UInt8[ndarray, "h w 3"], ...]]
    age_ticks: tuple[int, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Shot:
    """What the cameras saw at a tick, as small JPEG pictures; a log holds so many of them, evenly spread."""

    stamp_ns: int
    jpegs: Mapping[str, bytes]


@dataclass(frozen=True, slots=True, kw_only=True)
class ReplayLog:
    """One bag, replayed. `complete` is False when the run was stopped before the recording's end."""

    contract: Contract
    bag: BagFacts
    policy: PolicyFacts
    run: RunFacts
    ticks: TickTrack
    inferences: tuple[InferenceEntry, ...]
    decisions: DecisionTrack
    strips: tuple[Strip, ...]
    complete: bool
    wall_ns: int
    shots: tuple[Shot, ...] = ()

    def __post_init__(self) -> None:
        for entry in self.inferences:
            if entry.chunk.joint_names != self.contract.joint_names:
                raise ValueError(f"chunk {entry.chunk.chunk_id} is not in contract order: {entry.chunk.joint_names}")

    def certified(self, line: str) -> Self:
        """The log with the certificate of the policy that ran (`values.Certificate`)."""
        policy = self.policy
        return replace(self, policy=replace(policy, details={**policy.details, "certificate": line}))

    @property
    def name(self) -> str:
        """The recording's name."""
        return self.bag.name

    @property
    def losses(self) -> Mapping[str, int]:
        """What was lost: the bag's own losses, and ticks that no window could be made for."""
        invalid = int(np.count_nonzero(~self.ticks.valid))
        return {**self.bag.losses, **({"invalid_ticks": invalid} if invalid else {})}
