# SPDX-License-Identifier: Apache-2.0
"""What Sigma may be given as a base: a policy object, an opened backbone, or a place to load from."""

from pathlib import Path

import torch
from lerobot.policies.pi05.modeling_pi05 import PI05Policy
from transformers import PreTrainedTokenizerBase

from sigma_ros.errors import CheckpointError
from sigma_ros.model.backbone import Backbone
from sigma_ros.model.base_checkpoint import BaseInfo, load_base
from sigma_ros.model.base_folder import open_tokenizer
from sigma_ros.model.residual import head_parameters
from sigma_ros.model.settings import SigmaConfig

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
