# SPDX-License-Identifier: Apache-2.0
"""What the build of a workspace makes: everything with its tests, or the messages alone."""

import re
import sys
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest
from workspace import can_configure, cmake

ROOT = Path(__file__).resolve().parents[2]
CODE = ("start/policy_node", "/launch", "/config", "sigma_ros/training")


def configured(folder: Path, *arguments: str) -> Path:
    """A build folder, configured and not built, of a workspace that links to the sources."""
    folder.mkdir()
    source = folder / "sigma_ros"
    source.symlink_to(ROOT)
    cmake("-S", str(source), "-B", str(folder / "build"), f"-DPython3_EXECUTABLE={sys.executable}", *arguments)
    return folder / "build"


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return configured(tmp_path_factory.mktemp("whole") / "workspace", "-DBUILD_TESTING=ON")


def installed(folder: Path) -> str:
    return (folder / "cmake_install.cmake").read_text(encoding="utf-8")


@can_configure
@pytest.mark.slow
def test_the_messages_alone_bring_no_python_of_ours(tmp_path: Path, whole: Path) -> None:
    """Law: whoever wants the messages only gets their headers and types, and none of the code that needs pip."""
    alone = installed(configured(tmp_path / "alone", "-DSIGMA_MESSAGES_ONLY=ON"))
    for part in CODE:
        assert part in installed(whole), part
        assert part not in alone, part
    for message in (*(ROOT / "msg").glob("*.msg"), *(ROOT / "msg" / "action").glob("*.action")):
        assert message.name in alone
    assert "rosidl_generator_c" in alone


@can_configure
@pytest.mark.slow
def test_colcon_test_runs_laws_that_are_there(whole: Path) -> None:
    tests = (whole / "CTestTestfile.cmake").read_text(encoding="utf-8")
    files = re.findall(r'"(test/[\w/.]+)"', tests)
    assert len(files) >= 4
    assert all((ROOT / file).exists() for file in files)
    assert str(sys.executable) in tests


def test_package_xml_says_where_the_dependencies_of_pip_are_named() -> None:
    text = (ROOT / "package.xml").read_text(encoding="utf-8")
    for name in re.findall(r"requirements/[\w.-]+", text):
        assert (ROOT / name).is_file(), name
    depends = {element.text for element in ET.fromstring(text) if element.tag in ("depend", "exec_depend")}
    imported = {"rclpy", "sensor_msgs", "std_msgs", "std_srvs", "trajectory_msgs", "diagnostic_msgs", "launch_ros"}
    assert imported <= depends
