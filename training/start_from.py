# SPDX-License-Identifier: Apache-2.0
"""A run that begins with another run's weights, and may keep most of them."""

import torch
from torch import Tensor

from sigma_ros.errors import UsageError
from sigma_ros.model.checkpoint.folder import load_trained, open_manifest
from sigma_ros.model.checkpoint.manifest import HEADS_FILE, BaseIdentity
from sigma_ros.model.loading import find_sigma
from sigma_ros.model.sigma import SigmaTelepathyVLA

_PREFIXES = {"all": "", "residual": "residual.", "late": "residual.branches.late."}
PARTS = tuple(_PREFIXES)
"""What a run may train: everything, the residual branches, or the late one alone."""


@torch.no_grad()
def begin_from(model: SigmaTelepathyVLA, checkpoint: str, base: BaseIdentity) -> tuple[str, ...]:
    """Copies every trained tensor of a checkpoint that has its name and shape here; gives the names that stay new.

    Args:
        model: Filled in place; its settings may differ from the checkpoint's.
        checkpoint: `mini` or a checkpoint folder.
        base: What `model` runs on.

    Raises:
        CheckpointError: it cannot be read, or belongs to another base.
        UsageError: nothing in it fits.
    """
    place = find_sigma(checkpoint)
    place.fetch("*.safetensors")
    folder = place.path
    manifest, _ = open_manifest(lora_dir=folder, heads_path=folder / HEADS_FILE)
    manifest.base.check(base, where=folder)
    other = SigmaTelepathyVLA(model.backbone, manifest.settings)
    load_trained(other, manifest, heads_path=folder / HEADS_FILE, lora_dir=folder)
    known, new = other.trained(), []
    for name, parameter in model.trained().items():
        if name in known and known[name].shape == parameter.shape:
            parameter.copy_(known[name])
        else:
            new.append(name)
    if len(new) == len(model.trained()):
        raise UsageError("no weight of the checkpoint fits the run", where=folder)
    model.references = manifest.references
    return tuple(new)


def chosen_parts(model: SigmaTelepathyVLA, parts: str) -> dict[str, Tensor]:
    """The parameters that a run changes; the others take no gradient any more."""
    chosen = {name: p for name, p in model.trained().items() if name.startswith(_PREFIXES[parts])}
    for name, parameter in model.trained().items():
        parameter.requires_grad_(name in chosen)
    return dict(chosen)
