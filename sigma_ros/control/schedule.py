# SPDX-License-Identifier: Apache-2.0
"""Which ticks plan a new chunk and which commit the recurrent memory: functions of the tick alone."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Schedule:
    """A chunk every `replan_ticks`, a memory commit every `memory_stride` ticks, counted from the epoch's tick 0.

    The memory's stride is the one it was trained with, whatever the machine's speed.
    """

    replan_ticks: int = 8
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
