# SPDX-License-Identifier: Apache-2.0
"""A live policy on a CPU leaves a core to callbacks, DDS and supervisor; what the user asks for stands."""

import os

import pytest
import torch

from sigma_ros.nodes.policy.model import leave_a_core


@pytest.mark.parametrize(
    ("cores", "pool", "omp", "expected"),
    [(2, 2, None, 1), (1, 1, None, 1), (16, 16, None, 15), (16, 8, None, 8), (2, 2, "2", None)],
)
def test_one_core_of_several_is_left(monkeypatch, cores, pool, omp, expected):
    asked = []
    monkeypatch.setattr(os, "sched_getaffinity", lambda _pid: set(range(cores)))
    monkeypatch.setattr(torch, "get_num_threads", lambda: pool)
    monkeypatch.setattr(torch, "set_num_threads", asked.append)
    if omp is None:
        monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    else:
        monkeypatch.setenv("OMP_NUM_THREADS", omp)
    leave_a_core()
    assert asked == ([] if expected is None else [expected])
