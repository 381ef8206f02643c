# SPDX-License-Identifier: Apache-2.0
"""Recordings as arrays: every bag and every episode of a data set goes through the robot's own frame clock."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from sigma_ros.bags.episode import Tick, episode
from sigma_ros.bags.files import find_bags
from sigma_ros.bags.lerobot_bag import DatasetBag
from sigma_ros.bags.losses import described, refuse_losses
from sigma_ros.bags.reader import Bag, open_bag
from sigma_ros.bags.transcode import load_episode
from sigma_ros.contract import Contract
from sigma_ros.errors import DatasetError
from sigma_ros.model.cameras import NO_RENAME
from sigma_ros.model.conventions import unreal

from .shards import EpisodeArrays
from .windows import TARGET_STEPS

LONGEST_EPOCH_TICKS = 1536
"""A longer epoch is cut: at 224 px two cameras of so many ticks are half a gigabyte. Memory starts anew at the cut."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """One recording: a name for messages, its number, and how to open it as a bag."""

    name: str
    number: int
    open: Callable[[], Bag]


@dataclass(frozen=True, slots=True, kw_only=True)
class MadeSource:
    """An episode that is no recording: `make` gives its arrays at a picture size [px]."""

    name: str
    number: int
    make: Callable[[int], EpisodeArrays]


def bag_sources(places: list[Path], *, strict: bool = False, recover: bool = False) -> list[Source]:
    """One source per bag at the given places."""
    opened = partial(open_bag, strict=strict, recover=recover)
    return [Source(name=str(path), number=i, open=partial(opened, path)) for i, path in enumerate(find_bags(places))]


def dataset_sources(
    dataset: str,
    numbers: list[int],
    contract: Contract,
    *,
    revision: str | None,
    rename: Mapping[str, str] = NO_RENAME,
    resample: bool = False,
) -> list[Source]:
    """One source per episode of a LeRobot data set; see `load_episode` for the options."""
    reading: dict[str, Any] = {"revision": revision, "rename": rename, "resample": resample}

    def opened(number: int) -> Bag:
        return DatasetBag(load_episode(dataset, number, contract, **reading), contract)

    return [Source(name=f"{dataset} episode {n}", number=n, open=partial(opened, n)) for n in numbers]


def read_source(
    source: Source | MadeSource,
    contract: Contract,
    *,
    image_size_px: int,
    strict: bool = False,
    lost: Callable[[Mapping[str, int]], None] = lambda _: None,
) -> Iterator[EpisodeArrays]:
    """The epochs of a recording that are long enough for one window, each as an episode of its own.

    `lost` hears the recording's losses once it has been read; with `strict` there must be none.

    Raises:
        SigmaError: the recording cannot be read or does not fit the contract.
        DatasetError: an action is not finite, or no epoch is long enough.
    """
    if isinstance(source, MadeSource):
        yield source.make(image_size_px)
        return
    found = False
    with source.open() as bag:
        collected = _Epoch(contract, image_size_px)
        ticks = episode(bag, contract, image_size_px=image_size_px)
        for tick in ticks:
            if not collected.continues(tick):
                if collected.ticks >= TARGET_STEPS:
                    found = True
                    yield collected.arrays(source, refused=ticks.commands_refused)
                collected = _Epoch(contract, image_size_px)
            collected.add(tick)
        if collected.ticks >= TARGET_STEPS:
            found = True
            yield collected.arrays(source, refused=ticks.commands_refused)
        losses = ticks.losses
        refuse_losses(source.name, losses, strict=strict)
    if not found:
        raise DatasetError(
            "no epoch is long enough",
            where=source.name,
            expected=f"{TARGET_STEPS} ticks or more",
            got=described(losses) or None,
        )
    lost(losses)


class _Epoch:
    """Ticks of one epoch, copied into arrays as they come, so that no picture is held twice."""

    def __init__(self, contract: Contract, size_px: int) -> None:
        self._contract = contract
        self._epoch: int | None = None
        self._task = contract.tasks[0]
        rows, cameras, dof = LONGEST_EPOCH_TICKS, len(contract.cameras), contract.dof
        self.ticks = 0
        self._frames = np.zeros((rows, cameras, size_px, size_px, 3), dtype=np.uint8)
        self._states = np.zeros((rows, dof), dtype=np.float32)
        self._actions = np.zeros((rows, dof), dtype=np.float32)
        self._valid, self._acted = np.zeros(rows, dtype=bool), np.zeros(rows, dtype=bool)

    def continues(self, tick: Tick) -> bool:
        """Whether a tick belongs to this epoch and there is room for it."""
        return self._epoch in (None, tick.item.epoch) and self.ticks < LONGEST_EPOCH_TICKS

    def add(self, tick: Tick) -> None:
        """Adds the next tick."""
        row, contract = self.ticks, self._contract
        self._epoch = tick.item.epoch
        if tick.window is not None:
            newest, self._task = tick.window.newest, tick.window.task
            for i, camera in enumerate(contract.cameras):
                self._frames[row, i] = newest.images[camera.name]
            self._states[row] = contract.to_policy(newest.positions_rad)
            self._valid[row] = True
        if tick.action_rad is not None:
            self._actions[row] = contract.to_policy(tick.action_rad)
            self._acted[row] = True
        self.ticks += 1

    def arrays(self, source: Source, *, refused: int) -> EpisodeArrays:
        """What was added; views of the filled part. `refused` commands would each have been a guess.

        Raises:
            DatasetError: there was one.
        """
        used = slice(0, self.ticks)
        if refused or not np.isfinite(self._actions[used]).all():
            raise DatasetError(
                "actions are not finite, or not the contract's",
                where=source.name,
                got=f"{refused} commands refused",
                remedy="leave the recording out (--skip-broken), or cut it before them",
            )
        acted = self._acted[used]
        rad = self._contract.to_rad(self._actions[used].astype(np.float64))
        wrong = unreal(self._contract, np.where(acted[:, None], rad, self._contract.lower_rad))
        if wrong is not None:
            raise DatasetError(
                "an action is out of every joint's reach",
                where=source.name,
                got=wrong,
                remedy="leave the recording out (--skip-broken), or repair it",
            )
        return EpisodeArrays(
            episode=source.number,
            task=self._task,
            frames=self._frames[used],
            states=self._states[used],
            actions=self._actions[used],
            valid=self._valid[used],
            acted=acted,
        )
