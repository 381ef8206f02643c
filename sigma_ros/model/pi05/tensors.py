# SPDX-License-Identifier: Apache-2.0
"""Writes safetensors files, and reads their tensors one by one into memory that is already there.

The `safetensors` library checks the header (sizes, offsets, overlaps); the bytes are then read straight into
their place, in pieces, and hashed and checked on the way. So a load never holds a second copy of the weights.
"""

import hashlib
import json
import stat
import struct
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from sigma_ros.errors import CheckpointError

_PIECE_BYTES = 16 << 20
_MAX_HEADER_BYTES = 64 << 20
_LISTED = 8
FLOAT_TYPES = {"F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}
_PICKLE_STARTS = (b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05", b"PK\x03\x04", b"PK\x05\x06")


def save_tensors(path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str] | None = None) -> None:
    """Writes a file with the mode that the user's umask gives; the library alone makes it its owner's."""
    path.touch()
    mode = stat.S_IMODE(path.stat().st_mode)
    plain = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    save_file(plain, path, metadata=None if metadata is None else dict(metadata))
    path.chmod(mode)


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredTensor:
    """Where a tensor lies in its file."""

    path: Path
    name: str
    dtype: str
    shape: tuple[int, ...]
    start: int
    nbytes: int


def list_tensors(path: Path) -> Mapping[str, StoredTensor]:
    """The tensors of a safetensors file; no tensor data is read.

    Raises:
        CheckpointError: the file is missing, a pickle, truncated, or its header is not valid.
    """
    _refuse_pickle(path)
    try:
        with safe_open(path, framework="np"):
            pass
        with path.open("rb") as file:
            (length,) = struct.unpack("<Q", file.read(8))
            header = json.loads(file.read(length))
    except (SafetensorError, OSError, ValueError, RecursionError, struct.error) as error:
        raise CheckpointError(
            "the weights file is damaged or not safetensors",
            where=path,
            got=error,
            remedy="download or save the checkpoint again",
        ) from error
    data = 8 + length
    return {
        name: StoredTensor(
            path=path,
            name=name,
            dtype=entry["dtype"],
            shape=tuple(entry["shape"]),
            start=data + entry["data_offsets"][0],
            nbytes=entry["data_offsets"][1] - entry["data_offsets"][0],
        )
        for name, entry in header.items()
        if name != "__metadata__"
    }


def _refuse_pickle(path: Path) -> None:
    try:
        with path.open("rb") as file:
            start = file.read(9)
    except OSError as error:
        raise CheckpointError("the weights file cannot be read", where=path, got=error) from error
    header_bytes = struct.unpack("<Q", start[:8])[0] if len(start) >= 8 else 0
    if start[8:] == b"{" and header_bytes <= _MAX_HEADER_BYTES:
        return  # safetensors, though a header of 640 bytes is "80 02" too
    if start.startswith(_PICKLE_STARTS):
        raise CheckpointError(
            "the weights file is a pickle, which can run code when opened; it was not opened",
            where=path,
            expected="safetensors",
            got="a pickle or torch.save archive, judged by its first bytes",
            remedy="convert it to safetensors where you trust it",
        )
    if header_bytes > _MAX_HEADER_BYTES:
        raise CheckpointError(
            "the weights file's header is too large",
            where=path,
            expected=f"at most {_MAX_HEADER_BYTES} bytes",
            got=f"{header_bytes} bytes",
            remedy="download or save the checkpoint again",
        )


def misfits(
    stored: Mapping[str, StoredTensor], wanted: Mapping[str, tuple[str, tuple[int, ...]]], types: Collection[str]
) -> list[str]:
    """Tensors that are missing, unexpected, misshapen or of another type; arguments as of `refuse_misfits`."""
    problems = [f"missing {wanted[key][0]}" for key in sorted(wanted.keys() - stored.keys())]
    problems += [f"unexpected {stored[key].name}" for key in sorted(stored.keys() - wanted.keys())]
    for key in sorted(wanted.keys() & stored.keys()):
        found, shape = stored[key], wanted[key][1]
        if found.shape != shape:
            problems.append(f"shape of {found.name}: expected {shape}, got {found.shape}")
        if found.dtype not in types:
            type_name = "a float" if len(types) > 1 else next(iter(types))
            problems.append(f"type of {found.name}: expected {type_name}, got {found.dtype}")
    return problems


def refuse_misfits(
    stored: Mapping[str, StoredTensor],
    wanted: Mapping[str, tuple[str, tuple[int, ...]]],
    types: Collection[str],
    *,
    what: str,
    where: Path,
    expected: str,
) -> None:
    """Refuses tensors that are not exactly those wanted: key -> (name to tell, shape), each of one of the types.

    Raises:
        CheckpointError: with what is missing, unexpected, misshapen or of another type.
    """
    if problems := misfits(stored, wanted, types):
        told = problems if len(problems) <= _LISTED else [*problems[:_LISTED], f"and {len(problems) - _LISTED} more"]
        raise CheckpointError(
            f"{what} in {len(problems)} place(s)",
            where=where,
            expected=expected,
            got=" | ".join(told),
            remedy="use files that were written together, for this policy; nothing was loaded",
        )


def read_into(stored: StoredTensor, target: Tensor) -> str:
    """Fills `target` (same shape, contiguous, any float type and device) and returns the sha256 of the stored bytes.

    Raises:
        CheckpointError: the file ends early, holds no float numbers, or a value is not finite.
    """
    source_dtype = FLOAT_TYPES.get(stored.dtype)
    if source_dtype is None:
        raise CheckpointError(
            "a weight has no float type",
            where=f"{stored.path}: {stored.name}",
            expected=", ".join(FLOAT_TYPES),
            got=stored.dtype,
        )
    flat = target.view(-1)
    direct = target.device.type == "cpu" and target.dtype == source_dtype
    piece_items = _PIECE_BYTES // source_dtype.itemsize
    buffer = None if direct else bytearray(min(_PIECE_BYTES, stored.nbytes))
    digest = hashlib.sha256()
    with stored.path.open("rb") as file:
        file.seek(stored.start)
        for first in range(0, flat.numel(), piece_items):
            piece = flat[first : first + piece_items]
            view = (
                memoryview(piece.view(torch.uint8).numpy())
                if buffer is None
                else memoryview(buffer)[: piece.numel() * source_dtype.itemsize]
            )
            if file.readinto(view) != view.nbytes:
                raise CheckpointError("the weights file ends early", where=f"{stored.path}: {stored.name}")
            digest.update(view)
            if buffer is not None:
                piece.copy_(torch.frombuffer(view, dtype=source_dtype))
            _refuse_not_finite(piece, stored)
    return digest.hexdigest()


def _refuse_not_finite(piece: Tensor, stored: StoredTensor) -> None:
    extremes = torch.stack(torch.aminmax(piece))  # NaN spreads to both; ten times as fast as isfinite on all
    if not bool(torch.isfinite(extremes).all()):
        raise CheckpointError(
            "a weight is not finite",
            where=f"{stored.path}: {stored.name}",
            expected="finite numbers",
            got="NaN or Inf",
            remedy="use another checkpoint; this one cannot work",
        )


def file_hash(path: Path) -> str:
    """sha256 of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
