# SPDX-License-Identifier: Apache-2.0
"""The base network laid out without memory, and filled strictly from a checkpoint's weights.

Every tensor of the network comes from the file, with its shape, finite; or there is one error that lists what is
wrong before anything is read. Documented exceptions, in either direction:

- `gemma_expert.lm_head` (263 M parameters at full size) is never used: neither allocated nor read.
- PaliGemma's `lm_head` and `embed_tokens` are one matrix: either name fills both; with both, the embedding counts
  (LeRobot unties them while training, and the head gets no gradient).
- `state_proj` of pi0 files is ignored, as LeRobot does.
"""

import hashlib
import re
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import torch
from accelerate import init_empty_weights
from lerobot.policies.pi05.configuration_pi05 import PI05Config
from lerobot.policies.pi05.modeling_pi05 import PI05Policy
from torch import nn
from tqdm import tqdm

from sigma_ros.errors import CheckpointError
from sigma_ros.model.pi05.folder import INDEX_FILE, WEIGHTS_FILE, read_json
from sigma_ros.model.pi05.places import CONFIG_FILE
from sigma_ros.model.pi05.sizes import FULL, Sizes, network_sizes
from sigma_ros.model.pi05.tensors import FLOAT_TYPES, StoredTensor, list_tensors, read_into, refuse_misfits

_EMBEDDING = "paligemma_with_expert.paligemma.language_model.embed_tokens.weight"
_TIED_HEAD = "paligemma_with_expert.paligemma.lm_head.weight"
_UNUSED = re.compile(r"paligemma_with_expert\.gemma_expert\.lm_head\.weight|state_proj\.(weight|bias)")
_READERS = 4  # hashing, at 1 GB/s and core, is the slowest part


def empty_policy(config: PI05Config, sizes: Sizes = FULL) -> PI05Policy:
    """The policy's modules in the config's types, parameters without memory, PaliGemma's head tied, no expert head."""
    device, config.device = config.device, None
    compiled, config.compile_model = config.compile_model, False
    try:
        with network_sizes(sizes), init_empty_weights(include_buffers=False):
            policy = PI05Policy(config)
    finally:
        config.device, config.compile_model = device, compiled
    remove_dead_heads(policy)
    return policy


def remove_dead_heads(policy: PI05Policy) -> None:
    """Drops the expert's unused `lm_head` and ties PaliGemma's to its embedding, as in the published network."""
    del policy.model.paligemma_with_expert.gemma_expert.lm_head
    _tie(policy)


def _tie(policy: PI05Policy) -> None:
    paligemma = policy.model.paligemma_with_expert.paligemma
    paligemma.lm_head.weight = paligemma.model.language_model.embed_tokens.weight


def network_tensors(policy: PI05Policy) -> dict[str, tuple[str, nn.Parameter]]:
    """Normal name -> (LeRobot's name, parameter) of every weight, the tied matrix once, as the embedding."""
    named = policy.named_parameters(remove_duplicate=False)
    tensors = {normal_name(name): (name, parameter) for name, parameter in named}
    del tensors[_TIED_HEAD]
    return tensors


def normal_name(key: str) -> str:
    """A tensor's name without what differs between layouts.

    LeRobot's `model.` prefix and the `model`/`vision_model` levels that transformers 4 and 5 put in different
    places are dropped; pi0's `action_time_mlp` becomes `time_mlp`; an old text model's head moves up.
    """
    name = ".".join(part for part in key.split(".") if part not in ("model", "vision_model"))
    name = name.replace("paligemma.language_model.lm_head.", "paligemma.lm_head.")
    return re.sub(r"^action_time_mlp_(in|out)\.", r"time_mlp_\1.", name)


def fill_policy(policy: PI05Policy, folder: Path, device: torch.device) -> tuple[str, tuple[str, ...]]:
    """Reads the folder's weights into an `empty_policy`; returns their hash and the keys that were ignored.

    Raises:
        CheckpointError: a tensor is missing, unexpected, twice there, misshapen or not finite; nothing is half done.
    """
    stored, ignored = _stored_tensors(folder)
    wanted = network_tensors(policy)
    refuse_misfits(
        stored,
        {key: (name, tuple(parameter.shape)) for key, (name, parameter) in wanted.items()},
        FLOAT_TYPES,
        what="the weights do not fit the network",
        where=folder,
        expected=f"exactly the {len(wanted)} tensors of the policy in {CONFIG_FILE}",
    )

    def read(name: str) -> tuple[str, torch.Tensor, str]:
        parameter = wanted[name][1]
        filled = torch.empty(parameter.shape, dtype=parameter.dtype, device=device)
        return name, filled, read_into(stored[name], filled)

    digests: dict[str, str] = {}
    by_place = sorted(stored, key=lambda name: (stored[name].path, stored[name].start))
    with ThreadPoolExecutor(_READERS) as pool:
        results = pool.map(read, by_place)
        for name, filled, digest in tqdm(
            results, "loading weights", len(by_place), unit="tensor", delay=2.0, leave=False
        ):
            digests[name] = digest
            _place(policy, wanted[name][0], filled)
    _tie(policy)
    policy.to(device)  # the buffers; the parameters are there
    return _combined_hash(stored, digests), ignored


def _place(policy: nn.Module, key: str, filled: torch.Tensor) -> None:
    owner, _, leaf = key.rpartition(".")
    setattr(policy.get_submodule(owner), leaf, nn.Parameter(filled, requires_grad=False))


def _combined_hash(stored: Mapping[str, StoredTensor], digests: Mapping[str, str]) -> str:
    total = hashlib.sha256()
    for name in sorted(digests):
        total.update(f"{name} {stored[name].dtype} {stored[name].shape} {digests[name]}\n".encode())
    return total.hexdigest()


def _stored_tensors(folder: Path) -> tuple[dict[str, StoredTensor], tuple[str, ...]]:
    found: dict[str, StoredTensor] = {}
    ignored: list[str] = []
    for path in _weight_files(folder):
        for key, entry in list_tensors(path).items():
            name = normal_name(key)
            if _UNUSED.fullmatch(name):
                ignored.append(key)
            elif name in found:
                raise CheckpointError("a tensor is there twice", where=path, got=f"{found[name].name} and {key}")
            else:
                found[name] = entry
    if _TIED_HEAD in found:
        head = found.pop(_TIED_HEAD)
        if _EMBEDDING in found:
            ignored.append(head.name)
        else:
            found[_EMBEDDING] = head
    return found, tuple(ignored)


def _weight_files(folder: Path) -> list[Path]:
    single, index = folder / WEIGHTS_FILE, folder / INDEX_FILE
    if single.is_file():
        return [single]
    if index.is_file():
        names = read_json(index).get("weight_map")
        if isinstance(names, dict) and names and all(Path(str(n)).name == n for n in names.values()):
            return [folder / str(name) for name in sorted(set(names.values()))]
        raise CheckpointError(
            "the index of the weights files cannot be right", where=index, expected="plain file names"
        )
    got, remedy = _what_is_there_instead(folder)
    raise CheckpointError(
        "the checkpoint has no weights file",
        where=folder,
        expected=f"{WEIGHTS_FILE} or {INDEX_FILE}",
        got=got,
        remedy=remedy,
    )


def _what_is_there_instead(folder: Path) -> tuple[str, str]:
    pickles = [p.name for p in sorted(folder.iterdir()) if p.suffix in (".bin", ".pt", ".pth", ".ckpt", ".pkl")]
    if (folder / "adapter_model.safetensors").is_file():
        return "an adapter without its base", "merge the adapter into its base policy, and save that"
    if pickles:
        return f"pickle files, which are never opened: {', '.join(pickles)}", "convert the weights to safetensors"
    return "neither", "download or save the checkpoint again"
