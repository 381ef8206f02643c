# SPDX-License-Identifier: Apache-2.0
"""The law of foreign checkpoints: LeRobot's own chunk, or one sentence before weights are read.

`LOADED` run as `make_pre_post_processors` and `predict_action_chunk` do with the same noise: the normalised chunk bit
for bit, the same in policy units up to 32-bit rounding. Pictures have the policy's size; those of another size are
letterboxed in 8 bits here and in floats there (a difference of about 1e-3 in the normalised chunk).
"""

import copy
import json
import shutil
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from lerobot.policies.factory import make_pre_post_processors
from lerobot.policies.pi05.modeling_pi05 import PI05Policy
from lerobot.policies.rtc.configuration_rtc import RTCConfig
from lerobot.processor.normalize_processor import UnnormalizerProcessorStep
from look_alikes import (
    BASE_CAMERAS,
    IMAGES,
    SO101_CAMERAS,
    SO101_JOINTS,
    policy,
    save_fine_tune,
    save_published_base,
    statistics,
    tokenizer_folder,
)
from peft import LoraConfig
from safetensors.torch import load_file, save_file
from tiny_base import TASK, frames, window_at

from sigma_ros.contract import Contract
from sigma_ros.contract_file import load_contract
from sigma_ros.errors import SigmaError
from sigma_ros.model import loading as runtime_load
from sigma_ros.model.loading import allow_guidance
from sigma_ros.model.pi05.flow import flow_noise
from sigma_ros.model.pi05.mini import TINY
from sigma_ros.model.pi05.sizes import network_sizes
from sigma_ros.model.runtime import SigmaRuntime
from sigma_ros.streams.images import letterbox
from sigma_ros.values import AdapterSettings

TO_BASE = dict(zip(SO101_CAMERAS, BASE_CAMERAS, strict=False))
LETTERBOX = 3e-3
"""Of a normalised chunk."""
ROUNDING = 2e-5
"""Of a chunk of up to 87 policy units in 32 bits there, 64 here."""


def modes(name: str, visual: str = "IDENTITY") -> dict[str, Any]:
    return {"normalization_mapping": {"ACTION": name, "STATE": name, "VISUAL": visual}}


def pictures(visual: str, **case: Any) -> dict[str, Any]:
    """A policy that normalises its pictures, and their statistics."""
    return modes("QUANTILES", visual) | {"picture_stats": True} | case


def constant(joint: int, *pairs: tuple[str, str]) -> dict[str, torch.Tensor]:
    """Statistics of a joint that never moved."""
    values = statistics()
    for low, high in pairs:
        values[high][joint] = 0.0 if low == "mean" else values[low][joint]
    return values


def up_alone(contract: Contract) -> Contract:
    return replace(contract, cameras=contract.cameras[:1])


def with_a_seventh_joint(contract: Contract) -> Contract:
    *arm, wrist, gripper = contract.joints
    return replace(contract, joints=(*arm, wrist, replace(wrist, name="wrist_yaw", aliases=()), gripper))


def in_degrees(contract: Contract) -> Contract:
    return replace(contract, joints=load_contract("so101_degrees").joints)


def without_relative_steps(folder: Path) -> None:
    """The pipelines as LeRobot wrote them before 0.5."""
    for file in folder.glob("policy_*processor.json"):
        pipeline = json.loads(file.read_text(encoding="utf-8"))
        there = [step for step in pipeline["steps"] if not step["registry_name"].endswith("e_actions_processor")]
        assert len(there) == len(pipeline["steps"]) - 1
        file.write_text(json.dumps(pipeline | {"steps": there}), encoding="utf-8")


QUANTILE_PAIR, STD_PAIR = ("q01", "q99"), ("mean", "std")
RELATIVE = {"use_relative_actions": True, "action_feature_names": list(SO101_JOINTS)}
SEVEN = {"robot": with_a_seventh_joint, "dof": 7, "state": 7, "action": 7}
LOADED: dict[str, dict[str, Any]] = {
    "quantiles": {},
    "mean_std": modes("MEAN_STD"),
    "min_max": modes("MIN_MAX"),
    "quantile10": modes("QUANTILE10"),
    "identity": modes("IDENTITY"),
    "mixed_modes": {"normalization_mapping": {"ACTION": "MEAN_STD", "STATE": "QUANTILES", "VISUAL": "IDENTITY"}},
    "relative": RELATIVE,
    "relative_mean_std": RELATIVE | modes("MEAN_STD"),
    "relative_all_joints": RELATIVE | {"relative_exclude_joints": []},
    "relative_but_two_joints": RELATIVE | {"relative_exclude_joints": ["gripper", "wrist_roll"]},
    "relative_quantile10": RELATIVE | modes("QUANTILE10"),
    "relative_renamed": RELATIVE | {"cameras": BASE_CAMERAS, "rename": TO_BASE},
    "still_joint": {"still": QUANTILE_PAIR},
    "still_joint_mean_std": modes("MEAN_STD") | {"still": STD_PAIR},
    "still_joint_min_max": modes("MIN_MAX") | {"still": ("min", "max")},
    "renamed": {"cameras": BASE_CAMERAS, "picture": (224, 224), "rename": TO_BASE},
    "renamed_state32": {"cameras": BASE_CAMERAS, "state": 32, "rename": TO_BASE},
    "renamed_mean_std": {"cameras": BASE_CAMERAS, "rename": TO_BASE} | modes("MEAN_STD"),
    "empty_camera": {"empty_cameras": 1},
    "two_empty_cameras": {"empty_cameras": 2},
    "chunk20": {"chunk_size": 20, "n_action_steps": 20},
    "chunk10": {"chunk_size": 10, "n_action_steps": 10},
    "few_action_steps": {"n_action_steps": 15},
    "few_action_steps_of_chunk30": modes("MEAN_STD") | {"chunk_size": 30, "n_action_steps": 7},
    "wider_actions": {"max_action_dim": 48, "max_state_dim": 40},
    "small_pictures": {"picture": (96, 128)},
    "empty_camera_min_max": modes("MIN_MAX") | {"empty_cameras": 1},
    "five_flow_steps": {"num_inference_steps": 5},
    "short_prompt": {"tokenizer_max_length": 96},
    "bfloat16": {"dtype": "bfloat16"},
    "rtc_off": {"rtc_config": RTCConfig(enabled=False)},
    "third_camera": {"cameras": (*SO101_CAMERAS, IMAGES + "wrist")},
    "swapped_by_rename": {"rename": dict(zip(SO101_CAMERAS, reversed(SO101_CAMERAS), strict=True))},
    "pictures_mean_std": pictures("MEAN_STD"),
    "pictures_min_max": pictures("MIN_MAX"),
    "pictures_quantiles": pictures("QUANTILES"),
    "pictures_quantile10": pictures("QUANTILE10"),
    "pictures_renamed": pictures("MEAN_STD", cameras=BASE_CAMERAS, rename=TO_BASE),
    "pictures_without_statistics": modes("MEAN_STD", "MEAN_STD"),
    "pictures_everything_mean_std": modes("MEAN_STD", "MEAN_STD") | {"picture_stats": True},
    "called_actions": {"action_key": "actions"},
    "called_actions_mean_std": modes("MEAN_STD") | {"action_key": "actions"},
    "degrees": {"robot": in_degrees},
    "degrees_mean_std": modes("MEAN_STD") | {"robot": in_degrees},
    "degrees_relative_renamed": RELATIVE | {"robot": in_degrees, "cameras": BASE_CAMERAS, "rename": TO_BASE},
    "seven_joints": SEVEN,
    "seven_joints_mean_std": SEVEN | modes("MEAN_STD"),
    "one_camera_of_two": {"robot": up_alone},
    "one_camera_of_three_renamed": {"robot": up_alone, "cameras": BASE_CAMERAS, "rename": TO_BASE},
    "pipelines_of_before": {"edit": without_relative_steps},
    "pipelines_of_before_mean_std": modes("MEAN_STD") | {"edit": without_relative_steps},
    "bfloat16_mean_std": modes("MEAN_STD") | {"dtype": "bfloat16"},
    "still_joint_quantile10": modes("QUANTILE10") | {"still": ("q10", "q90")},
    "relative_still_joint": RELATIVE | {"still": QUANTILE_PAIR},
}
LEAST_COMPARED = 54
"""Folders whose chunk is LeRobot's own; the list only grows."""
REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "front_wrist": ({"cameras": (IMAGES + "front", IMAGES + "wrist")}, "--rename up=front side=wrist"),
    "seven_joints": ({"state": 7, "action": 7, "dof": 7}, "does not have the contract's joints"),
    "fourteen_joints": ({"state": 14, "action": 14, "dof": 14}, "does not have the contract's joints"),
    "other_joint_order": (RELATIVE | {"action_feature_names": list(reversed(SO101_JOINTS))}, "in another order"),
}


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tokenizer_folder(tmp_path_factory.mktemp("tokenizer"))


@pytest.fixture(autouse=True)
def _tokenizer(tokenizer: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SIGMA_TOKENIZER", str(tokenizer))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")


def save(folder: Path, tokenizer: Path, case: Mapping[str, Any]) -> Path:
    settings = dict(case)
    rename, still = settings.pop("rename", None), settings.pop("still", None)
    dof, scaled = settings.pop("dof", 6), settings.pop("picture_stats", False)
    edit = settings.pop("edit", None)
    settings.pop("robot", None)
    made = policy(**settings)
    values = statistics(dof) if still is None else constant(4, still)
    stats = {"observation.state": values, next(iter(made.config.output_features)): copy.deepcopy(values)}
    if scaled:
        for number, key in enumerate(made.config.image_features):
            shades = torch.tensor([0.1, 0.15, 0.2]).reshape(3, 1, 1) + 0.01 * number
            stats[key] = {"mean": 0.3 + shades, "std": shades, "min": 0.0 * shades, "max": 1.0 - shades}
            stats[key] |= {"q01": shades / 9, "q99": 1.0 - shades, "q10": shades, "q90": 0.9 - shades}
    save_fine_tune(folder, made, tokenizer, stats=stats, rename=rename)
    if edit is not None:
        edit(folder)
    return folder


def lerobot_chunk(
    folder: Path, contract: Contract, pictures: Mapping[str, np.ndarray], pose_rad: np.ndarray, noise: torch.Tensor
) -> tuple[np.ndarray, np.ndarray]:
    """Normalised, and in policy units."""
    with network_sizes(TINY):
        theirs = PI05Policy.from_pretrained(str(folder))
    before, after = make_pre_post_processors(theirs.config, str(folder))
    observation: dict[str, Any] = {
        camera.dataset_key: torch.from_numpy(pictures[camera.name]).permute(2, 0, 1).float() / 255.0
        for camera in contract.cameras
    }
    state = contract.to_policy(pose_rad).astype(np.float32)
    batch = before({**observation, "observation.state": torch.from_numpy(state), "task": TASK})
    with torch.no_grad():
        chunk = theirs.predict_action_chunk(batch, noise=noise)
    (step,) = (one for one in after.steps if isinstance(one, UnnormalizerProcessorStep))
    if "actions" in step.stats:  # LeRobot looks for statistics of `action` alone, and has 32 joints then
        step.stats = {"action": step.stats["actions"]}
        step.to(device="cpu")
        chunk = chunk[..., : contract.dof]
    return chunk[0].double().numpy(), after(chunk[0]).double().numpy()


def our_chunk(folder: Path, contract: Contract, **loading: Any) -> tuple[Any, Any, torch.Tensor, SigmaRuntime]:
    runtime = SigmaRuntime.load(str(folder), contract=contract, device="cpu", **loading)
    recording = frames(1, runtime.image_size_px, contract=contract)
    noise = flow_noise(seed=0, epoch=0, tick=0, horizon=runtime.horizon, max_dof=runtime.model.backbone.max_dof)
    state = runtime.initial_state(epoch=0, task=TASK)
    result, _ = runtime.step(window_at(recording, 0), state, commit=False, settings=AdapterSettings(), chunk_id=0)
    return result, recording[0], noise, runtime


def square(contract: Contract, side_px: int = 224) -> Contract:
    """Whose cameras give pictures of the policy's size."""
    cameras = tuple(replace(camera, width_px=side_px, height_px=side_px) for camera in contract.cameras)
    return replace(contract, cameras=cameras)


@pytest.mark.parametrize("name", LOADED)
def test_the_chunk_is_lerobots_own(name: str, tmp_path: Path, tokenizer: Path, so101: Contract) -> None:
    robot = square(LOADED[name].get("robot", lambda contract: contract)(so101))
    folder = save(tmp_path / name, tokenizer, LOADED[name])
    ours, frame, noise, runtime = our_chunk(folder, robot)
    normalised, units = lerobot_chunk(folder, robot, frame.images, frame.positions_rad, noise)
    if runtime.units.relative is None:
        assert np.array_equal(ours.base_normalised, normalised)
    np.testing.assert_allclose(robot.to_policy(ours.chunk.base_rad), units, atol=ROUNDING * max(1, np.abs(units).max()))


def test_the_folders_that_are_compared_are_many_and_no_two_alike() -> None:
    cases = {json.dumps(case, sort_keys=True, default=repr) for case in LOADED.values()}
    assert len(cases) == len(LOADED) >= LEAST_COMPARED
    for kind in ("STATE", "ACTION", "VISUAL"):
        named = {case.get("normalization_mapping", {}).get(kind) for case in LOADED.values()}
        assert named >= {"IDENTITY", "MEAN_STD", "MIN_MAX", "QUANTILES", "QUANTILE10"}, kind
    for setting in ("rename", "still", "use_relative_actions", "empty_cameras", "chunk_size", "dtype", "action_key"):
        assert sum(setting in case for case in LOADED.values()) >= 2, setting


@pytest.mark.parametrize("visual", ["IDENTITY", "MEAN_STD", "MIN_MAX", "QUANTILES", "QUANTILE10"])
def test_a_wide_cameras_picture_differs_from_lerobots_by_the_letterboxs_rounding_alone(
    visual: str, tmp_path: Path, tokenizer: Path, so101: Contract
) -> None:
    """LeRobot normalises, cuts below 0 and above 1, and only then puts the black border around."""
    folder = save(tmp_path / visual, tokenizer, pictures(visual))
    runtime = SigmaRuntime.load(str(folder), contract=so101, device="cpu")
    raw = {c.name: wide_picture(c.height_px, c.width_px, seed=n) for n, c in enumerate(so101.cameras)}
    fitted = {name: letterbox(picture, runtime.image_size_px) for name, picture in raw.items()}
    frame = replace(frames(1, runtime.image_size_px)[0], images=fitted)
    noise = flow_noise(seed=0, epoch=0, tick=0, horizon=runtime.horizon, max_dof=runtime.model.backbone.max_dof)
    state = runtime.initial_state(epoch=0, task=TASK)
    ours, _ = runtime.step(window_at([frame], 0), state, commit=False, settings=AdapterSettings(), chunk_id=0)
    normalised, _ = lerobot_chunk(folder, so101, raw, frame.positions_rad, noise)
    np.testing.assert_allclose(ours.base_normalised, normalised, atol=LETTERBOX)


def wide_picture(height_px: int, width_px: int, *, seed: int) -> np.ndarray:
    """Blurred colours, as a camera gives: neighbouring pixels are alike."""
    drawn = np.random.default_rng(seed).integers(0, 256, (height_px // 40, width_px // 40, 3), dtype=np.uint8)
    return cv2.resize(drawn, (width_px, height_px), interpolation=cv2.INTER_CUBIC)


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_equal_is_one_sentence_and_no_weights_are_read(
    name: str, tmp_path: Path, tokenizer: Path, so101: Contract, monkeypatch: pytest.MonkeyPatch
) -> None:
    case, words = REFUSED[name]
    folder = save(tmp_path / name, tokenizer, case)
    monkeypatch.setattr(runtime_load, "load_base", lambda *_, **__: pytest.fail("read the weights"))
    with pytest.raises(SigmaError, match=words):
        SigmaRuntime.load(str(folder), contract=so101, device="cpu")


def test_a_step_that_is_not_pi05s_is_refused_and_no_class_of_a_path_is_imported(
    tmp_path: Path, tokenizer: Path, so101: Contract
) -> None:
    folder = save(tmp_path / "foreign", tokenizer, {})
    file = folder / "policy_preprocessor.json"
    pipeline = json.loads(file.read_text(encoding="utf-8"))
    pipeline["steps"].insert(0, {"class": "os.system", "config": {}})
    file.write_text(json.dumps(pipeline), encoding="utf-8")
    with pytest.raises(SigmaError, match=r"other steps than pi0\.5's.*os\.system"):
        SigmaRuntime.load(str(folder), contract=so101, device="cpu")


@pytest.mark.parametrize(
    ("steps", "text"),
    [
        (None, r"other steps than pi0\.5's"),
        ([{"registry_name": "rename_observations_processor", "config": None}], r"other steps than pi0\.5's"),
        ("rename_map", "rename_map is no map of names"),
    ],
)
def test_a_pipeline_of_other_forms_is_refused(
    steps: Any, text: str, tmp_path: Path, tokenizer: Path, so101: Contract
) -> None:
    folder = save(tmp_path / "odd", tokenizer, {})
    pipeline = json.loads((folder / "policy_preprocessor.json").read_text(encoding="utf-8"))
    if steps == "rename_map":
        pipeline["steps"][0]["config"]["rename_map"] = ["observation.images.up"]
    else:
        pipeline["steps"] = steps
    (folder / "policy_preprocessor.json").write_text(json.dumps(pipeline), encoding="utf-8")
    with pytest.raises(SigmaError, match=text):
        SigmaRuntime.load(str(folder), contract=so101, device="cpu")


def test_the_bare_base_says_that_it_knows_no_units(tmp_path: Path, tokenizer: Path, so101: Contract) -> None:
    folder = save_published_base(tmp_path / "base", tokenizer)
    with pytest.raises(SigmaError, match="no normalisation statistics"):
        SigmaRuntime.load(str(folder), contract=so101, device="cpu", rename=TO_BASE)


@pytest.mark.parametrize("inside", ["", "checkpoints", "checkpoints/last", "checkpoints/last/pretrained_model"])
def test_a_training_output_means_its_last_checkpoint(
    inside: str, tmp_path: Path, tokenizer: Path, so101: Contract
) -> None:
    save(tmp_path / "run/checkpoints/000100/pretrained_model", tokenizer, {})
    (tmp_path / "run/checkpoints/last").symlink_to("000100")
    runtime = SigmaRuntime.load(str(tmp_path / "run" / inside), contract=so101, device="cpu")
    assert runtime.info.trained


@pytest.mark.parametrize("last", [None, "000200"], ids=["without the link", "the link as a file"])
def test_a_training_output_without_its_link_names_its_checkpoints(last: str | None, tmp_path: Path) -> None:
    for step in ("000100", "000200"):
        inside = tmp_path / "checkpoints" / step / "pretrained_model"
        inside.mkdir(parents=True)
        (inside / "config.json").write_text("{}", encoding="utf-8")
    if last is not None:  # as a version control without links leaves it
        (tmp_path / "checkpoints/last").write_text(last, encoding="utf-8")
    with pytest.raises(SigmaError, match=r"checkpoints/000100/pretrained_model, checkpoints/000200/pretrained_model"):
        SigmaRuntime.load(str(tmp_path), contract=load_contract("so101"), device="cpu")


LANGUAGE = r".*language_model.*\.(q_proj|v_proj)"
ADAPTERS: dict[str, dict[str, Any]] = {
    "adapters": {"peft_cli_overrides": {"r": 4, "full_training_modules": []}},
    "whole modules too": {"peft_cli_overrides": {"r": 4, "full_training_modules": ["action_in_proj"]}},
    "ranks by layer": {
        "peft_config": LoraConfig(target_modules=LANGUAGE, r=4, rank_pattern={"layers.0.self_attn.q_proj": 2})
    },
    "rslora": {"peft_config": LoraConfig(target_modules=LANGUAGE, r=4, use_rslora=True)},
    "dora": {"peft_config": LoraConfig(target_modules=LANGUAGE, r=4, use_dora=True)},
}


@pytest.fixture(params=ADAPTERS)
def adapted(tmp_path: Path, tokenizer: Path, request: pytest.FixtureRequest) -> tuple[Path, PI05Policy]:
    """A folder as lerobot-train --peft leaves it, and the same policy merged by PEFT."""
    base = save(tmp_path / "base", tokenizer, {})
    made = policy()
    made.config.pretrained_path = str(base)
    wrapped = made.wrap_with_peft(**copy.deepcopy(ADAPTERS[request.param]))
    generator = torch.Generator().manual_seed(1)
    for name, parameter in wrapped.named_parameters():
        if "lora_B" in name or "modules_to_save" in name:
            parameter.data = 0.2 * torch.randn(parameter.shape, generator=generator)
    folder, whole = tmp_path / "adapted", request.param == "whole modules too"
    wrapped.save_pretrained(folder)
    assert any("lora" not in name for name in load_file(folder / "adapter_model.safetensors")) == whole
    wrapped.config.save_pretrained(folder)
    for file in base.glob("policy_*"):
        shutil.copy(file, folder / file.name)
    return folder, wrapped.merge_and_unload()


def test_adapters_are_merged_into_their_base(
    adapted: tuple[Path, PI05Policy], tmp_path: Path, tokenizer: Path, so101: Contract
) -> None:
    folder, merged = adapted
    merged.config.use_peft = False
    whole = save_fine_tune(tmp_path / "whole", merged, tokenizer)
    for file in folder.glob("policy_*"):
        shutil.copy(file, whole / file.name)
    ours, frame, noise, _ = our_chunk(folder, so101)
    normalised, _ = lerobot_chunk(whole, so101, frame.images, frame.positions_rad, noise)
    assert np.array_equal(ours.base_normalised, normalised)
    plain, *_ = our_chunk(tmp_path / "base", so101)
    assert not np.allclose(plain.base_normalised, ours.base_normalised, atol=1e-2)
    assert plain.chunk.checkpoint_hash != ours.chunk.checkpoint_hash


@pytest.mark.parametrize("damage", ["missing", "unexpected", "not finite", "expected"])
def test_every_tensor_of_the_adapters_is_used_or_nothing_is(
    damage: str, adapted: tuple[Path, PI05Policy], so101: Contract
) -> None:
    file = adapted[0] / "adapter_model.safetensors"
    tensors = load_file(file)
    name = sorted(tensors)[0]
    change: dict[str, Callable[[], Any]] = {
        "missing": lambda: tensors.pop(name),
        "unexpected": lambda: tensors.update({name + "x": tensors[name].clone()}),
        "not finite": lambda: tensors.update({name: torch.full_like(tensors[name], torch.nan)}),
        "expected": lambda: tensors.update({name: tensors[name][:1].clone()}),
    }
    change[damage]()
    save_file(tensors, file)
    with pytest.raises(SigmaError, match=f"do not fit their base in 1 place.*{damage}"):
        SigmaRuntime.load(str(adapted[0]), contract=so101, device="cpu")


def test_guidance_that_the_checkpoint_switches_off_is_on_when_asked_for_and_said(
    tmp_path: Path, tokenizer: Path, so101: Contract, caplog: pytest.LogCaptureFixture
) -> None:
    folder = save(tmp_path / "off", tokenizer, LOADED["rtc_off"])
    runtime = SigmaRuntime.load(str(folder), contract=so101, device="cpu")
    allow_guidance(runtime.model.backbone)
    assert runtime.model.backbone.policy.model._rtc_enabled()
    assert "enabled: false" in caplog.text
