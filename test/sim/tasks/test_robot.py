# SPDX-License-Identifier: Apache-2.0
"""An arm with a task plays the episode of a seed, and says when and how it has ended."""

import numpy as np
import pytest

from sigma_ros.contract import Contract
from sigma_ros.errors import UsageError
from sigma_ros.sim.closed_loop import Loop, sim_limits
from sigma_ros.sim.setups import TARGET
from sigma_ros.sim.tasks.catalogue import TASKS, draw, twin
from sigma_ros.sim.tasks.robot import TaskRobot, limit_of, robot_for
from sigma_ros.sim.tasks.task import PLACE
from sigma_ros.sim.trials import Trial, run_trial
from sigma_ros.values import AdapterSettings

SEED = 61
EXPERT = Trial(arm="expert", latency_ms=0.0)


@pytest.mark.parametrize("name", ["L1", "M1", "M3", "C1"])
def test_the_experts_chunks_choose_rightly_in_the_closed_loop(contract: Contract, name: str) -> None:
    loop = Loop(settings=AdapterSettings(), limits=sim_limits(), time_limit_s=limit_of(name))
    with robot_for(name, TARGET, contract=contract) as robot:
        result, run = run_trial(robot, EXPERT, SEED, loop, None)
    assert result.success
    assert result.chosen == result.goal != result.other
    assert run.counters.violations == 0
    assert (result.duration_s < limit_of(name)) == (name in ("L1", "M1")), "a further tap may come to the end"


@pytest.mark.parametrize("name", TASKS)
def test_a_seed_is_the_test_episode_of_the_task(contract: Contract, name: str) -> None:
    robot = TaskRobot(TASKS[name], contract=contract)
    robot.start(SEED)
    assert robot.episode == draw(TASKS[name], SEED, test=True)
    assert robot.text == robot.episode.text
    assert not robot.succeeded()
    assert not robot.finished()
    assert robot.chosen is None


def test_the_twin_is_asked_for_something_else_in_the_same_scene(contract: Contract) -> None:
    robot = TaskRobot(TASKS["L1"], contract=contract)
    robot.start(SEED)
    own, scene = robot.episode, robot.snapshot()
    robot.plays_twin = True
    robot.start(SEED)
    assert robot.episode == twin(own)
    np.testing.assert_array_equal(robot.snapshot(), scene)


def test_with_the_other_text_goal_and_scene_stay(contract: Contract) -> None:
    robot = TaskRobot(TASKS["L1"], contract=contract)
    robot.other_text = True
    robot.start(SEED)
    own = draw(TASKS["L1"], SEED, test=True)
    assert robot.text == twin(own).text != own.text
    assert robot.episode.goal == own.goal


def test_one_brick_and_box_is_no_task(contract: Contract) -> None:
    assert type(robot_for(PLACE, TARGET, contract=contract)).__name__ == "SimArm"
    with pytest.raises(UsageError, match="no such task"):
        robot_for("L9", TARGET, contract=contract)
