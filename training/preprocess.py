# SPDX-License-Identifier: Apache-2.0
"""Turns bags or a LeRobot data set into training shards.

Recordings go through the robot's own frame clock; pictures are decoded once, in order, at the model's size.
`python -m training.preprocess` is the same command.

Examples:
    sigma preprocess --bags out/demo/recording --contract so101 --out data/demo
    sigma preprocess --dataset lerobot/svla_so101_pickplace --contract so101 --out data/pickplace
    sigma preprocess --bags recordings --out data/mine --dry-run
    sigma preprocess --simulated target --count 120 --disturb 0.05 --image-size 112 --out data/sim
    sigma preprocess --simulated target --tasks L1 M1 --count 400 --disturb 0.05 --image-size 112 --out data/tasks
"""

import argparse
import shutil
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from rich.console import Console

from sigma_ros.bags.dataset_facts import check_facts, check_numbers, episode_numbers, fetcher
from sigma_ros.bags.losses import WITH_LOSSES, described
from sigma_ros.camera_names import read_rename
from sigma_ros.contract import Contract
from sigma_ros.contract_file import load_contract
from sigma_ros.errors import DatasetError, UsageError
from sigma_ros.evaluation.fleet import Workers
from sigma_ros.sim.setups import LARGEST_PUSH_RAD

from . import exit_code, in_range
from . import parser as command_parser
from .shards import PreprocessOptions, preprocess, problems_of, write_on_workers
from .sources import RecordedSource, Source, bag_sources, dataset_sources, simulated_sources


def _arguments(argv: list[str] | None) -> argparse.Namespace:
    parser = command_parser("preprocess", __doc__)
    parser.add_argument("--out", type=Path, required=True, help="Folder for shards and meta.json.")
    parser.add_argument("--contract", default="so101", help="Contract file or name (default so101).")
    parser.add_argument("--dry-run", action="store_true", help="List every problem and write nothing.")
    parser.add_argument("--force", action="store_true", help="Start anew where --out exists.")
    _add_source(parser.add_argument_group("recordings"))
    _add_windows(parser.add_argument_group("windows and pictures"))
    _add_faults(parser.add_argument_group("recordings with faults"))
    group = parser.add_argument_group("workers")
    group.add_argument(
        "--workers", type=in_range(0), default=0, metavar="N", help="Of Ray; 0, the default: in this process."
    )
    group.add_argument("--ray-address", metavar="ADDRESS", help="A running Ray cluster (auto, or host:port).")
    return parser.parse_args(argv)


def _add_source(group: Any) -> None:
    """Where the episodes come from, and what is called otherwise there."""
    source = group.add_mutually_exclusive_group(required=True)
    source.add_argument("--bags", nargs="+", type=Path, metavar="DIR", help="Bags, or folders of bags.")
    source.add_argument("--dataset", nargs="+", metavar="PLACE", help="Folders or Hub ids of LeRobot data sets.")
    source.add_argument("--simulated", metavar="source|target|bumped", help="New demonstrations in a simulated set-up.")
    group.add_argument(
        "--count", type=in_range(1), default=120, metavar="N", help="--simulated: episodes (default 120)."
    )
    group.add_argument(
        "--seed", type=in_range(0), default=0, metavar="N", help="--simulated: of the episodes (default 0)."
    )
    group.add_argument(
        "--tasks", nargs="+", default=[], metavar="TASK", help="--simulated: of the test bed (L1, M1, ...), in turn."
    )
    group.add_argument(
        "--disturb",
        type=in_range(0, LARGEST_PUSH_RAD, kind=float),
        default=0.0,
        metavar="RAD",
        help="--simulated: push free movements off their path by up to this (default 0).",
    )
    group.add_argument(
        "--missed",
        type=in_range(0, 1, kind=float),
        default=0.0,
        metavar="X",
        help="--simulated: share after a missed grasp (default 0).",
    )
    group.add_argument("--episodes", nargs="+", type=in_range(0), metavar="N", help="--dataset: these (default all).")
    group.add_argument("--revision", help="--dataset: revision on the Hub.")
    group.add_argument(
        "--rename",
        nargs="+",
        default=[],
        metavar="KEY=KEY",
        help="front=up wrist=side: what the data set calls the contract's cameras; actions=action too.",
    )
    group.add_argument(
        "--resample", action="store_true", help="Accept another rate than the contract's: repeat or leave out frames."
    )


def _add_windows(group: Any) -> None:
    """What is cut out of an episode, for which base."""
    group.add_argument("--base_model_id", help="Check cameras and joints against this base, take its picture size.")
    group.add_argument(
        "--base_rename", nargs="+", default=[], metavar="KEY=KEY", help="What `sigma train` will be given as --rename."
    )
    group.add_argument(
        "--image-size", type=in_range(1), metavar="PX", help="The small model has 112 (default the base's, else 224)."
    )
    group.add_argument(
        "--stride", type=in_range(1), default=16, metavar="N", help="Ticks between windows (default 16)."
    )
    group.add_argument(
        "--min-motion",
        type=in_range(0, kind=float),
        default=0.0,
        metavar="X",
        help="Drop windows that move less, in the policy's units; 0, the default, keeps all.",
    )
    group.add_argument(
        "--hold-out-every",
        type=in_range(0),
        default=5,
        metavar="N",
        help="Hold out every n-th recording; 0: none (default 5).",
    )


def _add_faults(group: Any) -> None:
    """What to make of recordings that are not whole."""
    group.add_argument("--skip-broken", action="store_true", help="Leave broken recordings out, and say so.")
    group.add_argument("--strict", action="store_true", help="Any loss in a recording is a failure.")
    group.add_argument(
        "--stamps",
        choices=("header", "log"),
        default="header",
        help="Times of the pictures' and joints' own stamps, or those of recording (default header).",
    )
    group.add_argument("--recover", action="store_true", help="Read cut-off bags as far as they go.")


def _sources(args: argparse.Namespace, contract: Contract, console: Console) -> tuple[Sequence[Source], str]:
    """What is read, and how it is called in `meta.json`."""
    if args.bags:
        return bag_sources(args.bags, strict=args.strict, recover=args.recover, stamps=args.stamps), ", ".join(
            map(str, args.bags)
        )
    if args.simulated:
        settings = {
            "count": args.count,
            "seed": args.seed,
            "disturbance_rad": args.disturb,
            "missed_share": args.missed,
            **({"tasks": args.tasks} if args.tasks else {}),
        }
        described = ", ".join(f"{name} {value}" for name, value in settings.items())
        return simulated_sources(args.simulated, contract, **settings), f"simulated {args.simulated}: {described}"
    if len(args.dataset) > 1 and (args.episodes or args.revision):
        raise UsageError("--episodes and --revision are of one data set", got=f"{len(args.dataset)} data sets")
    found = [source for dataset in args.dataset for source in _episodes_of(dataset, args, contract, console)]
    if len(args.dataset) > 1:
        found = [replace(source, number=i) for i, source in enumerate(found)]
    return found, ", ".join(args.dataset)


def _episodes_of(dataset: str, args: argparse.Namespace, contract: Contract, console: Console) -> list[RecordedSource]:
    rename = read_rename(args.rename)
    check_facts(fetcher(dataset, args.revision), contract, rename=rename, resample=args.resample)
    numbers = args.episodes or episode_numbers(dataset, revision=args.revision)
    if not numbers:
        raise DatasetError("the data set has no episodes", where=dataset, remedy="record some, or give another")
    for doubt in check_numbers(dataset, numbers, contract, revision=args.revision, rename=rename):
        console.print(str(doubt), style="yellow")
    return dataset_sources(
        dataset,
        numbers,
        contract,
        revision=args.revision,
        rename=rename,
        resample=args.resample,
        strict=args.strict,
        recover=args.recover,
    )


def main(argv: list[str] | None = None) -> int:
    """Runs the command; exit codes 0 done, 3 done with losses, 1 failed, 2 usage, 130 interrupted (resumes)."""
    args = _arguments(argv)
    return exit_code(lambda: _run(args), interrupted="interrupted; the same command resumes")


def _run(args: argparse.Namespace) -> int:
    console = Console(stderr=True, markup=False)
    contract = load_contract(args.contract)
    sources, name = _sources(args, contract, console)
    same = {name: getattr(args, name) for name in ("out", "stride", "min_motion", "hold_out_every", "skip_broken")}
    size_px = _image_size_px(args, contract)
    options = PreprocessOptions(contract=contract, image_size_px=size_px, strict=args.strict, **same)
    if args.dry_run:
        return _say_problems(*problems_of(sources, options), console)
    if args.force:
        shutil.rmtree(args.out, ignore_errors=True)
    if args.workers:
        write_on_workers(sources, options, Workers(count=args.workers, address=args.ray_address))
    meta = preprocess(sources, options, described=name, revision=args.revision)
    console.print(
        f"{len(meta.episodes)} episodes, {len(meta.windows)} windows "
        f"({len(meta.windows_of(held_out=True))} held out), {len(meta.static_windows)} static dropped, "
        f"{len(meta.skipped)} recordings skipped: {args.out}"
    )
    for entry in meta.episodes:
        if "copy_of" in entry:
            console.print(f"{entry['recording']} has the states of {entry['copy_of']}: a copy", style="yellow")
    _say_losses(meta.losses, console)
    return WITH_LOSSES if meta.losses else 0


def _image_size_px(args: argparse.Namespace, contract: Contract) -> int:
    """As asked for; else the base's, which is then checked against the contract from its small files."""
    if args.base_model_id is None:
        return args.image_size or 224
    from sigma_ros.model.loading import open_checkpoint  # noqa: PLC0415

    from .check_data import refuse_relative  # noqa: PLC0415

    opened = open_checkpoint(args.base_model_id, contract=contract, rename=read_rename(args.base_rename))
    refuse_relative(opened.base.relative, where=args.base_model_id)
    wanted = opened.base.image_size_px
    if args.image_size not in (None, wanted):
        raise UsageError("the base has another picture size", expected=f"--image-size {wanted}", got=args.image_size)
    return wanted


def _say_losses(losses: Mapping[str, Mapping[str, int]], console: Console) -> None:
    for recording, reasons in losses.items():
        console.print(f"LOSSES in {recording}: {described(reasons)}", style="yellow", markup=False, soft_wrap=True)


def _say_problems(problems: list[str], losses: Mapping[str, Mapping[str, int]], console: Console) -> int:
    _say_losses(losses, console)
    for problem in problems:
        console.print(str(problem), style="red")
    console.print(f"{len(problems)} problem(s); nothing was written")
    return 1 if problems else WITH_LOSSES if losses else 0


if __name__ == "__main__":
    sys.exit(main())
