# SPDX-License-Identifier: Apache-2.0
"""How often a policy plans and how a chunk takes over, and what is left of a chunk at a later tick."""

from dataclasses import dataclass
from typing import Literal, get_args

from sigma_ros.values import Chunk, LeftOver, Window

Stitching = Literal["latest", "crossfade", "rtc"]
"""How a chunk takes over: at once, faded in, or with its base led on from the chunk before (real-time chunking)."""

STITCHINGS: tuple[Stitching, ...] = get_args(Stitching)

STITCHING: Stitching = "crossfade"
REPLAN_TICKS = 16
CROSSFADE_STEPS = 16
"""What the node, the simulator, replays and LeRobot's policy do unless told otherwise. Training sees windows as many
ticks after a commit of the memory, and `mini` succeeds more often so than with 8 and 4: docs/results.md."""

SCORE_STRIDE_TICKS = 16
"""Scored windows start at every 16th tick of an epoch, so that their 16 steps do not overlap."""


@dataclass(frozen=True, slots=True)
class Schedule:
    """A chunk every `replan_ticks`, a commit every `memory_stride`, from the epoch's tick 0 on.

    The memory's stride is the one it was trained with, whatever the machine's speed.
    """

    replan_ticks: int = REPLAN_TICKS
    memory_stride: int = 16

    def __post_init__(self) -> None:
        for name in ("replan_ticks", "memory_stride"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")

    def plans(self, tick: int) -> bool:
        """Whether this tick asks the policy for a chunk."""
        return tick % self.replan_ticks == 0

    def commits(self, tick: int) -> bool:
        """Whether this tick makes the updated memory the committed one."""
        return tick % self.memory_stride == 0

    def scores(self, tick: int) -> bool:
        """Whether a replay in lockstep scores the window of this tick."""
        return tick % SCORE_STRIDE_TICKS == 0

    def infers(self, tick: int) -> bool:
        """Whether a replay in lockstep asks the model at this tick, if it is valid."""
        return self.plans(tick) or self.commits(tick) or self.scores(tick)


def left_over(previous: Chunk | None, window: Window, *, delay_ns: int) -> LeftOver | None:
    """What of `previous` is still to come at a window's tick; None: nothing, or another epoch.

    Real-time chunking leads the next base chunk on from it. `delay_ns`: from a tick to its chunk's arrival, as last
    measured. A step counts as consumed once its time has come, so the delay in steps is the index that will be
    consumed on arrival, not an upper bound.
    """
    if previous is None or previous.epoch != window.epoch:
        return None
    steps = previous.base_rad[max(0, window.tick - previous.tick) :]
    delay_steps = max(0, delay_ns // previous.step_period_ns)
    if window.tick < previous.tick or delay_steps >= len(steps):
        return None
    return LeftOver(base_rad=steps, delay_steps=int(delay_steps))
