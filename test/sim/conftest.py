# SPDX-License-Identifier: Apache-2.0
"""Shared by the simulator's tests; without OpenGL the `gl` ones are skipped with the reason."""

from collections.abc import Iterator
from dataclasses import replace
from functools import cache

import pytest

from sigma_ros.contract import Contract
from sigma_ros.contract_file import load_contract
from sigma_ros.errors import MachineError

pytest.importorskip("mujoco", reason="mujoco is not installed")

from sigma_ros.sim.cameras import open_context
from sigma_ros.sim.environment import SimArm
from sigma_ros.sim.setups import SOURCE


@cache
def missing_gl() -> str | None:
    try:
        open_context(16, 16).free()
    except MachineError as error:
        return str(error)
    return None


@pytest.fixture(autouse=True)
def _skip_without_gl(request: pytest.FixtureRequest) -> None:
    if request.node.get_closest_marker("gl") and (reason := missing_gl()):
        pytest.skip(reason)


@pytest.fixture(scope="session")
def contract() -> Contract:
    return load_contract("so101")


@pytest.fixture(scope="session")
def small_contract(contract: Contract) -> Contract:
    """The same arm with small pictures, so that drawing an episode takes a second."""
    return replace(contract, cameras=tuple(replace(c, width_px=160, height_px=120) for c in contract.cameras))


@pytest.fixture(scope="session")
def arm(contract: Contract) -> Iterator[SimArm]:
    """One arm for many tests; each resets it."""
    with SimArm(SOURCE, contract=contract) as arm:
        yield arm
