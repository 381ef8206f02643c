# SPDX-License-Identifier: Apache-2.0
"""LeRobot's units: our maps are LeRobot's own numbers, and they come back exactly, to the encoder count."""

import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sigma_ros.calibration import (
    JointCalibration,
    joint_limits,
    judge,
    policy_units,
    read_calibration,
    readings,
)
from sigma_ros.contract_file import load_contract
from sigma_ros.errors import ContractError

SHARED = Path(__file__).resolve().parents[2] / "shared" / "data" / "so101_calibrations"
REAL = [f"{who}_{arm}" for who in ("legalaspro", "machanier", "rospai", "sacovo") for arm in ("follower", "leader")]
CONTRACT = load_contract("so101")
ONE = {"id": 1, "drive_mode": 0, "homing_offset": 530, "range_min": 866, "range_max": 3231}

joints = st.builds(
    JointCalibration,
    name=st.just("joint"),
    range_min=st.integers(0, 1800),
    range_max=st.integers(2000, 4095),
    flipped=st.booleans(),
)


def write(path: Path, content: object) -> Path:
    path.write_text(json.dumps(content), encoding="utf-8")
    return path


@given(joint=joints, part=st.floats(0.0, 1.0), convention=st.sampled_from(["range", "degrees"]), gripper=st.booleans())
def test_counts_come_back_exactly_through_either_convention(joint, part, convention, gripper) -> None:
    counts = round(joint.range_min + part * (joint.range_max - joint.range_min))
    scale, offset = joint.affine(convention, gripper=gripper)
    policy = counts * scale + offset
    assert round((policy - offset) / scale) == counts


@given(joint=joints, part=st.floats(0.0, 1.0), convention=st.sampled_from(["range", "degrees"]), gripper=st.booleans())
def test_our_map_is_lerobots(joint, part, convention, gripper) -> None:
    motors = pytest.importorskip("lerobot.motors.motors_bus")
    counts = round(joint.range_min + part * (joint.range_max - joint.range_min))
    modes = motors.MotorNormMode
    mode = modes.RANGE_0_100 if gripper else modes.RANGE_M100_100 if convention == "range" else modes.DEGREES
    entry = SimpleNamespace(range_min=joint.range_min, range_max=joint.range_max, drive_mode=joint.flipped)
    bus = SimpleNamespace(
        calibration={"joint": entry},
        apply_drive_mode=True,
        motors={"joint": SimpleNamespace(norm_mode=mode)},
        model_resolution_table={"sts3215": 4096},
        _id_to_name=lambda _: "joint",
        _id_to_model=lambda _: "sts3215",
    )
    theirs = motors.SerialMotorsBus._normalize(bus, {1: counts})[1]
    scale, offset = joint.affine(convention, gripper=gripper)
    assert counts * scale + offset == pytest.approx(theirs, abs=1e-9)


@given(joint=joints, counts=st.integers(0, 4095), zero=st.sampled_from(["encoder", "range"]))
def test_radians_and_policy_units_meet_at_the_same_count(joint, counts, zero) -> None:
    rad = joint.counts_to_rad(counts, zero=zero)
    assert joint.rad_to_counts(rad, zero=zero) == pytest.approx(counts, abs=1e-9)
    for convention in ("range", "degrees"):
        scale, offset = joint.affine(convention, gripper=False)
        per_rad, at_zero = joint.policy_unit(convention, gripper=False, zero=zero)
        assert rad * per_rad + at_zero == pytest.approx(counts * scale + offset, abs=1e-9)


def test_the_ends_of_the_range_are_the_ends_of_the_units() -> None:
    joint = JointCalibration(name="j", range_min=1000, range_max=3000, flipped=False)
    scale, offset = joint.affine("range", gripper=False)
    assert [1000 * scale + offset, 2000 * scale + offset, 3000 * scale + offset] == pytest.approx([-100, 0, 100])
    scale, offset = JointCalibration(name="j", range_min=1000, range_max=3000, flipped=True).affine(
        "range", gripper=True
    )
    assert [1000 * scale + offset, 3000 * scale + offset] == pytest.approx([100, 0])


@pytest.mark.skipif(not SHARED.is_dir(), reason="the collected calibration files are not on this machine")
@pytest.mark.parametrize("name", REAL)
def test_real_calibration_files_are_read_and_round_trip(name: str) -> None:
    calibration = read_calibration(SHARED / f"{name}.json")
    assert {joint.name for joint in calibration} == set(CONTRACT.joint_names)
    for zero in ("encoder", "range"):
        units = policy_units(calibration, CONTRACT, "range", zero=zero)
        for joint in calibration:
            scale, offset = units[joint.name]
            for counts in (joint.range_min, joint.range_max, 2047):
                policy = joint.counts_to_rad(counts, zero=zero) * scale + offset
                assert round(joint.rad_to_counts((policy - offset) / scale, zero=zero)) == counts


@pytest.mark.skipif(not SHARED.is_dir(), reason="the collected calibration files are not on this machine")
@pytest.mark.parametrize("name", ["lerobot_old_format_so101_main_follower", "machanier_cam_0"])
def test_files_of_another_kind_are_refused(name: str) -> None:
    with pytest.raises(ContractError):
        read_calibration(SHARED / f"{name}.json")


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ({"a": {**ONE, "range_max": 800}}, "must be below"),
        ({"a": {**ONE, "range_min": "x"}}, "must be below"),
        ({"a": {**ONE, "drive_mode": 7}}, "drive_mode"),
        ({"a": 3}, "not a mapping"),
        ({"calib_mode": [], "start_pos": []}, "old format"),
        ([], "not a calibration file"),
    ],
)
def test_a_senseless_file_is_refused_with_the_reason(tmp_path: Path, content: object, said: str) -> None:
    with pytest.raises(ContractError, match=said):
        read_calibration(write(tmp_path / "c.json", content))


POSE = np.array([0.3, -1.5, 1.2, 1.0, 0.4, 0.6])


def fitting(values: np.ndarray) -> list[str]:
    low = np.array([-100.0] * 5 + [0.0])
    return [fit.reading.name for fit in judge(values, CONTRACT, low, np.full(6, 100.0)) if fit.fits]


def test_the_convention_that_was_sent_is_the_one_that_fits() -> None:
    assert "radians" in fitting(POSE)
    assert fitting(np.degrees(POSE))[0] == "degrees"
    assert "radians" not in fitting(np.degrees(POSE))
    assert "-100..100" in fitting(CONTRACT.to_policy(POSE))
    assert "encoder counts" in fitting(2048 + POSE * 4096 / (2 * np.pi))
    assert "radians" not in fitting(2048 + POSE * 4096 / (2 * np.pi))


def test_a_reading_turns_what_was_sent_into_the_same_radians() -> None:
    sent = {
        "radians": POSE,
        "degrees": np.degrees(POSE),
        "-100..100": CONTRACT.to_policy(POSE),
        "encoder counts": 2048 + POSE * 4096 / (2 * np.pi),
    }
    for reading in readings(CONTRACT):
        np.testing.assert_allclose(reading.rad(sent[reading.name]), POSE, atol=1e-9)


def test_a_value_that_is_not_finite_fits_nothing() -> None:
    assert fitting(np.full(6, np.nan)) == []


# Position limits from a calibration


def arm_of(**changed: JointCalibration) -> tuple[JointCalibration, ...]:
    """An arm whose ranges are the contract's own, but for the joints that are given."""
    ends = {
        joint.name: [round(end * 4096 / (2 * np.pi)) + 2048 for end in (joint.lower_rad, joint.upper_rad)]
        for joint in CONTRACT.joints
    }
    own = {n: JointCalibration(name=n, range_min=low, range_max=high, flipped=False) for n, (low, high) in ends.items()}
    return tuple((own | changed).values())


def joint_of(name: str, low: int, high: int, *, flipped: bool = False) -> JointCalibration:
    return JointCalibration(name=name, range_min=low, range_max=high, flipped=flipped)


@given(low=st.integers(300, 1900), high=st.integers(2200, 3900), zero=st.sampled_from(["encoder", "range"]))
def test_limits_lie_within_the_recorded_range_and_the_contracts(low: int, high: int, zero) -> None:
    joint = joint_of("elbow_flex", low, high)
    ends = [joint.counts_to_rad(end, zero=zero) for end in (low, high)]
    model = next(joint for joint in CONTRACT.joints if joint.name == "elbow_flex")
    calibration = arm_of(elbow_flex=joint)
    own = joint_limits(calibration, CONTRACT, zero=zero, limits_from="calibration")
    assert [own["elbow_flex"].lower_rad, own["elbow_flex"].upper_rad] == pytest.approx(ends)
    if zero == "encoder":
        both = joint_limits(calibration, CONTRACT, zero=zero)["elbow_flex"]
        assert both.lower_rad == pytest.approx(max(ends[0], model.lower_rad))
        assert both.upper_rad == pytest.approx(min(ends[1], model.upper_rad))
        assert both.strands is (ends[0] < model.lower_rad - 0.05 or ends[1] > model.upper_rad + 0.05)


@pytest.mark.parametrize("gripper", [joint_of("gripper", 1400, 2700), joint_of("gripper", 2030, 3480, flipped=True)])
def test_a_gripper_that_could_not_close_is_refused(gripper: JointCalibration) -> None:
    with pytest.raises(ContractError, match="short of closed"):
        joint_limits(arm_of(gripper=gripper), CONTRACT, zero="encoder")
    assert joint_limits(arm_of(gripper=gripper), CONTRACT, zero="encoder", limits_from="calibration")


def test_ranges_that_do_not_overlap_are_refused() -> None:
    with pytest.raises(ContractError, match="elbow_flex"):
        joint_limits(arm_of(elbow_flex=joint_of("elbow_flex", 3300, 3900)), CONTRACT, zero="encoder")


@pytest.mark.skipif(not SHARED.is_dir(), reason="the collected calibration files are not on this machine")
@pytest.mark.parametrize("name", ["legalaspro", "rospai", "sacovo", "machanier"])
def test_real_grippers_close_within_the_limits_or_are_refused(name: str) -> None:
    calibration = read_calibration(SHARED / f"{name}_follower.json")
    if name != "machanier":
        assert joint_limits(calibration, CONTRACT, zero="encoder")["gripper"].lower_rad <= 0.0
    else:
        with pytest.raises(ContractError, match="short of closed"):
            joint_limits(calibration, CONTRACT, zero="encoder")
    joint_limits(calibration, CONTRACT, zero="encoder", limits_from="calibration")
