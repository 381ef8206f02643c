# SPDX-License-Identifier: Apache-2.0
"""With pictures, policy and supervisor: the shipped `mini-memory` acts on a cue that is gone, by its memory alone."""

from collections.abc import Iterator

import pytest

from sigma_ros.contract import Contract
from sigma_ros.model.runtime import SigmaRuntime
from sigma_ros.sim.closed_loop import Loop, sim_limits
from sigma_ros.sim.setups import TARGET
from sigma_ros.sim.tasks.catalogue import task_named
from sigma_ros.sim.tasks.interventions import Intervention
from sigma_ros.sim.tasks.robot import TaskRobot
from sigma_ros.sim.trials import Result, Trial, run_trial
from sigma_ros.values import AdapterSettings

pytestmark = [pytest.mark.gl, pytest.mark.slow]

SEEDS = (31000, 31001)
"""One with either box, of episodes that come to a choice; not all do: docs/results.md has the rates."""

M1 = task_named("M1")
LOOP = Loop(settings=AdapterSettings(), time_limit_s=M1.limit_s, limits=sim_limits())


@pytest.fixture(scope="module")
def robot(contract: Contract) -> Iterator[TaskRobot]:
    with TaskRobot(M1, TARGET, contract=contract) as simulated:
        yield simulated


@pytest.fixture(scope="module")
def memory(contract: Contract) -> SigmaRuntime:
    return SigmaRuntime.load("mini-memory", contract=contract)


def played(robot: TaskRobot, memory: SigmaRuntime, intervention: Intervention) -> list[Result]:
    trial = Trial(arm="sigma", latency_ms=0.0)
    return [run_trial(robot, trial, seed, LOOP, memory, intervention=intervention)[0] for seed in SEEDS]


def test_the_brick_goes_into_the_box_that_was_shown_seconds_before(robot: TaskRobot, memory: SigmaRuntime) -> None:
    results = played(robot, memory, "")
    assert {result.goal for result in results} == {0, 1}
    assert all(result.success and result.chosen == result.goal for result in results)


def test_with_the_twins_memory_it_goes_into_the_twins_box(robot: TaskRobot, memory: SigmaRuntime) -> None:
    """The pictures, joints and text are those of before: what decides is what is remembered."""
    assert all(result.chosen == result.other for result in played(robot, memory, "swap"))
