# SPDX-License-Identifier: Apache-2.0
"""Lets the supervisor's thread run before others where the system permits, and keeps the garbage collector short."""

import gc
import os


def take_priority(level: int) -> str:
    """Gives the calling thread SCHED_FIFO at `level` (1..99, 0: leaves it), else a better niceness; says what it got.

    Threads that the middleware has made before keep theirs: a flood of messages must not run before everything else.
    """
    if level == 0:
        return "ordinary scheduling, as asked"
    try:
        os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(level))
    except (OSError, AttributeError):
        return _better_niceness()
    return f"real-time scheduling, SCHED_FIFO {level}"


def freeze_garbage() -> None:
    """What exists now is never looked at again by the garbage collector, so its pauses stay short."""
    gc.collect()
    gc.freeze()


def _better_niceness() -> str:
    try:
        os.setpriority(os.PRIO_PROCESS, 0, -10)
    except (OSError, AttributeError):
        return "ordinary scheduling: the system permits nothing else (docs/safety.md)"
    return "niceness -10: the system does not permit real-time scheduling"
