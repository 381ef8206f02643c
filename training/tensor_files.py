# SPDX-License-Identifier: Apache-2.0
"""Writing tensors: a file is there whole or not at all, and a disk that refuses is said in one sentence."""

from collections.abc import Mapping
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor

from sigma_ros.errors import MachineError


def write_tensors(path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str] | None = None) -> None:
    """Writes a safetensors file.

    Raises:
        MachineError: the disk refuses; what was there before is still there.
    """
    temporary = path.with_suffix(".tmp")
    plain = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        save_file(plain, temporary, metadata=None if metadata is None else dict(metadata))
        temporary.replace(path)
    except (OSError, SafetensorError) as error:
        raise MachineError(
            "tensors could not be written",
            where=path,
            got=error,
            remedy="free some space; nothing that was finished is lost, run the same command again",
        ) from error
    finally:
        temporary.unlink(missing_ok=True)
