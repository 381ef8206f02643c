# SPDX-License-Identifier: Apache-2.0
"""Frames of the robot as the model takes them: the policy's cameras in its order, the normalised state."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Self

import numpy as np
import torch
from jaxtyping import UInt8
from numpy import ndarray

from sigma_ros.errors import SigmaError
from sigma_ros.model.backbone import Backbone
from sigma_ros.model.cameras import policy_keys, seated
from sigma_ros.model.policy_units import PolicyUnits
from sigma_ros.model.tokens import Sight
from sigma_ros.values import Frame


@dataclass(frozen=True, slots=True, kw_only=True)
class SightMaker:
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

    def sight(self, frame: Frame) -> Sight:
        """One tick; a camera that the robot lacks is black and marked as not seen.

        Raises:
            SigmaError: an image is missing, or is not uint8 RGB of the policy's size.
        """
        return Sight(
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
