# SPDX-License-Identifier: Apache-2.0
"""What training and inference at pi0.5's full size hold in memory at most, counted without having that memory.

The real functions run on torch's fake tensors, which have shapes and types but no numbers; every storage counts from
the operator that makes it until it is freed. Kernels' workspaces, the allocator's gaps and CUDA's own half gigabyte are
not in it. Settings are the model card's: 4 streams of 4 windows, bf16, two cameras.
Asked: 24 GB, less 2 GB for what is not counted. Exit code 1 when that is not kept.

    python bench/bench_full_memory.py
"""

import argparse
import sys
import warnings
import weakref
from collections.abc import Callable
from typing import Any

import torch
from random_base import sizes_of
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from sigma_ros.contract_file import load_contract
from sigma_ros.model.pi05.backbone import Backbone
from sigma_ros.model.pi05.mini import build_tokenizer, mini_config
from sigma_ros.model.pi05.weights import empty_policy
from sigma_ros.model.settings import SigmaConfig
from sigma_ros.model.sigma import SigmaTelepathyVLA
from sigma_ros.model.telepathy import Recurrence
from sigma_ros.values import WINDOW_TICKS
from training.cache import TICKS_AT_ONCE
from training.losses import SigmaLossModule, telepathy_input_of
from training.streams import Windows

CARD_GB, NOT_COUNTED_GB = 24.0, 2.0
BATCH = 4
UNROLL = 4
"""Windows of one unrolled piece; a whole episode of ten seconds has about 19."""
TASK = "pink lego brick into the transparent box"


class Bytes(TorchDispatchMode):
    """Counts storages from the operator that makes them until they are freed."""

    def __init__(self, tensors: list[torch.Tensor]) -> None:
        super().__init__()
        self.now, self.peak = 0, 0
        self._known: dict[int, int] = {}
        for tensor in tensors:
            self._see(tensor)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        made = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(made):
            if isinstance(leaf, torch.Tensor):
                self._see(leaf)
        return made

    def _see(self, tensor: torch.Tensor) -> None:
        storage = tensor.untyped_storage()
        key = storage._cdata
        if key not in self._known:
            self._known[key] = storage.nbytes()
            self.now += storage.nbytes()
            self.peak = max(self.peak, self.now)
            weakref.finalize(storage, self._freed, key)

    def _freed(self, key: int) -> None:
        self.now -= self._known.pop(key)


def fake_model(size: str, fake: FakeTensorMode) -> SigmaTelepathyVLA:
    """Sigma on a bfloat16 base, laid out without memory and then faked; as loaded, PaliGemma's head stays tied."""
    contract = load_contract("so101")
    policy = empty_policy(mini_config(contract, dtype="bfloat16", full_prompt=size != "mini"), sizes_of(size))
    backbone = Backbone(policy, build_tokenizer())
    model = SigmaTelepathyVLA(backbone, SigmaConfig.for_backbone(backbone, dof=contract.dof))
    faked: dict[nn.Parameter, nn.Parameter] = {}
    with fake:
        for module in model.modules():
            for name, parameter in module.named_parameters(recurse=False):
                if parameter not in faked:
                    empty = torch.empty(parameter.shape, dtype=parameter.dtype)
                    faked[parameter] = nn.Parameter(empty, requires_grad=parameter.requires_grad)
                setattr(module, name, faked[parameter])
            for name, buffer in module.named_buffers(recurse=False):
                setattr(module, name, torch.empty(buffer.shape, dtype=buffer.dtype))
    return model


def blank_windows(model: SigmaTelepathyVLA, batch: int) -> Windows:
    """Windows of the right shapes."""
    config, backbone = model.config, model.backbone
    return Windows(
        pooled=torch.zeros(batch, WINDOW_TICKS, config.cameras, config.pooled_grid**2, config.width),
        seen=torch.zeros(batch, WINDOW_TICKS, config.cameras, dtype=torch.bool),
        states=torch.zeros(batch, WINDOW_TICKS, config.dof),
        valid=torch.zeros(batch, WINDOW_TICKS, dtype=torch.bool),
        base=torch.zeros(batch, backbone.horizon, config.dof),
        old_base=torch.zeros(batch, backbone.horizon, config.dof),
        age=torch.ones(batch),
        delay=torch.zeros(batch, dtype=torch.int64),
        target=torch.zeros(batch, config.residual_steps, config.dof),
        known=torch.ones(batch, config.residual_steps, dtype=torch.bool),
        corrected=torch.zeros(batch, dtype=torch.bool),
        present=torch.zeros(batch, dtype=torch.bool),
        tasks=(TASK,) * batch,
        names=("",) * batch,
    )


def train_two_steps(model: SigmaTelepathyVLA, *, gradient_checkpointing: bool) -> None:
    """Two, because AdamW's moments are there from the second on."""
    model.train()
    parameters = list(dict(model.trained()).values())
    optimizer = torch.optim.AdamW(parameters, lr=1e-4)
    loss_module = SigmaLossModule(model, gradient_checkpointing=gradient_checkpointing)
    for _ in range(2):
        optimizer.zero_grad()
        windows = [blank_windows(model, BATCH) for _ in range(UNROLL)]
        outcome = loss_module(windows, Recurrence.start(model.config, batch=BATCH, device=torch.device("cpu")), [TASK])
        torch.stack([term.mean() for term in outcome.terms.values()]).sum().backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()


@torch.no_grad()
def base_chunks(model: SigmaTelepathyVLA, *, ticks: int, chunks: int) -> None:
    """What `training.cache` does with some ticks: their image tokens, the base's chunk at some of them."""
    backbone, cameras, px = model.backbone, model.config.cameras, model.backbone.image_size_px
    images = torch.zeros(ticks * cameras, px, px, 3, dtype=torch.uint8)
    tokens = backbone.encode_images(images, per_call=len(images)).unflatten(0, (ticks, cameras))
    backbone.base_chunk(
        tokens[:chunks],
        torch.ones(chunks, cameras, dtype=torch.bool),
        torch.zeros(chunks, backbone.max_tokens, dtype=torch.int64),
        torch.ones(chunks, backbone.max_tokens, dtype=torch.bool),
        torch.zeros(chunks, backbone.horizon, backbone.max_dof),
    )


@torch.no_grad()
def live_tick(model: SigmaTelepathyVLA) -> None:
    """One plan of the robot: pictures, the base's chunk, belief and residual."""
    base_chunks(model, ticks=1, chunks=1)
    window = blank_windows(model, 1)
    start = Recurrence.start(model.config, batch=1, device=torch.device("cpu"))
    model.correct(model.believe(telepathy_input_of(model, window), start), window.states[:, -1], window.base)


def main() -> int:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", default="full", help="mini, full or wide-N (default full)")
    args = parser.parse_args()
    warnings.filterwarnings("ignore", message="Accessing the data pointer of FakeTensor")  # flow.py asks for changes
    ways: dict[str, Callable[[SigmaTelepathyVLA], None]] = {
        "training step": lambda m: train_two_steps(m, gradient_checkpointing=False),
        "training step, `--gradient_checkpointing`": lambda m: train_two_steps(m, gradient_checkpointing=True),
        f"cache, {TICKS_AT_ONCE} ticks, 1 chunk (`--phase_step 16`)": lambda m: base_chunks(
            m, ticks=TICKS_AT_ONCE, chunks=1
        ),
        f"cache, {TICKS_AT_ONCE} ticks, 4 chunks (`--phase_step 4`)": lambda m: base_chunks(
            m, ticks=TICKS_AT_ONCE, chunks=4
        ),
        "a live tick": live_tick,
    }
    print("| | weights | peak | with 2 GB for what is not counted |\n| --- | ---: | ---: | ---: |")
    worst = 0.0
    for name, way in ways.items():
        fake = FakeTensorMode(allow_non_fake_inputs=True)
        model = fake_model(args.size, fake)
        with fake, Bytes(list(model.parameters())) as counted:
            weights = counted.now / 1e9
            way(model)
        peak = counted.peak / 1e9
        worst = max(worst, peak + NOT_COUNTED_GB)
        print(f"| {name} | {weights:.1f} GB | {peak:.1f} GB | {peak + NOT_COUNTED_GB:.1f} GB |", flush=True)
    return int(worst > CARD_GB)


if __name__ == "__main__":
    sys.exit(main())
