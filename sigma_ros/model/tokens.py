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
from sigma_ros.contract import Contract
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

    @classmethod
    def of(cls, given: ModelInput, patches: Float[Tensor, "cameras patches width"], *, pooled_grid: int) -> Self:
        """A tick whose image tokens are known."""
        return cls(
            tick=given.tick,
            patches=patches,
            pooled=pool_tokens(patches, pooled_grid),
            seen=given.seen.to(patches.device),
            state=given.state.to("cpu", torch.float32),
        )


def camera_patches(
    backbone: Backbone,
    images: UInt8[Tensor, "ticks cameras h w 3"] | UInt8[Tensor, "ticks cameras 3 h w"],
    seen: Bool[Tensor, "ticks cameras"],
    *,
    per_call: int = 1,
) -> Float[Tensor, "ticks cameras patches width"]:
    """Image tokens in float32; zeros for cameras that are not there, which cost no time.

    `per_call` images go through the vision tower together; see `Backbone.encode_images`.
    """
    patches = torch.zeros(*seen.shape, backbone.patch_grid**2, backbone.width, device=backbone.device)
    there = seen.cpu().flatten().nonzero()[:, 0]  # on the host: the device is not asked
    found = backbone.encode_images(
        images.flatten(0, 1)[there.to(images.device)], per_call=max(1, per_call), cameras=there % seen.shape[1]
    )
    patches.flatten(0, 1).index_copy_(0, there.to(patches.device), found.to(torch.float32))
    return patches


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenRing:
    """The window as tokens. Slots with tick `PADDING` are zeros and masked.

    `patches` are the unpooled tokens of the newest tick, which the base path reads. `states` stay on the host, which
    writes the newest into the prompt.
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
            states=torch.zeros(WINDOW_TICKS, dof),
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
class CameraMapping:
    """Which of the policy's cameras the robot has; one that it lacks is black and masked, as in LeRobot.

    `cameras` holds the contract's name for each camera of the policy, None where the robot lacks it (as
    `camera_names.seated` gives them), `own` all names of the contract in its order.
    """

    cameras: tuple[str | None, ...]
    own: tuple[str, ...]

    @classmethod
    def of(cls, contract: Contract, cameras: Sequence[str | None]) -> Self:
        """For a contract and the cameras that `camera_names.seated` found in it."""
        return cls(cameras=tuple(cameras), own=tuple(camera.name for camera in contract.cameras))

    def renamed(self, contract: Contract, camera_keys: Sequence[str]) -> dict[str, str]:
        """Keys of the contract's cameras in data sets -> those of the policy's (`camera_keys`), where they differ."""
        keys = {camera.name: camera.dataset_key for camera in contract.cameras}
        pairs = zip(self.cameras, camera_keys, strict=True)
        return {keys[name]: key for name, key in pairs if name is not None and keys[name] != key}

    @property
    def seen(self) -> Bool[Tensor, " cameras"]:
        """Which of the policy's cameras are there."""
        return torch.tensor([name is not None for name in self.cameras], dtype=torch.bool)

    def mask(self, ticks: int, device: torch.device | str = "cpu") -> Bool[Tensor, "ticks cameras"]:
        """`seen` for each of some ticks."""
        return self.seen.to(device).expand(ticks, -1)

    def images(self, frames: UInt8[ndarray, "ticks own h w 3"]) -> UInt8[Tensor, "ticks cameras h w 3"]:
        """Pictures in the contract's order as those of the policy."""
        images = np.zeros((len(frames), len(self.cameras), *frames.shape[2:]), dtype=np.uint8)
        for place, name in enumerate(self.cameras):
            if name is not None:
                images[:, place] = frames[:, self.own.index(name)]
        return torch.from_numpy(images)

    def patches(
        self, images: UInt8[Tensor, "ticks cameras h w 3"], backbone: Backbone
    ) -> Float[Tensor, "ticks cameras patches width"]:
        """Their tokens, all in one call of the vision tower."""
        seen = self.mask(len(images))
        return camera_patches(backbone, images, seen, per_call=int(seen.sum()))


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelInputBuilder:
    """Frames of the robot's runtime as the model takes them."""

    mapping: CameraMapping
    size_px: int
    units: PolicyUnits

    @classmethod
    def fitting(cls, backbone: Backbone, units: PolicyUnits, cameras: tuple[str | None, ...] | None = None) -> Self:
        """For a policy and a contract; `cameras` unless they are joined by the contract's keys alone."""
        contract = units.contract
        if cameras is None:
            cameras = seated(policy_keys(contract), backbone.camera_keys, where=f"contract {contract.name}")
        return cls(mapping=CameraMapping.of(contract, cameras), size_px=backbone.image_size_px, units=units)

    def model_input(self, frame: Frame) -> ModelInput:
        """One tick.

        Raises:
            SigmaError: an image is missing, or is not uint8 RGB of the policy's size.
        """
        images = [self._image(frame.images, name) for name in self.mapping.own]
        form = (0, self.size_px, self.size_px, 3)
        frames = np.stack(images) if images else np.zeros(form, dtype=np.uint8)
        return ModelInput(
            tick=frame.tick,
            images=self.mapping.images(frames[None])[0],
            seen=self.mapping.seen,
            state=torch.from_numpy(self.units.normalise_state(frame.positions_rad)),
        )

    def _image(self, images: Mapping[str, ndarray], name: str) -> UInt8[ndarray, "h w 3"]:
        form = (self.size_px, self.size_px, 3)
        image = images.get(name)
        if image is None or image.shape != form or image.dtype != np.uint8:
            raise SigmaError(
                "a camera image has the wrong form",
                where=name,
                expected=f"uint8 {form}",
                got="none" if image is None else f"{image.dtype} {image.shape}",
            )
        return image
