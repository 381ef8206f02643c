# SPDX-License-Identifier: Apache-2.0
"""When a policy should doubt itself: what its own consecutive chunks say, a threshold, and what is done then.

Two signals, both free: a chunk's disagreement with the one before, and a joint that goes where it never was in an
episode that succeeded, as fingers do that closed on nothing. Thresholds come from such episodes
(`training.trials.risk`); docs/results.md says how well each predicts failure, and the thresholds for `mini`.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
from jaxtyping import Float64
from numpy import ndarray

from sigma_ros.values import Chunk

AlarmAction = Literal["none", "replan", "stop"]
"""On an alarm: only say so; plan twice as often while it lasts; or propose nothing more until the memory is reset, so
that the supervisor holds."""

ALARM_ACTIONS: tuple[AlarmAction, ...] = get_args(AlarmAction)

NO_POSITIONS: Mapping[str, float] = {}

OVERLAP_STEPS = 8
"""Steps of a new chunk that are compared with what the one before had planned for the same ticks."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AlarmSettings:
    """`threshold_rad` of the disagreement above which an alarm is given; 0: none ever is.

    `joint`: one that gives an alarm where it is measured below `below_rad`; empty: none does.
    """

    threshold_rad: float = 0.0
    joint: str = ""
    below_rad: float = 0.0
    action: AlarmAction = "none"

    def __post_init__(self) -> None:
        if not (math.isfinite(self.threshold_rad) and self.threshold_rad >= 0.0):
            raise ValueError(f"threshold_rad must be at least 0 and finite, got {self.threshold_rad}")
        if not math.isfinite(self.below_rad):
            raise ValueError(f"below_rad must be finite, got {self.below_rad}")
        if self.action not in ALARM_ACTIONS:
            raise ValueError(f"action must be one of {', '.join(ALARM_ACTIONS)}, got {self.action}")

    def alarmed(self, disagreement_rad: float, positions_rad: Mapping[str, float] = NO_POSITIONS) -> bool:
        """Whether a chunk is an alarm: its disagreement, or where a joint stood when it was planned.

        A disagreement that is not finite is one, one that is not known (0) is not.
        """
        doubtful = self.threshold_rad > 0.0 and not disagreement_rad <= self.threshold_rad
        return doubtful or positions_rad.get(self.joint, math.inf) < self.below_rad


NO_ALARM = AlarmSettings()


def disagreement_of(before: Chunk | None, chunk: Chunk) -> float:
    """How far a chunk is from what the one before had planned for the same ticks, rms [rad]; 0 where there is none."""
    if before is None or before.epoch != chunk.epoch:
        return 0.0
    return disagreement(
        before.blended_rad(before.scale), chunk.blended_rad(chunk.scale), ticks=chunk.tick - before.tick
    )


def disagreement(
    before_rad: Float64[ndarray, "horizon dof"], after_rad: Float64[ndarray, "horizon dof"], *, ticks: int
) -> float:
    """The same of actions, the second planned `ticks` after the first; 0 where they have no tick in common."""
    steps = min(OVERLAP_STEPS, len(before_rad) - ticks, len(after_rad))
    if ticks < 0 or steps < 1:
        return 0.0
    return float(np.sqrt(np.mean((after_rad[:steps] - before_rad[ticks : ticks + steps]) ** 2)))
