# SPDX-License-Identifier: Apache-2.0
"""Turns what a user names as a checkpoint into a model that fits the contract, or into one clear error."""

import logging
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from jaxtyping import Float
from lerobot.policies.rtc.configuration_rtc import RTCConfig
from torch import Tensor

from sigma_ros.camera_names import NO_RENAME, fitted_from, policy_keys, seated, unseen
from sigma_ros.contract import Contract, joint_name
from sigma_ros.conventions import DEGREES_REMEDY, of_statistics
from sigma_ros.errors import CheckpointError, ContractError
from sigma_ros.model.checkpoint.folder import identify, load_trained
from sigma_ros.model.checkpoint.manifest import HEADS_FILE, Manifest, read_manifest
from sigma_ros.model.normalise import Normalisation
from sigma_ros.model.pi05.backbone import Backbone, RealTimeChunking
from sigma_ros.model.pi05.folder import ADAPTER_FILE, BaseFolder, open_base_folder
from sigma_ros.model.pi05.loading import BaseInfo, LoadedBase, load_base
from sigma_ros.model.pi05.places import MANIFEST_FILE, SHIPPED_SIGMAS, Place, find_checkpoint
from sigma_ros.model.settings import SigmaConfig
from sigma_ros.model.sigma import SigmaTelepathyVLA


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckpointInfo:
    """What is loaded. `hash` is that of the Sigma checkpoint, or of the base's weights where there is none.

    `trained` is False when the base has random weights; `sigma_trained` when the residual is zero by construction;
    `unseen` are cameras of the policy that the robot lacks.
    """

    hash: str
    trained: bool
    sigma_trained: bool
    source: str
    base: BaseInfo
    sigma_parameters: int
    unseen: tuple[str, ...] = ()

    def summary(self) -> str:
        """One line for logs and reports; the first word says whether the weights are random."""
        state = "trained" if self.trained else "UNTRAINED (random weights)"
        sigma = "trained" if self.sigma_trained else "untrained, residual 0"
        return (
            f"{state}: {self.source}, base {self.base.parameters / 1e6:.1f} M parameters, "
            f"Sigma {self.sigma_parameters / 1e6:.1f} M ({sigma}), {self.base.dtype} on {self.base.device}, "
            f"{self.base.weight_bytes / 1e9:.2f} GB, hash {self.hash[:12]}"
            + (f"; black, since the contract has no camera for them: {', '.join(self.unseen)}" if self.unseen else "")
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class OpenedCheckpoint:
    """A checkpoint's small files, found to fit a contract; its weights were not read or fetched yet.

    `cameras` holds the contract's camera for each of the policy's, None where the robot lacks it; `camera_keys` is
    `cameras.policy_keys` of both. `digest` is that of a Sigma checkpoint's manifest.
    """

    source: str
    place: Place
    manifest: Manifest | None
    digest: str | None
    base: BaseFolder
    normalisation: Normalisation | None
    camera_keys: Mapping[str, str]
    cameras: tuple[str | None, ...]


def find_sigma(checkpoint: str | Path, *, revision: str | None = None) -> Place:
    """Where a checkpoint's files are; `mini` and `mini-memory` ship with the package, both on the base `mini`."""
    return find_checkpoint(checkpoint, revision=revision, shipped=SHIPPED_SIGMAS)


def open_checkpoint(
    checkpoint: str,
    *,
    contract: Contract,
    base: str | None = None,
    revision: str | None = None,
    rename: Mapping[str, str] = NO_RENAME,
    statistics: Normalisation | None = None,
) -> OpenedCheckpoint:
    """Reads what is small of a Sigma checkpoint or a base, and checks it against the contract.

    `statistics` are a data set's, for a base that knows no robot's units.

    Raises:
        SigmaError: it cannot be found or read, or its cameras, joints or units are not the contract's.
    """
    place = find_sigma(checkpoint, revision=None if base is not None else _of_hub(checkpoint, revision))
    manifest, digest = read_manifest(place.path) if (place.path / MANIFEST_FILE).is_file() else (None, None)
    if manifest is None and base is None:
        folder = open_base_folder(place) if place.repo else open_base_folder(checkpoint, revision=revision)
    elif base is not None:
        folder = open_base_folder(base, revision=revision)
    else:
        assert manifest is not None
        folder = open_base_folder(manifest.base.source, revision=manifest.base.revision)
    learnt = {**folder.rename, **(manifest.rename if manifest else {})}
    keys = policy_keys(contract, rename=rename, learnt=learnt)
    own = None if manifest is None else manifest.normalisation
    opened = OpenedCheckpoint(
        source=checkpoint,
        place=place,
        manifest=manifest,
        digest=digest,
        base=folder,
        normalisation=own or folder.normalisation or statistics,
        camera_keys=keys,
        cameras=seated(keys, folder.camera_keys, where=f"contract {contract.name}"),
    )
    _check_joints(contract, opened)
    _check_order(contract, opened)
    return opened


def _of_hub(checkpoint: str, revision: str | None) -> str | None:
    """A revision is that of the named checkpoint if it can have one, else of the base that it names itself."""
    return None if checkpoint in SHIPPED_SIGMAS or Path(checkpoint).expanduser().is_dir() else revision


def load_model(
    opened: OpenedCheckpoint,
    *,
    contract: Contract,
    device: str,
    dtype: str,
    allow_untrained: bool,
    tokenizer: str | None,
) -> tuple[SigmaTelepathyVLA, CheckpointInfo]:
    """The model of an opened checkpoint; arguments and errors are those of `SigmaRuntime.load`."""
    loaded = load_base(
        opened.base,
        device=device,
        dtype=dtype,
        tokenizer=tokenizer,
        allow_untrained=allow_untrained,
        fitted_from=fitted_from(contract, opened.camera_keys, opened.base.image_size_px),
    )
    manifest = opened.manifest
    model = _model(opened, loaded, contract)
    info = CheckpointInfo(
        hash=opened.digest or loaded.info.weights_hash,
        trained=loaded.info.trained,
        sigma_trained=manifest is not None and manifest.training.trained,
        source=opened.source,
        base=loaded.info,
        sigma_parameters=sum(parameter.numel() for parameter in model.trained().values()),
        unseen=unseen(opened.cameras, opened.base.camera_keys),
    )
    return model, info


def required_normalisation(opened: OpenedCheckpoint) -> Normalisation:
    """A checkpoint's statistics, or one sentence on why there are none."""
    if opened.normalisation is None:
        raise CheckpointError(
            "the checkpoint has no normalisation statistics",
            where=opened.source,
            expected="statistics of states and actions in normalisation.json or policy_preprocessor.json",
            remedy="use a fine-tuned policy or a Sigma checkpoint; the bare pi0.5 base knows no robot's units",
        )
    return opened.normalisation


def _check_joints(contract: Contract, opened: OpenedCheckpoint) -> None:
    known = contract.dof if opened.normalisation is None else opened.normalisation.state.dof
    if known != contract.dof or contract.dof > opened.base.config.max_action_dim:
        raise ContractError(
            "the policy does not have the contract's joints",
            where=f"contract {contract.name}",
            expected=f"{known} joints, as in the checkpoint's statistics",
            got=f"{contract.dof}: {', '.join(contract.joint_names)}",
            remedy="use the contract of the robot the policy was trained for (sigma init --dataset drafts one)",
        )
    units = [] if opened.normalisation is None else of_statistics(contract, opened.normalisation)
    if units:
        raise ContractError(
            "the checkpoint's statistics cannot be in the contract's units",
            where=f"contract {contract.name}",
            got="; ".join(units),
            remedy=DEGREES_REMEDY,
        )


def _check_order(contract: Contract, opened: OpenedCheckpoint) -> None:
    """Where the policy knows the names of its actions, their order must be the contract's."""
    named = opened.base.config.action_feature_names
    if named is None:
        return
    names = tuple(joint_name(name) for name in named)
    if not contract.is_order_of(names):
        raise ContractError(
            "the policy's joints are in another order",
            where=f"contract {contract.name}",
            expected=", ".join(names),
            got=", ".join(contract.joint_names),
            remedy="put the contract's joints into the policy's order",
        )


def _model(opened: OpenedCheckpoint, loaded: LoadedBase, contract: Contract) -> SigmaTelepathyVLA:
    manifest, folder = opened.manifest, opened.place.path
    if manifest is None:
        return SigmaTelepathyVLA(loaded.backbone, SigmaConfig.for_backbone(loaded.backbone, dof=contract.dof))
    opened.place.fetch(HEADS_FILE, ADAPTER_FILE)
    model = SigmaTelepathyVLA(loaded.backbone, manifest.settings)
    identity = identify(model, loaded.info)
    manifest.base.check(identity, where=folder)
    load_trained(model, manifest, heads_path=folder / HEADS_FILE, lora_dir=folder)
    return model


# LeRobot's real-time chunking (arXiv:2506.07339) for a loaded base policy.


_LOG = logging.getLogger(__name__)


def allow_guidance(backbone: Backbone) -> None:
    """Gives the policy LeRobot's processor; where no chunk remains its actions stay the same, bit for bit.

    A checkpoint whose own config switches guidance off is overruled with a log line, as lerobot-rollout does.
    """
    policy = backbone.policy
    found = policy.config.rtc_config
    if found is None or not found.enabled:
        if found is not None:
            _LOG.warning("the checkpoint's rtc_config has enabled: false; guided stitching was asked for and is on")
        policy.config.rtc_config = RTCConfig() if found is None else replace(found, enabled=True)
        policy.init_rtc_processor()


def guidance(left_over: Float[Tensor, "steps dof"], *, delay_steps: int) -> RealTimeChunking:
    """The arguments that lead a chunk on from normalised steps of the previous one.

    The first `delay_steps` are kept, the weight then falls to 0 over LeRobot's execution horizon behind them.
    """
    horizon = min(len(left_over), delay_steps + RTCConfig().execution_horizon)
    return {
        "prev_chunk_left_over": left_over[None],
        "inference_delay": delay_steps,
        "execution_horizon": horizon,
    }
