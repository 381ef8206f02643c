# SPDX-License-Identifier: Apache-2.0
"""`sigma audit`: one table and one file for a base, and for a plain-LoRA checkpoint beside its base."""

import json
from pathlib import Path

import pytest
import torch
from bags import small_contract, write_recording
from small import small_file
from typer.testing import CliRunner

from sigma_ros.cli.scores.audit import AUDIT_FILE, app
from sigma_ros.model.checkpoint.folder import identify, save_checkpoint
from sigma_ros.model.checkpoint.manifest import Training
from sigma_ros.model.pi05.loading import load_base
from sigma_ros.model.settings import SigmaConfig
from sigma_ros.model.sigma import SigmaTelepathyVLA

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def contract(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """With pictures as small as those of the recordings."""
    return small_file(tmp_path_factory.mktemp("contract"))


@pytest.fixture(scope="module")
def bags(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder, small = tmp_path_factory.mktemp("bags"), small_contract()
    for number in range(2):
        write_recording(folder / f"bag_{number}", small, ticks=36, first_tick=9 * number, task="pick the brick")
    return folder


@pytest.fixture(scope="module")
def plain_lora(random_mini: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    loaded = load_base(random_mini, allow_untrained=True)
    model = SigmaTelepathyVLA(loaded.backbone, SigmaConfig.for_backbone(loaded.backbone, plain_lora=True))
    with torch.no_grad():
        for parameter in model.trained().values():
            parameter.add_(0.05)
    folder = tmp_path_factory.mktemp("plain") / "lora"
    save_checkpoint(model, folder, base=identify(model, loaded.info), training=Training(trained=True, steps=1))
    return folder


@pytest.fixture(params=["base", "plain LoRA"])
def place(request: pytest.FixtureRequest, random_mini: Path, plain_lora: Path) -> Path:
    return random_mini if request.param == "base" else plain_lora


def test_every_channel_of_checkpoint_and_base_gets_a_verdict(
    place: Path, random_mini: Path, bags: Path, contract: Path, tmp_path: Path
) -> None:
    given = [str(place), str(bags), "--contract", str(contract), "--allow-untrained", "--out", str(tmp_path / "out")]
    result = CliRunner().invoke(app, given, catch_exceptions=False)
    assert result.exit_code == 0, result.output
    document = json.loads((tmp_path / "out" / AUDIT_FILE).read_text())
    found = {(one["policy"], one["channel"], one["exchange"]): one for one in document["verdicts"]}
    policies = {policy for policy, _, _ in found}
    assert policies == ({"base"} if place == random_mini else {"base", "checkpoint"})
    for policy in policies:
        memory = {one["verdict"] for key, one in found.items() if key[:2] == (policy, "memory")}
        assert memory == {"ignores"}, "neither of them has one"
        ours, theirs = found[policy, "pictures", "next episode's"]["tokens"]
        assert ours != theirs
    assert document["episodes"] == 2
