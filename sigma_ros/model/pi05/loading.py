# SPDX-License-Identifier: Apache-2.0
"""Loads pi0.5 strictly: every tensor of the network from the file, with its shape, finite; or one clear error.

LeRobot's own `from_pretrained` prints a warning and returns random weights when anything goes wrong. Here the
network is laid out without memory, each tensor is read straight into its final place and type, and nothing
is left to chance (see `base_weights`).
"""

import hashlib
import json
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from types import MappingProxyType

import torch
from lerobot.policies.pi05.configuration_pi05 import PI05Config
from lerobot.policies.pi05.modeling_pi05 import PI05Policy

from sigma_ros.border import whole
from sigma_ros.errors import CheckpointError, MachineError
from sigma_ros.model.normalise import Normalisation
from sigma_ros.model.pi05.backbone import Backbone
from sigma_ros.model.pi05.folder import (
    ADAPTER_FILE,
    NORMALISATION_FILE,
    OWN_FILE,
    WEIGHTS_FILE,
    BaseFolder,
    load_tokenizer,
    merge_adapters,
    open_base_folder,
)
from sigma_ros.model.pi05.sizes import Sizes
from sigma_ros.model.pi05.tensors import file_hash, save_tensors
from sigma_ros.model.pi05.weights import empty_policy, fill_policy, network_tensors

_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


@dataclass(frozen=True, slots=True, kw_only=True)
class BaseInfo:
    """What was loaded. `weights_hash` is over names, shapes, types and stored bytes, whatever the key layout."""

    source: str
    revision: str | None
    weights_hash: str
    trained: bool
    parameters: int
    dtype: str
    device: str
    weight_bytes: int
    load_s: float
    ignored: tuple[str, ...]
    sizes: Sizes


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadedBase:
    """A base policy ready to run; `normalisation` is None where the checkpoint has no statistics.

    `rename`: see `BaseFolder`.
    """

    backbone: Backbone
    info: BaseInfo
    normalisation: Normalisation | None
    rename: Mapping[str, str]


def load_base(
    source: str | Path | BaseFolder,
    *,
    revision: str | None = None,
    device: str = "auto",
    dtype: str = "auto",
    tokenizer: str | None = None,
    allow_untrained: bool = False,
    fitted_from: Mapping[str, tuple[int, int]] = MappingProxyType({}),
) -> LoadedBase:
    """Loads a pi0.5 checkpoint from a folder or a Hub id.

    Args:
        source: Folder, Hub id such as `lerobot/pi05_base`, or what `open_base_folder` found there.
        revision: Hub commit, tag or branch.
        device: A torch device, or `auto`: cuda where there is one.
        dtype: `float32`, `bfloat16` (LeRobot's layout: vision, norms and action projections stay float32) or `auto`:
            bfloat16 on cuda, else what the checkpoint's config says.
        tokenizer: Folder or Hub id; see `load_tokenizer`.
        allow_untrained: Without it a checkpoint that says it has random weights is refused.
        fitted_from: See `camera_names.fitted_from`; counts where the policy normalises pictures.
    """
    started = time.perf_counter()
    folder = source if isinstance(source, BaseFolder) else open_base_folder(source, revision=revision)
    if not folder.trained and not allow_untrained:
        raise CheckpointError(
            "the checkpoint has random weights",
            where=folder.path,
            expected="a trained policy",
            remedy="ask for it with --allow-untrained where that is what you want",
        )
    place = torch_device(device)
    folder.config.dtype = _choose_dtype(dtype, place, folder.config)
    folder.fetch_weights()
    policy = empty_policy(folder.config, folder.sizes)
    weights_hash, ignored = fill_policy(policy, (folder.adapted or folder).path, place)
    if folder.adapted is not None:
        merge_adapters(policy, folder.path)
        weights_hash = hashlib.sha256(f"{weights_hash} {file_hash(folder.path / ADAPTER_FILE)}".encode()).hexdigest()
    folder.config.device = str(place)
    return LoadedBase(
        backbone=Backbone(policy, load_tokenizer(folder, tokenizer), pictures=folder.pictures, fitted_from=fitted_from),
        info=_info(folder, policy, weights_hash, ignored, time.perf_counter() - started),
        normalisation=folder.normalisation,
        rename=folder.rename,
    )


def torch_device(name: str) -> torch.device:
    """The device of a name; `auto` takes a GPU where there is one.

    Raises:
        MachineError: there is no such device on this machine.
    """
    has_gpu = torch.cuda.is_available()
    try:
        place = torch.device(("cuda" if has_gpu else "cpu") if name == "auto" else name)
        if place.type != "cuda" or (place.index or 0) < torch.cuda.device_count():
            return place
    except RuntimeError as error:
        raise MachineError("no such device", where="--device", got=f"{name}: {error}".splitlines()[0]) from error
    raise MachineError(
        "there is no such GPU", where="--device", got=name, remedy="use auto or cpu, or look at nvidia-smi"
    )


def _choose_dtype(dtype: str, device: torch.device, config: PI05Config) -> str:
    if dtype == "auto":
        return "bfloat16" if device.type == "cuda" else str(config.dtype)
    if dtype not in _DTYPES:
        raise CheckpointError("unknown number type", expected=f"auto, {', '.join(_DTYPES)}", got=dtype)
    return dtype


def _info(
    folder: BaseFolder, policy: PI05Policy, weights_hash: str, ignored: tuple[str, ...], load_s: float
) -> BaseInfo:
    parameters = list(policy.parameters())
    return BaseInfo(
        source=folder.place.source,
        revision=folder.place.commit,
        weights_hash=weights_hash,
        trained=folder.trained,
        parameters=sum(p.numel() for p in parameters),
        dtype=folder.config.dtype,
        device=str(parameters[0].device),
        weight_bytes=sum(p.nbytes for p in parameters),
        load_s=load_s,
        ignored=ignored,
        sizes=folder.sizes,
    )


def save_base(
    backbone: Backbone,
    folder: Path,
    *,
    sizes: Sizes,
    normalisation: Normalisation,
    trained: bool,
    made_by: str,
    weights_dtype: torch.dtype | None = None,
) -> None:
    """Writes a checkpoint folder that `load_base` reads; the folder appears whole or not at all.

    Tensors are stored as they are, or in `weights_dtype`. LeRobot's keys are used, without the dead heads.
    """
    if folder.exists():
        raise CheckpointError("the output folder exists", where=folder, remedy="choose another --out, or remove it")
    folder.parent.mkdir(parents=True, exist_ok=True)
    with whole(folder) as partial:
        partial.mkdir()
        backbone.policy.config._save_pretrained(partial)  # noqa: SLF001
        own = {"format": 1, "sizes": asdict(sizes), "trained": trained, "made_by": made_by}
        for name, value in ((OWN_FILE, own), (NORMALISATION_FILE, normalisation.as_dict())):
            (partial / name).write_text(json.dumps(value, indent=2) + "\n", encoding="utf-8")
        backbone.tokenizer.save_pretrained(partial)
        _save_weights(backbone.policy, partial / WEIGHTS_FILE, weights_dtype)


def _save_weights(policy: PI05Policy, path: Path, dtype: torch.dtype | None) -> None:
    tensors = {
        name: parameter.detach().to(device="cpu", dtype=dtype or parameter.dtype).contiguous()
        for name, parameter in network_tensors(policy).values()
    }
    save_tensors(path, tensors, {"format": "pt"})
