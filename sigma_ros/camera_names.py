# SPDX-License-Identifier: Apache-2.0
"""Which camera of the robot feeds which of the policy's: data sets and policies name them differently.

LeRobot joins the two with a `rename_map` of feature keys, which a fine-tune's `policy_preprocessor.json` keeps.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from types import MappingProxyType

from sigma_ros.contract import Contract
from sigma_ros.errors import ContractError, UsageError

IMAGES = "observation.images."
EMPTY_CAMERA = IMAGES + "empty_camera_"
"""LeRobot's name for places of cameras that no robot of the training data had."""
NO_RENAME: Mapping[str, str] = MappingProxyType({})


def read_rename(entries: Sequence[str]) -> dict[str, str]:
    """`--rename`: `up=base_0_rgb` (the part behind `observation.images.` is enough), or LeRobot's JSON object.

    Raises:
        UsageError: an entry is neither, or names a key twice.
    """
    pairs: list[tuple[str, str]] = []
    for entry in entries:
        pairs += _pairs(entry)
    renamed = {_key(old, new): _key(new, new) for old, new in pairs}
    if len(renamed) != len(pairs) or len(set(renamed.values())) != len(pairs):
        raise UsageError("--rename names a key twice", got=" ".join(entries))
    return renamed


def _pairs(entry: str) -> list[tuple[str, str]]:
    if entry.lstrip().startswith("{"):
        try:
            values = json.loads(entry)
        except ValueError:
            values = {}
        pairs = list(values.items())
    else:
        pairs = [tuple(entry.split("=", 1))]
    if not pairs or not all(len(pair) == 2 and all(isinstance(k, str) and k.strip() for k in pair) for pair in pairs):
        raise UsageError(
            "--rename cannot be read",
            expected="up=base_0_rgb side=left_wrist_0_rgb, or a JSON object of whole keys as LeRobot takes it",
            got=entry,
        )
    return pairs


def _key(name: str, target: str) -> str:
    """A feature's whole key; without a dot it is a camera's, unless the action is renamed."""
    return name if "." in name or target == "action" else IMAGES + name


def policy_keys(
    contract: Contract, *, rename: Mapping[str, str] = NO_RENAME, learnt: Mapping[str, str] = NO_RENAME
) -> dict[str, str]:
    """Contract's camera name -> the policy's feature key.

    The user's `rename` counts first, then the contract's `policy_key`, then the checkpoint's own map `learnt`; a
    camera in none of them has one name in data set and policy.

    Raises:
        UsageError: `rename` names a camera that the contract does not have.
    """
    known = {camera.dataset_key for camera in contract.cameras}
    foreign = sorted(set(rename) - known)
    if foreign:
        raise UsageError(
            "--rename names keys that the contract's cameras do not have",
            where=f"contract {contract.name}",
            expected=", ".join(sorted(known)) or "none: it has no cameras",
            got=", ".join(foreign),
        )
    return {
        c.name: rename.get(c.dataset_key) or c.policy_key or learnt.get(c.dataset_key, c.dataset_key)
        for c in contract.cameras
    }


def counterparts(wanted: Iterable[str], there: Iterable[str]) -> dict[str, str | None]:
    """Each of the `wanted` keys that is not `there`, with one that nobody wants, in their order; None: none is left."""
    wanted, there = list(wanted), list(there)
    spare = (key for key in there if key not in wanted)
    return {key: next(spare, None) for key in wanted if key not in there}


def short(key: str) -> str:
    """A camera's key as options take it."""
    return key.removeprefix(IMAGES)


def fitted_from(contract: Contract, keys: Mapping[str, str], side_px: int) -> dict[str, tuple[int, int]]:
    """Height and width [px] of cameras whose pictures are fitted into the policy's square, by the policy's keys."""
    sizes = {keys[camera.name]: (camera.height_px, camera.width_px) for camera in contract.cameras}
    return {key: size for key, size in sizes.items() if size != (side_px, side_px)}


def seated(keys: Mapping[str, str], camera_keys: Sequence[str], *, where: str) -> tuple[str | None, ...]:
    """The contract's camera for each of the policy's `camera_keys` (its image features), None where the robot lacks it.

    Raises:
        ContractError: a camera feeds a key that the policy does not have, or two feed the same.
    """
    foreign = [name for name, key in keys.items() if key not in camera_keys]
    if foreign:
        free = [key for key in camera_keys if key not in keys.values() and not key.startswith(EMPTY_CAMERA)]
        pairs = {name: short(key) for name, key in zip(foreign, free, strict=False)}
        words = " ".join(f"{name}={key}" for name, key in pairs.items())
        example = f"for example --rename {words} (LeRobot's commands: --policy.rename='{json.dumps(pairs)}'), "
        raise ContractError(
            "the policy does not have the contract's cameras",
            where=f"{where}: " + ", ".join(f"{name} -> {keys[name]}" for name in foreign),
            expected=f"one of {', '.join(camera_keys) or 'none: the policy has no cameras'}",
            remedy="say which camera of the robot feeds which of the policy's, "
            + (example if pairs else "")
            + "or by policy_key in the contract; a small model for the contract: sigma model make-mini --contract",
        )
    names = {key: name for name, key in keys.items()}
    if len(names) != len(keys):
        raise ContractError(
            "two cameras feed the same of the policy's",
            where=where,
            got=", ".join(f"{n} -> {k}" for n, k in keys.items()),
        )
    return tuple(names.get(key) for key in camera_keys)


def unseen(cameras: Sequence[str | None], camera_keys: Sequence[str]) -> tuple[str, ...]:
    """The policy's cameras that the robot lacks: black and masked, as LeRobot does with missing ones."""
    pairs = zip(cameras, camera_keys, strict=True)
    return tuple(key for name, key in pairs if name is None and not key.startswith(EMPTY_CAMERA))
