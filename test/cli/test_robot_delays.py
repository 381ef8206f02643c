# SPDX-License-Identifier: Apache-2.0
"""`sigma delays`: what was put into a simulator is found, and the contract takes it; wrong usage is refused."""

from pathlib import Path

import pytest
from test_delay_sources import own_contract
from typer.testing import CliRunner

from sigma_ros.cli.robot.delays import app
from sigma_ros.contract_file import load_contract
from sigma_ros.errors import ContractError, UsageError

pytest.importorskip("mujoco", reason="mujoco is not installed")

TICK_MS = 1000 / 30


def ms(delay_ns: int | None) -> float:
    assert delay_ns is not None
    return delay_ns / 1e6


@pytest.mark.gl
def test_the_simulators_delays_are_found_within_a_tick_and_the_contract_takes_them(tmp_path: Path) -> None:
    file = own_contract(tmp_path, more="delays: {camera_ms: 100.0}\n")
    result = CliRunner().invoke(app, ["--sim", "target", "--contract", str(file), "--write"])
    assert result.exit_code == 0, result.output
    found = load_contract(file).delays
    assert ms(found.camera_ns) == pytest.approx(100.0, abs=TICK_MS)
    assert ms(found.actuator_ns) == pytest.approx(115.0, abs=TICK_MS), "the lag of the set-up's servos"
    assert found.inference_ns is None


@pytest.mark.parametrize("wrong", [[], ["--live", "1", "--sim", "target"], ["--sim", "target", "--write"]])
def test_wrong_usage_is_refused(wrong: list[str]) -> None:
    assert isinstance(CliRunner().invoke(app, wrong).exception, UsageError)


@pytest.mark.parametrize("section", ["{camera_ms: -1}", "{camera_ms: .nan}", "{lens_ms: 4}", "[1]"])
def test_a_senseless_section_is_refused(tmp_path: Path, section: str) -> None:
    with pytest.raises(ContractError, match="problem"):
        load_contract(own_contract(tmp_path, more=f"delays: {section}\n"))
