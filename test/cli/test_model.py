# SPDX-License-Identifier: Apache-2.0
"""`sigma model make-mini`: a folder that loads, or one message and nothing half-written."""

from pathlib import Path

import pytest
from typer.testing import CliRunner

from sigma_ros.cli.main import app
from sigma_ros.contract_file import load_contract
from sigma_ros.errors import CheckpointError, ContractError
from sigma_ros.model.runtime import SigmaRuntime

RUN = CliRunner()


def test_make_mini_for_another_arm_is_a_checkpoint_of_that_arm(tmp_path: Path) -> None:
    folder = tmp_path / "mini-cr5"
    result = RUN.invoke(app, ["model", "make-mini", "--contract", "cr5", "--seed", "3", "--out", str(folder)])
    assert result.exit_code == 0, result.output
    assert "--allow-untrained" in result.output
    runtime = SigmaRuntime.load(str(folder), contract=load_contract("cr5"), allow_untrained=True)
    assert not runtime.info.trained
    assert [path.name for path in tmp_path.iterdir()] == ["mini-cr5"]


def test_make_mini_does_not_write_over_a_folder(tmp_path: Path) -> None:
    result = RUN.invoke(app, ["model", "make-mini", "--out", str(tmp_path)])
    assert isinstance(result.exception, CheckpointError)
    assert "the output folder exists" in str(result.exception)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("arguments", [["make-mini"], ["make-mini", "--out", "x", "--seed", "-1"], ["inspect"]])
def test_a_wrong_call_is_a_usage_error(arguments: list[str]) -> None:
    assert RUN.invoke(app, ["model", *arguments]).exit_code == 2


def test_an_unknown_contract_is_named(tmp_path: Path) -> None:
    result = RUN.invoke(app, ["model", "make-mini", "--contract", "nothing", "--out", str(tmp_path / "x")])
    assert isinstance(result.exception, ContractError)
    assert not (tmp_path / "x").exists()
