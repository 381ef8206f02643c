# SPDX-License-Identifier: Apache-2.0
"""Where a LeRobot data set is, and does it hold what a contract needs? Answered before any picture is decoded."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy import ndarray

from sigma_ros.addresses import address_of, fetcher_of
from sigma_ros.bags.lerobot import (
    ACTION_KEY,
    STATE_KEY,
    Fetch,
    LerobotEpisode,
    episode_indices,
    read_episode,
    read_info,
)
from sigma_ros.camera_names import IMAGES, counterparts, short
from sigma_ros.contract import Contract
from sigma_ros.conventions import DEGREES_REMEDY, certain, likely, of_ends
from sigma_ros.errors import DatasetError, SigmaError

_RATE_ROUNDING = 1e-3
_MEASURED_RATE = 0.2
"""Rows with measured times come at the data set's rate up to this share; another rate is another clock."""

_EPISODES_JUDGED = 64
_MOVES = 0.5
"""Numbers of an arm that stands say nothing of their units: it moves by more, in radians too."""


def original_key(key: str, rename: Mapping[str, str]) -> str:
    """What the data set calls a feature that the contract calls `key`."""
    return next((old for old, new in rename.items() if new == key), key)


def needed_keys(contract: Contract) -> tuple[str, ...]:
    """Features without which an episode cannot be read, by the contract's names."""
    actions = (ACTION_KEY,) if contract.action_source == "command" else ()
    return (STATE_KEY, *actions, *(camera.dataset_key for camera in contract.cameras))


def check_facts(fetch: Fetch, contract: Contract, *, rename: Mapping[str, str], resample: bool) -> None:
    """Compares features, picture sizes and rate with the contract's.

    Args:
        fetch: See `lerobot_episode.Fetch`.
        contract: The robot.
        rename: The data set's feature keys -> the contract's.
        resample: Accept another rate: the frame clock then takes the newest row at each of the contract's ticks.

    Raises:
        DatasetError: with every difference.
    """
    info = read_info(fetch)
    features: dict[str, Any] = info["features"]
    problems, remedies = [], []
    missing = [key for key in needed_keys(contract) if original_key(key, rename) not in features]
    if missing:
        problems.append("it has no " + ", ".join(original_key(key, rename) for key in missing))
        remedies.append(_rename_remedy(missing, features, contract, rename))
    for camera in contract.cameras:
        size = size_px(features.get(original_key(camera.dataset_key, rename), {}))
        if size is not None and size != (camera.width_px, camera.height_px):
            said, ours = ("{}x{}".format(*one) for one in (size, (camera.width_px, camera.height_px)))
            problems.append(f"pictures of {camera.name} are {said} pixels, the contract's camera {ours}")
            remedies.append("the data set's width_px and height_px in the contract (sigma init --dataset drafts one)")
    fps = float(info.get("fps", contract.fps))
    if abs(fps - contract.fps) > _RATE_ROUNDING and not resample:
        problems.append(f"it has {fps:g} frames a second, the contract {contract.fps:g}")
        remedies.append(f"fps: {fps:g} in the contract, or --resample to repeat or leave out frames")
    if problems:
        raise DatasetError(
            f"the data set is not what the contract {contract.name} describes",
            where=fetch([]),
            expected=", ".join(needed_keys(contract)),
            got="; ".join(problems)
            + f" (it has {', '.join(k for k in features if '.' in k or k.startswith('action'))})",
            remedy="; ".join(dict.fromkeys(remedies)),
        )


def _rename_remedy(
    missing: list[str], features: Mapping[str, Any], contract: Contract, rename: Mapping[str, str]
) -> str:
    wanted = {original_key(camera.dataset_key, rename): camera.dataset_key for camera in contract.cameras}
    found = counterparts(wanted, (key for key in features if key.startswith(IMAGES)))
    pairs = [f"{short(old)}={short(wanted[key])}" for key, old in found.items() if old]
    if ACTION_KEY in missing and "actions" in features:
        pairs.append("actions=action")
    example = f", for example --rename {' '.join(pairs)}" if pairs else ""
    return f"say which feature is which{example}, or by dataset_key in the contract"


def size_px(feature: Mapping[str, Any]) -> tuple[int, int] | None:
    """(width, height) of an image feature; None where it does not say."""
    shape, names = feature.get("shape"), feature.get("names")
    if not isinstance(shape, list) or len(shape) != 3 or not all(isinstance(n, int) and n > 0 for n in shape):
        return None
    if isinstance(names, list) and len(names) == 3 and "height" in names and "width" in names:
        return shape[names.index("width")], shape[names.index("height")]
    channels_first = shape[0] in (1, 3) and shape[2] not in (1, 3)
    return (shape[2], shape[1]) if channels_first else (shape[1], shape[0])


def fetcher(dataset: str, revision: str | None = None) -> Fetch:
    """How files of a data set folder, or of one on the Hub, are made present."""
    if (address := address_of(dataset)) is not None:
        return fetcher_of(address)
    return (lambda _: Path(dataset)) if Path(dataset).is_dir() else _from_hub(dataset, revision)


def episode_numbers(dataset: str, *, revision: str | None = None) -> list[int]:
    """All episodes of a data set here or on the Hub."""
    return episode_indices(fetcher(dataset, revision))


def _from_hub(name: str, revision: str | None) -> Fetch:
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


def check_episode(source: LerobotEpisode, contract: Contract) -> None:
    """Refuses an episode whose rows lack what the contract needs, or whose times do not increase.

    Raises:
        DatasetError: with every problem.
    """
    needed = [STATE_KEY] + ([ACTION_KEY] if contract.action_source == "command" else [])
    misnamed = [wrong for key in needed if key in source.features and (wrong := source.misnamed(key))]
    keys = (*source.videos, *source.pictures)
    missing = [f"{camera.dataset_key} is missing" for camera in contract.cameras if camera.dataset_key not in keys]
    problems = [f"{key} is missing" for key in needed if key not in source.features] + misnamed + missing
    remedies = []
    if missing:
        remedies.append("write the data set's camera keys as the contract's dataset_key")
    if misnamed:
        remedies.append("write the joints' names into features of meta/info.json")
    stamps_s = source.timestamps_s
    if not np.isfinite(stamps_s).all() or (np.diff(stamps_s) <= 0).any():
        problems.append("timestamps do not increase")
    elif source.ticks > 2:
        rate_hz = 1.0 / float(np.median(np.diff(stamps_s)))
        if abs(rate_hz / source.fps - 1.0) > _MEASURED_RATE:
            problems.append(f"its rows come {rate_hz:.3g} times a second, meta/info.json says {source.fps:g}")
            remedies.append("correct fps in meta/info.json, or timestamps that are not in seconds")
    if problems:
        raise DatasetError(
            f"episode {source.index} does not hold what the contract {contract.name} needs: {'; '.join(problems)}",
            where=source.root,
            got=", ".join(source.keys),
            remedy="; ".join(remedies) or "leave the episode out",
        )


def check_numbers(
    dataset: str, numbers: Sequence[int], contract: Contract, *, revision: str | None, rename: Mapping[str, str]
) -> list[str]:
    """Reads states, actions and tasks of some episodes, no pictures, and says what may not be as the contract has it.

    Episodes that cannot be read are left to whoever reads them whole.

    Raises:
        DatasetError: they surely are in other units.
    """
    keys = needed_keys(contract)[: 1 + (contract.action_source == "command")]
    fetch = fetcher(dataset, revision)
    rows: dict[str, list[ndarray]] = {key: [np.zeros((0, contract.dof))] for key in keys}
    said: dict[str, None] = {}
    for number in numbers[:: max(1, len(numbers) // _EPISODES_JUDGED)]:
        try:
            source = read_episode(fetch, number, wanted=tuple(original_key(key, rename) for key in keys))
            source = renamed_episode(source, rename)
            for key in keys:
                order = contract.joint_order(source.names[key])
                rows[key].append(source.features[key][:, order])
                if left := [name for place, name in enumerate(source.names[key]) if place not in order]:
                    said[f"{key}: the contract has no {', '.join(left)}; what they say is left out"] = None
            if not all(source.tasks):
                said[f"rows without a task's text take the one before, or the contract's: {contract.tasks[0]}"] = None
        except (SigmaError, KeyError, IndexError):
            continue
    found = {key: values[np.isfinite(values).all(axis=1)] for key in keys if len(values := np.concatenate(rows[key]))}
    problems = [f"{key}: {problem}" for key, values in found.items() for problem in certain(contract, values)]
    for key, values in found.items():
        low, high = np.quantile(values, [0.01, 0.99], axis=0) if len(values) else np.zeros((2, contract.dof))
        if (high - low).max() > _MOVES:
            problems += of_ends(contract, key, low, high)
    if problems:
        raise DatasetError(
            "the data set is not in the contract's units",
            where=f"{dataset}, contract {contract.name}",
            got="; ".join(problems),
            remedy=DEGREES_REMEDY,
        )
    units = [f"{key}: {doubt}" for key, values in found.items() if len(values) for doubt in likely(contract, values)]
    return [*said, *units]


def repeated(episodes: Sequence[LerobotEpisode]) -> list[str]:
    """Which episodes have the very states of one before: trained twice, or held out and trained."""
    first: dict[bytes, int] = {}
    for episode in episodes:
        first.setdefault(episode.features[STATE_KEY].tobytes(), episode.index)
    pairs = [(first[e.features[STATE_KEY].tobytes()], e.index) for e in episodes]
    return [f"episode {index} has the states of episode {one}: a copy" for one, index in pairs if one != index]


def renamed_episode(source: LerobotEpisode, rename: Mapping[str, str]) -> LerobotEpisode:
    """The episode by the contract's feature keys."""
    tables = ("features", "names", "videos", "pictures")
    named: dict[str, Any] = {t: {rename.get(k, k): v for k, v in getattr(source, t).items()} for t in tables}
    return replace(source, **named)
