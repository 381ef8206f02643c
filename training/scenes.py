# SPDX-License-Identifier: Apache-2.0
"""python -m training.scenes: pictures of random simulated tables, and where brick, box and fingers are in them.

What the small base's vision learns to locate things from (`training.pretrain_mini --scenes_dir`), as pi0.5 was trained
on bounding boxes beside robot data. The target set-up is not among them. A run that was stopped goes on.

Examples:
    python -m training.scenes --out data/scenes
    python -m training.scenes --setups 100 --seed 7 --out data/few_scenes
"""

import argparse
import itertools
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import numpy as np
import torch
from jaxtyping import Float, UInt8
from rich.console import Console
from safetensors import SafetensorError, safe_open
from torch import Tensor

from sigma_ros.contract_file import load_contract
from sigma_ros.errors import DatasetError, SigmaError
from sigma_ros.model.mini import IMAGE_PX
from sigma_ros.sim.random_scenes import PLACES, random_scenes
from sigma_ros.sim.setups import SOURCE
from sigma_ros.stopping import INTERRUPTED

from .progress import counted_progress
from .tensor_files import write_tensors

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
                expected="files of training.scenes",
                remedy=f"python -m {__package__}.scenes",
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
            "scenes cannot be read", where=file, got=error, remedy="remove the file and run training.scenes again"
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
    parser = argparse.ArgumentParser(
        prog=f"python -m {__package__}.scenes",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--out", type=Path, required=True, help="folder of the pictures")
    parser.add_argument("--setups", type=int, default=800, help="tables; 16 instants each (default 800)")
    parser.add_argument("--seed", type=int, default=3000, help="default 3000")
    parser.add_argument("--contract", default="so101", help="default so101")
    args = parser.parse_args(argv)
    console = Console(stderr=True, markup=False)
    try:
        write_scenes(args.out, contract=args.contract, setups=args.setups, seed=args.seed)
    except SigmaError as error:
        console.print(str(error), style="red")
        return error.exit_code
    except KeyboardInterrupt:
        console.print("stopped; the same command goes on")
        return INTERRUPTED
    console.print(f"{args.out}: {args.setups * PICTURES_PER_SETUP} scenes")
    return 0


if __name__ == "__main__":
    sys.exit(main())
