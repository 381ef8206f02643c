# SPDX-License-Identifier: Apache-2.0
"""Degrees for a range and a range for degrees are told apart wherever numbers can tell, and never guessed."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from look_alikes import policy, save_fine_tune, statistics, tokenizer_folder

from sigma_ros.contract import Contract
from sigma_ros.contract_file import load_contract
from sigma_ros.conventions import certain, likely, of_data, of_ends, of_pose
from sigma_ros.errors import ContractError
from sigma_ros.model.loading import open_checkpoint
from sigma_ros.model.normalise import Normalisation, Scaling

RANGE, DEGREES = load_contract("so101"), load_contract("so101_degrees")


def servo_rows(count: int = 60, seed: int = 0) -> np.ndarray:
    """Raw servo positions [steps] of a motion, five joints and the gripper."""
    generator = np.random.default_rng(seed)
    phase = generator.uniform(0, 6, 6)
    return np.round(2048 + 700 * np.sin(0.1 * np.arange(count)[:, None] + phase))


def as_degrees(steps: np.ndarray, middle: float) -> np.ndarray:
    """As LeRobot's motors_bus gives them, in 32 bits."""
    rows = (steps - middle) * 360.0 / 4095.0
    rows[:, 5] = 30.0
    return rows.astype(np.float32).astype(np.float64)


def as_range(steps: np.ndarray, low: float, high: float) -> np.ndarray:
    rows = (steps - low) / (high - low) * 200.0 - 100.0
    rows[:, 5] = 30.0
    return rows.clip(-100, 100).astype(np.float32).astype(np.float64)


@given(st.integers(1900, 2200), st.integers(900, 1200), st.integers(0, 50))
def test_recorded_degrees_are_never_taken_for_a_range_nor_a_range_for_degrees(twice_middle, half, seed):
    steps = servo_rows(seed=seed)
    middle = twice_middle + 0.5 * (seed % 2)
    assert certain(RANGE, as_degrees(steps, middle)), "small as they are"
    assert not certain(DEGREES, as_degrees(steps, middle))
    if 2 * half != 2275:  # the one width whose range coincides with whole steps
        assert not certain(RANGE, as_range(steps, middle - half, middle + half))


def test_values_beyond_a_range_are_degrees_but_one_wild_value_is_not():
    rows = 0.7123 * servo_rows() / 20.0
    assert not certain(RANGE, rows)
    wild = rows.copy()
    wild[7, 2] = 1e4
    assert not certain(RANGE, wild)
    wild[10:20, 4] = 140.0
    assert any("wrist_roll reaches 140.0" in problem for problem in certain(RANGE, wild))


def test_a_joint_in_degrees_that_ends_at_a_hundred_is_doubted():
    rows = np.zeros((3, 6))
    rows[:, 1] = [-100.0, 3.0, 100.0]
    assert likely(DEGREES, rows) == ["shoulder_lift ends at exactly -100 and 100 (a range, not degrees?)"]
    assert not likely(RANGE, rows)


def test_an_arm_in_radians_is_refused_and_a_gripper_in_shares_doubted():
    rows = np.outer(np.linspace(-1.0, 1.0, 9), [1.4, 90.0, 40.0, 30.0, 20.0, 0.9])
    assert likely(RANGE, rows) == ["gripper is never beyond 1 (a share, not a percentage?)"]
    low, high = rows.min(axis=0), rows.max(axis=0)
    for contract in (RANGE, DEGREES):
        assert "action: no joint of the arm is ever beyond 1.50 (radians, or -1 .. 1?)" in of_ends(
            contract, "action", low / 60.0, high / 60.0
        )
        assert of_ends(contract, "action", low, high) == []


@given(st.floats(0.5, 1.0))
def test_statistics_of_another_unit_are_named_by_every_kind_of_contract(part: float) -> None:
    """Degrees or a range for radians, radians for degrees or a range; what is right passes."""
    joints = tuple(replace(j, policy_scale=1.0, policy_offset=0.0, policy_unit="radians") for j in RANGE.joints)
    radians = replace(RANGE, joints=joints)
    low_rad, high_rad = part * RANGE.lower_rad, part * RANGE.upper_rad

    def found(contract: Contract, like: Contract) -> list[str]:
        scaling = Scaling(mode="MIN_MAX", statistics={"min": like.to_policy(low_rad), "max": like.to_policy(high_rad)})
        return of_data(contract, Normalisation(state=scaling, action=scaling))

    for own in (RANGE, DEGREES, radians):
        assert found(own, own) == []
    for own, foreign in ((radians, DEGREES), (radians, RANGE), (DEGREES, radians), (RANGE, radians)):
        assert found(own, foreign)


def test_statistics_of_an_arm_that_stands_are_named() -> None:
    still = Scaling(mode="MEAN_STD", statistics={"mean": np.full(6, 30.0), "std": np.full(6, 0.01)})
    assert "no joint moves" in of_data(RANGE, Normalisation(state=still, action=still))[0]


@pytest.mark.parametrize("mode", ["QUANTILES", "MEAN_STD"])
def test_a_checkpoint_of_the_other_convention_is_named_before_its_weights(mode: str, tmp_path: Path) -> None:
    values = statistics()
    values["q99"][4] = values["max"][4] = 150.0
    modes = {"normalization_mapping": {"ACTION": mode, "STATE": mode, "VISUAL": "IDENTITY"}}
    stats = {"observation.state": values, "action": statistics()}
    folder = save_fine_tune(tmp_path / "p", policy(**modes), tokenizer_folder(tmp_path / "t"), stats=stats)
    (folder / "model.safetensors").unlink()
    with pytest.raises(ContractError, match=r"state of wrist_roll: .* 150\.0 is beyond.*so101_degrees"):
        open_checkpoint(str(folder), contract=RANGE)
    assert open_checkpoint(str(folder), contract=DEGREES).normalisation is not None


def test_the_two_contracts_differ_in_units_alone() -> None:
    def facts(contract: Contract) -> list[object]:
        return [(j.name, j.aliases, j.lower_rad, j.upper_rad, j.max_velocity_radps) for j in contract.joints]

    assert facts(RANGE) == facts(DEGREES)
    assert RANGE.cameras == DEGREES.cameras
    assert [j.policy_unit for j in DEGREES.joints] == ["degrees"] * 5 + ["range_0_100"]
    middle = 0.5 * (DEGREES.lower_rad + DEGREES.upper_rad)
    assert np.allclose(DEGREES.to_policy(middle)[:5], 0.0)
    assert np.allclose(DEGREES.to_policy(middle + np.radians(50.0))[:5], 50.0)


@given(st.integers(0, 10_000))
def test_one_pose_of_an_arm_in_degrees_is_told_and_one_in_a_range_is_not_taken_for_it(seed: int) -> None:
    steps = servo_rows(1, seed)
    assert "degrees" in of_pose(RANGE, as_degrees(steps, 2047.5)[0])
    assert of_pose(RANGE, as_range(steps, 1043.0, 3051.0)[0]) == ""
    assert of_pose(DEGREES, as_degrees(steps, 2047.5)[0]) == ""


def test_a_joint_beyond_the_range_is_told_by_name() -> None:
    pose = as_range(servo_rows(1), 1043.0, 3051.0)[0]
    pose[4] = 160.2
    assert of_pose(RANGE, pose).startswith("wrist_roll 160.2")
    assert of_pose(RANGE, np.zeros(6)) == ""
