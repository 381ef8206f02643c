# SPDX-License-Identifier: Apache-2.0
"""python -m training.preprocess: bags or a LeRobot data set to shards.

Recordings go through the robot's own frame clock; pictures are decoded once, in order, at the model's size.

Examples:
    python -m training.preprocess --bags out/demo/recording --contract so101 --out data/demo
    python -m training.preprocess --dataset lerobot/svla_so101_pickplace --contract so101 --out data/pickplace
"""

import argparse
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from sigma_ros.contract import Contract
from sigma_ros.contract_file import load_contract
from sigma_ros.errors import DatasetError, SigmaError, UsageError
from sigma_ros.evaluation.bag import open_bag
from sigma_ros.evaluation.bags import find_bags
from sigma_ros.evaluation.episode import Tick, episode
from sigma_ros.evaluation.transcode import load_episode, transcode
from sigma_ros.model.normalise import Normalisation, Quantiles
from training.shards import EpisodeArrays, ShardMeta, file_hash, read_shard, shard_name, write_shard

TARGET_STEPS = 16
"""Actions a window is trained on (model card: horizon T = 16)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """What the command line asks for. `min_motion` is in the policy's units, see `motion_of`."""

    out: Path
    contract: Contract
    image_size_px: int
    stride: int
    min_motion: float
    hold_out_every: int
    skip_broken: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """One recording: a name for messages, its number, and how to open it as a bag."""

    name: str
    number: int
    open: Callable[[Path], Path]


@dataclass(frozen=True, slots=True, kw_only=True)
class Shard:
    """One epoch on disk, and what is in it."""

    path: Path
    sha256: str
    arrays: EpisodeArrays


def bag_sources(places: list[Path]) -> list[Source]:
    """One source per bag at the given places."""
    return [
        Source(name=str(path), number=i, open=lambda _, path=path: path)  # type: ignore[misc]
        for i, path in enumerate(find_bags(places))
    ]


def dataset_sources(dataset: str, numbers: list[int], contract: Contract, *, revision: str | None) -> list[Source]:
    """One source per episode of a LeRobot data set; each goes through a temporary bag, so through the frame clock."""

    def opener(number: int) -> Callable[[Path], Path]:
        def make(folder: Path) -> Path:
            bag = folder / f"episode_{number:06d}"
            transcode(load_episode(dataset, number, contract, revision=revision), contract, bag, storage="mcap")
            return bag

        return make

    return [Source(name=f"{dataset} episode {n}", number=n, open=opener(n)) for n in numbers]


def read_source(source: Source, options: Options) -> list[EpisodeArrays]:
    """The epochs of a recording that are long enough for one window, each as an episode of its own."""
    with tempfile.TemporaryDirectory() as scratch, open_bag(source.open(Path(scratch))) as bag:
        ticks = episode(bag, options.contract, image_size_px=options.image_size_px)
        return [_arrays(part, source, options) for part in _epochs(iter(ticks)) if len(part) >= TARGET_STEPS]


def _epochs(ticks: Iterator[Tick]) -> Iterator[list[Tick]]:
    part: list[Tick] = []
    for tick in ticks:
        if part and tick.item.epoch != part[-1].item.epoch:
            yield part
            part = []
        part.append(tick)
    if part:
        yield part


def _arrays(part: list[Tick], source: Source, options: Options) -> EpisodeArrays:
    contract, size = options.contract, options.image_size_px
    count = len(part)
    frames = np.zeros((count, len(contract.cameras), size, size, 3), dtype=np.uint8)
    states = np.zeros((count, contract.dof), dtype=np.float32)
    actions = np.zeros((count, contract.dof), dtype=np.float32)
    valid, acted = np.zeros(count, dtype=bool), np.zeros(count, dtype=bool)
    task = contract.tasks[0]
    for row, tick in enumerate(part):
        if tick.window is not None:
            newest, task = tick.window.newest, tick.window.task
            frames[row] = [newest.images[camera.name] for camera in contract.cameras]
            states[row] = contract.to_policy(newest.positions_rad)
            valid[row] = True
        if tick.action_rad is not None:
            actions[row] = contract.to_policy(tick.action_rad)
            acted[row] = True
    if not np.isfinite(actions).all():
        raise DatasetError("actions are not finite", where=source.name)
    return EpisodeArrays(
        episode=source.number, task=task, frames=frames, states=states, actions=actions, valid=valid, acted=acted
    )


def windows_of(arrays: EpisodeArrays, stride: int) -> list[int]:
    """Rows every `stride` ticks from the epoch's first that are valid and have all their target actions."""
    last = arrays.ticks - TARGET_STEPS
    return [
        row for row in range(0, last + 1, stride) if arrays.valid[row] and arrays.acted[row : row + TARGET_STEPS].all()
    ]


def motion_of(arrays: EpisodeArrays, row: int) -> float:
    """The largest L2 distance of a target action from the first of them, in the policy's units.

    The paper tests an unstated norm of the actions; absolute positions have no meaningful norm, so ours is
    that of the motion.
    """
    targets = arrays.actions[row : row + TARGET_STEPS]
    return float(np.linalg.norm(targets - targets[0], axis=1).max())


def quantiles(rows: list[np.ndarray]) -> Quantiles:
    """1 % and 99 % quantiles per joint over all rows, in the policy's units."""
    values = np.concatenate(rows).astype(np.float64)
    q01, q99 = np.quantile(values, [0.01, 0.99], axis=0)
    return Quantiles(q01=q01, q99=q99)


class _Collected:
    """What the finished shards add up to."""

    def __init__(self, held_out: tuple[int, ...]) -> None:
        self.held_out = held_out
        self.entries: list[dict[str, object]] = []
        self.windows: list[tuple[int, int]] = []
        self.static: list[tuple[int, int]] = []
        self.files: dict[str, str] = {}
        self._states: list[np.ndarray] = []
        self._actions: list[np.ndarray] = []

    def add(self, source: Source, shard: Shard, options: Options) -> None:
        position, arrays = len(self.entries), shard.arrays
        for row in windows_of(arrays, options.stride):
            still = motion_of(arrays, row) < options.min_motion
            (self.static if still else self.windows).append((position, row))
        self.files[shard.path.name] = shard.sha256
        self.entries.append(
            {
                "episode": source.number,
                "recording": source.name,
                "shard": shard.path.name,
                "ticks": arrays.ticks,
                "task": arrays.task,
            }
        )
        if source.number not in self.held_out:
            self._states.append(arrays.states[arrays.valid])
            self._actions.append(arrays.actions[arrays.acted])

    def normalisation(self) -> Normalisation:
        """Statistics of the training split alone."""
        if not self._states:
            raise DatasetError("every recording is held out", remedy="give more recordings, or --hold-out-every 0")
        return Normalisation(state=quantiles(self._states), action=quantiles(self._actions))


def preprocess(sources: list[Source], options: Options, *, described: str, revision: str | None) -> ShardMeta:
    """Writes one shard per epoch of every source, and `meta.json` last. Finished shards are kept on a second run."""
    options.out.mkdir(parents=True, exist_ok=True)
    every = options.hold_out_every
    collected = _Collected(tuple(s.number for i, s in enumerate(sources) if every and i % every == 0))
    skipped: list[dict[str, str]] = []
    with _progress() as progress:
        for source in progress.track(sources, description="recordings"):
            try:
                shards = _shards_of(source, options, number=len(collected.entries))
            except SigmaError as error:
                if not options.skip_broken:
                    raise DatasetError(
                        "a recording cannot be used", where=source.name, got=error, remedy="repair it, or --skip-broken"
                    ) from error
                skipped.append({"recording": source.name, "reason": str(error)})
                continue
            for shard in shards:
                collected.add(source, shard, options)
    if not collected.windows:
        raise DatasetError("no window was found", where=described, expected=f"episodes of {TARGET_STEPS} ticks or more")
    contract = options.contract
    meta = ShardMeta(
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
        skipped=tuple(skipped),
        normalisation=collected.normalisation().as_dict(),
        files=collected.files,
    )
    meta.write(options.out)
    return meta


def _shards_of(source: Source, options: Options, *, number: int) -> list[Shard]:
    done = options.out / f".{source.number:06d}.done"
    if done.is_file():
        paths = [options.out / name for name in done.read_text(encoding="utf-8").split()]
        if all(path.is_file() for path in paths):
            return [Shard(path=path, sha256=file_hash(path), arrays=read_shard(path)) for path in paths]
    made = []
    for offset, arrays in enumerate(read_source(source, options)):
        path = options.out / shard_name(number + offset)
        made.append(Shard(path=path, sha256=write_shard(path, arrays), arrays=arrays))
    if not made:
        raise DatasetError("no epoch is long enough", where=source.name, expected=f"{TARGET_STEPS} ticks or more")
    done.write_text(" ".join(shard.path.name for shard in made), encoding="utf-8")
    return made


def _progress() -> Progress:
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    return Progress(*columns, console=Console(stderr=True))


def _arguments(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m training.preprocess", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--bags", nargs="+", type=Path, help="bags, or folders of bags")
    source.add_argument("--dataset", help="folder or Hub id of a LeRobot data set (v2.x or v3.0)")
    parser.add_argument("--episodes", nargs="+", type=int, default=None, help="episodes of --dataset")
    parser.add_argument("--revision", help="Hub revision of --dataset")
    parser.add_argument("--contract", default="so101", help="contract file or name (default so101)")
    parser.add_argument("--out", type=Path, required=True, help="folder for shards and meta.json")
    parser.add_argument("--image-size", type=int, default=224, help="pixels; the small model has 112 (default 224)")
    parser.add_argument("--stride", type=int, default=16, help="ticks between windows (default 16)")
    parser.add_argument("--min-motion", type=float, default=0.0, help="drop windows that move less (policy units)")
    parser.add_argument("--hold-out-every", type=int, default=5, help="hold out every n-th recording; 0: none")
    parser.add_argument("--skip-broken", action="store_true", help="leave broken recordings out, and say so")
    parser.add_argument("--force", action="store_true", help="start anew where --out exists")
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> int:
    """Runs the command; exit codes 0 done, 1 failed, 2 usage, 130 interrupted (a second run resumes)."""
    args = _arguments(argv)
    console = Console(stderr=True)
    try:
        contract = load_contract(args.contract)
        if args.force:
            shutil.rmtree(args.out, ignore_errors=True)
        if args.bags:
            sources, described = bag_sources(args.bags), ", ".join(map(str, args.bags))
        else:
            if not args.episodes:
                raise UsageError("--dataset needs --episodes", remedy="for example --episodes $(seq 0 49)")
            sources = dataset_sources(args.dataset, args.episodes, contract, revision=args.revision)
            described = args.dataset
        options = Options(
            out=args.out,
            contract=contract,
            image_size_px=args.image_size,
            stride=args.stride,
            min_motion=args.min_motion,
            hold_out_every=args.hold_out_every,
            skip_broken=args.skip_broken,
        )
        meta = preprocess(sources, options, described=described, revision=args.revision)
    except SigmaError as error:
        console.print(f"[red]{error}[/red]")
        return error.exit_code
    except KeyboardInterrupt:
        console.print("interrupted; the same command resumes")
        return 130
    console.print(
        f"{len(meta.episodes)} episodes, {len(meta.windows)} windows "
        f"({len(meta.windows_of(held_out=True))} held out), {len(meta.static_windows)} static dropped, "
        f"{len(meta.skipped)} recordings skipped: {args.out}"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
