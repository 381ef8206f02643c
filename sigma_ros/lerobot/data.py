# SPDX-License-Identifier: Apache-2.0
"""What `lerobot-train` brings to Sigma: a data set's facts, checked against the contract, and its batches."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from lerobot.configs.parser import get_path_arg, parse_arg
from lerobot.utils.constants import ACTION, OBS_IMAGES, OBS_STATE

from sigma_ros.camera_names import counterparts, short
from sigma_ros.contract import Contract, feature_names
from sigma_ros.conventions import DEGREES_REMEDY, of_data, of_statistics
from sigma_ros.errors import ContractError, DatasetError
from sigma_ros.model.normalise import NEEDED, Normalisation, Scaling

_KNOWN = {name for names in NEEDED.values() for name in names}


def asked_rename_map(pretrained: Path | None) -> Mapping[str, str] | None:
    """LeRobot's `--rename_map`, which it does not tell to policies; None where it cannot be known.

    Without a pretrained policy there is none: LeRobot refuses it. A run's config file may hold one.
    """
    if pretrained is None:
        return {}
    if (given := parse_arg("rename_map")) is not None:
        return dict(yaml.safe_load(given))
    return None if parse_arg("config_path") or not get_path_arg("policy") else {}


def check_cameras(meta: Any, keys: Mapping[str, str], pretrained: Path | None) -> None:
    """Refuses a data set without the pictures that the policy asks for; `keys` are the policy's by camera.

    Raises:
        DatasetError: it has fewer than the contract's cameras, or other names for them.
    """
    renamed = asked_rename_map(pretrained)
    there = {(renamed or {}).get(key, key): key for key in meta.features if key.startswith(OBS_IMAGES)}
    found = counterparts(keys.values(), there)
    lacking = ", ".join(f"{camera} ({key})" for camera, key in keys.items() if key in found)
    where, got = f"{meta.repo_id}: no {lacking}", ", ".join(there.values()) or "none"
    if None in found.values():
        raise DatasetError(
            "the data set has fewer cameras than the contract",
            where=where,
            expected=f"{len(keys)} of observation.images.*",
            got=got,
            remedy="a contract with these cameras alone (sigma init writes one), and a base that has no others",
        )
    if found and renamed is not None:
        theirs = {camera: there[found.get(key) or key] for camera, key in keys.items()}
        option, pairs = "policy.cameras", {camera: short(key) for camera, key in theirs.items()}
        if pretrained is not None:
            option, pairs = "rename_map", {theirs[camera]: key for camera, key in keys.items() if key != theirs[camera]}
        raise DatasetError(
            "the data set has other names for the contract's cameras",
            where=where,
            expected=", ".join(keys.values()),
            got=got,
            remedy=f"say which is which, for example --{option}='{json.dumps(pairs)}'",
        )


def checked_statistics(meta: Any, contract: Contract) -> Normalisation:
    """A data set's statistics, if its rate, joints and units are the contract's; `meta` is `LeRobotDatasetMetadata`.

    Raises:
        SigmaError: they are not, or it has none.
    """
    where = f"{meta.repo_id} and contract {contract.name}"
    if meta.fps != contract.fps:
        raise ContractError(
            "the data set has another rate than the contract",
            where=where,
            expected=f"{contract.fps} Hz",
            got=f"{meta.fps} fps",
            remedy="training.preprocess resamples it; or give a contract with this fps",
        )
    for key in (OBS_STATE, ACTION):
        _check_names(meta.features, key, contract, where)
    found = Normalisation(state=_scaling(meta.stats, OBS_STATE), action=_scaling(meta.stats, ACTION))
    if found.state.dof != contract.dof:
        raise ContractError(
            "the data set has other joints", where=where, expected=f"{contract.dof} joints", got=found.state.dof
        )
    units = list(dict.fromkeys(of_statistics(contract, found) + of_data(contract, found)))
    if units:
        raise ContractError(
            "the data set cannot be in the contract's units", where=where, got="; ".join(units), remedy=DEGREES_REMEDY
        )
    return found


def _check_names(features: Mapping[str, Mapping[str, Any]], key: str, contract: Contract, where: str) -> None:
    """LeRobot's batches have no names: a data set's joints must stand in the contract's order."""
    if key not in features:
        got, remedy = ", ".join(features), "sigma preprocess --rename actions=action reads other names"
        raise DatasetError(f"the data set has no {key}", where=where, got=got, remedy=remedy)
    names = feature_names(features[key])
    if not contract.is_order_of(names):
        raise ContractError(
            "the data set's joints are not the contract's, one by one",
            where=f"{where}: {key}",
            expected=", ".join(contract.joint_names),
            got=", ".join(names) or "no names",
            remedy="sigma preprocess goes by names; or give a contract in this order, or names in meta/info.json",
        )


def _scaling(stats: Mapping[str, Mapping[str, Any]] | None, key: str) -> Scaling:
    found = (stats or {}).get(key, {})
    values = {name: np.asarray(value, np.float64) for name, value in found.items() if name in _KNOWN}
    for mode in ("QUANTILES", "MEAN_STD"):
        if set(NEEDED[mode]) <= set(values):
            return Scaling(mode=mode, statistics=values)
    raise DatasetError(
        f"the data set has no statistics of {key}",
        expected="quantiles, or mean and std",
        got=", ".join(sorted(values)),
        remedy="python -m lerobot.scripts.augment_dataset_quantile_stats --repo-id ... computes them",
    )
