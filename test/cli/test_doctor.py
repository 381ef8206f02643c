# SPDX-License-Identifier: Apache-2.0
"""`sigma doctor`: each thing that can be wrong is found, and comes with what to do."""

import ast
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from sigma_ros.cli.robot import doctor as checks
from sigma_ros.cli.robot.doctor import app
from sigma_ros.contract_file import load_contract

CONTRACT = load_contract("so101")
ROOT = Path(__file__).resolve().parents[2]
SOURCES = [file for part in ("sigma_ros", "training") for file in sorted((ROOT / part).rglob("*.py"))]
LOW, HIGH = np.array([-100.0] * 5 + [0.0]), np.full(6, 100.0)


@pytest.fixture
def fact():
    """A stream with nothing wrong, and what is to be changed of it."""
    watch = pytest.importorskip("sigma_ros.nodes.shared.listen", reason="needs ROS", exc_type=ImportError)

    def make(**changes: object):
        good = {
            "name": "up",
            "topic": "/up",
            "wanted_type": "sensor_msgs/msg/Image",
            "publishers": ("camera",),
            "types": ("sensor_msgs/msg/Image",),
            "received": 90,
            "rate_hz": 30.0,
            "gap_max_ms": 40.0,
            "delay_ms": 12.0,
            "problems": {},
        }
        return watch.StreamFacts(**(good | changes))

    return make


def only(findings) -> checks.Finding:
    [finding] = list(findings)
    return finding


def test_a_healthy_stream_is_ok(fact) -> None:
    assert only(checks.streams(CONTRACT, [fact()])).level == "ok"


@pytest.mark.parametrize(
    ("changes", "said", "remedy"),
    [
        ({"publishers": ()}, "nobody publishes", "start the driver"),
        ({"types": ("sensor_msgs/msg/CompressedImage",)}, "CompressedImage, not", "correct the type"),
        ({"received": 0}, "nothing arrives", "DDS"),
        ({"problems": {"image has the wrong size: got 320x240": 90}}, "90 refused: image", "contract says"),
        ({"delay_ms": 900.0}, "900 ms old", "chrony"),
        ({"delay_ms": -300.0}, "-300 ms old", "chrony"),
        ({"rate_hz": 11.0}, "30 Hz are needed", "raise the rate"),
    ],
)
def test_what_is_wrong_with_a_stream_is_named_with_its_remedy(fact, changes, said: str, remedy: str) -> None:
    finding = only(checks.streams(CONTRACT, [fact(**changes)]))
    assert finding.level == "wrong"
    assert said in finding.what
    assert remedy in finding.remedy


def test_anybody_else_who_commands_is_named(fact) -> None:
    facts = [fact(name="commands", publishers=("sigma_supervisor", "teleop"))]
    assert "teleop" in only(checks.publishers_of_commands(facts, "sigma_supervisor")).what
    assert not list(checks.publishers_of_commands([fact(name="commands", publishers=("me",))], "me"))


def test_a_pose_in_degrees_is_told_as_that() -> None:
    pose = np.array([0.3, -1.5, 1.2, 1.0, 0.4, 0.6])
    assert only(checks.units(CONTRACT, [pose], LOW, HIGH)).level == "ok"
    finding = only(checks.units(CONTRACT, [np.degrees(pose)], LOW, HIGH))
    assert finding.level == "wrong"
    assert "degrees" in finding.remedy


def test_the_dds_profile_and_the_domain_are_looked_at(tmp_path: Path) -> None:
    found = list(checks.ros_environment({"FASTDDS_DEFAULT_PROFILES_FILE": str(tmp_path / "none.xml")}))
    assert [finding.level for finding in found if "profile" in finding.what] == ["wrong"]


@pytest.mark.parametrize(
    ("environment", "paired", "level"),
    [
        ({}, False, "wrong"),
        ({"ROS_AUTOMATIC_DISCOVERY_RANGE": "SUBNET"}, False, "wrong"),
        ({"ROS_SECURITY_ENABLE": "true", "ROS_SECURITY_STRATEGY": "Permissive"}, False, "wrong"),
        ({}, True, "ok"),
        ({"ROS_AUTOMATIC_DISCOVERY_RANGE": "LOCALHOST"}, False, "ok"),
        ({"ROS_LOCALHOST_ONLY": "1"}, False, "ok"),
        ({"ROS_SECURITY_ENABLE": "true", "ROS_SECURITY_STRATEGY": "Enforce"}, False, "ok"),
    ],
)
def test_a_real_arm_that_anybody_on_the_network_can_engage_is_wrong(environment, paired: bool, level: str) -> None:
    assert [finding.level for finding in checks.network(environment, paired=paired)] == [level]


@pytest.mark.parametrize(
    ("gaps_s", "level"),
    [([0.021, 0.039], "ok"), ([0.021, 0.041], "wrong"), ([0.3, 0.3], "note")],
)
def test_ticks_that_came_too_far_apart_while_it_listened_are_wrong(gaps_s: list[float], level: str) -> None:
    """A gap of before that, while something else was started perhaps, is only noted."""
    assert only(checks.ticks(gaps_s)).level == level


def test_offline_it_looks_at_machine_packages_and_checkpoint(tmp_path: Path) -> None:
    result = CliRunner().invoke(app, ["--offline"])
    assert "mini: statistics of 6 joints" in result.output
    missing = CliRunner().invoke(app, ["--offline", "--checkpoint", "nowhere"])
    assert missing.exit_code == 1
    assert "nowhere is not there" in missing.output


def test_what_is_printed_keeps_its_brackets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`pip install 'lerobot[feetech]'` came out as `pip install 'lerobot'`: brackets are marks to Rich."""
    said = "pip install 'lerobot[feetech]'"
    monkeypatch.setattr(checks, "packages", lambda: [checks.Finding("wrong", "no [bold]arm[/bold]", said)])
    result = CliRunner().invoke(app, ["--offline"])
    assert f"no [bold]arm[/bold]  -> {said}" in result.output


def test_no_console_reads_marks_in_what_it_prints() -> None:
    """Paths, tasks and remedies are printed everywhere; style comes as an argument."""
    texts = {file: text for file in SOURCES if "Console(" in (text := file.read_text(encoding="utf-8"))}
    calls = [(f, c) for f, text in texts.items() for c in ast.walk(ast.parse(text)) if isinstance(c, ast.Call)]
    consoles = [(f.name, call.lineno, ast.unparse(call)) for f, call in calls if ast.unparse(call.func) == "Console"]
    assert consoles
    assert [each for each in consoles if "markup=False" not in each[2]] == []
