# SPDX-License-Identifier: Apache-2.0
"""The model card's snippet as printed, and what becomes of a folder as the card's authors published it."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from look_alikes import BASE_CAMERAS, policy, tokenizer_folder
from safetensors.torch import load_file
from tiny_sigma import tiny_sigma

from sigma_ros import SigmaTelepathyAdapter, SigmaTelepathyVLA
from sigma_ros.errors import CheckpointError, SigmaError
from sigma_ros.model.checkpoint.folder import identify, save_checkpoint
from sigma_ros.model.checkpoint.inspect import inspect_checkpoint
from sigma_ros.model.checkpoint.manifest import Training
from sigma_ros.model.pi05 import places
from sigma_ros.values import WINDOW_TICKS
from training.convert_pt import main as convert

TEXT = "pink lego brick into the transparent box"


def test_the_package_names_the_cards_classes_without_loading_torch() -> None:
    code = "import sys, sigma_ros; assert 'torch' not in sys.modules; sigma_ros.SigmaTelepathyAdapter(); "
    code += "assert 'torch' in sys.modules; assert not hasattr(sigma_ros, 'Sigma')"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_the_cards_snippet_runs_on_the_published_bases_policy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SIGMA_TOKENIZER", str(tokenizer_folder(tmp_path)))
    base_policy = policy(BASE_CAMERAS, picture=(224, 224), state=32, action=32)
    sigma_policy = SigmaTelepathyVLA.from_base(base_policy=base_policy, device="cpu")
    generator = torch.Generator().manual_seed(0)
    batch = {
        "vis_obs": torch.rand(2, WINDOW_TICKS, 3, 224, 224, generator=generator),
        "robot_state": torch.rand(2, WINDOW_TICKS, 6, generator=generator) * 2 - 1,
        "texts": [TEXT] * 2,
    }
    with torch.no_grad():
        out = sigma_policy(**batch, use_telepathy=True)
        same = sigma_policy(batch, use_telepathy=True)
    assert torch.equal(out["base_actions"], same["base_actions"])
    assert out["base_action_vector"].shape == (2, 6)
    adapter = SigmaTelepathyAdapter(min_scale=0.0, max_scale=1.0, risk_temperature=1.0)
    actions = adapter(
        base_action_vector=out["base_action_vector"],
        telepathy_residual=out["telepathy_residual_vector"],
        telepathy_factors=out["telepathy_factors"],
    )
    assert torch.equal(actions, out["base_action_vector"]), "untrained: the base's own"


def test_the_prompt_of_fewer_joints_is_lerobots_without_padding(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SIGMA_TOKENIZER", str(tokenizer_folder(tmp_path)))
    sigma = SigmaTelepathyVLA.from_base(policy(BASE_CAMERAS[:1], picture=(224, 224), state=32, action=32))
    asked: list[tuple[int, ...]] = []
    tokenize = sigma.backbone.tokenize

    def spy(task: str, state: Any) -> Any:
        asked.append(state.shape)
        return tokenize(task, state)

    monkeypatch.setattr(sigma.backbone, "tokenize", spy)
    states = torch.zeros(1, WINDOW_TICKS, 6)
    pictures = torch.zeros(1, WINDOW_TICKS, 3, 224, 224, dtype=torch.uint8)
    with torch.no_grad():
        sigma(vis_obs=pictures, robot_state=states, texts=[TEXT])
    assert asked == [(1, 6)]
    with pytest.raises(SigmaError, match="robot_state"):
        sigma(vis_obs=pictures, robot_state=torch.zeros(1, WINDOW_TICKS, 33), texts=[TEXT])


def test_states_of_a_known_robot_must_have_its_joints() -> None:
    sigma = tiny_sigma()
    pictures = torch.zeros(1, WINDOW_TICKS, 3, 112, 112, dtype=torch.uint8)
    with pytest.raises(SigmaError, match="robot_state"):
        sigma(vis_obs=pictures, robot_state=torch.zeros(1, WINDOW_TICKS, 5), texts=[TEXT])


@pytest.fixture
def published(tmp_path: Path) -> Path:
    """SYNTHETIC: file names of Veltraxor/Sigma's storage folder."""
    folder = tmp_path / "storage" / "sigma_lora_out"
    folder.mkdir(parents=True)
    torch.save({"telepathy.w": torch.arange(3.0)}, folder / "sigma_telepathy_heads.pt")
    torch.save({"x": torch.zeros(2)}, folder / "adapter_model.bin")
    settings = {"peft_type": "LORA", "r": 16, "base_model_name_or_path": "lerobot/pi05_base"}
    (folder / "adapter_config.json").write_text(json.dumps(settings), encoding="utf-8")
    return folder


def test_published_pickles_are_explained_and_a_safe_converter_is_named(published: Path, tmp_path: Path) -> None:
    words = r"sigma_telepathy_heads\.pt.*training\.convert_pt --weights"
    with pytest.raises(CheckpointError, match=words):
        SigmaTelepathyVLA.from_base(
            tiny_sigma().backbone, lora_dir=published, telepathy_heads_path=published / "sigma_telepathy_heads.pt"
        )
    for place in (published, tmp_path):
        with pytest.raises(CheckpointError, match=words):
            inspect_checkpoint(str(place))
    out = tmp_path / "heads.safetensors"
    assert convert(["--weights", str(published / "sigma_telepathy_heads.pt"), "--out", str(out)]) == 0
    assert load_file(out)["telepathy.w"].tolist() == [0.0, 1.0, 2.0]


def test_a_sigma_checkpoint_is_found_by_hub_id_manifest_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny_sigma()
    folder = tmp_path / "uploaded"
    save_checkpoint(model, folder, base=identify(model, None), training=Training(trained=True))
    assert {file.stat().st_mode & 0o777 for file in folder.glob("*.safetensors")} == {0o644}
    asked: list[list[str]] = []

    def fetch(name: str, *, allow_patterns: list[str], **_: Any) -> str:
        asked.append(allow_patterns)
        return str(folder)

    monkeypatch.setattr(places, "snapshot_download", fetch)
    assert "Sigma checkpoint, trained" in inspect_checkpoint("me/sigma-so101")
    again = SigmaTelepathyVLA.from_base(tiny_sigma(stirred=False).backbone, lora_dir="me/sigma-so101")
    assert all(torch.equal(tensor, model.trained()[name]) for name, tensor in again.trained().items())
    assert not any("telepathy_heads" in pattern for pattern in asked[0])


def test_a_checkpoint_inside_a_repository_is_fetched_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    inside = tmp_path / "step_002000" / "pretrained_model"
    inside.mkdir(parents=True)
    seen: dict[str, Any] = {}

    def fetch(name: str, **given: Any) -> str:
        seen.update(given, name=name)
        return str(tmp_path)

    monkeypatch.setattr(places, "snapshot_download", fetch)
    place = places.find_checkpoint("me/run/step_002000/pretrained_model")
    assert (place.path, seen["name"]) == (inside, "me/run")
    assert all(pattern.startswith("step_002000/pretrained_model/") for pattern in seen["allow_patterns"])
    assert seen["ignore_patterns"] == ["step_002000/pretrained_model/*/*"]
