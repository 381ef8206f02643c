# SPDX-License-Identifier: Apache-2.0
"""`sigma calibrate`: which unit convention fits, and a contract's units from a calibration file."""

import json
from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner

from sigma_ros.cli.robot.calibrate import app
from sigma_ros.errors import UsageError

POSE = "0.3,-1.5,1.2,1.0,0.4,0.6"


def checkpoint(folder: Path) -> str:
    """A folder with statistics alone: arm joints within -60..60, gripper 0..60."""
    statistics = {"q01": [-60.0] * 5 + [0.0], "q99": [60.0] * 5 + [60.0]}
    (folder / "normalisation.json").write_text(json.dumps({"state": statistics, "action": statistics}))
    return str(folder)


def test_radians_that_fit_end_well(tmp_path: Path) -> None:
    result = CliRunner().invoke(app, ["check", "--pose", POSE, "--checkpoint", checkpoint(tmp_path)])
    assert result.exit_code == 0, result.output
    assert "radians fit" in result.output


def test_degrees_are_recognised_and_the_remedy_is_told(tmp_path: Path) -> None:
    degrees = ",".join(str(57.2958 * float(part)) for part in POSE.split(","))
    result = CliRunner().invoke(app, ["check", "--pose", degrees, "--checkpoint", checkpoint(tmp_path)])
    assert result.exit_code == 1
    assert "degrees fits" in result.output
    assert "convert in the driver" in result.output


@pytest.mark.parametrize("wrong", [[], ["--pose", "1,2"], ["--pose", "a"], ["--pose", POSE, "--live"]])
def test_wrong_usage_is_refused(wrong: list[str]) -> None:
    assert isinstance(CliRunner().invoke(app, ["check", *wrong]).exception, UsageError)


def test_a_calibration_file_gives_units_that_a_contract_takes(tmp_path: Path) -> None:
    names = ("shoulder_pan", "shoulder_lift", "elbow_flex", "wrist_flex", "wrist_roll", "gripper")
    joint = {"id": 1, "drive_mode": 0, "homing_offset": 0, "range_min": 1024, "range_max": 3072}
    file = tmp_path / "arm.json"
    file.write_text(json.dumps(dict.fromkeys(names, joint) | {"gripper": joint | {"range_min": 2048}}))
    result = CliRunner().invoke(app, ["contract", str(file)])
    assert result.exit_code == 0, result.output
    joints = yaml.safe_load(result.stdout)
    assert joints["shoulder_pan"]["policy_unit"]["scale"] == pytest.approx(200.0 / 3.14159265, rel=1e-6)
    assert joints["gripper"]["policy_unit"]["offset"] == pytest.approx(0.0)
    assert [joints["gripper"][end] for end in ("lower_rad", "upper_rad")] == pytest.approx([0.0, 1.570796])
