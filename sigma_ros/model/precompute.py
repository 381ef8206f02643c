# SPDX-License-Identifier: Apache-2.0
"""Work of several ticks in one go, for recordings: vision and the base's chunks depend on their own tick alone.

Only the memory has to go through the ticks one after the other. The grouped calls are the same arithmetic; how matrix
products are rounded depends on a group's size and on the machine, so results agree to rounding.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from sigma_ros.model.runtime import SigmaRuntime
from sigma_ros.model.tokens import EncodedTick, camera_patches
from sigma_ros.values import Window

IMAGES_PER_CALL = 16
CHUNKS_PER_CALL = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class Planned:
    """A tick whose base chunk is wanted: its window's task and its own encoded tick."""

    window: Window
    encoded: EncodedTick


class Ahead:
    """Encodes ticks and makes base chunks in groups."""

    def __init__(self, runtime: SigmaRuntime) -> None:
        self._runtime = runtime
        self._model = runtime.model
        self._backbone = runtime.model.backbone

    @torch.no_grad()
    def encode(self, windows: Sequence[Window]) -> list[EncodedTick]:
        """The newest tick of each window, as `SigmaTelepathyVLA.encode` gives it."""
        inputs = [self._runtime.inputs.model_input(window.newest) for window in windows]
        images, seen = torch.stack([each.images for each in inputs]), torch.stack([each.seen for each in inputs])
        patches = camera_patches(self._backbone, images, seen, per_call=IMAGES_PER_CALL)
        grid = self._model.config.pooled_grid
        return [EncodedTick.of(each, own, pooled_grid=grid) for each, own in zip(inputs, patches, strict=True)]

    @torch.no_grad()
    def base_chunks(self, ticks: Sequence[Planned]) -> list[Float[Tensor, "1 horizon max_dof"]]:
        """The base's chunk of each tick, with the noise that the runtime would use."""
        groups = [ticks[first : first + CHUNKS_PER_CALL] for first in range(0, len(ticks), CHUNKS_PER_CALL)]
        return [chunk[None] for group in groups for chunk in self._group(group)]

    def _group(self, ticks: Sequence[Planned]) -> Float[Tensor, "group horizon max_dof"]:
        backbone, runtime = self._backbone, self._runtime
        prompts = [backbone.tokenize(t.window.task, t.encoded.state[None].cpu().numpy()) for t in ticks]
        return backbone.base_chunk(
            torch.stack([tick.encoded.patches for tick in ticks]),
            torch.stack([tick.encoded.seen for tick in ticks]),
            torch.cat([tokens for tokens, _ in prompts]),
            torch.cat([mask for _, mask in prompts]),
            torch.cat([runtime.noise(tick.window) for tick in ticks]),
        )
