# SPDX-License-Identifier: Apache-2.0
"""Laws of the contract: unit maps invert, joints are found by name or alias in any order."""

import dataclasses
import random

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sigma_ros.contract import POLICY_UNITS, Contract, unit_map
from sigma_ros.contract_file import load_contract
from sigma_ros.errors import ContractError

SO101 = load_contract("so101")
CONTRACTS = pytest.mark.parametrize("contract", [SO101, load_contract("cr5")], ids=["so101", "cr5"])


@CONTRACTS
@given(data=st.data())
def test_policy_units_and_back_is_the_identity(contract: Contract, data: st.DataObject) -> None:
    rows = data.draw(st.integers(1, 4))
    share = data.draw(st.lists(st.floats(0.0, 1.0), min_size=rows * contract.dof, max_size=rows * contract.dof))
    rad = contract.lower_rad + np.reshape(share, (rows, contract.dof)) * (contract.upper_rad - contract.lower_rad)
    np.testing.assert_allclose(contract.to_rad(contract.to_policy(rad)), rad, rtol=0.0, atol=1e-12)


@pytest.mark.parametrize(
    ("unit", "lower", "upper"),
    [("range_m100_100", -100.0, 100.0), ("range_0_100", 0.0, 100.0), ("radians", -0.5, 1.5)],
)
def test_unit_map_puts_the_limits_where_the_convention_says(unit: str, lower: float, upper: float) -> None:
    scale, offset = unit_map(unit, -0.5, 1.5)
    assert -0.5 * scale + offset == pytest.approx(lower, abs=1e-12)
    assert 1.5 * scale + offset == pytest.approx(upper, abs=1e-12)


def test_degrees_count_from_the_middle_of_the_range() -> None:
    scale, offset = unit_map("degrees", 0.0, np.pi)
    assert np.pi / 2 * scale + offset == pytest.approx(0.0, abs=1e-12)
    assert np.pi * scale + offset == pytest.approx(90.0, abs=1e-12)


def test_unknown_unit_is_refused_with_the_known_ones() -> None:
    with pytest.raises(ContractError, match=r"expected: range_m100_100.*got: furlongs"):
        unit_map("furlongs", 0.0, 1.0)
    assert "radians" in POLICY_UNITS


@CONTRACTS
@given(seed=st.integers(0, 10_000))
def test_joints_are_found_by_name_or_alias_in_any_order_among_strangers(contract: Contract, seed: int) -> None:
    chance = random.Random(seed)
    names = [chance.choice((joint.name, *joint.aliases)) for joint in contract.joints]
    shuffled = [*names, "lift", "base_wheel"]
    chance.shuffle(shuffled)
    order = contract.joint_order(tuple(shuffled))
    assert [shuffled[i] for i in order] == names


def test_missing_joints_are_named_with_what_came() -> None:
    with pytest.raises(ContractError, match=r"joints are missing: gripper.*got: shoulder_pan"):
        SO101.joint_order(SO101.joint_names[:-1])


def test_no_names_at_all_is_said_as_such() -> None:
    with pytest.raises(ContractError, match="got: no names"):
        SO101.joint_order(())


def test_a_joint_under_two_names_is_refused() -> None:
    with pytest.raises(ContractError, match=r"two names mean the joint gripper; got: gripper, Jaw"):
        SO101.joint_order((*SO101.joint_names, "Jaw"))


def test_a_repeated_name_is_refused() -> None:
    with pytest.raises(ContractError, match="joint names repeat"):
        SO101.joint_order((*SO101.joint_names, "gripper"))


@given(ticks=st.integers(0, 10_000_000))
def test_the_grid_does_not_drift(ticks: int) -> None:
    exact = ticks * 1_000_000_000 / 30
    assert abs(SO101.tick_offset_ns(ticks) - exact) <= max(1.0, exact * 1e-15)


@CONTRACTS
def test_a_contract_and_its_limits_cannot_be_changed(contract: Contract) -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        contract.fps = 1.0  # type: ignore[misc]
    with pytest.raises(ValueError, match="read-only"):
        contract.lower_rad[0] = 9.0
