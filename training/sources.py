# SPDX-License-Identifier: Apache-2.0
"""Recordings as arrays: every bag and every episode of a data set goes through the robot's own frame clock."""

from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from sigma_ros.bags.episode import Episode, Tick
from sigma_ros.bags.files import files_stamp, find_bags
from sigma_ros.bags.losses import described, refuse_losses
from sigma_ros.bags.reader import Bag, Stamps, open_bag
from sigma_ros.bags.transcode import DatasetBag, load_episode
from sigma_ros.camera_names import NO_RENAME
from sigma_ros.contract import Contract
from sigma_ros.errors import DatasetError
from sigma_ros.model.normalise import Scaling
from sigma_ros.sim.demonstration import Demonstration, attempts, demonstrate
from sigma_ros.sim.environment import SimArm
from sigma_ros.sim.recorder import check_recordable
from sigma_ros.sim.setups import SceneConfig, setup_named
from sigma_ros.sim.tasks.catalogue import draw
from sigma_ros.sim.tasks.demonstration import TaskDemonstration, demonstrate_task
from sigma_ros.sim.tasks.robot import TaskRobot, robot_for
from sigma_ros.sim.tasks.task import PLACE
from sigma_ros.streams.images import letterbox

from .data import EpisodeArrays, EpisodeRows

# Which ticks of an episode are windows, how much moves in them, and the statistics of what they hold.


TARGET_STEPS = 16
"""Actions a window is trained on (model card: horizon T = 16)."""


def windows_of(arrays: EpisodeArrays | EpisodeRows, stride: int) -> list[int]:
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


def quantiles(rows: list[np.ndarray]) -> Scaling:
    """1 % and 99 % quantiles per joint over all rows, in the policy's units."""
    values = np.concatenate(rows).astype(np.float64)
    q01, q99 = np.quantile(values, [0.01, 0.99], axis=0)
    return Scaling.quantiles(q01, q99)


LONGEST_EPOCH_TICKS = 1536
"""A longer epoch is cut: at 224 px two cameras of so many ticks are half a gigabyte. Memory starts anew at the cut."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RecordedSource:
    """One recording: a name for messages, its number, how to open it as a bag, and what says that it is the same."""

    name: str
    number: int
    open: Callable[[], Bag]
    identity: str


@dataclass(frozen=True, slots=True, kw_only=True)
class MadeSource:
    """An episode that is no recording: `make` gives its arrays at a picture size [px]."""

    name: str
    number: int
    make: Callable[[int], EpisodeArrays]

    @property
    def identity(self) -> str:
        """What says that it is the same one: its name tells the set-up and the seed."""
        return self.name


Source = RecordedSource | MadeSource


def bag_sources(
    places: list[Path], *, strict: bool = False, recover: bool = False, stamps: Stamps = "header"
) -> list[RecordedSource]:
    """One source per bag at the given places."""
    reading: dict[str, Any] = {"recover": recover, "stamps": stamps}
    opened = partial(open_bag, strict=strict, **reading)
    return [
        RecordedSource(name=str(path), number=i, open=partial(opened, path), identity=f"{files_stamp(path)} {reading}")
        for i, path in enumerate(find_bags(places))
    ]


def dataset_sources(
    dataset: str,
    numbers: list[int],
    contract: Contract,
    *,
    revision: str | None,
    rename: Mapping[str, str] = NO_RENAME,
    resample: bool = False,
    strict: bool = False,
    recover: bool = False,
) -> list[RecordedSource]:
    """One source per episode of a LeRobot data set; see `load_episode` and `DatasetBag` for the options."""
    reading: dict[str, Any] = {"revision": revision, "rename": rename, "resample": resample}

    def opened(number: int) -> Bag:
        return DatasetBag(load_episode(dataset, number, contract, **reading), contract, strict=strict, recover=recover)

    names = {n: f"{dataset} episode {n}" for n in numbers}
    return [
        RecordedSource(name=name, number=n, open=partial(opened, n), identity=f"{name} {reading} {recover}")
        for n, name in names.items()
    ]


def read_source(
    source: Source,
    contract: Contract,
    *,
    image_size_px: int,
    strict: bool = False,
    lost: Callable[[Mapping[str, int]], None] = lambda _: None,
) -> Generator[EpisodeArrays]:
    """The epochs of a recording that are long enough for one window, each as an episode of its own.

    `lost` hears the recording's losses once it has been read; with `strict` there must be none.

    Raises:
        SigmaError: the recording cannot be read or does not fit the contract.
        DatasetError: no epoch is long enough.
    """
    if isinstance(source, MadeSource):
        yield source.make(image_size_px)
        return
    found = False
    with source.open() as bag:
        collected = _Epoch(contract, image_size_px)
        ticks = Episode(bag, contract, image_size_px=image_size_px)
        for tick in ticks:
            if not collected.continues(tick):
                if collected.ticks >= TARGET_STEPS:
                    found = True
                    yield collected.arrays(source)
                collected = _Epoch(contract, image_size_px)
            collected.add(tick)
        if collected.ticks >= TARGET_STEPS:
            found = True
            yield collected.arrays(source)
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
        self._valid, self._acted, self._corrected = np.zeros((3, rows), dtype=bool)

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
        self._corrected[row] = tick.corrected
        self.ticks += 1

    def arrays(self, source: RecordedSource) -> EpisodeArrays:
        """What was added; views of the filled part."""
        used = slice(0, self.ticks)
        return EpisodeArrays(
            episode=source.number,
            task=self._task,
            frames=self._frames[used],
            states=self._states[used],
            actions=self._actions[used],
            valid=self._valid[used],
            acted=self._acted[used],
            corrected=self._corrected[used] if self._corrected[used].any() else None,
        )


# Demonstrations of the simulated arm as arrays, without bags and JPEG: a third of the time of recording them first.


def simulated_sources(
    setup: str,
    contract: Contract,
    *,
    count: int,
    seed: int,
    disturbance_rad: float = 0.0,
    missed_share: float = 0.0,
    tasks: Sequence[str] = (),
) -> list[MadeSource]:
    """The episodes that `sigma record --sim` with these settings keeps: those in which the brick ends in the box.

    With `tasks`: theirs in turn, `PLACE` among them.

    Raises:
        UsageError: there is no such set-up or task.
        ContractError: the simulator cannot fill the contract's cameras.
    """
    scene = setup_named(setup)
    check_recordable(contract, scene.camera_names)
    wanted = partial(
        _Wanted, setup=scene, contract=contract, disturbance_rad=disturbance_rad, missed_share=missed_share
    )
    found: list[MadeSource] = []
    tasks = tasks or (PLACE,)
    with ExitStack() as stack:
        arms = {name: stack.enter_context(robot_for(name, scene, contract=contract)) for name in set(tasks)}

        def kept(own_seed: int) -> MadeSource | None:
            name = tasks[len(found) % len(tasks)]
            own = wanted(task=name, seed=own_seed, number=len(found))
            said = f"simulated {setup}, seed {own_seed}" + f", {name}" * (name != PLACE)
            return MadeSource(name=said, number=own.number, make=own.make) if own.shown(arms[name]).success else None

        for source in attempts(seed, kept):
            if source is not None:
                found.append(source)
            if len(found) == count:
                break
    return found


@dataclass(frozen=True, slots=True, kw_only=True)
class _Wanted:
    setup: SceneConfig
    contract: Contract
    disturbance_rad: float
    missed_share: float
    task: str
    seed: int
    number: int

    def shown(self, arm: SimArm) -> Demonstration | TaskDemonstration:
        if isinstance(arm, TaskRobot):
            return demonstrate_task(arm, draw(arm.task, self.seed), disturbance_rad=self.disturbance_rad)
        return demonstrate(arm, self.seed, disturbance_rad=self.disturbance_rad, missed_share=self.missed_share)

    def make(self, image_size_px: int) -> EpisodeArrays:
        with robot_for(self.task, self.setup, contract=self.contract) as arm:
            shown = self.shown(arm)
            text = shown.episode.text if isinstance(shown, TaskDemonstration) else arm.text
            return _arrays(arm, shown, image_size_px, number=self.number, text=text)


def _arrays(
    arm: SimArm, shown: Demonstration | TaskDemonstration, size_px: int, *, number: int, text: str
) -> EpisodeArrays:
    contract = arm.contract
    return EpisodeArrays(
        episode=number,
        task=text,
        frames=_pictures(arm, shown.states, size_px),
        states=np.stack([contract.to_policy(row) for row in shown.positions_rad]).astype(np.float32),
        actions=np.stack([contract.to_policy(row) for row in shown.commands_rad]).astype(np.float32),
        valid=np.ones(shown.ticks, dtype=bool),
        acted=np.ones(shown.ticks, dtype=bool),
    )


def _pictures(arm: SimArm, states: np.ndarray, size_px: int) -> np.ndarray:
    names = [camera.name for camera in arm.contract.cameras]
    return np.stack([[letterbox(arm.draw(state, name), size_px) for name in names] for state in states])
