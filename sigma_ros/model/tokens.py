# SPDX-License-Identifier: Apache-2.0
"""Image tokens of the window: pooled, and kept so that a tick encodes only its own frames.

Axis words: `ticks` slots of the window, oldest first; `cameras`; `patches` tokens of an image;
`pooled` tokens of an image after average pooling; `width` of the language model; `dof` joints.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np
import torch
from jaxtyping import Bool, Float, Float32, UInt8
from numpy import ndarray
from torch import Tensor, nn

from sigma_ros.camera_names import policy_keys, seated
from sigma_ros.errors import SigmaError
from sigma_ros.model.normalise import PolicyUnits
from sigma_ros.model.pi05.backbone import Backbone
from sigma_ros.values import WINDOW_TICKS, Frame

PADDING = -1
"""Tick number of a slot that holds nothing: before the epoch's first tick, or a hole."""


def pool_tokens(
    tokens: Float[Tensor, "images patches width"], pooled_grid: int
) -> Float[Tensor, "images pooled width"]:
    """Averages the square patch grid down to `pooled_grid` x `pooled_grid`, row-major as before."""
    images, patches, width = tokens.shape
    grid = round(patches**0.5)
    square = tokens.transpose(1, 2).reshape(images, width, grid, grid)
    pooled = nn.functional.adaptive_avg_pool2d(square, pooled_grid)
    return pooled.flatten(2).transpose(1, 2)


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelInput:
    """One tick as the model takes it: RGB images, which cameras are there, the normalised state."""

    tick: int
    images: UInt8[Tensor, "cameras h w 3"] | UInt8[Tensor, "cameras 3 h w"]
    seen: Bool[Tensor, " cameras"]
    state: Float32[Tensor, " dof"]


@dataclass(frozen=True, slots=True, kw_only=True)
class EncodedTick:
    """What stays of a tick after the vision tower. Missing cameras are zeros."""

    tick: int
    patches: Float[Tensor, "cameras patches width"]
    pooled: Float[Tensor, "cameras pooled width"]
    seen: Bool[Tensor, " cameras"]
    state: Float32[Tensor, " dof"]


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenRing:
    """The window as tokens. Slots with tick `PADDING` are zeros and masked.

    `patches` are the unpooled tokens of the newest tick, which the base path reads.
    """

    ticks: tuple[int, ...]
    pooled: Float[Tensor, "ticks cameras pooled width"]
    seen: Bool[Tensor, "ticks cameras"]
    states: Float32[Tensor, "ticks dof"]
    patches: Float[Tensor, "cameras patches width"]

    @classmethod
    def empty(
        cls, *, cameras: int, patches: int, pooled: int, width: int, dof: int, device: torch.device | str = "cpu"
    ) -> "TokenRing":
        """A window that has seen nothing."""
        return cls(
            ticks=(PADDING,) * WINDOW_TICKS,
            pooled=torch.zeros(WINDOW_TICKS, cameras, pooled, width, device=device),
            seen=torch.zeros(WINDOW_TICKS, cameras, dtype=torch.bool, device=device),
            states=torch.zeros(WINDOW_TICKS, dof, device=device),
            patches=torch.zeros(cameras, patches, width, device=device),
        )

    @property
    def valid(self) -> Bool[Tensor, " ticks"]:
        """Which slots hold a tick."""
        return torch.tensor([tick != PADDING for tick in self.ticks], device=self.pooled.device)

    def missing(self, ticks: Sequence[int]) -> tuple[int, ...]:
        """Ticks of the wanted window that must be encoded; the newest is there only if it was newest before."""
        newest = ticks[-1]
        held = set(self.ticks)
        unread = {tick for tick in ticks[:-1] if tick != PADDING and tick not in held}
        if newest != self.ticks[-1]:
            unread.add(newest)
        return tuple(sorted(unread))

    def slide(self, ticks: Sequence[int], fresh: Mapping[int, EncodedTick]) -> "TokenRing":
        """The ring of the wanted window: slots are taken from `fresh` or from this ring.

        Args:
            ticks: Tick of each slot, oldest first, `PADDING` where the window has none.
            fresh: Every tick of `missing(ticks)`.
        """
        newest = fresh.get(ticks[-1])
        slots = [self._slot(tick, fresh) for tick in ticks]
        return TokenRing(
            ticks=tuple(ticks),
            pooled=torch.stack([slot[0] for slot in slots]),
            seen=torch.stack([slot[1] for slot in slots]),
            states=torch.stack([slot[2] for slot in slots]),
            patches=self.patches if newest is None else newest.patches,
        )

    def _slot(self, tick: int, fresh: Mapping[int, EncodedTick]) -> tuple[Tensor, Tensor, Tensor]:
        if tick == PADDING:
            return (
                torch.zeros_like(self.pooled[0]),
                torch.zeros_like(self.seen[0]),
                torch.zeros_like(self.states[0]),
            )
        if tick in fresh:
            encoded = fresh[tick]
            return encoded.pooled, encoded.seen, encoded.state
        index = self.ticks.index(tick)
        return self.pooled[index], self.seen[index], self.states[index]


# Frames of the robot as the model takes them: the policy's cameras in its order, the normalised state.


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelInputBuilder:
    """`cameras` holds the contract's name for each camera of the policy, None where the robot lacks it."""

    cameras: tuple[str | None, ...]
    size_px: int
    units: PolicyUnits

    @classmethod
    def fitting(cls, backbone: Backbone, units: PolicyUnits, cameras: tuple[str | None, ...] | None = None) -> Self:
        """For a policy and a contract; `cameras` unless they are joined by the contract's keys alone."""
        if cameras is None:
            contract = units.contract
            cameras = seated(policy_keys(contract), backbone.camera_keys, where=f"contract {contract.name}")
        return cls(cameras=cameras, size_px=backbone.image_size_px, units=units)

    def sight(self, frame: Frame) -> ModelInput:
        """One tick; a camera that the robot lacks is black and marked as not seen.

        Raises:
            SigmaError: an image is missing, or is not uint8 RGB of the policy's size.
        """
        return ModelInput(
            tick=frame.tick,
            images=torch.from_numpy(np.stack([self._image(frame.images, name) for name in self.cameras])),
            seen=torch.tensor([name is not None for name in self.cameras]),
            state=torch.from_numpy(self.units.normalise_state(frame.positions_rad)),
        )

    def _image(self, images: Mapping[str, ndarray], name: str | None) -> UInt8[ndarray, "h w 3"]:
        form = (self.size_px, self.size_px, 3)
        if name is None:
            return np.zeros(form, dtype=np.uint8)
        image = images.get(name)
        if image is None or image.shape != form or image.dtype != np.uint8:
            raise SigmaError(
                "a camera image has the wrong form",
                where=name,
                expected=f"uint8 {form}",
                got="none" if image is None else f"{image.dtype} {image.shape}",
            )
        return image
