# SPDX-License-Identifier: Apache-2.0
"""The closed loop in a user's hand: the same supervisor, engaged by a key alone, without any middleware."""

import os
import pty
import subprocess
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("mujoco")

from sigma_ros.cli.robot.in_process import Hand, _QuitError
from sigma_ros.contract_file import load_contract
from sigma_ros.sim.closed_loop import Loop, run_episode, sim_limits
from sigma_ros.sim.environment import SimArm
from sigma_ros.sim.setups import TARGET
from sigma_ros.sim.trials import ScriptedRuntime
from sigma_ros.supervisor.reasons import Decision, State
from sigma_ros.values import AdapterSettings

ROOT = Path(__file__).resolve().parents[3]
LOOP = Loop(settings=AdapterSettings(), limits=sim_limits(), time_limit_s=60.0)


@pytest.fixture(scope="module")
def arm() -> Iterator[SimArm]:
    with SimArm(TARGET, contract=load_contract("so101")) as made:
        yield made


def driven(arm: SimArm, keys: dict[int, str]) -> tuple[list[Decision], list[str]]:
    """The decisions of a run in which orders are typed at numbered ticks of the supervisor; `quit` ends it."""
    decisions: list[Decision] = []
    said: list[str] = []

    def draw(decision: Decision, answer: str) -> None:
        decisions.append(decision)
        said.append(answer)

    hand = Hand(lambda: [keys[len(decisions)]] if len(decisions) in keys else [], draw)
    arm.reset(1)
    with pytest.raises(_QuitError):
        run_episode(arm, ScriptedRuntime(arm, 1), 1, LOOP, clock_ns=lambda: 0, operator=hand)
    return decisions, said


def test_nothing_is_commanded_before_enter(arm: SimArm) -> None:
    decisions, _ = driven(arm, {150: "quit"})
    assert len(decisions) == 150
    assert all(decision.command_rad is None for decision in decisions)
    assert {decision.state for decision in decisions} == {State.DISENGAGED}


def test_enter_moves_space_stops_and_only_a_reset_leads_on(arm: SimArm) -> None:
    keys = {50: "engage", 150: "stop", 190: "engage", 200: "reset", 230: "engage", 260: "quit"}
    decisions, said = driven(arm, keys)
    commands = np.array([decision.command_rad for decision in decisions[50:200]])
    assert np.ptp(commands[:100], axis=0).max() > 0.1
    assert {decision.state for decision in decisions[150:200]} == {State.ESTOP}
    assert np.ptp(commands[110:], axis=0).max() == 0.0, "at rest 0.2 s after the stop"
    assert "a stop is latched" in said[190]
    assert decisions[200].state is State.DISENGAGED
    assert decisions[259].state.may_move


@pytest.mark.slow
@pytest.mark.gl
def test_the_command_runs_without_ros_and_q_ends_it(tmp_path: Path) -> None:
    """As where no middleware is installed: its packages cannot be imported."""
    (tmp_path / "sitecustomize.py").write_text("import sys\nsys.modules['rclpy'] = None\n")
    keyboard, terminal = pty.openpty()
    words = ["python", "-m", "sigma_ros.cli.main", "run", "--sim", "--no-ros"]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(tmp_path), str(ROOT), os.environ["PYTHONPATH"]])}
    with subprocess.Popen(
        words,
        stdin=terminal,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env=environment,
        cwd=tmp_path,
    ) as process:
        os.close(terminal)
        assert process.stdout is not None
        assert "all in this process" in process.stdout.readline()
        os.write(keyboard, b"\nq")
        assert process.wait(180) == 0, process.stdout.read()
    os.close(keyboard)
