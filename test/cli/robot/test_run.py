# SPDX-License-Identifier: Apache-2.0
"""`sigma run`: nothing moves before ENTER, SPACE stops by the supervisor's rules, and q leaves no process behind."""

import os
import signal
import subprocess
from collections.abc import Callable
from dataclasses import fields
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest

from sigma_ros.cli.robot.run import ArmOptions, planned, simulated_limits
from sigma_ros.contract_file import load_contract
from sigma_ros.errors import UsageError

if find_spec("rclpy") is None or find_spec("sigma_ros.msg") is None:
    pytest.skip("needs rclpy and the built messages: make setup, then . ./env.sh", allow_module_level=True)

from live_run import ROOT, running, sigma
from processes import node_processes

from sigma_ros.nodes.shared.node_options import CameraOptions, DriverOptions
from sigma_ros.nodes.shared.parameters import specs
from sigma_ros.nodes.supervisor.options import supervisor_options
from sigma_ros.sim.closed_loop import sim_limits
from sigma_ros.supervisor.limits import SupervisorLimits
from sigma_ros.supervisor.reasons import State

CONTRACT = load_contract("so101")
STOP_TICKS = 10
"""Of 20 ms: at these limits the supervisor brings the arm to rest within 0.16 s. Ticks, as machines stall."""


@pytest.mark.usefixtures("domain")
@pytest.mark.slow
@pytest.mark.ros
@pytest.mark.gl
def test_enter_moves_space_stops_and_q_leaves_nothing(tmp_path: Path) -> None:
    with running(tmp_path) as arm:
        arm.until_started()
        arm.spin(1.0)
        assert arm.state is State.DISENGAGED
        assert arm.moved_rad() < 0.02, "the arm moved before ENTER"

        arm.press_until("\n", lambda: arm.moved_rad() > 0.05, "motion after ENTER", 90.0)
        arm.press(" ")
        arm.until(lambda: arm.state is State.ESTOP, "the stop", 10.0)
        arm.spin(1.0)
        moving = np.flatnonzero((np.diff(np.array(arm.stops), axis=0) != 0).any(axis=1))
        assert not moving.size or moving[-1] < STOP_TICKS, "the arm went on after a stop"

        arm.press("\n")
        arm.spin(1.0)
        assert arm.state is State.ESTOP, "ENTER does not leave a latched stop"
        arm.press_until("r", lambda: arm.state is State.DISENGAGED, "the reset")

        arm.press("q")
        assert arm.process.wait(60) == 0, arm.said()
    assert node_processes(tmp_path / "log") == []


@pytest.mark.usefixtures("domain")
@pytest.mark.slow
@pytest.mark.ros
@pytest.mark.gl
def test_ctrl_c_releases_and_ends_and_a_dead_policy_ends_everything(tmp_path: Path) -> None:
    with running(tmp_path) as arm:
        arm.until_started()
        arm.engage()
        arm.process.send_signal(signal.SIGINT)
        while arm.process.poll() is None:
            arm.spin(0.05)
        assert arm.process.returncode == 130
        assert arm.state in (State.DISENGAGED, State.STOPPED), (
            "at rest: released, or stopped before on a stalled machine"
        )
    assert node_processes(tmp_path / "log") == []
    done = subprocess.run(
        sigma("run", "--sim", "--panel", "--checkpoint", "/absent", "--log", str(tmp_path / "log2")),
        capture_output=True,
        text=True,
        check=False,
        cwd=tmp_path,
        stdin=subprocess.DEVNULL,
        env=os.environ | {"PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])},
        timeout=120,
    )
    assert done.returncode == 1
    assert "the policy process ended" in done.stderr
    assert node_processes(tmp_path / "log2") == []


def test_wrong_usage_is_one_error_before_anything_starts(
    typed: Callable[..., subprocess.CompletedProcess[str]], tmp_path: Path
) -> None:
    def refusal(*words: str) -> str:
        done = typed("run", *words)
        assert done.returncode == 2
        return " ".join(done.stderr.split())

    assert "say which arm is to run" in refusal()
    assert "say which arm is to run" in refusal("--sim", "--port", "/dev/ttyACM0")
    assert "keys need a terminal" in refusal("--sim", "--log", str(tmp_path / "log"))
    assert not (tmp_path / "log").exists()
    assert "without ROS there is the simulated arm alone" in refusal("--no-ros", "--port", "/dev/ttyACM0")


def test_a_real_arm_has_a_driver_a_node_for_each_camera_and_a_robots_limits(tmp_path: Path) -> None:
    file = tmp_path / "arm.json"
    options = ArmOptions(port="/dev/ttyACM0", cameras="up=0,side=2", calibration=file, checkpoint="DIR", preset="slow")
    commands = dict(planned(options, CONTRACT))
    assert list(commands) == ["supervisor", "driver", "camera-up", "camera-side", "policy", "incidents", "recorder"]
    assert not [word for word in commands["supervisor"] for name in simulated_limits() if word.startswith(f"--{name}")]
    assert any(word.endswith("slow_supervisor.yaml") for word in commands["supervisor"])
    assert {"--camera=side", "--device=2"} <= set(commands["camera-side"])
    known = {"driver": DriverOptions, "camera-up": CameraOptions}
    for name, kind in known.items():
        given = {word[2:].partition("=")[0] for word in commands[name] if word.startswith("--") and "=" in word}
        assert given <= {spec.name for spec in specs(kind)}


def test_a_simulated_arm_has_the_limits_of_sigma_sim() -> None:
    changed = {entry.name: getattr(SupervisorLimits(), entry.name) for entry in fields(SupervisorLimits)}
    changed |= simulated_limits()
    assert SupervisorLimits(**changed) == sim_limits()  # type: ignore[arg-type]
    assert set(simulated_limits()) <= {spec.name for spec in specs(type(supervisor_options(sim_limits())))}


@pytest.mark.parametrize("text", ["", "up=0", "up=0,side=0", "up=0,side=1,front=2", "up=0,up=1,side=2", "up,side"])
def test_every_camera_has_its_own_device(text: str, tmp_path: Path) -> None:
    options = ArmOptions(port="/dev/ttyACM0", cameras=text, calibration=tmp_path / "arm.json")
    with pytest.raises(UsageError, match="each camera of the contract needs its device"):
        dict(planned(options, CONTRACT))


def test_the_calibration_is_taken_where_there_is_one_and_asked_for_elsewhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_LEROBOT_HOME", str(tmp_path))
    options = ArmOptions(port="/dev/ttyACM0", cameras="up=0,side=2")
    with pytest.raises(UsageError, match="which calibration"):
        dict(planned(options, CONTRACT))
    folder = tmp_path / "calibration" / "robots" / "so101_follower"
    folder.mkdir(parents=True)
    (folder / "mine.json").write_text("{}")
    assert f"--calibration={folder / 'mine.json'}" in dict(planned(options, CONTRACT))["driver"]
    (folder / "yours.json").write_text("{}")
    with pytest.raises(UsageError, match="mine, yours"):
        dict(planned(options, CONTRACT))
