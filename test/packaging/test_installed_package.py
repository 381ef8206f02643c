# SPDX-License-Identifier: Apache-2.0
"""What colcon installed works without the source tree: messages, contracts, executables, launch files."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
INSTALLED = ROOT / ".ros" / "install" / "sigma_ros"
PYTHON = INSTALLED / "lib" / "python3.12" / "site-packages"

pytestmark = [
    pytest.mark.ros,
    pytest.mark.skipif(not PYTHON.is_dir(), reason="the package is not built: make setup"),
]


def run(*command: str) -> subprocess.CompletedProcess[str]:
    """Runs with the install space in place of the source tree, from a folder that has neither."""
    paths = [str(PYTHON), *(p for p in os.environ.get("PYTHONPATH", "").split(os.pathsep) if p not in ("", str(ROOT)))]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(paths)}
    return subprocess.run(command, capture_output=True, text=True, check=False, cwd="/", env=environment)


def test_package_and_messages_are_one_package_there() -> None:
    code = (
        "import sigma_ros\n"
        "from sigma_ros.contract_file import load_contract\n"
        "from sigma_ros.contract_text import shipped_config_dir\n"
        "from sigma_ros.msg import ActionChunk, SupervisorState, TelepathyState\n"
        "print(sigma_ros.__path__[0]); print(shipped_config_dir()); print(load_contract('so101').dof)"
    )
    result = run(sys.executable, "-c", code)
    assert result.returncode == 0, result.stderr
    package, config, dof = result.stdout.split()
    assert package == str(PYTHON / "sigma_ros")
    assert Path(config) in (INSTALLED / "share" / "sigma_ros" / "config", ROOT / "config")  # links lead to the source
    assert dof == "6"


NODES = (
    "camera_node", "incident_recorder", "policy_node", "record_node", "replay_node", "sim_node",
    "so101_driver", "supervisor_node",
)  # fmt: skip
EXECUTABLES = (*(f"lib/sigma_ros/{name}" for name in NODES), "bin/sigma")


@pytest.mark.parametrize("place", EXECUTABLES)
def test_every_executable_runs_under_the_python_of_the_build_whatever_is_active_in_the_terminal(place: str) -> None:
    """`#!/usr/bin/env python3` found the distribution's Python in a second terminal, and no package in it."""
    executable = INSTALLED / place
    line = executable.read_text(encoding="utf-8").splitlines()[0]
    assert os.access(executable, os.X_OK)
    assert Path(line.removeprefix("#!")).samefile(sys.executable)
    assert "/bin/env" not in line
    result = run("/usr/bin/env", "PATH=/usr/bin:/bin", str(executable), "--help")
    assert result.returncode == 0, result.stderr
    assert "contract" in result.stdout


def test_a_sourced_workspace_has_sigma_on_its_path() -> None:
    script = f". {INSTALLED.parent}/local_setup.bash && command -v sigma"
    clean = {"PATH": "/usr/bin:/bin", "HOME": str(Path.home())}
    result = subprocess.run(["bash", "-c", script], capture_output=True, text=True, check=False, env=clean)
    assert result.stdout.strip() == str(INSTALLED / "bin" / "sigma"), result.stderr


@pytest.mark.parametrize("name", ["preprocess", "train", "evaluate", "study"])
def test_training_is_part_of_the_installed_package(name: str) -> None:
    result = run(sys.executable, "-m", f"sigma_ros.training.{name}", "--help")
    assert result.returncode == 0, result.stderr
    assert f"python -m sigma_ros.training.{name}" in " ".join(result.stdout.split())


@pytest.mark.parametrize("name", ["policy.launch.py", "replay.launch.py", "sim.launch.py"])
def test_launch_files_are_shared(name: str) -> None:
    assert (INSTALLED / "share" / "sigma_ros" / "launch" / name).is_file()


def test_the_package_is_in_the_ament_index() -> None:
    index = INSTALLED / "share" / "ament_index" / "resource_index"
    assert (index / "packages" / "sigma_ros").exists()
    assert "msg/ActionChunk.msg" in (index / "rosidl_interfaces" / "sigma_ros").read_text(encoding="utf-8")
