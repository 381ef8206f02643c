# SPDX-License-Identifier: Apache-2.0
"""Strict transfer of trained tensors between safetensors files and a model: all of them, or one clear error."""

from collections.abc import Iterable, Mapping
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

from sigma_ros.errors import CheckpointError
from sigma_ros.model.weights_file import StoredTensor, list_tensors, read_into

_LISTED = 6


def write_tensors(tensors: Mapping[str, Tensor], path: Path) -> None:
    """Stores the tensors bit for bit in their own type.

    Raises:
        CheckpointError: one of them is not finite; such a file would be refused when loaded.
    """
    for name, tensor in tensors.items():
        if not bool(torch.isfinite(tensor).all()):
            raise CheckpointError(
                f"the tensor {name} is not finite and is not written",
                where=path,
                remedy="lower the learning rate, or use an earlier checkpoint",
            )
    save_file({name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}, path)
    path.chmod(0o644)  # the library makes it readable by its owner alone


@torch.no_grad()
def read_tensors(path: Path, parameters: Mapping[str, Tensor]) -> None:
    """Fills every parameter from the file; nothing is changed unless everything fits.

    Raises:
        CheckpointError: a tensor is missing, unexpected, misshapen, of another type, or not finite.
    """
    stored = list_tensors(path)
    _check(path, stored, parameters)
    read: dict[str, Tensor] = {}
    for name in sorted(parameters, key=lambda name: stored[name].start):
        read[name] = torch.empty(parameters[name].shape, dtype=parameters[name].dtype)
        read_into(stored[name], read[name])
    for name, parameter in parameters.items():
        parameter.copy_(read[name])


def _check(path: Path, stored: Mapping[str, StoredTensor], parameters: Mapping[str, Tensor]) -> None:
    problems = [f"missing {name}" for name in sorted(parameters.keys() - stored.keys())]
    problems += [f"unexpected {name}" for name in sorted(stored.keys() - parameters.keys())]
    for name in sorted(parameters.keys() & stored.keys()):
        expected, got = tuple(parameters[name].shape), stored[name].shape
        if expected != got:
            problems.append(f"shape of {name}: expected {expected}, got {got}")
        elif stored[name].dtype != "F32":
            problems.append(f"type of {name}: expected F32, got {stored[name].dtype}")
    if problems:
        raise CheckpointError(
            f"the trained tensors do not fit in {len(problems)} place(s)",
            where=path,
            expected=f"exactly the {len(parameters)} tensors of these settings",
            got=" | ".join(_shortened(problems)),
            remedy="use the files that were written together; nothing was loaded",
        )


def _shortened(lines: list[str]) -> Iterable[str]:
    return lines if len(lines) <= _LISTED else [*lines[:_LISTED], f"and {len(lines) - _LISTED} more"]
