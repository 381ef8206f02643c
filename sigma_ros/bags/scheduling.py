# SPDX-License-Identifier: Apache-2.0
"""Keeps a library from putting this process before everything else on the machine."""

import ctypes
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def same_scheduling() -> Iterator[None]:
    """Gives the calling thread its scheduling back at the end.

    SVT-AV1, which encodes LeRobot's videos, leaves root's calling thread at SCHED_FIFO 99. Threads made later inherit
    that, and two that wait for each other busily stop the machine.
    """
    if not sys.platform.startswith("linux"):
        yield
        return
    policy, priority = os.sched_getscheduler(0), os.sched_getparam(0).sched_priority
    try:
        yield
    finally:
        if os.sched_getscheduler(0) != policy:
            _set_scheduling(policy, priority)


def _set_scheduling(policy: int, priority: int) -> None:
    """Through the thread library, not the system call: it keeps a copy, which Fast DDS gives to its own threads."""
    libc = ctypes.CDLL(None)
    libc.pthread_self.restype = ctypes.c_ulong
    parameters = ctypes.c_int(priority)
    libc.pthread_setschedparam(ctypes.c_ulong(libc.pthread_self()), policy, ctypes.byref(parameters))
