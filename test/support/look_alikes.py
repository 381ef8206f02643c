# SPDX-License-Identifier: Apache-2.0
"""Folders as `lerobot/pi05_base` is published and as lerobot-train writes them, small, by LeRobot's own classes."""

import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import torch
from lerobot.configs import FeatureType, PolicyFeature
from lerobot.policies.pi05 import processor_pi05
from lerobot.policies.pi05.configuration_pi05 import PI05Config
from lerobot.policies.pi05.modeling_pi05 import PI05Policy
from lerobot.processor import TokenizerProcessorStep
from safetensors.torch import save_file
from torch import Tensor

from sigma_ros.model.pi05.mini import TINY, build_tokenizer
from sigma_ros.model.pi05.sizes import network_sizes

IMAGES = "observation.images."
BASE_CAMERAS = (IMAGES + "base_0_rgb", IMAGES + "left_wrist_0_rgb", IMAGES + "right_wrist_0_rgb")
SO101_CAMERAS = (IMAGES + "up", IMAGES + "side")
SO101_JOINTS = tuple(
    f"{name}.pos" for name in ("shoulder_pan", "shoulder_lift", "elbow_flex", "wrist_flex", "wrist_roll", "gripper")
)


def tokenizer_folder(folder: Path) -> Path:
    build_tokenizer().save_pretrained(folder)
    return folder


def policy(
    cameras: tuple[str, ...] = SO101_CAMERAS,
    *,
    picture: tuple[int, int] = (480, 640),
    state: int = 6,
    action: int = 6,
    action_key: str = "action",
    dtype: str = "float32",
    **config: Any,
) -> PI05Policy:
    """LeRobot's policy with small networks and every weight stirred."""
    images = {key: PolicyFeature(type=FeatureType.VISUAL, shape=(3, *picture)) for key in cameras}
    states = {"observation.state": PolicyFeature(type=FeatureType.STATE, shape=(state,))}
    settings = PI05Config(
        input_features=images | states,
        output_features={action_key: PolicyFeature(type=FeatureType.ACTION, shape=(action,))},
        device="cpu",
        dtype=dtype,
        push_to_hub=False,
        **config,
    )
    with network_sizes(TINY), torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        made = PI05Policy(settings)
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.add_((0.05 * torch.randn(parameter.shape, generator=generator)).to(parameter.dtype))
    return made.eval()


def statistics(dof: int = 6) -> dict[str, Tensor]:
    """As a data set of SO-101 joints in -100 .. 100 has them, gripper 0 .. 60."""
    low, high = np.full(dof, -80.0), np.full(dof, 80.0)
    low[-1], high[-1] = 0.0, 60.0
    low += np.arange(dof)
    values = {
        "min": low - 7,
        "max": high + 7,
        "mean": (low + high) / 2 + 3,
        "std": (high - low) / 4,
        "q01": low,
        "q10": low * 0.8,
        "q50": (low + high) / 2,
        "q90": high * 0.8,
        "q99": high,
    }
    return {name: torch.tensor(value, dtype=torch.float32) for name, value in values.items()}


def save_fine_tune(
    folder: Path,
    made: PI05Policy,
    tokenizer: Path,
    *,
    stats: Mapping[str, Mapping[str, Tensor]] | None = None,
    rename: Mapping[str, str] | None = None,
) -> Path:
    """What lerobot-train leaves in `checkpoints/last/pretrained_model`."""
    folder.mkdir(parents=True, exist_ok=True)
    made.save_pretrained(folder)
    _save_processors(folder, made.config, tokenizer, stats=stats, rename=rename)
    mark_small(folder)
    return folder


def _save_processors(
    folder: Path,
    config: PI05Config,
    tokenizer: Path,
    *,
    stats: Mapping[str, Mapping[str, Tensor]] | None,
    rename: Mapping[str, str] | None,
) -> None:
    if stats is None:
        action_key = next(iter(config.output_features))
        stats = {"observation.state": statistics(), action_key: statistics()}

    def local(tokenizer_name: str, **options: Any) -> TokenizerProcessorStep:
        return TokenizerProcessorStep(tokenizer_name=str(tokenizer), **options)

    with patch.object(processor_pi05, "TokenizerProcessorStep", local):
        before, after = processor_pi05.make_pi05_pre_post_processors(config, dict(stats))
    if rename:
        before.steps[0].rename_map = dict(rename)
    before.save_pretrained(folder)
    after.save_pretrained(folder)


def mark_small(folder: Path) -> None:
    """The network's sizes, which a folder of the real size need not say."""
    own = {"format": 1, "sizes": asdict(TINY), "trained": True, "made_by": "a test"}
    (folder / "sigma_base.json").write_text(json.dumps(own), encoding="utf-8")


def save_published_base(folder: Path, tokenizer: Path) -> Path:
    """As huggingface.co/lerobot/pi05_base: three cameras, 32 state and action numbers, no statistics, its key names."""
    made = policy(BASE_CAMERAS, picture=(224, 224), state=32, action=32)
    folder.mkdir(parents=True, exist_ok=True)
    made.config._save_pretrained(folder)
    _save_processors(folder, made.config, tokenizer, stats={}, rename=None)
    tensors = {}
    for name, tensor in made.state_dict().items():
        if not name.endswith("embed_tokens.weight"):  # the published file has the head in its place
            tensors[name.removeprefix("model.")] = tensor.clone().contiguous()
    embedding = made.model.paligemma_with_expert.paligemma.model.language_model.embed_tokens.weight
    tensors["paligemma_with_expert.paligemma.lm_head.weight"] = embedding.detach().clone()
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    mark_small(folder)
    return folder
