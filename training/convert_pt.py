# SPDX-License-Identifier: Apache-2.0
r"""python -m training.convert_pt: `.pt` shards of the original layout into those of training.preprocess.

A `.pt` file is a pickle; it is read with torch's weights-only reader, which runs none of its code and refuses what is
not a tensor, number or text. Samples that follow each other in an episode are joined again, so memory is unrolled over
them. The original predicts the window that it sees; here the actions are those from the window's first tick on.

`--weights` instead takes a file of weights (`.pt`, `.bin`) and writes its tensors as safetensors.

Examples:
    python -m training.convert_pt --weights sigma_telepathy_heads.pt --out sigma_telepathy_heads.safetensors
    python -m training.convert_pt --pt storage/sigma_pickplace/shard_*.pt --contract so101 --out data/pickplace \
        --image-size 224 --action_key action_trajectory
"""

import argparse
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import numpy as np
import torch
from jaxtyping import Float32, UInt8
from lerobot.policies.common.vla_utils import resize_with_pad_torch
from numpy import ndarray
from rich.console import Console
from rich.progress import track

from sigma_ros.contract import Contract
from sigma_ros.contract_file import load_contract
from sigma_ros.errors import DatasetError

from . import exit_code
from . import parser as command_parser
from .data import EpisodeArrays, write_tensors
from .shards import PreprocessOptions, write_episodes


@dataclass(frozen=True, slots=True, kw_only=True)
class Keys:
    """Names in a sample. `vision` is [T, C, H, W] or [T, K, C, H, W] in [0, 1] or bytes, the others are [T, D]."""

    vision: str = "vis_obs"
    state: str = "robot_state"
    action: str = "action_trajectory"
    text: str = "text"
    episode: str = "episode_index"
    frame: str = "frame_index"


def convert_weights(path: Path, out: Path) -> int:
    """Writes the tensors of a weights file as safetensors, without running its code; returns how many.

    Raises:
        DatasetError: it holds anything but tensors by name, or `out` exists.
    """
    if out.exists():
        raise DatasetError("the output exists already", where=out, remedy="give another --out")
    content = _load(path, "tensors by name")
    if not isinstance(content, dict) or not all(isinstance(value, torch.Tensor) for value in content.values()):
        raise DatasetError("the file holds more than weights", where=path, expected="tensors by name")
    write_tensors(out, {str(name): tensor.clone().contiguous() for name, tensor in content.items()}, {"format": "pt"})
    return len(content)


def read_samples(path: Path) -> list[dict[str, Any]]:
    """The samples of a file, without running code of it.

    Raises:
        DatasetError: it holds anything but samples.
    """
    content = _load(path, "a list of dictionaries of tensors, numbers and texts")
    samples = content.get("samples") if isinstance(content, dict) else content
    if not isinstance(samples, list) or not all(isinstance(sample, dict) for sample in samples):
        raise DatasetError("the shard holds no samples", where=path, expected="a list of dictionaries")
    return samples


def _load(path: Path, expected: str) -> Any:
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except (OSError, RuntimeError, UnpicklingError, EOFError) as error:
        raise DatasetError(
            "the file cannot be read without running its code",
            where=path,
            expected=expected,
            got=str(error).splitlines()[0][:200],
        ) from error


def episodes_of(
    samples: Sequence[dict[str, Any]], contract: Contract, keys: Keys, *, image_size_px: int
) -> list[EpisodeArrays]:
    """Joins samples of an episode whose frames follow each other; others are episodes of their own."""
    parts: list[list[dict[str, Any]]] = []
    for number, sample in enumerate(samples):
        _check(sample, contract, keys, number)
        if parts and _follows(parts[-1][-1], sample, keys):
            parts[-1].append(sample)
        else:
            parts.append([sample])
    return [_joined(part, contract, keys, i, image_size_px) for i, part in enumerate(track(parts, "episodes"))]


def _check(sample: dict[str, Any], contract: Contract, keys: Keys, number: int) -> None:
    problems = [f"no {key}" for key in (keys.vision, keys.state, keys.action, keys.text) if key not in sample]
    problems += [
        f"{key} is {tuple(sample[key].shape)}"
        for key in (keys.state, keys.action)
        if key in sample and (sample[key].ndim != 2 or sample[key].shape[1] != contract.dof)
    ]
    problems += [
        f"{k} is not finite" for k in (keys.state, keys.action) if k in sample and not sample[k].isfinite().all()
    ]
    if problems:
        raise DatasetError(
            "a sample does not have the expected entries",
            where=f"sample {number}",
            expected=f"states and actions [T, {contract.dof}]",
            got=f"{', '.join(problems)}; it has {', '.join(map(str, sample))}",
            remedy="name the entries with --vision_key, --state_key, --action_key, --text_key",
        )


def _follows(before: dict[str, Any], sample: dict[str, Any], keys: Keys) -> bool:
    if any(key not in one for one in (before, sample) for key in (keys.episode, keys.frame)):
        return False
    steps = before[keys.state].shape[0]
    same = int(before[keys.episode]) == int(sample[keys.episode])
    return same and int(sample[keys.frame]) == int(before[keys.frame]) + steps


def _joined(
    part: list[dict[str, Any]], contract: Contract, keys: Keys, number: int, image_size_px: int
) -> EpisodeArrays:
    states = _rows(part, keys.state)
    return EpisodeArrays(
        episode=number,
        task=str(part[0][keys.text]),
        frames=np.concatenate([_frames(sample[keys.vision], contract, image_size_px) for sample in part]),
        states=states,
        actions=_rows(part, keys.action)[: len(states)],
        valid=np.ones(len(states), dtype=bool),
        acted=np.ones(len(states), dtype=bool),
    )


def _rows(part: list[dict[str, Any]], key: str) -> Float32[ndarray, "ticks dof"]:
    return np.concatenate([sample[key].to(torch.float32).numpy() for sample in part])


def _frames(pictures: torch.Tensor, contract: Contract, size_px: int) -> UInt8[ndarray, "ticks cameras h w 3"]:
    if pictures.ndim == 4:
        pictures = pictures[:, None]
    ticks, cameras = pictures.shape[:2]
    if pictures.ndim != 5 or cameras != len(contract.cameras):
        raise DatasetError(
            "the pictures do not fit the contract's cameras",
            expected=f"[T, {len(contract.cameras)}, 3, H, W]",
            got=tuple(pictures.shape),
            remedy="use a contract that has these cameras",
        )
    unit = pictures.to(torch.float32) / (255.0 if pictures.dtype == torch.uint8 else 1.0)
    resized = resize_with_pad_torch(unit.flatten(0, 1).permute(0, 2, 3, 1), size_px, size_px)
    return (resized.clamp(0.0, 1.0) * 255.0).round().to(torch.uint8).unflatten(0, (ticks, cameras)).numpy()


def main(argv: list[str] | None = None) -> int:
    """Runs the command; exit codes 0 done, 1 failed, 2 usage."""
    parser = command_parser("convert_pt", __doc__)
    parser.add_argument("--pt", nargs="+", type=Path, help="files of samples, in order")
    parser.add_argument("--contract", default="so101", help="contract file or name (default so101)")
    parser.add_argument(
        "--out", type=Path, required=True, help="folder for shards and meta.json, or the safetensors file"
    )
    parser.add_argument("--weights", type=Path, help="a file of weights in place of shards")
    parser.add_argument("--image-size", type=int, default=224, help="pixels (default 224)")
    parser.add_argument("--hold-out-every", type=int, default=5, help="hold out every n-th episode; 0: none")
    for name in Keys.__slots__:
        default = getattr(Keys(), name)
        parser.add_argument(f"--{name}_key", default=default, help=f"default {default}")
    args = parser.parse_args(argv)
    if (args.pt is None) == (args.weights is None):
        parser.error("give either --pt or --weights")
    return exit_code(lambda: _run(args), interrupted="interrupted; nothing is finished")


def _run(args: argparse.Namespace) -> int:
    console = Console(stderr=True, markup=False)
    if args.weights is not None:
        console.print(f"{convert_weights(args.weights, args.out)} tensors: {args.out}")
        return 0
    contract = load_contract(args.contract)
    keys = Keys(**{name: getattr(args, f"{name}_key") for name in Keys.__slots__})
    samples = [sample for path in args.pt for sample in read_samples(path)]
    episodes = episodes_of(samples, contract, keys, image_size_px=args.image_size)
    options = PreprocessOptions(
        out=args.out,
        contract=contract,
        image_size_px=args.image_size,
        stride=16,
        min_motion=0.0,
        hold_out_every=args.hold_out_every,
        skip_broken=False,
    )
    meta = write_episodes(episodes, options, described=", ".join(path.name for path in args.pt))
    console.print(f"{len(meta.episodes)} episodes, {len(meta.windows)} windows: {args.out}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
