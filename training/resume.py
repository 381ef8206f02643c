# SPDX-License-Identifier: Apache-2.0
"""The state of a training run as one safetensors file, so that nothing is unpickled and resuming is bit for bit."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor
from torch.optim import Optimizer

from sigma_ros.errors import CheckpointError

from .tensor_files import write_tensors

STATE_FILE = "training_state.safetensors"
_MOMENTS = ("step", "exp_avg", "exp_avg_sq")


def optimizer_tensors(optimizer: Optimizer, parameters: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """AdamW's moments by parameter name; empty before the first step."""
    return {
        f"adam.{moment}.{name}": optimizer.state[parameter][moment]
        for name, parameter in parameters.items()
        if parameter in optimizer.state
        for moment in _MOMENTS
    }


@torch.no_grad()
def restore_optimizer(optimizer: Optimizer, parameters: Mapping[str, Tensor], stored: Mapping[str, Tensor]) -> None:
    """Puts back what `optimizer_tensors` gave."""
    for name, parameter in parameters.items():
        values = {moment: stored.get(f"adam.{moment}.{name}") for moment in _MOMENTS}
        if all(value is not None for value in values.values()):
            optimizer.state[parameter] = values


def save_state(folder: Path, tensors: Mapping[str, Tensor], facts: Mapping[str, Any]) -> None:
    """Writes tensors and JSON facts; the file appears whole or not at all."""
    write_tensors(folder / STATE_FILE, tensors, {"facts": json.dumps(dict(facts))})


def load_state(folder: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Reads what `save_state` wrote.

    Raises:
        CheckpointError: there is none, or it is damaged.
    """
    path = folder / STATE_FILE
    try:
        with safe_open(str(path), framework="pt") as file:
            facts = json.loads((file.metadata() or {})["facts"])
            return {name: file.get_tensor(name) for name in file.keys()}, facts  # noqa: SIM118 - not a dict
    except (OSError, SafetensorError, KeyError, ValueError) as error:
        raise CheckpointError(
            "the training run cannot be resumed",
            where=path,
            got=error,
            remedy="give the --output_dir of an interrupted run, or start anew without --resume",
        ) from error


def check_same_run(facts: Mapping[str, Any], wanted: Mapping[str, Any], *, where: object) -> None:
    """Refuses to resume with other settings: the curve would be of neither run."""
    differing = [name for name, value in wanted.items() if facts.get(name) != value]
    if differing:
        raise CheckpointError(
            "the run was started with other settings",
            where=where,
            expected=", ".join(f"{name} {facts.get(name)}" for name in differing),
            got=", ".join(f"{name} {wanted[name]}" for name in differing),
            remedy="give the settings of the first call, or another --output_dir",
        )
