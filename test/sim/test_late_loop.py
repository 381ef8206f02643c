# SPDX-License-Identifier: Apache-2.0
"""The shipped small Sigma closes the loop with 300 ms of latency, and does not where its residual is cut at step 16."""

import time
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
import torch

from sigma_ros.contract import Contract
from sigma_ros.model import residual
from sigma_ros.model.runtime import SigmaRuntime
from sigma_ros.sim.closed_loop import EpisodeRun, Loop, run_episode, sim_limits
from sigma_ros.sim.environment import SimArm
from sigma_ros.sim.setups import TARGET
from sigma_ros.values import AdapterSettings

pytestmark = [pytest.mark.gl, pytest.mark.slow]

SEEDS = (41000, 43004)
"""Two of many episodes that succeed; some do not: docs/results.md has the rates."""

LOOP = Loop(settings=AdapterSettings(), time_limit_s=9.0, limits=sim_limits())
"""As a policy runs that is told nothing else."""


@pytest.fixture(scope="module")
def arm(contract: Contract) -> Iterator[SimArm]:
    with SimArm(TARGET, contract=contract) as simulated:
        yield simulated


@pytest.fixture(scope="module")
def mini(contract: Contract) -> SigmaRuntime:
    return SigmaRuntime.load("mini", contract=contract)


def runs(arm: SimArm, mini: SigmaRuntime, latency_ms: float) -> list[EpisodeRun]:
    loop = replace(LOOP, latency_ms=latency_ms)
    return [run_episode(arm, mini, seed, loop, clock_ns=time.perf_counter_ns) for seed in SEEDS]


@pytest.mark.parametrize("latency_ms", [0.0, 300.0])
def test_the_brick_ends_in_the_box_in_time_and_late(arm: SimArm, mini: SigmaRuntime, latency_ms: float) -> None:
    done = runs(arm, mini, latency_ms)
    assert all(run.success for run in done)
    assert all(run.counters.violations == 0 for run in done)
    assert min(run.scales.mean() for run in done) > 0.75


def test_a_residual_that_is_cut_at_step_16_does_not(
    arm: SimArm, mini: SigmaRuntime, monkeypatch: pytest.MonkeyPatch
) -> None:
    compose = residual.compose

    def cut(**parts: Any) -> torch.Tensor:
        whole = compose(**parts)
        return torch.cat([whole[:, :16], torch.zeros_like(whole[:, 16:])], dim=1)

    monkeypatch.setattr(residual, "compose", cut)
    assert not any(run.success for run in runs(arm, mini, 300.0))
