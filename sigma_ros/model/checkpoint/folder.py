# SPDX-License-Identifier: Apache-2.0
"""A Sigma checkpoint folder: heads, adapters, manifest and model card; written whole, read strictly.

Files: `sigma_telepathy_heads.safetensors`, `adapter_config.json` + `adapter_model.safetensors` (PEFT's layout, so
`PeftModel.from_pretrained(policy, folder)` reads them), `sigma_config.json`, `README.md`. Nothing is unpickled.
"""

import importlib.metadata
import json
import shutil
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from sigma_ros.border import whole
from sigma_ros.errors import CheckpointError
from sigma_ros.model.checkpoint.manifest import (
    HASHED_FILES,
    HEADS_FILE,
    BaseIdentity,
    Manifest,
    Training,
    fingerprint,
    model_card,
    read_manifest,
    write_manifest,
)
from sigma_ros.model.normalise import Normalisation
from sigma_ros.model.pi05.folder import ADAPTER_CONFIG_FILE, ADAPTER_FILE, read_json
from sigma_ros.model.pi05.loading import BaseInfo
from sigma_ros.model.pi05.tensors import file_hash, list_tensors, read_into, refuse_misfits, save_tensors

if TYPE_CHECKING:
    from sigma_ros.model.sigma import SigmaTelepathyVLA


# Strict transfer of trained tensors between safetensors files and a model: all of them, or one clear error.


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
    save_tensors(path, tensors)


@torch.no_grad()
def read_tensors(path: Path, parameters: Mapping[str, Tensor]) -> None:
    """Fills every parameter from the file; nothing is changed unless everything fits.

    Raises:
        CheckpointError: a tensor is missing, unexpected, misshapen, of another type, or not finite.
    """
    stored = list_tensors(path)
    refuse_misfits(
        stored,
        {name: (name, tuple(parameter.shape)) for name, parameter in parameters.items()},
        ("F32",),
        what="the trained tensors do not fit",
        where=path,
        expected=f"exactly the {len(parameters)} tensors of these settings",
    )
    read: dict[str, Tensor] = {}
    for name in sorted(parameters, key=lambda name: stored[name].start):
        read[name] = torch.empty(parameters[name].shape, dtype=parameters[name].dtype)
        read_into(stored[name], read[name])
    for name, parameter in parameters.items():
        parameter.copy_(read[name])


PEFT_PREFIX = "base_model.model."
LANGUAGE_MODEL = "model.paligemma_with_expert.paligemma.model.language_model."
"""Where the adapted layers are inside `PI05Policy`."""

_VERSIONS = ("torch", "transformers", "lerobot", "peft")


def identify(model: "SigmaTelepathyVLA", info: BaseInfo | None) -> BaseIdentity:
    """The base a model runs on; without `info` (a policy made in memory) only its fingerprint is known."""
    return BaseIdentity(
        source="in memory" if info is None else info.source,
        revision=None if info is None else info.revision,
        weights_hash=None if info is None else info.weights_hash,
        fingerprint=fingerprint(model.backbone.policy),
    )


def save_checkpoint(
    model: "SigmaTelepathyVLA",
    folder: str | Path,
    *,
    base: BaseIdentity,
    training: Training,
    normalisation: Normalisation | None = None,
    rename: Mapping[str, str] | None = None,
    scores: Mapping[str, float] | None = None,
    overwrite: bool = False,
) -> str:
    """Writes a checkpoint and returns its hash; the folder appears whole or not at all.

    Raises:
        CheckpointError: the folder exists (and `overwrite` is off), a tensor is not finite, or the adapters were
            merged for serving.
    """
    target = Path(folder)
    if model.config.use_lora and not model.adapters():
        raise CheckpointError(
            "the adapters were merged into their projections and cannot be written any more",
            where=target,
            remedy="save before merge_for_serving, or load the checkpoint again",
        )
    if target.exists() and not overwrite:
        raise CheckpointError("the output folder exists", where=target, remedy="choose another folder, or overwrite it")
    target.parent.mkdir(parents=True, exist_ok=True)
    manifest = Manifest(
        settings=model.config,
        references=model.references,
        base=base,
        normalisation=normalisation,
        rename=dict(rename or {}),
        training=training,
        scores=dict(scores or {}),
        versions={name: importlib.metadata.version(name) for name in _VERSIONS},
    )
    with whole(target) as partial:
        partial.mkdir()
        written = _write_files(model, manifest, partial)
        if target.exists():
            shutil.rmtree(target)
    return written


def _write_files(model: "SigmaTelepathyVLA", manifest: Manifest, folder: Path) -> str:
    heads, adapters = model.heads(), model.adapters()
    if heads:
        write_tensors(heads, folder / HEADS_FILE)
    if adapters:
        named = {PEFT_PREFIX + LANGUAGE_MODEL + name: tensor for name, tensor in adapters.items()}
        write_tensors(named, folder / ADAPTER_FILE)
        description = _adapter_description(model, manifest.base.source)
        (folder / ADAPTER_CONFIG_FILE).write_text(json.dumps(description, indent=2) + "\n", encoding="utf-8")
    files = {name: file_hash(folder / name) for name in HASHED_FILES if (folder / name).is_file()}
    manifest = replace(manifest, files=files)
    write_manifest(manifest, folder)
    (folder / "README.md").write_text(model_card(manifest, heads, adapters), encoding="utf-8")
    return file_hash(folder / "sigma_config.json")


def _adapter_description(model: "SigmaTelepathyVLA", base: str) -> dict[str, object]:
    layers = sorted({LANGUAGE_MODEL + name.rsplit(".lora_", 1)[0] for name in model.adapters()})
    lora = model.lora_config(target_modules=layers)
    lora.base_model_name_or_path = base
    lora.inference_mode = True
    plain = {key: sorted(value) if isinstance(value, set) else value for key, value in lora.to_dict().items()}
    kept = {key: value for key, value in plain.items() if value is None or isinstance(value, str | int | float | list)}
    return {**kept, "peft_type": "LORA"}


def load_trained(
    model: "SigmaTelepathyVLA", manifest: Manifest, *, heads_path: Path | None, lora_dir: Path | None
) -> None:
    """Fills a model built with the manifest's settings from its files.

    Raises:
        CheckpointError: a needed file is missing, was changed after writing, or does not fit.
    """
    heads, adapters = model.heads(), model.adapters()
    if heads:
        path = _present(heads_path, HEADS_FILE)
        read_tensors(path, heads)
        _check_unchanged(path, manifest)
    if adapters:
        description = _present(_inside(lora_dir, ADAPTER_CONFIG_FILE), ADAPTER_CONFIG_FILE)
        _check_adapter_description(description, model)
        path = _present(_inside(lora_dir, ADAPTER_FILE), ADAPTER_FILE)
        read_tensors(path, {PEFT_PREFIX + LANGUAGE_MODEL + name: tensor for name, tensor in adapters.items()})
        _check_unchanged(path, manifest)
    model.references = manifest.references


def _inside(folder: Path | None, name: str) -> Path | None:
    return None if folder is None else folder / name


def _present(path: Path | None, name: str) -> Path:
    if path is not None and path.is_file():
        return path
    others = [] if path is None else [p.name for p in sorted(path.parent.glob("*")) if p.suffix in (".bin", ".pt")]
    raise CheckpointError(
        "a file of the checkpoint is missing",
        where=path or name,
        expected=name,
        got=f"pickle files, which are never opened: {', '.join(others)}" if others else "nothing",
        remedy="give the folder with all files of the checkpoint",
    )


def _check_unchanged(path: Path, manifest: Manifest) -> None:
    role = ADAPTER_FILE if path.name == ADAPTER_FILE else HEADS_FILE
    expected, got = manifest.files.get(role), file_hash(path)
    if expected != got:
        raise CheckpointError(
            "a file of the checkpoint was changed after it was written",
            where=path,
            expected=f"sha256 {expected}" if expected else "a file that the manifest lists",
            got=f"sha256 {got}",
            remedy="use the files that were written together",
        )


def _check_adapter_description(path: Path, model: "SigmaTelepathyVLA") -> None:
    values = read_json(path)
    wanted = _adapter_description(model, str(values.get("base_model_name_or_path")))
    for key in ("peft_type", "r", "lora_alpha", "target_modules", "bias"):
        got = sorted(values[key]) if isinstance(values.get(key), list) else values.get(key)
        if got != wanted[key]:
            raise CheckpointError(
                f"the adapters' {key} does not fit the settings", where=path, expected=wanted[key], got=got
            )


def open_manifest(*, lora_dir: Path | None, heads_path: Path | None) -> tuple[Manifest, str]:
    """The manifest next to the adapters, or next to the heads; both must have the same one."""
    folders = [folder for folder in (lora_dir, heads_path.parent if heads_path else None) if folder is not None]
    if not folders:
        raise CheckpointError("there is no checkpoint to read", remedy="give lora_dir or telepathy_heads_path")
    found = [read_manifest(folder) for folder in dict.fromkeys(folders)]
    if len({digest for _, digest in found}) != 1:
        raise CheckpointError("adapters and heads are of different checkpoints", where=", ".join(map(str, folders)))
    return found[0]
