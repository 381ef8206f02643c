# SPDX-License-Identifier: Apache-2.0
"""Does a LeRobot data set hold what a contract needs? Answered from `meta/info.json`, before anything is decoded."""

from collections.abc import Mapping
from typing import Any

from sigma_ros.bags.lerobot import ACTION_KEY, STATE_KEY, Fetch, read_info
from sigma_ros.camera_names import IMAGES
from sigma_ros.contract import Camera, Contract
from sigma_ros.errors import DatasetError

_RATE_ROUNDING = 1e-3


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
        size = _size_px(features.get(original_key(camera.dataset_key, rename), {}))
        if size not in (None, (camera.width_px, camera.height_px)):
            problems.append(_size_problem(camera, size))
            remedies.append("the data set's width_px and height_px in the contract")
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
    used = {original_key(key, rename) for key in needed_keys(contract)}
    spare = [key for key in features if key.startswith(IMAGES) and key not in used]
    images = [key for key in missing if key.startswith(IMAGES)]
    pairs = [f"{old.removeprefix(IMAGES)}={new.removeprefix(IMAGES)}" for old, new in zip(spare, images, strict=False)]
    if ACTION_KEY in missing and "actions" in features:
        pairs.append("actions=action")
    example = f", for example --rename {' '.join(pairs)}" if pairs else ""
    return f"say which feature is which{example}, or by dataset_key in the contract"


def _size_problem(camera: Camera, size: tuple[int, int] | None) -> str:
    assert size is not None
    return (
        f"pictures of {camera.name} are {size[0]}x{size[1]} pixels, "
        f"the contract's camera {camera.width_px}x{camera.height_px}"
    )


def _size_px(feature: Mapping[str, Any]) -> tuple[int, int] | None:
    """(width, height) of an image feature; None where it does not say."""
    shape, names = feature.get("shape"), feature.get("names")
    if not isinstance(shape, list) or len(shape) != 3:
        return None
    if isinstance(names, list) and {"height", "width"} <= set(names):
        return int(shape[names.index("width")]), int(shape[names.index("height")])
    channels_first = shape[0] in (1, 3) and shape[2] not in (1, 3)
    return (int(shape[2]), int(shape[1])) if channels_first else (int(shape[1]), int(shape[0]))
