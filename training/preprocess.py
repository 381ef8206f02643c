# SPDX-License-Identifier: Apache-2.0
"""python -m training.preprocess: bags or a LeRobot data set to shards.

Recordings go through the robot's own frame clock; pictures are decoded once, in order, at the model's size.

Examples:
    python -m training.preprocess --bags out/demo/recording --contract so101 --out data/demo
    python -m training.preprocess --dataset lerobot/svla_so101_pickplace --contract so101 --out data/pickplace
    python -m training.preprocess --bags recordings --out data/mine --dry-run
    python -m training.preprocess --simulated target --count 120 --disturb 0.05 --image-size 112 --out data/sim
"""

import argparse
import json
import shutil
import sys
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from rich.console import Console

from sigma_ros.bags.dataset_facts import check_facts, check_numbers, episode_numbers, fetcher
from sigma_ros.bags.losses import WITH_LOSSES, described
from sigma_ros.camera_names import read_rename
from sigma_ros.contract import Contract
from sigma_ros.contract_file import load_contract
from sigma_ros.errors import DatasetError, MachineError, SigmaError, UsageError, show_error
from sigma_ros.evaluation.fleet import Work, Workers, shared_out
from sigma_ros.model.normalise import Normalisation
from sigma_ros.stopping import INTERRUPTED

from . import program
from .data import EpisodeArrays, ShardMeta, content_hash, read_shard, shard_name, write_shard
from .loop import counted_progress
from .sources import (
    TARGET_STEPS,
    MadeSource,
    Source,
    bag_sources,
    dataset_sources,
    motion_of,
    quantiles,
    read_source,
    simulated_sources,
    unit_problems,
    windows_of,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class PreprocessOptions:
    """What the command line asks for. `min_motion` is in the policy's units, see `motion_of`."""

    out: Path
    contract: Contract
    image_size_px: int
    stride: int
    min_motion: float
    hold_out_every: int
    skip_broken: bool
    strict: bool = False


class _Collected:
    """What the finished shards add up to; pictures are not kept."""

    def __init__(self, options: PreprocessOptions, held_out: tuple[int, ...]) -> None:
        self._options = options
        self.held_out = held_out
        self.entries: list[dict[str, object]] = []
        self.windows: list[tuple[int, int]] = []
        self.static: list[tuple[int, int]] = []
        self.files: dict[str, str] = {}
        self.losses: dict[str, dict[str, int]] = {}
        self._states: list[np.ndarray] = []
        self._actions: list[np.ndarray] = []

    def add(self, arrays: EpisodeArrays, *, recording: str, shard: str, sha256: str) -> None:
        """Counts one epoch."""
        position, options = len(self.entries), self._options
        for row in windows_of(arrays, options.stride):
            still = motion_of(arrays, row) < options.min_motion
            (self.static if still else self.windows).append((position, row))
        self.files[shard] = sha256
        self.entries.append(
            {
                "episode": arrays.episode,
                "recording": recording,
                "shard": shard,
                "ticks": arrays.ticks,
                "task": arrays.task,
            }
        )
        if arrays.episode not in self.held_out:
            self._states.append(arrays.states[arrays.valid])
            self._actions.append(arrays.actions[arrays.acted])

    def lost(self, recording: str, losses: Mapping[str, int]) -> None:
        """Takes note of what could not be used of a recording."""
        if losses:
            self.losses[recording] = dict(losses)

    def normalisation(self) -> Normalisation:
        """Statistics of the training split alone.

        Raises:
            DatasetError: there is none, or its units cannot be the contract's.
        """
        if not self._states:
            raise DatasetError("every recording is held out", remedy="give more recordings, or --hold-out-every 0")
        found = Normalisation(state=quantiles(self._states), action=quantiles(self._actions))
        problems = unit_problems(found, self._options.contract)
        if problems:
            raise DatasetError(
                "the data's units cannot be the contract's",
                where=f"contract {self._options.contract.name}",
                got=" | ".join(problems),
                remedy="set each joint's unit in the contract; `sigma calibrate` says which one fits",
            )
        return found


def held_out_numbers(numbers: list[int], every: int) -> tuple[int, ...]:
    """Every n-th of the episodes' numbers, beginning with the first; none with 0."""
    return tuple(numbers[::every]) if every else ()


def preprocess(
    sources: Sequence[Source | MadeSource], options: PreprocessOptions, *, described: str, revision: str | None
) -> ShardMeta:
    """Writes one shard per epoch of every source, and `meta.json` last. Finished shards are kept on a second run.

    Raises:
        DatasetError: a recording cannot be used (unless `skip_broken`), there is no window, or the units cannot be
            right.
        MachineError: the disk refuses; finished shards stay.
    """
    _make_folder(options)
    collected = _Collected(options, held_out_numbers([source.number for source in sources], options.hold_out_every))
    skipped: list[dict[str, str]] = []
    with counted_progress() as progress:
        for source in progress.track(sources, description="recordings"):
            try:
                lost = partial(collected.lost, source.name)
                for arrays, path, sha256 in _shards_of(source, options, lost=lost):
                    collected.add(arrays, recording=source.name, shard=path.name, sha256=sha256)
            except MachineError:
                raise  # a full disk is not a broken recording
            except OSError as error:
                raise DatasetError(
                    "a shard could not be written",
                    where=options.out,
                    got=error,
                    remedy="free some space; the same command resumes",
                ) from error
            except SigmaError as error:
                if not options.skip_broken:
                    raise _unusable(source, sources, options, error) from error
                skipped.append({"recording": source.name, "reason": str(error)})
    if not collected.windows:
        raise DatasetError("no window was found", where=described, expected=f"episodes of {TARGET_STEPS} ticks or more")
    meta = _meta(collected, options, described=described, revision=revision, skipped=tuple(skipped))
    meta.write(options.out)
    return meta


def write_episodes(episodes: list[EpisodeArrays], options: PreprocessOptions, *, described: str) -> ShardMeta:
    """Writes episodes that are arrays already."""
    _make_folder(options)
    collected = _Collected(options, held_out_numbers([e.episode for e in episodes], options.hold_out_every))
    for number, arrays in enumerate(episodes):
        name = shard_name(number)
        sha256 = write_shard(options.out / name, arrays)
        collected.add(arrays, recording=f"{described} episode {arrays.episode}", shard=name, sha256=sha256)
    meta = _meta(collected, options, described=described, revision=None, skipped=())
    meta.write(options.out)
    return meta


def _make_folder(options: PreprocessOptions) -> None:
    """The output folder; one that was begun with other options is refused, so that shards never mix."""
    options.out.mkdir(parents=True, exist_ok=True)
    mark = options.out / ".options"
    wanted = f"{options.contract} {options.image_size_px}"
    if mark.is_file() and mark.read_text(encoding="utf-8") != wanted:
        raise DatasetError(
            "the output folder was begun with another contract or picture size",
            where=options.out,
            remedy="give another --out, or --force to start anew",
        )
    mark.write_text(wanted, encoding="utf-8")


def _meta(
    collected: _Collected,
    options: PreprocessOptions,
    *,
    described: str,
    revision: str | None,
    skipped: tuple[dict[str, str], ...],
) -> ShardMeta:
    contract = options.contract
    return ShardMeta(
        contract=contract.name,
        source=described,
        source_revision=revision,
        image_size_px=options.image_size_px,
        cameras=tuple(camera.name for camera in contract.cameras),
        joint_names=contract.joint_names,
        fps=contract.fps,
        stride=options.stride,
        target_steps=TARGET_STEPS,
        min_motion=options.min_motion,
        episodes=tuple(collected.entries),
        windows=tuple(collected.windows),
        static_windows=tuple(collected.static),
        held_out=collected.held_out,
        skipped=skipped,
        normalisation=collected.normalisation().as_dict(),
        files=collected.files,
        losses=collected.losses,
    )


def _shards_of(
    source: Source | MadeSource, options: PreprocessOptions, *, lost: Callable[[Mapping[str, int]], None]
) -> Iterator[tuple[EpisodeArrays, Path, str]]:
    """Each epoch of a source with its file, written now or before; `lost` hears what could not be used."""
    kept = finished(source, options) or write_shards(source, options)
    lost(kept["losses"])
    for path in (options.out / name for name in kept["shards"]):
        arrays = read_shard(path)
        yield arrays, path, content_hash(arrays)


def finished(source: Source | MadeSource, options: PreprocessOptions) -> dict[str, Any] | None:
    """Names of a source's shards and its losses, if an earlier run has written them all of this very source."""
    done = _done_file(source, options)
    kept = json.loads(done.read_text(encoding="utf-8")) if done.is_file() else {}
    if kept.get("source") != source.identity or not all((options.out / name).is_file() for name in kept["shards"]):
        return None
    return kept


def write_shards(source: Source | MadeSource, options: PreprocessOptions) -> dict[str, Any]:
    """Writes a source's epochs, one at a time, and what `finished` reads last."""
    kept: dict[str, Any] = {"source": source.identity, "shards": [], "losses": {}}
    for epoch, arrays in enumerate(_epochs(source, options, kept["losses"].update)):
        name = shard_name(source.number, epoch)
        write_shard(options.out / name, arrays)
        kept["shards"].append(name)
    done = _done_file(source, options)
    partial_file = done.with_suffix(".tmp")
    partial_file.write_text(json.dumps(kept), encoding="utf-8")
    partial_file.replace(done)
    return kept


def _done_file(source: Source | MadeSource, options: PreprocessOptions) -> Path:
    return options.out / f".{source.number:06d}.done"


def write_on_workers(sources: Sequence[Source | MadeSource], options: PreprocessOptions, workers: Workers) -> None:
    """Writes the shards that are not there yet; `preprocess` finds them, and meets again what went wrong.

    Raises:
        MachineError: Ray is not installed, or no worker comes up.
    """
    _make_folder(options)
    missing = [source for source in sources if finished(source, options) is None]
    work = Work(load=partial(bool, 1), do=partial(_try_to_write, options), failed=_died)
    with counted_progress() as progress:
        bar = progress.add_task("recordings", total=len(missing))
        shared_out(missing, work, workers, on_result=lambda *_: progress.advance(bar))


def _try_to_write(options: PreprocessOptions, source: Source | MadeSource, _tool: object) -> str:
    try:
        write_shards(source, options)
    except (SigmaError, OSError) as error:
        return str(error)
    return "written"


def _died(_source: Source | MadeSource, reason: str) -> str:
    return reason


def _unusable(
    broken: Source | MadeSource, sources: Sequence[Source | MadeSource], options: PreprocessOptions, error: SigmaError
) -> DatasetError:
    """The refusal of a recording; leaving it out is advised only where something is left."""
    rest = (source for source in sources if source is not broken)
    if any(_is_usable(source, options) for source in rest):
        what, remedy = "a recording cannot be used", "repair it, or --skip-broken"
    else:
        what, remedy = "no recording can be used", "repair them, or give the contract that they were recorded with"
    return DatasetError(what, where=broken.name, got=error, remedy=remedy)


def _is_usable(source: Source | MadeSource, options: PreprocessOptions) -> bool:
    try:
        with closing(_epochs(source, options, lambda _: None)) as epochs:
            return next(epochs, None) is not None
    except SigmaError:
        return False


def _epochs(
    source: Source | MadeSource, options: PreprocessOptions, lost: Callable[[Mapping[str, int]], None]
) -> Generator[EpisodeArrays]:
    return read_source(source, options.contract, image_size_px=options.image_size_px, strict=options.strict, lost=lost)


class DryRun(NamedTuple):
    """Everything that a run would stumble over, and what it would lose of each recording."""

    problems: list[str]
    losses: dict[str, dict[str, int]]


def problems_of(sources: Sequence[Source | MadeSource], options: PreprocessOptions) -> DryRun:
    """What a run would stumble over, and what it would lose of each recording; writes nothing: the dry run."""
    collected, problems = (
        _Collected(options, held_out_numbers([source.number for source in sources], options.hold_out_every)),
        [],
    )
    with counted_progress() as progress:
        for source in progress.track(sources, description="checking"):
            try:
                for offset, arrays in enumerate(_epochs(source, options, partial(collected.lost, source.name))):
                    collected.add(arrays, recording=source.name, shard=shard_name(source.number, offset), sha256="")
            except SigmaError as error:
                problems.append(f"{source.name}: {error}")
    if not collected.windows:
        problems.append("no window was found")
        return DryRun(problems, collected.losses)
    try:
        collected.normalisation()
    except SigmaError as error:
        problems.append(str(error))
    return DryRun(problems, collected.losses)


def _arguments(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog=program("preprocess"),
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--bags", nargs="+", type=Path, help="bags, or folders of bags")
    source.add_argument("--dataset", nargs="+", help="folders or Hub ids of LeRobot data sets (v2.x or v3.0)")
    source.add_argument("--simulated", metavar="SETUP", help="new demonstrations in a simulated set-up, without bags")
    parser.add_argument("--count", type=int, default=120, help="--simulated: demonstrations (default 120)")
    parser.add_argument("--seed", type=int, default=0, help="--simulated: of the demonstrations")
    parser.add_argument("--disturb", type=float, default=0.0, help="--simulated: pushes, as `sigma record`'s [rad]")
    parser.add_argument("--episodes", nargs="+", type=int, default=None, help="episodes of a --dataset (default all)")
    parser.add_argument("--revision", help="Hub revision of --dataset")
    parser.add_argument(
        "--rename",
        nargs="+",
        default=[],
        metavar="KEY=KEY",
        help="front=up wrist=side: what the data set calls the contract's cameras; actions=action too",
    )
    parser.add_argument(
        "--resample", action="store_true", help="accept another rate than the contract's: repeat or leave out frames"
    )
    parser.add_argument(
        "--base_model_id", help="also check cameras and joints against this base, and take its picture size"
    )
    parser.add_argument(
        "--base_rename", nargs="+", default=[], metavar="KEY=KEY", help="what training.train will be given as --rename"
    )
    parser.add_argument("--contract", default="so101", help="contract file or name (default so101)")
    parser.add_argument("--out", type=Path, required=True, help="folder for shards and meta.json")
    parser.add_argument("--image-size", type=int, help="pixels; the small model has 112 (default the base's, else 224)")
    parser.add_argument("--stride", type=int, default=16, help="ticks between windows (default 16)")
    parser.add_argument("--min-motion", type=float, default=0.0, help="drop windows that move less (policy units)")
    parser.add_argument("--hold-out-every", type=int, default=5, help="hold out every n-th recording; 0: none")
    parser.add_argument("--skip-broken", action="store_true", help="leave broken recordings out, and say so")
    parser.add_argument("--strict", action="store_true", help="any loss in a recording is a failure")
    parser.add_argument("--stamps", choices=("header", "log"), default="header", help="log: times of recording")
    parser.add_argument("--recover", action="store_true", help="read cut-off bags as far as they go")
    parser.add_argument("--dry-run", action="store_true", help="list every problem and write nothing")
    parser.add_argument("--workers", type=int, default=0, metavar="N", help="Ray workers; 0: in this process")
    parser.add_argument("--ray-address", metavar="ADDRESS", help="a running Ray cluster (auto, or host:port)")
    parser.add_argument("--force", action="store_true", help="start anew where --out exists")
    return parser.parse_args(argv)


def _sources(
    args: argparse.Namespace, contract: Contract, console: Console
) -> tuple[Sequence[Source | MadeSource], str]:
    """What is read, and how it is called in `meta.json`."""
    if args.bags:
        return bag_sources(args.bags, strict=args.strict, recover=args.recover, stamps=args.stamps), ", ".join(
            map(str, args.bags)
        )
    if args.simulated:
        settings = {"count": args.count, "seed": args.seed, "disturbance_rad": args.disturb}
        described = ", ".join(f"{name} {value}" for name, value in settings.items())
        return simulated_sources(args.simulated, contract, **settings), f"simulated {args.simulated}: {described}"
    if len(args.dataset) > 1 and (args.episodes or args.revision):
        raise UsageError("--episodes and --revision are of one data set", got=f"{len(args.dataset)} data sets")
    found = [source for dataset in args.dataset for source in _episodes_of(dataset, args, contract, console)]
    if len(args.dataset) > 1:
        found = [replace(source, number=i) for i, source in enumerate(found)]
    return found, ", ".join(args.dataset)


def _episodes_of(dataset: str, args: argparse.Namespace, contract: Contract, console: Console) -> list[Source]:
    rename = read_rename(args.rename)
    check_facts(fetcher(dataset, args.revision), contract, rename=rename, resample=args.resample)
    numbers = args.episodes or episode_numbers(dataset, revision=args.revision)
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
    console = Console(stderr=True, markup=False)
    try:
        contract = load_contract(args.contract)
        sources, name = _sources(args, contract, console)
        options = PreprocessOptions(
            out=args.out,
            contract=contract,
            image_size_px=_image_size_px(args, contract),
            stride=args.stride,
            min_motion=args.min_motion,
            hold_out_every=args.hold_out_every,
            skip_broken=args.skip_broken,
            strict=args.strict,
        )
        if args.dry_run:
            return _say_problems(*problems_of(sources, options), console)
        if args.force:
            shutil.rmtree(args.out, ignore_errors=True)
        if args.workers:
            write_on_workers(sources, options, Workers(count=args.workers, address=args.ray_address))
        meta = preprocess(sources, options, described=name, revision=args.revision)
    except SigmaError as error:
        show_error(error)
        return error.exit_code
    except KeyboardInterrupt:
        console.print("interrupted; the same command resumes")
        return INTERRUPTED
    console.print(
        f"{len(meta.episodes)} episodes, {len(meta.windows)} windows "
        f"({len(meta.windows_of(held_out=True))} held out), {len(meta.static_windows)} static dropped, "
        f"{len(meta.skipped)} recordings skipped: {args.out}"
    )
    _say_losses(meta.losses, console)
    return WITH_LOSSES if meta.losses else 0


def _image_size_px(args: argparse.Namespace, contract: Contract) -> int:
    """As asked for; else the base's, which is then checked against the contract from its small files."""
    if args.base_model_id is None:
        return args.image_size or 224
    from sigma_ros.model.loading import open_checkpoint  # noqa: PLC0415

    opened = open_checkpoint(args.base_model_id, contract=contract, rename=read_rename(args.base_rename))
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
