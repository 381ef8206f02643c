# SPDX-License-Identifier: Apache-2.0
"""A finished shard folder as random-access rows: nothing is read before it is asked for."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Self, cast

import numpy as np
import torch
from jaxtyping import Bool, Float32, Int64, UInt8
from numpy import ndarray
from safetensors import SafetensorError, safe_open
from torch import Tensor

from sigma_ros.border import read_json, whole, write_text
from sigma_ros.errors import DatasetError, MachineError, SigmaError
from sigma_ros.model.normalise import Normalisation
from sigma_ros.model.pi05.tensors import save_tensors

# Writing tensors: a file is there whole or not at all, and a disk that refuses is said in one sentence.


def write_tensors(path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str] | None = None) -> None:
    """Writes a safetensors file.

    Raises:
        MachineError: the disk refuses; what was there before is still there.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with whole(path) as partial:
            save_tensors(partial, tensors, metadata)
    except (OSError, SafetensorError) as error:
        raise MachineError(
            "tensors could not be written",
            where=path,
            got=error,
            remedy="free some space; nothing that was finished is lost, run the same command again",
        ) from error


# Shards: whole episodes as contiguous arrays in safetensors, and `meta.json` that says what they are.
#
# A window is a row number: its past is the rows before it, its targets the rows from it on. So every frame is
# stored once, whatever the stride, and reading a window is slicing.


META_FILE = "meta.json"
FORMAT = "sigma_shards_1"


@dataclass(frozen=True, slots=True, kw_only=True)
class EpisodeArrays:
    """One epoch of one episode on the frame clock, in the policy's units.

    `valid` is False in rows that were gaps (their frames are zeros and must not count) and `acted` where no
    action was recorded. `corrected`: an operator acted instead of the policy; None where that never was.
    """

    episode: int
    task: str
    frames: UInt8[ndarray, "ticks cameras h w 3"]
    states: Float32[ndarray, "ticks dof"]
    actions: Float32[ndarray, "ticks dof"]
    valid: Bool[ndarray, " ticks"]
    acted: Bool[ndarray, " ticks"]
    corrected: Bool[ndarray, " ticks"] | None = None

    @property
    def ticks(self) -> int:
        """Number of rows."""
        return int(self.states.shape[0])


@dataclass(frozen=True, slots=True, kw_only=True)
class ShardMeta:
    """What `meta.json` holds. `windows` are (episode position, row) of every window that was kept."""

    contract: str
    source: str
    source_revision: str | None
    image_size_px: int
    cameras: tuple[str, ...]
    joint_names: tuple[str, ...]
    fps: float
    stride: int
    target_steps: int
    min_motion: float
    episodes: tuple[dict[str, Any], ...]
    windows: tuple[tuple[int, int], ...]
    static_windows: tuple[tuple[int, int], ...]
    held_out: tuple[int, ...]
    skipped: tuple[dict[str, str], ...]
    normalisation: dict[str, Any]
    files: dict[str, str]
    losses: dict[str, dict[str, int]] = field(default_factory=dict)

    def to_json(self) -> str:
        """The text of `meta.json`."""
        return json.dumps({"format": FORMAT, **asdict(self)}, indent=1) + "\n"

    def write(self, folder: Path) -> None:
        """Writes `meta.json`, whole or not at all: the folder is finished when it is there."""
        write_text(folder / META_FILE, self.to_json())

    @classmethod
    def read(cls, folder: Path) -> Self:
        """Reads a finished data folder.

        Raises:
            DatasetError: there is none, or it is of another version.
        """
        file = folder / META_FILE
        try:
            values = cast(dict[str, Any], read_json(file))
        except SigmaError as error:
            raise DatasetError(
                "the shards cannot be read",
                where=file,
                got=error.got or error.what,
                remedy=f"make them with: python -m {__package__}.preprocess",
            ) from error
        if values.pop("format", None) != FORMAT:
            raise DatasetError("the shards are of another version", where=file, expected=FORMAT)
        for name in ("cameras", "joint_names", "episodes", "held_out", "skipped"):
            values[name] = tuple(values[name])
        for name in ("windows", "static_windows"):
            values[name] = tuple((episode, row) for episode, row in values[name])
        return cls(**values)

    @property
    def hash(self) -> str:
        """Identity of the data: over what all shards hold and the list of windows, not over how it was written."""
        text = json.dumps([sorted(self.files.items()), self.windows, self.held_out])
        return hashlib.sha256(text.encode()).hexdigest()

    @property
    def statistics(self) -> Normalisation:
        """Quantiles of the training split."""
        return Normalisation.from_dict(self.normalisation, where=META_FILE)

    def windows_of(self, *, held_out: bool) -> tuple[tuple[int, int], ...]:
        """Windows of one split, by position in `episodes`."""
        chosen = {i for i, e in enumerate(self.episodes) if (e["episode"] in self.held_out) == held_out}
        return tuple(window for window in self.windows if window[0] in chosen)


def shard_name(recording: int, epoch: int = 0) -> str:
    """`shard_00000.safetensors` of the first recording, `shard_00000_01.safetensors` of its second epoch."""
    return f"shard_{recording:05d}{f'_{epoch:02d}' if epoch else ''}.safetensors"


def write_shard(path: Path, episode: EpisodeArrays) -> str:
    """Writes one episode and returns its `content_hash`; the file appears whole or not at all."""
    arrays = {name: torch.from_numpy(np.ascontiguousarray(array)) for name, array in _arrays(episode)}
    write_tensors(path, arrays, {"episode": str(episode.episode), "task": episode.task})
    return content_hash(episode)


def read_shard(path: Path) -> EpisodeArrays:
    """Reads one shard.

    Raises:
        DatasetError: it is missing, damaged or holds other arrays.
    """
    try:
        with safe_open(str(path), framework="numpy") as file:
            metadata = file.metadata() or {}
            arrays = {name: file.get_tensor(name) for name in (*_ARRAYS, *({_CORRECTED} & set(file.keys())))}
    except (OSError, SafetensorError, KeyError) as error:
        raise DatasetError(
            "a shard cannot be read", where=path, got=error, remedy="run training.preprocess again; it resumes"
        ) from error
    return EpisodeArrays(episode=int(metadata["episode"]), task=metadata["task"], **arrays)


def content_hash(episode: EpisodeArrays) -> str:
    """sha256 over what an episode holds; the file's own differs, since safetensors writes notes in any order."""
    digest = hashlib.sha256(json.dumps([episode.episode, episode.task]).encode())
    for name, values in _arrays(episode):
        array = np.ascontiguousarray(values)
        digest.update(f"{name} {array.dtype} {array.shape}".encode())
        digest.update(array.data)
    return digest.hexdigest()


_ARRAYS = ("frames", "states", "actions", "valid", "acted")
_CORRECTED = "corrected"
"""Only in shards of episodes with corrections, so that the others keep the hash that they had before there were any."""


def _arrays(episode: EpisodeArrays) -> list[tuple[str, ndarray]]:
    found = [(name, getattr(episode, name)) for name in _ARRAYS]
    return found if episode.corrected is None else [*found, (_CORRECTED, episode.corrected)]


@dataclass(frozen=True)
class EpisodeRows:
    """One shard. Numbers are held, frames are read row by row from the mapped file."""

    path: Path
    episode: int
    task: str
    held_out: bool

    @cached_property
    def _file(self) -> Any:
        return safe_open(str(self.path), framework="numpy")

    @cached_property
    def states(self) -> Float32[ndarray, "ticks dof"]:
        """Joints per tick, policy units; zeros where `valid` is False."""
        return self._file.get_tensor("states")

    @cached_property
    def actions(self) -> Float32[ndarray, "ticks dof"]:
        """Recorded actions per tick, policy units; zeros where `acted` is False."""
        return self._file.get_tensor("actions")

    @cached_property
    def valid(self) -> Bool[ndarray, " ticks"]:
        """Ticks of which every camera and the joints were there."""
        return self._file.get_tensor("valid")

    @cached_property
    def acted(self) -> Bool[ndarray, " ticks"]:
        """Ticks with a recorded action."""
        return self._file.get_tensor("acted")

    @cached_property
    def corrected(self) -> Bool[ndarray, " ticks"]:
        """Ticks at which an operator acted instead of the policy."""
        there = _CORRECTED in self._file.keys()  # noqa: SIM118 (no dict)
        return self._file.get_tensor(_CORRECTED) if there else np.zeros(self.ticks, dtype=bool)

    @property
    def ticks(self) -> int:
        """Number of rows."""
        return len(self.valid)

    def frames(self, start: int, stop: int) -> UInt8[ndarray, "rows cameras h w 3"]:
        """Pictures of the rows [start, stop)."""
        return self._file.get_slice("frames")[start : min(stop, self.ticks)]

    def actions_from(self, row: int, steps: int) -> Float32[ndarray, "steps dof"]:
        """The recorded actions from a row on; behind the last one it is repeated, as LeRobot's data sets do."""
        return self.actions[action_rows(self.acted, row, steps)]


def action_rows(acted: Bool[ndarray, " ticks"], row: int, steps: int) -> Int64[ndarray, " steps"]:
    """Rows of the actions from a row on, the last recorded one repeated behind the end; some have none at a gap."""
    last = int(np.flatnonzero(acted)[-1])
    return np.minimum(np.arange(row, row + steps), last)


@dataclass(frozen=True, slots=True, kw_only=True)
class ShardData:
    """A data folder: what `meta.json` says, and its episodes in that order."""

    folder: Path
    meta: ShardMeta
    episodes: tuple[EpisodeRows, ...]

    @classmethod
    def open(cls, folder: Path) -> Self:
        """Opens a finished folder.

        Raises:
            DatasetError: it is unfinished, or a shard is missing.
        """
        meta = ShardMeta.read(folder)
        missing = [entry["shard"] for entry in meta.episodes if not (folder / entry["shard"]).is_file()]
        if missing:
            raise DatasetError(
                "shards are missing",
                where=folder,
                got=", ".join(missing[:5]),
                remedy="run training.preprocess again; it resumes",
            )
        episodes = tuple(
            EpisodeRows(
                path=folder / entry["shard"],
                episode=entry["episode"],
                task=entry["task"],
                held_out=entry["episode"] in meta.held_out,
            )
            for entry in meta.episodes
        )
        return cls(folder=folder, meta=meta, episodes=episodes)

    def split(self, *, held_out: bool) -> tuple[EpisodeRows, ...]:
        """Episodes of one split."""
        return tuple(episode for episode in self.episodes if episode.held_out == held_out)
