# SPDX-License-Identifier: Apache-2.0
"""An episode of a LeRobot data set as a bag, as the contract's robot would have recorded it.

Stamps are the data set's own timestamps; a data set has no date, so they count from a round one. Timestamps that are
frame numbers over the rate, up to their 32-bit rounding, become exact: rounded up by a microsecond they would miss
their tick, and every picture would be one tick old. The bag's notes say that it was transcoded and from what.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
from jaxtyping import Float64, UInt8
from numpy import ndarray

from sigma_ros.bags.dataset_facts import check_facts, needed_keys, original_key
from sigma_ros.bags.episode import TASK_TOPIC
from sigma_ros.bags.lerobot import (
    ACTION_KEY,
    STATE_KEY,
    Fetch,
    LerobotEpisode,
    episode_indices,
    film_times_s,
    read_episode,
    video_pictures,
)
from sigma_ros.bags.writer import BagWriter
from sigma_ros.camera_names import NO_RENAME
from sigma_ros.contract import Camera, Contract
from sigma_ros.conventions import DEGREES_REMEDY, certain, likely, unreal
from sigma_ros.errors import DatasetError, SigmaError
from sigma_ros.streams.images import decode_coded
from sigma_ros.values import NS_PER_S

START_NS = 1_000_000_000 * NS_PER_S
JPEG_QUALITY = 95
_ROUNDING_S = 1e-4
_EPISODES_JUDGED = 64


def load_episode(
    dataset: str,
    index: int,
    contract: Contract,
    *,
    revision: str | None = None,
    rename: Mapping[str, str] = NO_RENAME,
    resample: bool = False,
) -> LerobotEpisode:
    """An episode of a local data set folder or of one on the Hub (only the episode's files are fetched).

    Args:
        dataset: Folder or Hub id.
        index: Of the episode.
        contract: What it must hold.
        revision: Of a data set on the Hub.
        rename: The data set's feature keys -> the contract's.
        resample: See `dataset_facts.check_facts`.

    Raises:
        DatasetError: the data set cannot be read, or lacks what the contract needs.
    """
    fetch = fetcher(dataset, revision)
    check_facts(fetch, contract, rename=rename, resample=resample)
    wanted = (STATE_KEY, ACTION_KEY, *(camera.dataset_key for camera in contract.cameras))
    source = read_episode(fetch, index, wanted=tuple(original_key(key, rename) for key in wanted))
    if not Path(dataset).is_dir():
        source = replace(source, name=f"{dataset}@{source.root.name}")  # a snapshot's folder is its commit
    source = _renamed(source, rename)
    _check(source, contract)
    return source


def _renamed(source: LerobotEpisode, rename: Mapping[str, str]) -> LerobotEpisode:
    """The episode by the contract's feature keys."""
    tables = ("features", "names", "videos", "pictures")
    named: dict[str, Any] = {t: {rename.get(k, k): v for k, v in getattr(source, t).items()} for t in tables}
    return replace(source, **named)


def fetcher(dataset: str, revision: str | None = None) -> Fetch:
    """How files of a data set folder, or of one on the Hub, are made present."""
    return _local(Path(dataset)) if Path(dataset).is_dir() else _from_hub(dataset, revision)


def episode_numbers(dataset: str, *, revision: str | None = None) -> list[int]:
    """All episodes of a data set here or on the Hub."""
    return episode_indices(fetcher(dataset, revision))


def transcode(
    source: LerobotEpisode,
    contract: Contract,
    out: Path,
    *,
    storage: Literal["mcap", "sqlite3"] = "mcap",
    jpeg_quality: int | None = None,
    overwrite: bool = False,
    on_tick: Callable[[], None] = lambda: None,
) -> None:
    """Writes the episode as a bag, or nothing at all.

    Commands are written where the contract's actions come from them. Pictures are raw, or JPEG with `jpeg_quality`
    or where the contract's camera sends compressed images. `on_tick` is called after each tick.

    Raises:
        DatasetError: pictures are missing, cannot be decoded or have another size than the contract's camera.
        UsageError: `out` exists.
        BagError: the disk refused a write.
    """
    with BagWriter(out, storage=storage, overwrite=overwrite, metadata=_notes(source, contract)) as bag:
        for number, row in enumerate(rows_of(source, contract)):
            if not number or source.tasks[number] != source.tasks[number - 1]:
                bag.text(TASK_TOPIC, row.stamp_ns, source.tasks[number])
            for camera in contract.cameras:
                quality = jpeg_quality or (JPEG_QUALITY if "Compressed" in camera.message_type else None)
                bag.image(camera.topic, row.stamp_ns, camera.name, row.pictures[camera.name], jpeg_quality=quality)
            bag.joints(contract.joint_state_topic, row.stamp_ns, contract.joint_names, row.state_rad)
            if row.action_rad is not None:
                names, action_rad = contract.joint_names, row.action_rad
                bag.command(contract.command_topic, contract.command_type, row.stamp_ns, names, action_rad)
            on_tick()


class Row(NamedTuple):
    """One tick of an episode as the contract's robot would have sent it; `action_rad` where commands are recorded."""

    stamp_ns: int
    pictures: Mapping[str, UInt8[ndarray, "h w 3"]]
    state_rad: Float64[ndarray, " dof"]
    action_rad: Float64[ndarray, " dof"] | None


def rows_of(source: LerobotEpisode, contract: Contract) -> Iterator[Row]:
    """The episode's ticks, pictures decoded one after the other.

    Raises:
        DatasetError: as `transcode`.
    """
    states = _in_contract_units(source, STATE_KEY, contract)
    actions = _in_contract_units(source, ACTION_KEY, contract) if contract.action_source == "command" else None
    pictures = {camera.name: _pictures(source, camera) for camera in contract.cameras}
    for tick, stamp_ns in enumerate(_stamps_ns(source)):
        yield Row(
            stamp_ns=stamp_ns,
            pictures={name: next(stream) for name, stream in pictures.items()},
            state_rad=states[tick],
            action_rad=None if actions is None else actions[tick],
        )


def _local(root: Path) -> Callable[[list[str]], Path]:
    return lambda _: root


def _from_hub(name: str, revision: str | None) -> Callable[[list[str]], Path]:
    def fetch(patterns: list[str]) -> Path:
        from huggingface_hub import snapshot_download  # noqa: PLC0415 - only for data sets that are not here
        from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError  # noqa: PLC0415

        try:
            folder = snapshot_download(name, repo_type="dataset", revision=revision, allow_patterns=patterns)
        except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError) as error:
            raise DatasetError(
                "the data set is neither a folder here nor can it be fetched",
                where=name,
                expected="a folder with meta/info.json, or a Hub id such as lerobot/svla_so101_pickplace",
                got=str(error).splitlines()[0][:200],
            ) from error
        return Path(folder)

    return fetch


def _check(source: LerobotEpisode, contract: Contract) -> None:
    problems = []
    needed = [STATE_KEY] + ([ACTION_KEY] if contract.action_source == "command" else [])
    for key in needed:
        if key not in source.features:
            problems.append(f"{key} is missing")
        elif len(source.names[key]) != source.features[key].shape[1]:
            problems.append(f"{key} has {source.features[key].shape[1]} entries and {len(source.names[key])} names")
    keys = (*source.videos, *source.pictures)
    problems += [f"{camera.dataset_key} is missing" for camera in contract.cameras if camera.dataset_key not in keys]
    stamps_s = source.timestamps_s
    if not np.isfinite(stamps_s).all() or (np.diff(stamps_s) <= 0).any():
        problems.append("timestamps do not increase")
    if problems:
        raise DatasetError(
            f"episode {source.index} does not hold what the contract {contract.name} needs: {'; '.join(problems)}",
            where=source.root,
            got=", ".join(source.keys),
            remedy="write the data set's camera keys as the contract's model_key",
        )


def _in_contract_units(source: LerobotEpisode, key: str, contract: Contract) -> Float64[ndarray, "ticks dof"]:
    """Radians in contract order, matched by name."""
    values = source.features[key][:, contract.joint_order(source.names[key])]
    if not np.isfinite(values).all():
        raise DatasetError(f"{key} has values that are not finite", where=source.root)
    rad = contract.to_rad(values)
    if (wrong := unreal(contract, rad)) is not None:
        raise DatasetError(
            f"{key} has values that no joint of the contract can reach",
            where=f"{source.root}, episode {source.index}",
            got=wrong,
            remedy="leave the episode out (--skip-broken), or repair it",
        )
    return rad


def check_numbers(
    dataset: str, numbers: Sequence[int], contract: Contract, *, revision: str | None, rename: Mapping[str, str]
) -> list[str]:
    """Reads states and actions of some episodes, no pictures, and says what may be in other units than the contract's.

    Episodes that cannot be read are left to whoever reads them whole.

    Raises:
        DatasetError: they surely are in other units.
    """
    keys = needed_keys(contract)[: 1 + (contract.action_source == "command")]
    fetch = fetcher(dataset, revision)
    rows: dict[str, list[ndarray]] = {key: [np.zeros((0, contract.dof))] for key in keys}
    for number in numbers[:: max(1, len(numbers) // _EPISODES_JUDGED)]:
        try:
            source = read_episode(fetch, number, wanted=tuple(original_key(key, rename) for key in keys))
            source = _renamed(source, rename)
            for key in keys:
                rows[key].append(source.features[key][:, contract.joint_order(source.names[key])])
        except (SigmaError, KeyError, IndexError):
            continue
    found = {key: values[np.isfinite(values).all(axis=1)] for key in keys if len(values := np.concatenate(rows[key]))}
    problems = [f"{key}: {problem}" for key, values in found.items() for problem in certain(contract, values)]
    if problems:
        raise DatasetError(
            "the data set is not in the contract's units",
            where=f"{dataset}, contract {contract.name}",
            got="; ".join(problems),
            remedy=DEGREES_REMEDY,
        )
    return [f"{key}: {doubt}" for key, values in found.items() if len(values) for doubt in likely(contract, values)]


def _stamps_ns(source: LerobotEpisode) -> list[int]:
    first_ns = START_NS + round(float(source.timestamps_s[0]) * NS_PER_S)
    if source.on_grid:
        return [first_ns + round(tick * NS_PER_S / source.fps) for tick in range(source.ticks)]
    return [START_NS + round(stamp_s * NS_PER_S) for stamp_s in source.timestamps_s.tolist()]


def _pictures(source: LerobotEpisode, camera: Camera) -> Iterator[UInt8[ndarray, "h w 3"]]:
    part = source.videos.get(camera.dataset_key)
    if part is None:
        stream = _coded_pictures(source, camera.dataset_key)
    else:
        stream = video_pictures(part, film_times_s(source, part))
    for picture in stream:
        if picture.shape != (camera.height_px, camera.width_px, 3):
            raise DatasetError(
                f"the pictures of {camera.dataset_key} have another size than the contract's camera",
                where=source.root,
                expected=f"{camera.width_px}x{camera.height_px}",
                got=f"{picture.shape[1]}x{picture.shape[0]}",
            )
        yield picture


def _coded_pictures(source: LerobotEpisode, key: str) -> Iterator[UInt8[ndarray, "h w 3"]]:
    for coded in source.pictures[key]:
        yield decode_coded(coded, where=f"{source.root}, {key}")


def _notes(source: LerobotEpisode, contract: Contract) -> dict[str, str]:
    return {
        "sigma.source": "transcoded",
        "sigma.dataset": source.name,
        "sigma.dataset_version": source.version,
        "sigma.episode": str(source.index),
        "sigma.contract": contract.name,
        "sigma.task": source.task,
    }
