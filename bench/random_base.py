# SPDX-License-Identifier: Apache-2.0
"""Random pi0.5 policies of any size for the benches, without ever holding them twice."""

import json
import struct
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import torch

from sigma_ros.contract import Contract
from sigma_ros.model.pi05.backbone import Backbone
from sigma_ros.model.pi05.folder import NORMALISATION_FILE, OWN_FILE, WEIGHTS_FILE
from sigma_ros.model.pi05.mini import MINI, build_tokenizer, limit_normalisation, mini_config
from sigma_ros.model.pi05.sizes import FULL, Sizes
from sigma_ros.model.pi05.weights import empty_policy, network_tensors

_TILE = 1 << 20
EXPERT_HEAD = "model.paligemma_with_expert.gemma_expert.lm_head.weight"
HEAD = "model.paligemma_with_expert.paligemma.lm_head.weight"


def sizes_of(name: str) -> Sizes:
    """`mini`, `full`, or `wide-N`: full widths with N of the 18 layers (and the same share of vision layers)."""
    if name.startswith("wide-"):
        layers = int(name.removeprefix("wide-"))
        return replace(FULL, depth=layers, vision_depth=max(1, round(27 * layers / 18)))
    return {"mini": MINI, "full": FULL}[name]


def random_backbone(contract: Contract, sizes: Sizes, dtype: str) -> Backbone:
    """Weights of plausible size, straight into memory in their final type."""
    policy = empty_policy(mini_config(contract, dtype=dtype, full_prompt=sizes.language_width == 2048), sizes)
    tile = 0.02 * torch.randn(_TILE, generator=torch.Generator().manual_seed(0))
    for name, parameter in network_tensors(policy).values():
        filled = torch.empty(parameter.shape, dtype=parameter.dtype)
        flat = filled.view(-1)
        for first in range(0, flat.numel(), _TILE):
            flat[first : first + _TILE] = tile[: min(_TILE, flat.numel() - first)]
        owner, _, leaf = name.rpartition(".")
        setattr(policy.get_submodule(owner), leaf, torch.nn.Parameter(filled, requires_grad=False))
    paligemma = policy.model.paligemma_with_expert.paligemma
    paligemma.lm_head.weight = paligemma.model.language_model.embed_tokens.weight
    return Backbone(policy, build_tokenizer())


def write_random_checkpoint(folder: Path, contract: Contract, sizes: Sizes, dtype: str) -> int:
    """A checkpoint as LeRobot publishes pi0.5 (with both heads) in `F32` or `BF16`; returns the file's bytes."""
    folder.mkdir(parents=True)
    config = mini_config(contract, dtype="bfloat16", full_prompt=sizes.language_width == 2048)
    config._save_pretrained(folder)
    own = {"format": 1, "sizes": asdict(sizes), "trained": True, "made_by": "a bench: random"}
    (folder / OWN_FILE).write_text(json.dumps(own))
    (folder / NORMALISATION_FILE).write_text(json.dumps(limit_normalisation(contract).as_dict()))
    build_tokenizer().save_pretrained(folder)
    shapes = {name: tuple(p.shape) for name, p in network_tensors(empty_policy(config, sizes)).values()}
    shapes |= {EXPERT_HEAD: (sizes.vocabulary, sizes.expert_width), HEAD: (sizes.vocabulary, sizes.language_width)}
    return _stream(folder / WEIGHTS_FILE, shapes, dtype)


def _stream(path: Path, shapes: dict[str, tuple[int, ...]], dtype: str) -> int:
    size = {"F32": 4, "BF16": 2}[dtype]
    tile = (0.02 * np.random.default_rng(0).standard_normal(_TILE)).astype(np.float32)
    stored = tile if dtype == "F32" else (tile.view(np.uint32) >> 16).astype(np.uint16)
    header, offset = {}, 0
    for name, shape in shapes.items():
        nbytes = int(np.prod(shape)) * size
        header[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": [offset, offset + nbytes]}
        offset += nbytes
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with path.open("wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        for shape in shapes.values():
            left = int(np.prod(shape))
            while left > 0:
                file.write(stored[: min(left, _TILE)].tobytes())
                left -= _TILE
    return 8 + len(text) + offset
