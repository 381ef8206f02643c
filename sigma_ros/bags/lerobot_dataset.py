# SPDX-License-Identifier: Apache-2.0
"""Bags as a LeRobot v3.0 data set, through the robot's own frame clock: a row is a tick.

States and actions are in the policy's units by the contract's maps, so that a data set that was transcoded to bags
comes back as it was. An episode is a stretch of valid ticks with known actions: it ends at a gap and at a new epoch.
"""

import ctypes
import logging
import os
import shutil
import sys
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float32, Float64, UInt8
from numpy import ndarray

from sigma_ros.addresses import push_folder
from sigma_ros.bags.episode import Episode, Tick
from sigma_ros.bags.lerobot import ACTION_KEY, STATE_KEY
from sigma_ros.bags.losses import described, refuse_losses
from sigma_ros.bags.reader import Bag, Stamps, open_bag
from sigma_ros.border import one_line
from sigma_ros.contract import Contract
from sigma_ros.errors import ContractError, DatasetError, UsageError
from sigma_ros.streams.images import OWN_SIZE_PX

if TYPE_CHECKING:
    from lerobot.datasets.lerobot_dataset import LeRobotDataset


@contextmanager
def same_scheduling() -> Iterator[None]:
    """Gives the calling thread its scheduling back at the end.

    SVT-AV1, which encodes LeRobot's videos, leaves root's calling thread at SCHED_FIFO 99. Threads made later inherit
    that, and two that wait for each other busily stop the machine.
    """
    if not sys.platform.startswith("linux"):
        yield
        return
    policy, priority = os.sched_getscheduler(0), os.sched_getparam(0).sched_priority
    try:
        yield
    finally:
        if os.sched_getscheduler(0) != policy:
            _set_scheduling(policy, priority)


def _set_scheduling(policy: int, priority: int) -> None:
    """Through the thread library, not the system call: it keeps a copy, which Fast DDS gives to its own threads."""
    libc = ctypes.CDLL(None)
    libc.pthread_self.restype = ctypes.c_ulong
    parameters = ctypes.c_int(priority)
    libc.pthread_setschedparam(ctypes.c_ulong(libc.pthread_self()), policy, ctypes.byref(parameters))


MIN_TICKS = 16
"""Shorter stretches hold no training window and are left out."""

_DECIMALS = 12
"""Policy units are rounded to this many, which takes the map's own rounding back: what was 0 is 0 again."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Written:
    """What became of the bags: rows and episodes of the data set, ticks that are not in it, and each bag's losses."""

    episodes: int
    frames: int
    tasks: tuple[str, ...]
    left_out: Mapping[str, int]
    losses: Mapping[str, Mapping[str, int]]


@dataclass(frozen=True, slots=True)
class _Row:
    task: str
    state: Float32[ndarray, " dof"]
    action: Float32[ndarray, " dof"]
    pictures: Mapping[str, UInt8[ndarray, "h w 3"]]


def write_dataset(
    bags: Sequence[Path],
    contract: Contract,
    out: Path,
    *,
    videos: bool = True,
    strict: bool = False,
    recover: bool = False,
    stamps: Stamps = "header",
    leave_out: Collection[int] = (),
    test_episodes: int = 0,
    repo: str | None = None,
    progress: Callable[[int, float], None] = lambda *_: None,
) -> Written:
    """Writes a data set that `LeRobotDataset` opens, or nothing at all; `progress` is told bag number and share.

    `leave_out` are episodes by the numbers that they would have. The last `test_episodes` of the others are the split
    `test`, those before them `train`. README.md is the data set's card, which shows it in LeRobot's viewer where `repo`
    says under which name it will be on the Hub.

    Raises:
        UsageError: `out` exists.
        BagError: a bag cannot be read; in strict mode, anything was lost.
        ContractError: a bag does not hold what the contract needs, or the contract's rate is not a whole number.
        DatasetError: no bag holds a stretch that is long enough, or the disk refused a write.
    """
    if out.exists():
        raise UsageError("the output exists already", where=out, remedy="give another --out")
    partial = out.with_name(f".{out.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    out.parent.mkdir(parents=True, exist_ok=True)
    try:
        with same_scheduling():
            dataset = _create(contract, out.name, partial, videos=videos)
            written = _DatasetWriter(dataset, leave_out).write(
                bags, contract, strict=strict, recover=recover, stamps=stamps, progress=progress
            )
            dataset.finalize()
        if not written.episodes:
            raise DatasetError(
                f"no bag holds {MIN_TICKS} usable ticks in a row",
                got=", ".join(f"{reason} {n}" for reason, n in written.left_out.items()) or "no ticks",
            )
        _describe(partial, repo, contract, written, test_episodes)
        partial.rename(out)
    except OSError as error:
        raise DatasetError("the data set could not be written", where=out, got=error) from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return written


def _describe(root: Path, repo: str | None, contract: Contract, written: Written, test: int) -> None:
    """Writes the splits into info.json, and LeRobot's card with what is in this data set and what is not."""
    from lerobot.datasets.io_utils import load_info, write_info  # noqa: PLC0415 - seconds
    from lerobot.datasets.utils import create_lerobot_dataset_card  # noqa: PLC0415

    if not 0 <= test < written.episodes:
        raise UsageError("too many episodes for the test", expected=f"less than {written.episodes}", got=test)
    info, first = load_info(root), written.episodes - test
    info.splits = {"train": f"0:{first}"} | ({"test": f"{first}:{written.episodes}"} if test else {})
    write_info(info, root)
    facts = {
        "robot": contract.name,
        "episodes": f"{written.episodes} ({', '.join(f'{split} {span}' for split, span in info.splits.items())})",
        "frames": f"{written.frames} at {contract.fps:g} a second",
        "joints": ", ".join(f"{joint.name} ({joint.policy_unit.replace('_', ' ')})" for joint in contract.joints),
        "cameras": ", ".join(f"{c.dataset_key} ({c.width_px}x{c.height_px})" for c in contract.cameras) or "none",
        "tasks": "; ".join(map(one_line, written.tasks)),
        **{f"left out: {reason}": count for reason, count in written.left_out.items()},
        **{f"lost in {one_line(Path(bag).name)}": described(losses) for bag, losses in written.losses.items()},
    }
    lines = "".join(f"\n- {key}: {fact}" for key, fact in facts.items())
    text = f"Made from ROS 2 recordings with `sigma dataset`.\n{lines}"
    about: dict[str, Any] = {"repo_id": repo, "license": None, "dataset_description": text}
    create_lerobot_dataset_card(tags=["sigma"], dataset_info=info, **about).save(root / "README.md")


def push_dataset(folder: Path, repo: str, *, private: bool = False) -> None:
    """Uploads a finished data set with its card and the tag of its format, which LeRobot looks for.

    Raises:
        MachineError: the Hub does not take it.
    """
    from lerobot.datasets.dataset_metadata import CODEBASE_VERSION  # noqa: PLC0415 - seconds

    push_folder(folder, repo, kind="dataset", private=private, tag=CODEBASE_VERSION)


def to_units(rad: Float64[ndarray, " dof"], contract: Contract) -> Float32[ndarray, " dof"]:
    """Radians to what a data set holds: the policy's units in single precision."""
    return np.round(contract.to_policy(rad), _DECIMALS).astype(np.float32)


def _create(contract: Contract, name: str, root: Path, *, videos: bool) -> "LeRobotDataset":
    logging.getLogger("lerobot.utils.import_utils").setLevel(logging.ERROR)  # torchcodec's absence: 130 lines
    from lerobot.datasets.lerobot_dataset import LeRobotDataset  # noqa: PLC0415 - seconds, only for this

    if contract.fps != round(contract.fps):
        raise ContractError("a LeRobot data set has a whole number of frames a second", got=contract.fps)
    joints = {"dtype": "float32", "shape": (contract.dof,), "names": [f"{joint}.pos" for joint in contract.joint_names]}
    features: dict[str, Any] = {STATE_KEY: joints, ACTION_KEY: joints}
    for camera in contract.cameras:
        features[camera.dataset_key] = {
            "dtype": "video" if videos else "image",
            "shape": (camera.height_px, camera.width_px, 3),
            "names": ["height", "width", "channels"],
        }
    return LeRobotDataset.create(
        f"local/{name}", round(contract.fps), features, root=root, robot_type=contract.name, use_videos=videos
    )


class _DatasetWriter:
    """Puts rows into the data set one by one and counts what is left out; holds `MIN_TICKS` pictures at most.

    `leave_out` are numbers of stretches, counted as episodes would be without it.
    """

    def __init__(self, dataset: "LeRobotDataset", leave_out: Collection[int] = ()) -> None:
        self._dataset = dataset
        self._leave_out = frozenset(leave_out)
        self._stretches = 0
        self._left_out: Counter[str] = Counter()
        self._losses: dict[str, dict[str, int]] = {}
        self._tasks: dict[str, None] = {}
        self._episodes = self._frames = 0
        self._held: list[_Row] = []
        self._added = 0

    def write(
        self,
        bags: Sequence[Path],
        contract: Contract,
        *,
        strict: bool,
        recover: bool,
        stamps: Stamps,
        progress: Callable[[int, float], None],
    ) -> Written:
        """All bags, one after the other."""
        for number, path in enumerate(bags):
            with open_bag(path, strict=strict, recover=recover, stamps=stamps) as bag:
                info = bag.info
                for stamp_ns in self._take(bag, contract, strict=strict):
                    progress(number, (stamp_ns - info.start_ns) / max(1, info.end_ns - info.start_ns))
            progress(number, 1.0)
        return Written(
            episodes=self._episodes,
            frames=self._frames,
            tasks=tuple(self._tasks),
            left_out=dict(sorted(self._left_out.items())),
            losses=self._losses,
        )

    def _take(self, bag: Bag, contract: Contract, *, strict: bool) -> Iterator[int]:
        """A bag's ticks; gives their stamps."""
        epoch = -1
        ticks = Episode(bag, contract, image_size_px=OWN_SIZE_PX)
        for tick in ticks:
            row = self._row(tick, contract)
            if row is None or tick.item.epoch != epoch:
                self._close()
            epoch = tick.item.epoch
            if row is not None:
                self._add(row)
            yield tick.item.stamp_ns
        self._close()
        losses = ticks.losses
        if losses:
            self._losses[str(bag.path)] = losses
        refuse_losses(bag.path, losses, strict=strict)

    def _row(self, tick: Tick, contract: Contract) -> _Row | None:
        window, state, action = tick.window, tick.joint_rad, tick.action_rad
        if window is None or state is None or action is None:
            gap = window is None or state is None
            self._left_out["gaps" if gap else "ticks without an action"] += 1
            return None
        pictures = {camera.dataset_key: window.newest.images[camera.name] for camera in contract.cameras}
        return _Row(window.task, to_units(state, contract), to_units(action, contract), pictures)

    def _add(self, row: _Row) -> None:
        self._held.append(row)
        if self._added + len(self._held) < MIN_TICKS:
            return
        if self._stretches in self._leave_out:
            self._left_out["ticks of episodes that were not wanted"] += len(self._held)
        else:
            for held in self._held:
                values = {STATE_KEY: held.state, ACTION_KEY: held.action, "task": held.task, **held.pictures}
                self._dataset.add_frame(values)
            self._tasks[row.task] = None
        self._added += len(self._held)
        self._held.clear()

    def _close(self) -> None:
        """Ends a stretch: it becomes an episode, or is left out if it is too short."""
        if self._held:
            self._left_out["ticks of stretches that are too short"] += len(self._held)
            self._held.clear()
        if not self._added:
            return
        if self._stretches not in self._leave_out:
            self._dataset.save_episode(parallel_encoding=False)
            self._episodes += 1
            self._frames += self._added
        self._stretches += 1
        self._added = 0
