# SPDX-License-Identifier: Apache-2.0
"""Recordings to shards: one a finished epoch, kept on a second run, and `meta.json` last."""

import hashlib
import json
from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from sigma_ros.border import write_text
from sigma_ros.contract import Contract
from sigma_ros.conventions import of_data
from sigma_ros.errors import DatasetError, MachineError, SigmaError
from sigma_ros.evaluation.fleet import Work, Workers, shared_out
from sigma_ros.model.normalise import Normalisation

from .data import EpisodeArrays, ShardMeta, content_hash, read_shard, shard_name, write_shard
from .loop import counted_progress
from .sources import TARGET_STEPS, Source, motion_of, quantiles, read_source, windows_of


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

    def __init__(self, options: PreprocessOptions, numbers: list[int]) -> None:
        self._options = options
        self.held_out = held_out_numbers(numbers, options.hold_out_every)
        self.entries: list[dict[str, object]] = []
        self.windows: list[tuple[int, int]] = []
        self.static: list[tuple[int, int]] = []
        self.files: dict[str, str] = {}
        self.losses: dict[str, dict[str, int]] = {}
        self._first: dict[bytes, str] = {}
        self._states: list[np.ndarray] = []
        self._actions: list[np.ndarray] = []

    def add(self, arrays: EpisodeArrays, *, recording: str, shard: str, sha256: str) -> None:
        """Counts one epoch."""
        position, options = len(self.entries), self._options
        for row in windows_of(arrays, options.stride):
            still = motion_of(arrays, row) < options.min_motion
            (self.static if still else self.windows).append((position, row))
        self.files[shard] = sha256
        entry = {"episode": arrays.episode, "recording": recording, "shard": shard}
        first = self._first.setdefault(hashlib.sha256(arrays.states.tobytes()).digest(), recording)
        copied = {} if first == recording else {"copy_of": first}
        self.entries.append({**entry, "ticks": arrays.ticks, "task": arrays.task, **copied})
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
        problems = of_data(self._options.contract, found)
        if problems:
            raise DatasetError(
                "the data's units cannot be the contract's",
                where=f"contract {self._options.contract.name}",
                got=" | ".join(problems),
                remedy="set each joint's unit in the contract; `sigma calibrate` says which one fits",
            )
        return found

    def finish(
        self, *, described: str, revision: str | None = None, skipped: Sequence[dict[str, str]] = ()
    ) -> ShardMeta:
        """Writes `meta.json`: the folder is finished."""
        contract, options = self._options.contract, self._options
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
            episodes=tuple(self.entries),
            windows=tuple(self.windows),
            static_windows=tuple(self.static),
            held_out=self.held_out,
            skipped=tuple(skipped),
            normalisation=self.normalisation().as_dict(),
            files=self.files,
            losses=self.losses,
        )
        meta.write(options.out)
        return meta


def held_out_numbers(numbers: list[int], every: int) -> tuple[int, ...]:
    """Every n-th of the episodes' numbers, beginning with the first; none with 0."""
    return tuple(numbers[::every]) if every else ()


def preprocess(
    sources: Sequence[Source], options: PreprocessOptions, *, described: str, revision: str | None
) -> ShardMeta:
    """Writes one shard per epoch of every source, and `meta.json` last. Finished shards are kept on a second run.

    Raises:
        DatasetError: a recording cannot be used (unless `skip_broken`), there is no window, or the units cannot be
            right.
        MachineError: the disk refuses; finished shards stay.
    """
    _make_folder(options)
    collected = _Collected(options, [source.number for source in sources])
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
    return collected.finish(described=described, revision=revision, skipped=skipped)


def write_episodes(episodes: list[EpisodeArrays], options: PreprocessOptions, *, described: str) -> ShardMeta:
    """Writes episodes that are arrays already."""
    _make_folder(options)
    collected = _Collected(options, [episode.episode for episode in episodes])
    for number, arrays in enumerate(episodes):
        name = shard_name(number)
        sha256 = write_shard(options.out / name, arrays)
        collected.add(arrays, recording=f"{described} episode {arrays.episode}", shard=name, sha256=sha256)
    return collected.finish(described=described)


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


class Shard(NamedTuple):
    """A finished file, and what is in it; pictures may be left out."""

    arrays: EpisodeArrays
    path: Path
    sha256: str


def _shards_of(
    source: Source, options: PreprocessOptions, *, lost: Callable[[Mapping[str, int]], None]
) -> Iterable[Shard]:
    """Each epoch of a source with its file, written now or before; `lost` hears what could not be used."""
    kept = finished(source, options)
    if kept is None:
        return write_shards(source, options, lost)
    lost(kept["losses"])
    return (_kept(options.out / name) for name in kept["shards"])


def _kept(path: Path) -> Shard:
    arrays = read_shard(path)
    return Shard(arrays, path, content_hash(arrays))


def finished(source: Source, options: PreprocessOptions) -> dict[str, Any] | None:
    """Names of a source's shards and its losses, if an earlier run has written them all of this very source."""
    done = _done_file(source, options)
    kept = json.loads(done.read_text(encoding="utf-8")) if done.is_file() else {}
    if kept.get("source") != source.identity or not all((options.out / name).is_file() for name in kept["shards"]):
        return None
    return kept


def write_shards(
    source: Source, options: PreprocessOptions, lost: Callable[[Mapping[str, int]], None] = lambda _: None
) -> list[Shard]:
    """Writes a source's epochs, one at a time, and what `finished` reads last; the shards come without pictures."""
    losses: dict[str, int] = {}
    shards = []
    for epoch, arrays in enumerate(_epochs(source, options, losses.update)):
        path = options.out / shard_name(source.number, epoch)
        sha256 = write_shard(path, arrays)
        shards.append(Shard(replace(arrays, frames=arrays.frames[:0].copy()), path, sha256))
    kept = {"source": source.identity, "shards": [shard.path.name for shard in shards], "losses": losses}
    write_text(_done_file(source, options), json.dumps(kept))
    lost(losses)
    return shards


def _done_file(source: Source, options: PreprocessOptions) -> Path:
    return options.out / f".{source.number:06d}.done"


def write_on_workers(sources: Sequence[Source], options: PreprocessOptions, workers: Workers) -> None:
    """Writes the shards that are not there yet; `preprocess` finds them, and meets again what went wrong.

    Raises:
        MachineError: Ray is not installed, or no worker comes up.
    """
    _make_folder(options)
    missing = [source for source in sources if finished(source, options) is None]
    work = Work(load=partial(bool, 1), do=partial(_try_to_write, options), failed=lambda _source, reason: reason)
    with counted_progress() as progress:
        bar = progress.add_task("recordings", total=len(missing))
        shared_out(missing, work, workers, on_result=lambda *_: progress.advance(bar))


def _try_to_write(options: PreprocessOptions, source: Source, _tool: object) -> str:
    try:
        write_shards(source, options)
    except (SigmaError, OSError) as error:
        return str(error)
    return "written"


def _unusable(broken: Source, sources: Sequence[Source], options: PreprocessOptions, error: SigmaError) -> DatasetError:
    """The refusal of a recording; leaving it out is advised only where something is left."""
    rest = (source for source in sources if source is not broken)
    if any(_is_usable(source, options) for source in rest):
        what, remedy = "a recording cannot be used", "repair it, or --skip-broken"
    else:
        what, remedy = "no recording can be used", "repair them, or give the contract that they were recorded with"
    return DatasetError(what, where=broken.name, got=error, remedy=remedy)


def _is_usable(source: Source, options: PreprocessOptions) -> bool:
    try:
        with closing(_epochs(source, options, lambda _: None)) as epochs:
            return next(epochs, None) is not None
    except SigmaError:
        return False


def _epochs(
    source: Source, options: PreprocessOptions, lost: Callable[[Mapping[str, int]], None]
) -> Generator[EpisodeArrays]:
    return read_source(source, options.contract, image_size_px=options.image_size_px, strict=options.strict, lost=lost)


class DryRun(NamedTuple):
    """Everything that a run would stumble over, and what it would lose of each recording."""

    problems: list[str]
    losses: dict[str, dict[str, int]]


def problems_of(sources: Sequence[Source], options: PreprocessOptions) -> DryRun:
    """What a run would stumble over, and what it would lose of each recording; writes nothing: the dry run."""
    collected, problems = _Collected(options, [source.number for source in sources]), []
    with counted_progress() as progress:
        for source in progress.track(sources, description="checking"):
            try:
                for offset, arrays in enumerate(_epochs(source, options, partial(collected.lost, source.name))):
                    collected.add(arrays, recording=source.name, shard=shard_name(source.number, offset), sha256="")
            except SigmaError as error:
                problems.append(f"{source.name}: {error}")
    try:
        if collected.windows:
            collected.normalisation()
        else:
            problems.append("no window was found")
    except SigmaError as error:
        problems.append(str(error))
    return DryRun(problems, collected.losses)
