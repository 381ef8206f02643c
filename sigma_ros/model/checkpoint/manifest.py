# SPDX-License-Identifier: Apache-2.0
"""`sigma_config.json`: what a Sigma checkpoint is, on which base, from which data, and how good."""

import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

import torch
from lerobot.policies.pi05.modeling_pi05 import PI05Policy
from torch import Tensor

from sigma_ros.errors import CheckpointError
from sigma_ros.model.adapter import References
from sigma_ros.model.normalise import Normalisation
from sigma_ros.model.pi05.folder import ADAPTER_CONFIG_FILE, ADAPTER_FILE, read_json
from sigma_ros.model.pi05.places import MANIFEST_FILE, Place, is_hub_id, refuse_empty
from sigma_ros.model.pi05.tensors import file_hash
from sigma_ros.model.pi05.weights import network_tensors
from sigma_ros.model.settings import SigmaConfig

HEADS_FILE = "sigma_telepathy_heads.safetensors"
HASHED_FILES = (HEADS_FILE, ADAPTER_FILE, ADAPTER_CONFIG_FILE)

_FORMAT = "sigma_checkpoint_1"
_SAMPLES_PER_TENSOR = 64


@dataclass(frozen=True, slots=True, kw_only=True)
class BaseIdentity:
    """Which base a checkpoint belongs to.

    `fingerprint` samples every tensor in bfloat16, so it is the same for a base loaded in float32 or
    bfloat16; `weights_hash` is over all stored bytes and None where the base did not come from a file.
    """

    source: str
    revision: str | None
    weights_hash: str | None
    fingerprint: str

    def check(self, other: "BaseIdentity", *, where: object) -> None:
        """Refuses `other` (the base at hand) when it is not this one."""
        if self.fingerprint != other.fingerprint:
            raise CheckpointError(
                "the checkpoint belongs to another base policy",
                where=where,
                expected=f"{self.source}@{self.revision or 'no revision'}, fingerprint {self.fingerprint[:16]}",
                got=f"{other.source}@{other.revision or 'no revision'}, fingerprint {other.fingerprint[:16]}",
                remedy="give the base it was trained on with --base and --revision",
            )


def fingerprint(policy: PI05Policy) -> str:
    """A hash over name, shape and 64 evenly spaced bfloat16 values of every tensor the policy uses."""
    digest = hashlib.sha256()
    tensors = network_tensors(policy)
    for name in sorted(tensors):
        if name.endswith("lm_head.weight"):
            continue  # LeRobot keeps the expert's unused head
        parameter = tensors[name][1].detach()
        flat = parameter.reshape(-1)
        step = max(1, flat.numel() // _SAMPLES_PER_TENSOR)
        sample = flat[::step].to(torch.bfloat16).cpu().view(torch.int16).numpy()
        digest.update(f"{name} {tuple(parameter.shape)}\n".encode())
        digest.update(sample.tobytes())
    return digest.hexdigest()


@dataclass(frozen=True, slots=True, kw_only=True)
class Training:
    """Where the numbers come from. `trained` False means: as initialised, the residual is zero."""

    trained: bool = False
    steps: int = 0
    seed: int = 0
    command: str | None = None
    data_hash: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Manifest:
    """The whole of `sigma_config.json`. `files` maps file names to sha256, filled in when written.

    `rename` maps keys of the training data's cameras to the policy's, where they differ.
    """

    settings: SigmaConfig
    references: References
    base: BaseIdentity
    normalisation: Normalisation | None = None
    rename: Mapping[str, str] = field(default_factory=dict)
    training: Training = field(default_factory=Training)
    scores: Mapping[str, float] = field(default_factory=dict)
    files: Mapping[str, str] = field(default_factory=dict)
    versions: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.normalisation is not None and self.normalisation.state.dof != self.settings.dof:
            raise CheckpointError(
                "settings and statistics are of different robots",
                where=MANIFEST_FILE,
                expected=f"{self.settings.dof} joints, as in the settings",
                got=f"{self.normalisation.state.dof} joints in the normalisation",
            )

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return {
            "format": _FORMAT,
            "settings": self.settings.to_json(),
            "references": {"r_ref": self.references.r_ref, "tau_ref": self.references.tau_ref},
            "base": _plain(self.base),
            "normalisation": None if self.normalisation is None else self.normalisation.as_dict(),
            "rename": dict(self.rename),
            "training": _plain(self.training),
            "scores": dict(self.scores),
            "files": dict(self.files),
            "versions": dict(self.versions),
        }

    @classmethod
    def from_json(cls, values: Mapping[str, Any], *, where: object) -> Self:
        """Reads what `to_json` gave; every field is checked.

        Raises:
            CheckpointError: a field is unknown, missing, or cannot be right.
        """
        if values.get("format") != _FORMAT:
            raise CheckpointError(
                "this is not a Sigma checkpoint of this format", where=where, expected=_FORMAT, got=values.get("format")
            )
        values = {"rename": {}, **values}  # younger than the format
        names = {"format", "settings", "references", "base", "normalisation", "rename"}
        names |= {"training", "scores", "files", "versions"}
        _exact_keys(values, names, where)
        for name in sorted(names - {"format", "normalisation"}):
            if not isinstance(values[name], dict):
                raise CheckpointError(f"{name} is not an object", where=where, got=type(values[name]).__name__)
        unknown = sorted(set(values["files"]) - set(HASHED_FILES))
        if unknown:
            raise CheckpointError(
                "the checkpoint lists files that do not belong to it", where=where, expected=HASHED_FILES, got=unknown
            )
        stored = values["normalisation"]
        return cls(
            settings=SigmaConfig.from_json(values["settings"], where=f"{where}: settings"),
            references=_references(values["references"], where),
            base=BaseIdentity(**_typed(values["base"], _BASE, f"{where}: base")),
            normalisation=None if stored is None else Normalisation.from_dict(stored, where=f"{where}: normalisation"),
            rename=_texts(values["rename"], f"{where}: rename"),
            training=Training(**_typed(values["training"], _TRAINING, f"{where}: training")),
            scores={name: _number(value, f"{where}: scores.{name}") for name, value in values["scores"].items()},
            files=_texts(values["files"], f"{where}: files"),
            versions=_texts(values["versions"], f"{where}: versions"),
        )


_BASE = {"source": str, "revision": (str, type(None)), "weights_hash": (str, type(None)), "fingerprint": str}
_TRAINING = {
    "trained": bool,
    "steps": int,
    "seed": int,
    "command": (str, type(None)),
    "data_hash": (str, type(None)),
}


def read_manifest(folder: Path) -> tuple[Manifest, str]:
    """The manifest of a checkpoint folder, and the checkpoint's hash: the sha256 of the manifest itself."""
    path = folder / MANIFEST_FILE
    if not path.is_file():
        refuse_empty(Place(path=folder, source=str(folder)), MANIFEST_FILE)
    manifest = Manifest.from_json(read_json(path), where=path)
    return manifest, file_hash(path)


def write_manifest(manifest: Manifest, folder: Path) -> None:
    """Writes `sigma_config.json` into a folder that is not public yet."""
    text = json.dumps(manifest.to_json(), indent=2, sort_keys=True, allow_nan=False) + "\n"
    (folder / MANIFEST_FILE).write_text(text, encoding="utf-8")


def _plain(value: BaseIdentity | Training) -> dict[str, Any]:
    return {name: getattr(value, name) for name in value.__slots__}


def _exact_keys(values: Mapping[str, Any], names: set[str], where: object) -> None:
    if set(values) != names:
        raise CheckpointError(
            "the fields do not fit",
            where=where,
            expected=", ".join(sorted(names)),
            got=f"missing: {sorted(names - set(values))}; unknown: {sorted(set(values) - names)}",
        )


def _typed(values: Mapping[str, Any], types: Mapping[str, Any], where: object) -> dict[str, Any]:
    _exact_keys(values, set(types), where)
    for name, kind in types.items():
        wrong_bool = isinstance(values[name], bool) and kind is not bool
        if not isinstance(values[name], kind) or wrong_bool:
            raise CheckpointError(f"{name} has the wrong type", where=where, got=repr(values[name]))
    return dict(values)


def _texts(values: Mapping[str, Any], where: object) -> dict[str, str]:
    return _typed(values, dict.fromkeys(values, str), where)


def _references(values: Mapping[str, Any], where: object) -> References:
    _exact_keys(values, {"r_ref", "tau_ref"}, f"{where}: references")
    numbers = {name: _number(value, f"{where}: references.{name}") for name, value in values.items()}
    try:
        return References(**numbers)
    except ValueError as error:
        raise CheckpointError("the references cannot be right", where=where, got=error) from error


def _number(value: object, where: object) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise CheckpointError("a number is missing or not finite", where=where, got=repr(value))
    return float(value)


# The README.md that is written with a Sigma checkpoint.


_TEMPLATE = """---
license: gemma
library_name: sigma_ros
pipeline_tag: robotics
{base_model}tags: [robotics, vision-language-action, lora, pi05, sigma]
---
# Sigma checkpoint{untrained}

Adapters and telepathy heads for the frozen base `{base}` (revision {revision}, fingerprint
`{fingerprint}`). The base's weights are not in this folder and are never changed.

| | |
| --- | --- |
| trained | {trained} |
| optimiser steps, seed | {steps}, {seed} |
| data hash | {data} |
| heads | {heads} tensors, {head_numbers:,} numbers |
| adapters | {adapters} tensors, {adapter_numbers:,} numbers, rank {rank} |
| usual residual (r_ref, normalised actions) | {r_ref:.6g} |
| usual norm of the factors (tau_ref) | {tau_ref:.6g} |
{scores}
## Use

```python
from sigma_ros.model.sigma import SigmaTelepathyVLA

model = SigmaTelepathyVLA.from_base(
    base_policy="{base}", lora_dir=".", telepathy_heads_path="sigma_telepathy_heads.safetensors"
)
outputs = model({{"vis_obs": images, "robot_state": states, "texts": texts}})
blend = model.adapter(min_scale=0.0, max_scale=1.0, risk_temperature=1.0)
actions = blend(
    base_action_vector=outputs["base_action_vector"],
    telepathy_residual=outputs["telepathy_residual_vector"],
    telepathy_factors=outputs["telepathy_factors"],
    alignment=outputs["alignment"],
)
```

States and actions are in the base's normalised space. Training command: `{command}`.
"""


def model_card(manifest: Manifest, heads: Mapping[str, Tensor], adapters: Mapping[str, Tensor]) -> str:
    """The card's text; an untrained checkpoint says so in its title."""
    training, base = manifest.training, manifest.base
    rows = "".join(f"| {name} | {value:.6g} |\n" for name, value in sorted(manifest.scores.items()))
    return _TEMPLATE.format(
        base=base.source,
        base_model=f"base_model: {base.source}\n" if is_hub_id(base.source) else "",
        revision=base.revision or "none",
        fingerprint=base.fingerprint[:16],
        untrained="" if training.trained else " (untrained: the residual is zero)",
        trained="yes" if training.trained else "no",
        steps=training.steps,
        seed=training.seed,
        data=training.data_hash or "none",
        heads=len(heads),
        head_numbers=sum(tensor.numel() for tensor in heads.values()),
        adapters=len(adapters),
        adapter_numbers=sum(tensor.numel() for tensor in adapters.values()),
        rank=min((tensor.shape[0] for name, tensor in adapters.items() if "lora_A" in name), default=0),
        r_ref=manifest.references.r_ref,
        tau_ref=manifest.references.tau_ref,
        scores=rows,
        command=training.command or "none",
    )
