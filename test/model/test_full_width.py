# SPDX-License-Identifier: Apache-2.0
"""The base path's law at pi0.5's own widths: two of the layers and a small vocabulary, 0.3 G parameters."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from tiny_base import TASK, batch_noise, encode_batch, policy_batch, random_images, random_states

from sigma_ros.contract import Contract
from sigma_ros.model.pi05.backbone import Backbone
from sigma_ros.model.pi05.loading import load_base, save_base
from sigma_ros.model.pi05.mini import build_mini, limit_normalisation
from sigma_ros.model.pi05.sizes import FULL

WIDE = replace(FULL, depth=2, vision_depth=2, vocabulary=1024)


@pytest.mark.slow
def test_full_width_base_chunk_equals_the_policy_bit_for_bit_through_a_checkpoint(
    so101: Contract, tmp_path: Path
) -> None:
    built = build_mini(so101, sizes=WIDE, dtype="bfloat16", full_prompt=True)
    generator = torch.Generator().manual_seed(5)
    for parameter in built.policy.parameters():
        parameter.add_((0.01 * torch.randn(parameter.shape, generator=generator)).to(parameter.dtype))
    save_base(
        built,
        tmp_path / "wide",
        sizes=WIDE,
        normalisation=limit_normalisation(so101),
        trained=True,
        made_by="a test",
    )
    loaded = load_base(tmp_path / "wide", dtype="bfloat16").backbone
    for missing in ((), (0,)):
        assert torch.equal(_chunk(loaded, missing), _reference(built, missing))


def _chunk(backbone: Backbone, missing: tuple[int, ...]) -> torch.Tensor:
    image_tokens, seen = encode_batch(backbone, random_images(backbone, 1), missing)
    tokens, mask = backbone.tokenize(TASK, random_states(1))
    return backbone.base_chunk(image_tokens, seen, tokens, mask, batch_noise(backbone, 1))[:, :, :6]


def _reference(backbone: Backbone, missing: tuple[int, ...]) -> torch.Tensor:
    tokens, mask = backbone.tokenize(TASK, random_states(1))
    batch = policy_batch(backbone, random_images(backbone, 1), tokens, mask, missing)
    return backbone.policy.predict_action_chunk(batch, noise=batch_noise(backbone, 1))
