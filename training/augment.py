# SPDX-License-Identifier: Apache-2.0
"""Pictures as another camera, at another place and in another light, would have taken them.

LeRobot's `ImageTransforms` with ranges for a camera that somebody else put up: a base model that has seen one pose
and one light of a camera learns those two by heart and says nothing sensible about any other.
"""

import numpy as np
import torch
from jaxtyping import UInt8
from lerobot.transforms import ImageTransformConfig, ImageTransforms, ImageTransformsConfig
from torch import Tensor

_AUGMENT_STREAM = 3


def other_cameras(strength: float) -> ImageTransforms:
    """The transforms; with strength 1 up to 6 degrees, 8 % of the picture, 12 % of its size, and a lamp's colours.

    Ranges are our choice: about twice what `sigma_ros.sim.setups.TARGET` differs from `SOURCE` by.
    """
    s = strength
    tfs = {
        "place": ImageTransformConfig(
            type="RandomAffine",
            kwargs={"degrees": 6.0 * s, "translate": (0.08 * s, 0.08 * s), "scale": (1.0 - 0.12 * s, 1.0 + 0.12 * s)},
        ),
        "light": ImageTransformConfig(type="ColorJitter", kwargs={"brightness": 0.25 * s, "contrast": 0.25 * s}),
        "colour": ImageTransformConfig(type="ColorJitter", kwargs={"saturation": 0.4 * s, "hue": 0.03 * s}),
    }
    return ImageTransforms(ImageTransformsConfig(enable=True, max_num_transforms=len(tfs), tfs=tfs))


def augmented(
    images: UInt8[Tensor, "batch cameras h w 3"], *, strength: float, seed: int, step: int
) -> UInt8[Tensor, "batch cameras h w 3"]:
    """Each picture through its own transforms, a function of seed and step; strength 0 changes nothing."""
    if strength == 0.0 or images.shape[1] == 0:
        return images
    change = other_cameras(strength)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(int(np.random.SeedSequence([seed, _AUGMENT_STREAM, step]).generate_state(1)[0]))
        changed = [change(image) for image in images.flatten(0, 1).permute(0, 3, 1, 2)]
    return torch.stack(changed).permute(0, 2, 3, 1).unflatten(0, images.shape[:2]).contiguous()
