# SPDX-License-Identifier: Apache-2.0
"""Where things are in a picture: a second task for the small base's vision, beside the flow of actions.

Pi0.5 was trained on bounding boxes together with robot data (arXiv:2504.16054); from a few hundred
demonstrations alone a vision tower hardly learns to look. Three linear heads read the tokens: in which patch a thing is
(learned first); each token's share of its place, which is the place in the patch that holds it and nothing elsewhere,
so that averages of tokens still hold it; and all places, from tokens averaged to 4 x 4. The heads go with the run.
"""

import numpy as np
import torch
from jaxtyping import Float, Int, UInt8
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, one_hot, smooth_l1_loss

from sigma_ros.model.backbone import Backbone
from sigma_ros.model.tokens import pool_tokens
from sigma_ros.sim.random_scenes import PLACES

from .scenes import Scenes

GRID = 4
_SCENE_STREAM = 4
_HELD_OUT_SHARE = 0.02
_HUBER_AT = 0.1
"""Of half a picture: beyond it an error counts linearly, for a brick may be hidden."""
_THINGS = 3
_PLACE_WEIGHT, _SHARE_WEIGHT, _PATCH_WEIGHT = 5.0, 1.0, 0.3
_DIRECTION_WEIGHT = 0.1
"""Within the places, of a brick a few pixels long: seen late, and not by all."""


class Locator(nn.Module):
    """The heads and the scenes; the last ones are never trained on."""

    weights: Float[Tensor, " places"]

    def __init__(self, scenes: Scenes, width: int) -> None:
        super().__init__()
        self.scenes = scenes
        self.train_count = round(len(scenes.images) * (1.0 - _HELD_OUT_SHARE))
        self.norm = nn.LayerNorm(width)
        self.in_patch = nn.Linear(width, _THINGS)
        self.share = nn.Linear(width, 3 * _THINGS)
        self.readout = nn.Linear(GRID * GRID * width, len(PLACES))
        weights = torch.ones(len(PLACES))
        weights[2 * _THINGS :] = _DIRECTION_WEIGHT
        self.register_buffer("weights", weights, persistent=False)

    def forward(
        self, backbone: Backbone, images: UInt8[Tensor, "pictures h w 3"]
    ) -> tuple[Float[Tensor, "pictures patches width"], Float[Tensor, "pictures places"]]:
        """The normalised tokens, and what they say of `PLACES`."""
        tokens = self.norm(backbone.encode_images(images, per_call=len(images)).float())
        return tokens, self.readout(pool_tokens(tokens, GRID).flatten(1))

    def loss(self, backbone: Backbone, *, count: int, seed: int, step: int) -> Tensor:
        """Of a batch that is a function of seed and step."""
        rng = np.random.default_rng([seed, _SCENE_STREAM, step])
        rows = torch.from_numpy(rng.integers(self.train_count, size=count))
        tokens, found = self(backbone, self.scenes.images[rows])
        places = self.scenes.places[rows].to(found.device)
        errors = smooth_l1_loss(found.float(), places, beta=_HUBER_AT, reduction="none") * self.weights
        things = places[:, : 2 * _THINGS].unflatten(1, (_THINGS, 2))
        patches = _patches(things, backbone.patch_grid)
        held = one_hot(patches, backbone.patch_grid**2).transpose(1, 2)[..., None]  # pictures, patches, things, 1
        shares = held * torch.cat([torch.ones_like(things[..., :1]), things], dim=-1)[:, None]
        missing = (self.share(tokens).float().unflatten(2, (_THINGS, 3)) - shares).square().sum(dim=1)
        return (
            _PLACE_WEIGHT * errors.mean()
            + _SHARE_WEIGHT * missing.mean()
            + _PATCH_WEIGHT * cross_entropy(self.in_patch(tokens).float(), patches)
        )

    @torch.no_grad()
    def brick_error_px(self, backbone: Backbone) -> float:
        """Median distance of the brick from where it is said to be, on pictures that were not trained on."""
        images, places = self.scenes.images[self.train_count :], self.scenes.places[self.train_count :]
        found = torch.cat([self(backbone, part)[1] for part in images.split(64)]).float().cpu()
        distance = (found[:, :2] - places[:, :2]).norm(dim=1)
        return float(distance.median()) * images.shape[1] / 2


def _patches(places: Float[Tensor, "pictures things 2"], grid: int) -> Int[Tensor, "pictures things"]:
    """Number of the patch that each place is in, row by row; the nearest one for what is outside of the picture."""
    column, row = ((places + 1.0) * (grid / 2)).long().clamp(0, grid - 1).unbind(dim=-1)
    return row * grid + column
