# SPDX-License-Identifier: Apache-2.0
"""The batch and the outputs of the public model card, checked and documented.

All states and actions are in the base's normalised space, like the inputs and outputs of
`PI05Policy.predict_action_chunk` (after LeRobot's normaliser, before its unnormaliser).
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypedDict

import torch
from jaxtyping import Bool, Float, UInt8
from lerobot.policies.pi05.modeling_pi05 import PI05Policy
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from sigma_ros.errors import CheckpointError, SigmaError
from sigma_ros.model.pi05.backbone import Backbone
from sigma_ros.model.pi05.folder import open_tokenizer
from sigma_ros.model.pi05.loading import BaseInfo, load_base
from sigma_ros.model.residual import Residual, head_parameters
from sigma_ros.model.settings import SigmaConfig
from sigma_ros.model.telepathy import Recurrence, TelepathyOutput
from sigma_ros.values import WINDOW_TICKS


class SigmaOutputs(TypedDict):
    """What `SigmaTelepathyVLA.forward` returns.

    B batch, D joints, H the base's horizon. `*_vector` is step 0, `*_chunk` the first 8 steps, `*_trajectory`
    16 steps. `base_actions` and `telepathy_residual` span the horizon and are what the robot gets as
    base + scale * residual. `alignment` and `semantic_alignment` are the cosines of intent and factors,
    and of memory and task text.
    """

    base_actions: Float[Tensor, "batch horizon dof"]
    base_action_vector: Float[Tensor, "batch dof"]
    base_action_chunk: Float[Tensor, "batch chunk_steps dof"]
    base_action_trajectory: Float[Tensor, "batch trajectory_steps dof"]
    telepathy_residual: Float[Tensor, "batch horizon dof"]
    telepathy_residual_vector: Float[Tensor, "batch dof"]
    telepathy_residual_chunk: Float[Tensor, "batch chunk_steps dof"]
    telepathy_residual_trajectory: Float[Tensor, "batch trajectory_steps dof"]
    telepathy_factors: Float[Tensor, "batch factor_count factor_width"]
    semantic_memory: Float[Tensor, "batch memory_width"]
    intent: Float[Tensor, "batch intent_width"]
    alignment: Float[Tensor, " batch"]
    semantic_alignment: Float[Tensor, " batch"]


@dataclass(frozen=True, slots=True, kw_only=True)
class SigmaBatch:
    """A checked batch: every axis present, masks filled in; behind its first `joints` numbers a state is padding."""

    images: Tensor
    seen: Bool[Tensor, "batch ticks cameras"]
    valid: Bool[Tensor, "batch ticks"]
    states: Float[Tensor, "batch ticks dof"]
    joints: int
    texts: list[str]
    noise: Float[Tensor, "batch horizon max_dof"] | None
    previous: Recurrence


_REQUIRED = ("vis_obs", "robot_state", "texts")
_OPTIONAL = ("camera_mask", "tick_mask", "noise", "semantic_memory", "telepathy_factors")


def read_batch(batch: Mapping[str, Any], config: SigmaConfig, backbone: Backbone) -> SigmaBatch:
    """Checks the card's keys and fills in what it leaves out.

    A base that belongs to no robot yet (pi05_base: 32 numbers) takes states of fewer joints, padded with zeros as
    LeRobot pads them; the results then have so many joints.

    Keys: `vis_obs` [B, T, C, H, W] or [B, T, K, C, H, W], uint8 or float in [0, 1]; `robot_state` [B, T, D];
    `texts` B strings. With one camera axis missing, the images are those of the first camera and the
    others count as absent. Optional: `camera_mask` [B, T, K], `tick_mask` [B, T], `noise` for the flow, and
    `semantic_memory`, `telepathy_factors` of the window before.

    Raises:
        SigmaError: a key is missing or unknown, or a shape does not fit.
    """
    unknown, missing = set(batch) - {*_REQUIRED, *_OPTIONAL}, set(_REQUIRED) - set(batch)
    if unknown or missing:
        raise _wrong("keys", f"{', '.join(_REQUIRED)}; optional {', '.join(_OPTIONAL)}", sorted(batch))
    device = backbone.device
    images, states, texts = batch["vis_obs"].to(device), batch["robot_state"].to(device), list(batch["texts"])
    single = images.ndim == 5
    if single:
        images = images[:, :, None]
    size, cameras = len(texts), images.shape[2] if images.ndim == 6 else 0
    if images.ndim != 6 or images.shape[:2] != (size, WINDOW_TICKS) or images.shape[3] != 3:
        raise _wrong("vis_obs", f"[{size}, {WINDOW_TICKS}, (cameras,) 3, H, W]", list(batch["vis_obs"].shape))
    if cameras != config.cameras and not single:
        raise _wrong("vis_obs", f"{config.cameras} cameras", f"{cameras}")
    joints = states.shape[-1]
    if config.dof == backbone.max_dof and 1 <= joints < config.dof:
        states = torch.nn.functional.pad(states, (0, config.dof - joints))
    if states.shape != (size, WINDOW_TICKS, config.dof):
        raise _wrong("robot_state", f"[{size}, {WINDOW_TICKS}, {config.dof}]", list(states.shape))
    seen = torch.zeros(size, WINDOW_TICKS, config.cameras, dtype=torch.bool, device=device)
    seen[:, :, :cameras] = True
    valid = _mask(batch, "tick_mask", torch.ones_like(seen[:, :, 0]))
    if not bool(valid[:, -1].all()):
        raise _wrong("tick_mask", "the newest tick of every window valid", "a masked newest tick")
    return SigmaBatch(
        images=images,
        seen=seen & _mask(batch, "camera_mask", seen) & valid[..., None],
        valid=valid,
        states=states.to(torch.float32),
        joints=joints,
        texts=texts,
        noise=batch.get("noise"),
        previous=_previous(batch, config, size, device),
    )


def as_bytes(images: UInt8[Tensor, "*any h w"] | Float[Tensor, "*any h w"]) -> UInt8[Tensor, "*any h w"]:
    """Images as cameras deliver them; floats in [0, 1] are rounded to 1/255, so bytes / 255 come back exactly.

    Raises:
        SigmaError: a float image is not finite or outside [0, 1].
    """
    if images.dtype == torch.uint8:
        return images
    low, high = float(images.min()), float(images.max())
    if not (low >= 0.0 and high <= 1.0):
        raise _wrong("vis_obs", "uint8, or finite floats in [0, 1]", f"values in [{low:g}, {high:g}]")
    return (images * 255.0).round().to(torch.uint8)


def outputs(
    base: Float[Tensor, "batch horizon dof"], residual: Residual, telepathy_output: TelepathyOutput, *, joints: int
) -> SigmaOutputs:
    """A batch's results by the card's names, of the first `joints` joints."""
    config, base = residual.config, base[..., :joints]
    return SigmaOutputs(
        base_actions=base,
        base_action_vector=base[:, 0],
        base_action_chunk=base[:, : config.chunk_steps],
        base_action_trajectory=base[:, : config.trajectory_steps],
        telepathy_residual=residual.composite[..., :joints],
        telepathy_residual_vector=residual.vector[..., :joints],
        telepathy_residual_chunk=residual.chunk[..., :joints],
        telepathy_residual_trajectory=residual.trajectory[..., :joints],
        telepathy_factors=telepathy_output.factors,
        semantic_memory=telepathy_output.memory,
        intent=telepathy_output.intent,
        alignment=telepathy_output.alignment,
        semantic_alignment=telepathy_output.sem_align,
    )


def _mask(batch: Mapping[str, Any], name: str, default: Tensor) -> Tensor:
    given = batch.get(name)
    if given is None:
        return default
    if given.shape != default.shape or given.dtype != torch.bool:
        raise _wrong(name, f"{list(default.shape)} of bool", f"{list(given.shape)} of {given.dtype}")
    return given.to(default.device)


def _previous(batch: Mapping[str, Any], config: SigmaConfig, size: int, device: torch.device) -> Recurrence:
    start = Recurrence.start(config, batch=size, device=device)
    memory, factors = batch.get("semantic_memory", start.memory), batch.get("telepathy_factors", start.factors)
    for name, given, wanted in (
        ("semantic_memory", memory, start.memory),
        ("telepathy_factors", factors, start.factors),
    ):
        if given.shape != wanted.shape:
            raise _wrong(name, list(wanted.shape), list(given.shape))
    return Recurrence(memory=memory.to(device), factors=factors.to(device))


def _wrong(name: str, expected: object, got: object) -> SigmaError:
    return SigmaError(f"the batch's {name} does not fit", where=f"batch[{name!r}]", expected=expected, got=got)


# What Sigma may be given as a base: a policy object, an opened backbone, or a place to load from.


_MOST_HEAD_PARAMETERS = 500_000_000
_NAMES = {torch.float32: "float32", torch.bfloat16: "bfloat16"}


def backbone_of(
    base: PI05Policy | Backbone | str | Path,
    *,
    device: str | torch.device | None,
    dtype: str | torch.dtype | None,
    tokenizer: PreTrainedTokenizerBase | str | None,
) -> tuple[Backbone, BaseInfo | None]:
    """The frozen base, moved and converted in place as asked; where it came from, if it was loaded here."""
    kind = _dtype_name(dtype)
    if isinstance(base, str | Path):
        if tokenizer is not None and not isinstance(tokenizer, str):
            raise CheckpointError("give the tokenizer's place, not an object, with a base that is loaded", where=base)
        loaded = load_base(base, device=str(device or "auto"), dtype=kind or "auto", tokenizer=tokenizer)
        return loaded.backbone, loaded.info
    backbone = base if isinstance(base, Backbone) else Backbone(base, _tokenizer(base, tokenizer))
    if kind is not None and kind != _NAMES.get(backbone.dtype):
        backbone.policy.model.paligemma_with_expert.to_bfloat16_for_selected_params(kind)
    if device is not None:
        backbone.to(device)
    return backbone, None


def _dtype_name(dtype: str | torch.dtype | None) -> str | None:
    if dtype is None or dtype in _NAMES.values():
        return dtype  # type: ignore[return-value]
    if isinstance(dtype, torch.dtype) and dtype in _NAMES:
        return _NAMES[dtype]
    raise CheckpointError("unknown number type", expected="float32 or bfloat16", got=dtype)


def _tokenizer(base: PI05Policy, tokenizer: PreTrainedTokenizerBase | str | None) -> PreTrainedTokenizerBase:
    if tokenizer is not None and not isinstance(tokenizer, str):
        return tokenizer
    vocabulary = base.model.paligemma_with_expert.paligemma.config.text_config.vocab_size
    return open_tokenizer(tokenizer, own=None, vocabulary=vocabulary)


def check_fit(config: SigmaConfig, backbone: Backbone) -> None:
    """Refuses settings that belong to another base, or to no machine.

    Raises:
        CheckpointError: width, horizon or cameras differ, there are more joints than the base has room for,
            or the heads would be larger than any real ones.
    """
    if (count := head_parameters(config)) > _MOST_HEAD_PARAMETERS:
        raise CheckpointError(
            "Sigma's settings ask for senseless sizes",
            expected=f"at most {_MOST_HEAD_PARAMETERS:,} numbers",
            got=f"{count:,}",
        )
    expected = {"width": backbone.width, "horizon": backbone.horizon, "cameras": len(backbone.camera_keys)}
    wrong = [name for name, value in expected.items() if getattr(config, name) != value]
    if wrong or config.dof > backbone.max_dof or config.pooled_grid > backbone.patch_grid:
        raise CheckpointError(
            "Sigma's settings do not fit the base policy",
            where=", ".join(wrong) or "dof or pooled_grid",
            expected=expected | {"dof": f"at most {backbone.max_dof}", "pooled_grid": f"at most {backbone.patch_grid}"},
            got={name: getattr(config, name) for name in (*expected, "dof", "pooled_grid")},
            remedy="use the base the settings were made for, or SigmaConfig.for_backbone",
        )
