# SPDX-License-Identifier: Apache-2.0
"""python -m training.toy.locate: pictures of random simulated tables, and where brick, box and fingers are in them.

What the small base's vision learns to locate things from (`training.toy.pretrain_mini --scenes_dir`), as pi0.5 was
trained on bounding boxes beside robot data (arXiv:2504.16054): from a few hundred demonstrations alone a vision tower
hardly learns to look. The target set-up is not among the tables. A run that was stopped goes on.

Examples:
    python -m training.toy.locate --out data/scenes
    python -m training.toy.locate --setups 100 --seed 7 --out data/few_scenes
"""

import itertools
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import numpy as np
import torch
from jaxtyping import Float, Int, UInt8
from lerobot.transforms import ImageTransformConfig, ImageTransforms, ImageTransformsConfig
from rich.console import Console
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, one_hot, smooth_l1_loss

from sigma_ros.contract_file import load_contract
from sigma_ros.errors import DatasetError
from sigma_ros.model.pi05.backbone import Backbone
from sigma_ros.model.pi05.mini import IMAGE_PX
from sigma_ros.model.tokens import pool_tokens
from sigma_ros.sim.setups import SOURCE

from .. import exit_code
from .. import parser as command_parser
from ..data import write_tensors
from ..loop import counted_progress
from .random_scenes import PLACES, random_scenes

SETUPS_PER_FILE = 50
PICTURES_PER_SETUP = 16


@dataclass(frozen=True, slots=True, kw_only=True)
class Scenes:
    """Pictures of every camera, one row each, and their `PLACES`."""

    images: UInt8[Tensor, "pictures h w 3"]
    places: Float[Tensor, "pictures places"]

    @classmethod
    def open(cls, folder: Path) -> Self:
        """Reads all files of a folder.

        Raises:
            DatasetError: there is none, or one is damaged or not of these places.
        """
        files = sorted(folder.glob("scenes_*.safetensors"))
        if not files:
            raise DatasetError(
                "no scenes found",
                where=folder,
                expected="files of training.toy.locate",
                remedy=f"python -m {__package__}.locate",
            )
        parts = [_read(file) for file in files]
        return cls(
            images=torch.cat([images.flatten(0, 1) for images, _ in parts]),
            places=torch.cat([places.flatten(0, 1) for _, places in parts]),
        )


def _read(file: Path) -> tuple[Tensor, Tensor]:
    try:
        with safe_open(str(file), framework="pt") as tensors:
            known = (tensors.metadata() or {}).get("places")
            images, places = tensors.get_tensor("images"), tensors.get_tensor("places")
    except (OSError, SafetensorError) as error:
        raise DatasetError(
            "scenes cannot be read", where=file, got=error, remedy="remove the file and run training.toy.locate again"
        ) from error
    if known != " ".join(PLACES):
        raise DatasetError(
            "scenes of another version", where=file, expected=", ".join(PLACES), got=known, remedy="make them again"
        )
    return images, places


def write_scenes(out: Path, *, contract: str, setups: int, seed: int) -> None:
    """Writes what is missing, file by file."""
    robot = load_contract(contract)
    with counted_progress() as progress:
        bar = progress.add_task("scenes", total=setups)
        for number, first in enumerate(range(0, setups, SETUPS_PER_FILE)):
            count = min(SETUPS_PER_FILE, setups - first)
            path = out / f"scenes_{seed}_{number:04d}.safetensors"
            if not path.is_file() or len(_read(path)[0]) < count * PICTURES_PER_SETUP:  # of a run with fewer set-ups
                groups = random_scenes(
                    SOURCE, robot, seed=(seed, number), per_setup=PICTURES_PER_SETUP, size_px=IMAGE_PX
                )
                scenes = []
                for group in itertools.islice(groups, count):
                    scenes += group
                    progress.advance(bar)
                tensors = {
                    "images": torch.from_numpy(np.stack([scene.images for scene in scenes])),
                    "places": torch.from_numpy(np.stack([scene.places for scene in scenes])),
                }
                write_tensors(path, tensors, {"places": " ".join(PLACES)})
            progress.update(bar, completed=first + count)


def main(argv: list[str] | None = None) -> int:
    """Runs the command; exit codes 0 done, 1 failed, 2 usage, 130 interrupted."""
    parser = command_parser("toy.locate", __doc__)
    parser.add_argument("--out", type=Path, required=True, help="folder of the pictures")
    parser.add_argument("--setups", type=int, default=800, help="tables; 16 instants each (default 800)")
    parser.add_argument("--seed", type=int, default=3000, help="default 3000")
    parser.add_argument("--contract", default="so101", help="default so101")
    args = parser.parse_args(argv)

    def run() -> int:
        write_scenes(args.out, contract=args.contract, setups=args.setups, seed=args.seed)
        Console(stderr=True, markup=False).print(f"{args.out}: {args.setups * PICTURES_PER_SETUP} scenes")
        return 0

    return exit_code(run, interrupted="stopped; the same command goes on")


if __name__ == "__main__":
    sys.exit(main())


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


# Pictures as another camera, at another place and in another light, would have taken them.
#
# LeRobot's `ImageTransforms` with ranges for a camera that somebody else put up: a base model that has seen one pose
# and one light of a camera learns those two by heart and says nothing sensible about any other.


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
