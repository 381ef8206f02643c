# SPDX-License-Identifier: Apache-2.0
"""The model card's snippet as printed, and what becomes of a folder as the card's authors published it."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from look_alikes import BASE_CAMERAS, policy, tokenizer_folder
from safetensors.torch import load_file
from tiny_sigma import batch_of, tiny_sigma

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


@pytest.mark.parametrize("mask", [0o022, 0o027])
def test_the_users_umask_says_who_may_read_a_checkpoint(mask: int, tmp_path: Path) -> None:
    model, before = tiny_sigma(), os.umask(mask)
    try:
        save_checkpoint(model, tmp_path / "made", base=identify(model, None), training=Training(trained=True))
    finally:
        os.umask(before)
    modes = {file.name: file.stat().st_mode & 0o777 for file in (tmp_path / "made").iterdir()}
    assert modes == dict.fromkeys(modes, 0o666 & ~mask)


def test_a_sigma_checkpoint_is_found_by_hub_id_manifest_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny_sigma()
    folder = tmp_path / "uploaded"
    save_checkpoint(model, folder, base=identify(model, None), training=Training(trained=True))
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


@pytest.mark.parametrize(
    ("change", "text"),
    [
        (lambda b: b.pop("texts"), "keys"),
        (lambda b: b.update(depth=1), "keys"),
        (lambda b: b.update(vis_obs=b["vis_obs"][:, :15]), "vis_obs"),
        (lambda b: b.update(vis_obs=b["vis_obs"][:, :, :1]), "2 cameras"),
        (lambda b: b.update(vis_obs=b["vis_obs"].float()), r"finite floats in \[0, 1\]"),
        (lambda b: b.update(vis_obs=b["vis_obs"] / 255.0 * float("nan")), r"finite floats in \[0, 1\]"),
        (lambda b: b.update(robot_state=b["robot_state"][..., :5]), "robot_state"),
        (lambda b: b.update(texts=["one"]), "vis_obs"),
        (lambda b: b.update(camera_mask=torch.ones(2, 16, 2)), "camera_mask"),
        (lambda b: b.update(tick_mask=torch.zeros(2, 16, dtype=torch.bool)), "newest tick"),
        (lambda b: b.update(semantic_memory=torch.zeros(2, 3)), "semantic_memory"),
    ],
)
def test_a_batch_that_does_not_fit_is_refused_by_key(change, text):
    model = tiny_sigma()
    batch = batch_of(model, 2)
    change(batch)
    with pytest.raises(SigmaError, match=text):
        model(batch)


def test_float_images_are_the_bytes_they_came_from():
    model = tiny_sigma()
    batch = batch_of(model, 1)
    ours, theirs = model(batch), model({**batch, "vis_obs": batch["vis_obs"].float() / 255.0})
    assert all(torch.equal(value, theirs[name]) for name, value in ours.items())


def test_outputs_have_the_documented_shapes():
    model = tiny_sigma()
    config = model.config
    shapes = {name: tuple(value.shape) for name, value in model(batch_of(model, 2)).items()}
    actions = {"vector": (2, 6), "chunk": (2, 8, 6), "trajectory": (2, 16, 6)}
    assert shapes == {
        "base_actions": (2, 50, 6),
        "telepathy_residual": (2, 50, 6),
        **{f"base_action_{name}": shape for name, shape in actions.items()},
        **{f"telepathy_residual_{name}": shape for name, shape in actions.items()},
        "telepathy_factors": (2, config.factor_count, config.factor_width),
        "semantic_memory": (2, config.memory_width),
        "intent": (2, config.intent_width),
        "alignment": (2,),
        "semantic_alignment": (2,),
    }
