# SPDX-License-Identifier: Apache-2.0
"""What a checkpoint is, as text: `sigma model inspect`.

A Sigma checkpoint's own files are read and checked without its base; statistics are those of the model card's
CHECK A. A base is loaded strictly, as the runtime would.
"""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import safe_open
from torch import Tensor

from sigma_ros.errors import CheckpointError
from sigma_ros.model.checkpoint.folder import identify
from sigma_ros.model.checkpoint.manifest import HEADS_FILE, Manifest, read_manifest
from sigma_ros.model.loading import find_sigma
from sigma_ros.model.pi05.folder import ADAPTER_FILE
from sigma_ros.model.pi05.loading import load_base
from sigma_ros.model.pi05.places import MANIFEST_FILE
from sigma_ros.model.pi05.tensors import file_hash, list_tensors
from sigma_ros.model.sigma import SigmaTelepathyVLA


@dataclass(frozen=True, slots=True, kw_only=True)
class TensorStatistics:
    """Over all numbers of a file's tensors together, in float64."""

    tensors: int
    numbers: int
    mean: float
    std: float
    rms: float

    def __str__(self) -> str:
        return (
            f"{self.tensors} tensors, {self.numbers:,} numbers, "
            f"mean {self.mean:.6f}, std {self.std:.6f}, rms {self.rms:.6f}"
        )


def statistics(tensors: Iterable[Tensor]) -> TensorStatistics:
    """Count, mean, standard deviation and root mean square of all numbers; NaN for none."""
    count = numbers = 0
    total = squares = 0.0
    for tensor in tensors:
        values = tensor.detach().to(torch.float64)
        count += 1
        numbers += values.numel()
        total += float(values.sum())
        squares += float(values.square().sum())
    mean = total / numbers if numbers else math.nan
    power = squares / numbers if numbers else math.nan
    return TensorStatistics(
        tensors=count, numbers=numbers, mean=mean, std=math.sqrt(max(0.0, power - mean * mean)), rms=math.sqrt(power)
    )


def file_statistics(path: Path) -> TensorStatistics:
    """`statistics` of a safetensors file, one tensor at a time; anything else is refused."""
    names = sorted(list_tensors(path))
    with safe_open(path, framework="pt") as file:
        return statistics(file.get_tensor(name) for name in names)


def inspect_checkpoint(checkpoint: str, *, base: str | None = None, tokenizer: str | None = None) -> str:
    """Lines that say what `mini`, a Sigma checkpoint folder, or a base folder or Hub id is.

    A `base` is loaded, to say whether the Sigma checkpoint belongs to it.

    Raises:
        CheckpointError: a file is missing, hostile, damaged or changed, or the base is another one.
    """
    place = find_sigma(checkpoint)
    folder = place.path
    if (folder / MANIFEST_FILE).is_file():
        place.fetch(HEADS_FILE, ADAPTER_FILE)
        lines = describe_sigma(folder)
        if base is not None:
            lines.append(f"base at hand    {_match(folder, base, tokenizer)}")
        return "\n".join(lines)
    return "\n".join(_describe_base(checkpoint, tokenizer))


def describe_sigma(folder: Path) -> list[str]:
    """One line per fact of a Sigma checkpoint; its files are hashed and must be the ones that were written."""
    manifest, digest = read_manifest(folder)
    for name, expected in manifest.files.items():
        _check_file(folder / name, expected)
    training, base = manifest.training, manifest.base
    return [
        f"Sigma checkpoint, {'trained' if training.trained else 'UNTRAINED (the residual is zero)'}: {folder}",
        f"hash            {digest}",
        f"heads           {_file_line(folder, HEADS_FILE, manifest)}",
        f"adapters        {_file_line(folder, ADAPTER_FILE, manifest)}",
        f"references      r_ref {manifest.references.r_ref:.6g}, tau_ref {manifest.references.tau_ref:.6g}",
        f"base            {base.source}@{base.revision or 'no revision'}, weights {_short(base.weights_hash)}, "
        f"fingerprint {_short(base.fingerprint)}",
        f"data            {training.data_hash or 'none'}",
        f"training        {training.steps} steps, seed {training.seed}: {training.command or 'no command'}",
        f"normalisation   {_normalisation_line(manifest)}",
        f"scores          {_pairs(manifest.scores) or 'none'}",
        f"settings        {_pairs(manifest.settings.to_json())}",
        f"made with       {_pairs(manifest.versions)}",
    ]


def _file_line(folder: Path, name: str, manifest: Manifest) -> str:
    return str(file_statistics(folder / name)) if name in manifest.files else "none with these settings"


def _check_file(path: Path, expected: str) -> None:
    if not path.is_file() or file_hash(path) != expected:
        raise CheckpointError(
            "a file of the checkpoint is missing or was changed after it was written",
            where=path,
            expected=f"sha256 {expected}",
            got=f"sha256 {file_hash(path)}" if path.is_file() else "nothing",
            remedy="use the files that were written together",
        )


def _normalisation_line(manifest: Manifest) -> str:
    if manifest.normalisation is None:
        return "that of the base"
    state = manifest.normalisation.state
    low, high = state.usual
    return f"own, {state.mode}, {state.dof} joints, states {low.tolist()} to {high.tolist()}"


def _match(folder: Path, base: str, tokenizer: str | None) -> str:
    model = SigmaTelepathyVLA.from_base(
        base, lora_dir=folder, telepathy_heads_path=folder / HEADS_FILE, tokenizer=tokenizer
    )
    return f"{base} is the base of this checkpoint (fingerprint {_short(identify(model, None).fingerprint)})"


def _describe_base(checkpoint: str, tokenizer: str | None) -> list[str]:
    loaded = load_base(checkpoint, tokenizer=tokenizer, allow_untrained=True)
    info, backbone = loaded.info, loaded.backbone
    numbers = statistics(backbone.policy.parameters())
    return [
        f"pi0.5 base policy, {'trained' if info.trained else 'UNTRAINED (random weights)'}: {checkpoint}",
        f"weights         {numbers}",
        f"hash            {info.weights_hash}",
        f"revision        {info.revision or 'none'}",
        f"number type     {info.dtype}, {info.weight_bytes / 1e9:.3f} GB on {info.device}, read in {info.load_s:.1f} s",
        f"sizes           {_pairs({name: getattr(info.sizes, name) for name in info.sizes.__slots__})}",
        f"cameras         {', '.join(backbone.camera_keys)} at {backbone.image_size_px} px",
        f"actions         {backbone.horizon} steps of at most {backbone.max_dof} joints",
        f"normalisation   {'in the checkpoint' if loaded.normalisation else 'none; a Sigma checkpoint must bring it'}",
        f"ignored keys    {', '.join(info.ignored) or 'none'}",
        "Sigma           none: telepathy heads would start untrained, the residual is zero",
    ]


def _short(digest: str | None) -> str:
    return "unknown" if digest is None else digest[:16]


def _pairs(values: Mapping[str, object]) -> str:
    return ", ".join(f"{name} {_plain(value)}" for name, value in values.items())


def _plain(value: object) -> str:
    return f"{value:.6g}" if isinstance(value, float) else str(value)
