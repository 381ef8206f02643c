# SPDX-License-Identifier: Apache-2.0
"""Which of the policy's cameras the robot has: pi0.5's base was made for three, a robot may have two, or none."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np
import torch
from jaxtyping import Bool, Float, UInt8
from numpy import ndarray
from torch import Tensor

from sigma_ros.contract import Contract
from sigma_ros.model.pi05.backbone import Backbone


@dataclass(frozen=True, slots=True)
class CameraMapping:
    """For each camera of the policy its place among the contract's cameras; -1 where the robot lacks it.

    The robot's runtime does the same tick by tick (`ModelInputBuilder`): a camera that is absent is black and masked.
    """

    places: tuple[int, ...]

    @classmethod
    def of(cls, contract: Contract, cameras: Sequence[str | None]) -> Self:
        """`cameras`: the contract's camera for each of the policy's, as `model.cameras.seated` gives them."""
        names = [camera.name for camera in contract.cameras]
        return cls(tuple(-1 if name is None else names.index(name) for name in cameras))

    @property
    def seen(self) -> Bool[Tensor, " cameras"]:
        """Which of the policy's cameras are there."""
        return torch.tensor([place >= 0 for place in self.places])

    def images(self, frames: UInt8[ndarray, "ticks own h w 3"]) -> UInt8[Tensor, "ticks cameras h w 3"]:
        """Frames in the contract's order as the policy's cameras."""
        form = (frames.shape[0], len(self.places), *frames.shape[2:])
        images = np.zeros(form, dtype=np.uint8)
        for camera, place in enumerate(self.places):
            if place >= 0:
                images[:, camera] = frames[:, place]
        return torch.from_numpy(images)

    def tokens(
        self, images: UInt8[Tensor, "ticks cameras h w 3"], backbone: Backbone
    ) -> Float[Tensor, "ticks cameras patches width"]:
        """Image tokens; zeros for cameras that are not there."""
        seen = self.seen
        present = images[:, seen]
        width = backbone.width
        tokens = torch.zeros(*images.shape[:2], backbone.patch_grid**2, width, device=backbone.device)
        if present.shape[0] and present.shape[1]:
            found = backbone.encode_images(present.flatten(0, 1), per_call=present.shape[0] * present.shape[1])
            tokens[:, seen.to(tokens.device)] = found.to(torch.float32).unflatten(0, present.shape[:2])
        return tokens

    def mask(self, ticks: int, device: torch.device) -> Bool[Tensor, "ticks cameras"]:
        """`seen` for each of some ticks."""
        return self.seen.to(device).expand(ticks, -1)
