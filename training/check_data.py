# SPDX-License-Identifier: Apache-2.0
"""Do data, base and contract belong together? All problems at once, before anything is computed."""

import numpy as np

from sigma_ros.contract import Contract
from sigma_ros.errors import DatasetError
from sigma_ros.model.backbone import Backbone
from sigma_ros.model.normalise import Normalisation

from .data import ShardData

_FOREIGN = 3.0  # normalised: one whole quantile span outside the base's quantiles


def check_data(data: ShardData, backbone: Backbone, contract: Contract, normalisation: Normalisation) -> None:
    """Refuses shards of another robot, picture size or unit than the base's.

    Raises:
        DatasetError: with every problem.
    """
    meta = data.meta
    pairs = {
        "joints": (contract.joint_names, meta.joint_names),
        "cameras": (tuple(camera.name for camera in contract.cameras), meta.cameras),
        "fps": (contract.fps, meta.fps),
        "picture size [px]": (backbone.image_size_px, meta.image_size_px),
        "joints of the base": (normalisation.state.dof, contract.dof),
    }
    problems = [f"{name}: {got} instead of {wanted}" for name, (wanted, got) in pairs.items() if wanted != got]
    problems += [
        f"camera {camera.name}: the base has no {camera.model_key}, only {', '.join(backbone.camera_keys)}"
        for camera in contract.cameras
        if camera.model_key not in backbone.camera_keys
    ]
    problems = problems or _unit_problems(data, contract, normalisation)
    if problems:
        raise DatasetError(
            "the shards do not fit the base and the contract",
            where=data.folder,
            expected=f"data of {contract.name} made with --image-size {backbone.image_size_px}",
            got=" | ".join(problems),
            remedy="run training.preprocess with this contract and --image-size",
        )


def _unit_problems(data: ShardData, contract: Contract, normalisation: Normalisation) -> list[str]:
    """Joints whose quantiles lie wholly outside what the base was trained on."""
    problems = []
    for name in ("state", "action"):
        ours, theirs = getattr(data.meta.statistics, name), getattr(normalisation, name)
        low, high = theirs.normalise(ours.q01), theirs.normalise(ours.q99)
        far = np.maximum(np.abs(low), np.abs(high)) > _FOREIGN
        problems += [
            f"{name} of {joint}: {ours.q01[i]:.1f} to {ours.q99[i]:.1f}, "
            f"the base knows {theirs.q01[i]:.1f} to {theirs.q99[i]:.1f} (other units?)"
            for i, joint in enumerate(contract.joint_names)
            if far[i]
        ]
    return problems
