# SPDX-License-Identifier: Apache-2.0
"""Keeps a library from putting this process before everything else on the machine."""

import os
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def same_scheduling() -> Iterator[None]:
    """Gives the calling thread its scheduling back at the end.

    SVT-AV1, which encodes LeRobot's videos, leaves root's calling thread at SCHED_FIFO 99. Threads made later inherit
    that, and two that wait for each other busily stop the machine.
    """
    if not hasattr(os, "sched_getscheduler"):
        yield
        return
    policy, parameters = os.sched_getscheduler(0), os.sched_getparam(0)
    try:
        yield
    finally:
        if os.sched_getscheduler(0) != policy:
            os.sched_setscheduler(0, policy, parameters)
