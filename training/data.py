# SPDX-License-Identifier: Apache-2.0
"""A finished shard folder as random-access rows: nothing is read before it is asked for."""

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Self

import numpy as np
from jaxtyping import Bool, Float32, Int64, UInt8
from numpy import ndarray
from safetensors import safe_open

from sigma_ros.errors import DatasetError

from .shards import ShardMeta


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

    @property
    def ticks(self) -> int:
        """Number of rows."""
        return len(self.valid)

    def frames(self, start: int, stop: int) -> UInt8[ndarray, "rows cameras h w 3"]:
        """Pictures of the rows [start, stop)."""
        return self._file.get_slice("frames")[start : min(stop, self.ticks)]

    def actions_from(self, row: int, steps: int) -> Float32[ndarray, "steps dof"]:
        """The recorded actions from a row on; behind the last one it is repeated, as LeRobot's data sets do."""
        return self.actions[self.action_rows(row, steps)]

    def action_rows(self, row: int, steps: int) -> Int64[ndarray, " steps"]:
        """The rows of these actions; `acted` is False at some only where the recording has a gap."""
        last = int(np.flatnonzero(self.acted)[-1])
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
