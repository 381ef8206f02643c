# SPDX-License-Identifier: Apache-2.0
"""A Sigma on a tiny real PI05Policy, and recordings to run it on. Shared by the tests of this folder.

    SIGMA_TEST_WIDTH=full python -m pytest test/model/test_sigma.py

runs the same laws with every width of the published pi0.5 and Sigma's full sizes, on 2 language layers instead of
18, 1 vision layer instead of 27, and pictures of 112 px.
"""

import copy
import functools
import os
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from sigma_ros.contract_file import load_contract
from sigma_ros.model.pi05.backbone import Backbone
from sigma_ros.model.pi05.flow import flow_noise
from sigma_ros.model.pi05.mini import TINY, VOCABULARY, build_mini
from sigma_ros.model.pi05.sizes import FULL
from sigma_ros.model.settings import SigmaConfig
from sigma_ros.model.sigma import SigmaTelepathyVLA
from sigma_ros.model.step import Plan, RecurrentState, advance, plan
from sigma_ros.model.tokens import PADDING, ModelInput
from sigma_ros.values import WINDOW_TICKS

TASK = "put the brick into the box"
FULL_WIDTH = os.environ.get("SIGMA_TEST_WIDTH") == "full"
SIZES = replace(FULL, depth=2, vision_depth=1, vocabulary=VOCABULARY) if FULL_WIDTH else TINY
SHARE = 0.2 if FULL_WIDTH else 1.0  # wide layers are stirred less, so that activations keep their size


@functools.cache
def _pristine(dtype: str, seed: int) -> Backbone:
    """Every weight stirred, because adaptive norms start at zero and would hide what is behind them."""
    backbone = build_mini(load_contract("so101"), seed, sizes=SIZES, dtype=dtype)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in backbone.policy.parameters():
            parameter.add_((0.05 * SHARE * torch.randn(parameter.shape, generator=generator)).to(parameter.dtype))
    return backbone


def tiny_backbone(dtype: str = "float32", seed: int = 0) -> Backbone:
    """A policy of its own for every caller."""
    pristine = _pristine(dtype, seed)
    return Backbone(copy.deepcopy(pristine.policy), pristine.tokenizer)


def tiny_config(backbone: Backbone, **changes: Any) -> SigmaConfig:
    if FULL_WIDTH:
        return SigmaConfig.for_backbone(backbone, **changes)
    small = {
        "resampler_width": 32,
        "resampler_queries": 6,
        "state_hidden": 16,
        "text_tokens": 16,
        "memory_width": 24,
        "intent_width": 16,
        "factor_count": 4,
        "factor_width": 12,
        "align_width": 8,
        "head_hidden": 32,
        "residual_hidden": 32,
        "lora_rank": 4,
        "lora_alpha": 8.0,
    }
    return SigmaConfig.for_backbone(backbone, **{**small, **changes})


def tiny_sigma(dtype: str = "float32", *, stirred: bool = True, **changes: Any) -> SigmaTelepathyVLA:
    """`stirred`: every trained number moved away from its start, as after training."""
    backbone = tiny_backbone(dtype)
    model = SigmaTelepathyVLA(backbone, tiny_config(backbone, **changes))
    if stirred:
        stir(model)
    return model


def stir(model: SigmaTelepathyVLA, seed: int = 7, std: float = 0.1) -> None:
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for _, parameter in sorted(model.trained().items()):
            parameter.add_(std * SHARE * torch.randn(parameter.shape, generator=generator))


def sights(model: SigmaTelepathyVLA, count: int, seed: int = 0) -> list[ModelInput]:
    """A recording of random pictures and states."""
    generator = np.random.default_rng(seed)
    size, cameras = model.backbone.image_size_px, model.config.cameras
    return [
        ModelInput(
            tick=tick,
            images=torch.from_numpy(generator.integers(0, 256, (cameras, size, size, 3), dtype=np.uint8)),
            seen=torch.ones(cameras, dtype=torch.bool),
            state=torch.from_numpy(generator.uniform(-1, 1, model.config.dof).astype(np.float32)),
        )
        for tick in range(count)
    ]


def window_ticks(tick: int) -> tuple[int, ...]:
    return tuple(t if t >= 0 else PADDING for t in range(tick - WINDOW_TICKS + 1, tick + 1))


def noise_at(model: SigmaTelepathyVLA, tick: int) -> Tensor:
    backbone = model.backbone
    return flow_noise(seed=3, epoch=0, tick=tick, horizon=backbone.horizon, max_dof=backbone.max_dof)


def run(
    model: SigmaTelepathyVLA, state: RecurrentState, recording: list[ModelInput], ticks: range, *, plan_every: int = 4
) -> tuple[dict[int, Plan], RecurrentState]:
    """Looks at every tick, plans at every fourth, commits at every stride."""
    plans = {}
    for tick in ticks:
        state = advance(model, state, window_ticks(tick), lambda t: recording[t])
        if tick % plan_every == 0:
            commit = tick % model.config.memory_stride == 0
            plans[tick], state = plan(model, state, noise=noise_at(model, tick), commit=commit)
    return plans, state


def batch_of(model: SigmaTelepathyVLA, size: int, seed: int = 0) -> dict[str, Any]:
    """A batch as the model card has it; each window with its own text."""
    generator = torch.Generator().manual_seed(seed)
    px, cameras, dof = model.backbone.image_size_px, model.config.cameras, model.config.dof
    shape = (size, WINDOW_TICKS, cameras, 3, px, px)
    return {
        "vis_obs": torch.randint(0, 256, shape, dtype=torch.uint8, generator=generator),
        "robot_state": torch.rand(size, WINDOW_TICKS, dof, generator=generator) * 2 - 1,
        "texts": [f"put brick {index} into the box" for index in range(size)],
    }


def take(batch: dict[str, Any], index: int) -> dict[str, Any]:
    return {name: value[index : index + 1] for name, value in batch.items()}
