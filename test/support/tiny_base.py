# SPDX-License-Identifier: Apache-2.0
"""A tiny real PI05Policy with every weight stirred, its inputs, and ways to damage its file."""

from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import torch
from lerobot.policies.rtc.configuration_rtc import RTCConfig
from safetensors.torch import load_file, save_file
from torch import Tensor

from sigma_ros.contract import Contract
from sigma_ros.contract_file import load_contract
from sigma_ros.model.pi05.backbone import Backbone
from sigma_ros.model.pi05.flow import flow_noise
from sigma_ros.model.pi05.folder import WEIGHTS_FILE
from sigma_ros.model.pi05.loading import save_base
from sigma_ros.model.pi05.mini import TINY, build_mini, limit_normalisation
from sigma_ros.values import WINDOW_TICKS, Frame, Window

TASK = "pink lego brick into the transparent box"


def tiny_backbone(dtype: str = "float32", *, rtc: bool = False) -> Backbone:
    """Adaptive norms start at zero; a stirred model makes every weight matter."""
    backbone = build_mini(load_contract("so101"), 3, sizes=TINY, dtype=dtype)
    generator = torch.Generator().manual_seed(5)
    for parameter in backbone.policy.parameters():
        parameter.add_((0.05 * torch.randn(parameter.shape, generator=generator)).to(parameter.dtype))
    if rtc:
        backbone.policy.config.rtc_config = RTCConfig()
        backbone.policy.init_rtc_processor()
    return backbone


def save_tiny(folder: Path, *, trained: bool = True) -> Path:
    normalisation = limit_normalisation(load_contract("so101"))
    save_base(tiny_backbone(), folder, sizes=TINY, normalisation=normalisation, trained=trained, made_by="a test")
    return folder


def random_images(backbone: Backbone, batch: int, seed: int = 0, size: tuple[int, int] | None = None) -> Tensor:
    """uint8 [batch, cameras, 3, h, w]."""
    h, w = size or (backbone.image_size_px, backbone.image_size_px)
    generator = np.random.default_rng(seed)
    return torch.from_numpy(generator.integers(0, 256, (batch, len(backbone.camera_keys), 3, h, w), dtype=np.uint8))


def random_states(batch: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).uniform(-1, 1, (batch, 6)).astype(np.float32)


def batch_noise(backbone: Backbone, batch: int) -> Tensor:
    sizes = {"horizon": backbone.horizon, "max_dof": backbone.max_dof}
    return torch.cat([flow_noise(seed=1, epoch=0, tick=tick, **sizes) for tick in range(batch)])


def policy_batch(
    backbone: Backbone, images: Tensor, tokens: Tensor, mask: Tensor, missing: tuple[int, ...] = ()
) -> dict[str, Tensor]:
    """What LeRobot's pre-processor hands to the policy; cameras in `missing` are left out."""
    present = {k: images[:, i] for i, k in enumerate(backbone.camera_keys) if i not in missing}
    return {
        **{key: image.to(torch.float32) / 255.0 for key, image in present.items()},
        "observation.language.tokens": tokens,
        "observation.language.attention_mask": mask,
    }


def encode_batch(backbone: Backbone, images: Tensor, missing: tuple[int, ...] = ()) -> tuple[Tensor, Tensor]:
    """Image tokens camera by camera, as the policy does for a batch, and the camera mask."""
    batch, cameras = images.shape[:2]
    tokens = [backbone.encode_images(images[:, camera], per_call=batch) for camera in range(cameras)]
    seen = torch.ones(batch, cameras, dtype=torch.bool)
    for camera in missing:
        tokens[camera] = torch.full_like(tokens[camera], 7.0)
        seen[:, camera] = False
    return torch.stack(tokens, dim=1), seen


def rewrite(folder: Path, change: Callable[[dict[str, Tensor]], Mapping[str, Tensor]]) -> Path:
    """The same checkpoint with other weights: `change` maps the tensors to the new file's."""
    path = folder / WEIGHTS_FILE
    tensors = {name: tensor.clone() for name, tensor in load_file(path).items()}
    save_file(dict(change(tensors)), path)
    return folder


def frames(count: int, size_px: int, seed: int = 0, *, contract: Contract | None = None) -> tuple[Frame, ...]:
    generator = np.random.default_rng(seed)
    contract = contract or load_contract("so101")
    return tuple(
        Frame(
            epoch=0,
            tick=tick,
            stamp_ns=contract.tick_offset_ns(tick),
            images={c.name: generator.integers(0, 256, (size_px, size_px, 3), np.uint8) for c in contract.cameras},
            positions_rad=generator.uniform(-1.0, 1.0, contract.dof),
            image_age_ns=dict.fromkeys([c.name for c in contract.cameras], 1_000_000),
            joint_age_ns=2_000_000,
        )
        for tick in range(count)
    )


def window_at(recording: tuple[Frame, ...], tick: int, *, holes: tuple[int, ...] = (), epoch: int = 0) -> Window:
    """The window of a tick; before the first tick the first frame is repeated and masked."""
    ticks = range(tick - WINDOW_TICKS + 1, tick + 1)
    return Window(
        epoch=epoch,
        task=TASK,
        frames=tuple(recording[max(0, t)] for t in ticks),
        mask=np.array([t >= 0 and t not in holes for t in ticks]),
    )
