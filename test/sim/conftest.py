# SPDX-License-Identifier: Apache-2.0
"""Shared by the simulator's tests; without OpenGL the `gl` ones are skipped with the reason."""

from collections.abc import Iterator

import pytest
import small

from sigma_ros.contract import Contract
from sigma_ros.contract_file import load_contract

pytest.importorskip("mujoco", reason="mujoco is not installed")

from sigma_ros.sim.environment import SimArm
from sigma_ros.sim.setups import SOURCE


@pytest.fixture(scope="session")
def contract() -> Contract:
    return load_contract("so101")


@pytest.fixture(scope="session")
def small_contract() -> Contract:
    """The same arm with small pictures, so that drawing an episode takes a second."""
    return small.small_contract(size_px=(160, 120))


@pytest.fixture(scope="session")
def arm(contract: Contract) -> Iterator[SimArm]:
    """One arm for many tests; each resets it."""
    with SimArm(SOURCE, contract=contract) as arm:
        yield arm
