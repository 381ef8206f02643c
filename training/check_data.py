# SPDX-License-Identifier: Apache-2.0
"""Do data, base and contract belong together? Said before weights are read or anything is computed."""

from collections.abc import Mapping

from sigma_ros.camera_names import seated
from sigma_ros.contract import Contract
from sigma_ros.errors import CheckpointError, DatasetError
from sigma_ros.model.normalise import Normalisation
from sigma_ros.model.pi05.folder import BaseFolder

from .data import ShardData


def check_data(
    data: ShardData,
    base: BaseFolder,
    contract: Contract,
    normalisation: Normalisation,
    camera_keys: Mapping[str, str],
) -> tuple[str | None, ...]:
    """Refuses shards of another robot, picture size or unit than the base's; no weights are needed for it.

    Returns the contract's camera for each of the policy's (`model.cameras.seated`).

    Raises:
        ContractError: the policy does not have the contract's cameras.
        CheckpointError: its actions are relative.
        DatasetError: with every other problem.
    """
    refuse_relative(base.relative, where=base.place.source)
    cameras = seated(camera_keys, base.camera_keys, where=f"contract {contract.name}")
    meta = data.meta
    pairs = {
        "joints": (contract.joint_names, meta.joint_names),
        "cameras": (tuple(camera.name for camera in contract.cameras), meta.cameras),
        "fps": (contract.fps, meta.fps),
        "picture size [px]": (base.image_size_px, meta.image_size_px),
        "joints of the base": (normalisation.state.dof, contract.dof),
    }
    problems = [f"{name}: {got} instead of {wanted}" for name, (wanted, got) in pairs.items() if wanted != got]
    problems = problems or _unit_problems(data, contract, normalisation)
    if problems:
        raise DatasetError(
            "the shards do not fit the base and the contract",
            where=data.folder,
            expected=f"data of {contract.name} made with --image-size {base.image_size_px}",
            got=" | ".join(problems),
            remedy=f"python -m training.preprocess --contract {contract.name} --image-size {base.image_size_px}, "
            "or the contract and base that the shards were made for",
        )
    return cameras


def refuse_relative(relative: object, *, where: str) -> None:
    """Refuses a base that nothing can be trained on; `relative` are its joints with relative actions, None: none.

    Raises:
        CheckpointError: its actions are relative.
    """
    if relative is not None:
        raise CheckpointError(
            "Sigma cannot be trained on a policy with relative actions",
            where=where,
            expected="use_relative_actions false: the residual is learnt between chunks of absolute actions",
            remedy="it runs as a base (sigma replay, the nodes); fine-tune an absolute one for Sigma",
        )


def _unit_problems(data: ShardData, contract: Contract, normalisation: Normalisation) -> list[str]:
    """Joints whose data lie wholly outside what the base was trained on, by more than that ranges."""
    problems = []
    for name in ("state", "action"):
        ours, theirs = getattr(data.meta.statistics, name), getattr(normalisation, name)
        (our_low, our_high), (low, high) = ours.usual, theirs.usual
        room = high - low
        far = (our_low < low - room) | (our_high > high + room)
        problems += [
            f"{name} of {joint}: {our_low[i]:.1f} to {our_high[i]:.1f}, "
            f"the base knows {low[i]:.1f} to {high[i]:.1f} (other units?)"
            for i, joint in enumerate(contract.joint_names)
            if far[i]
        ]
    return problems
