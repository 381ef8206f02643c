# SPDX-License-Identifier: Apache-2.0
"""Turns what a user names as a checkpoint into a model that fits the contract, or into one clear error."""

from dataclasses import dataclass
from pathlib import Path

from sigma_ros.contract import Contract
from sigma_ros.errors import CheckpointError, ContractError
from sigma_ros.model.base_checkpoint import BaseInfo, LoadedBase, load_base
from sigma_ros.model.base_folder import checkpoint_folder
from sigma_ros.model.checkpoint import identify, load_trained
from sigma_ros.model.manifest import HEADS_FILE, MANIFEST_FILE, Manifest, read_manifest
from sigma_ros.model.normalise import Normalisation
from sigma_ros.model.settings import SigmaConfig
from sigma_ros.model.sigma import SigmaTelepathyVLA


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckpointInfo:
    """What is loaded. `hash` is that of the Sigma checkpoint, or of the base's weights where there is none.

    `trained` is False when the base has random weights; `sigma_trained` when the residual is zero by construction.
    """

    hash: str
    trained: bool
    sigma_trained: bool
    source: str
    base: BaseInfo
    sigma_parameters: int

    def summary(self) -> str:
        """One line for logs and reports; the first word says whether the weights are random."""
        state = "trained" if self.trained else "UNTRAINED (random weights)"
        sigma = "trained" if self.sigma_trained else "untrained, residual 0"
        return (
            f"{state}: {self.source}, base {self.base.parameters / 1e6:.1f} M parameters, "
            f"Sigma {self.sigma_parameters / 1e6:.1f} M ({sigma}), {self.base.dtype} on {self.base.device}, "
            f"{self.base.weight_bytes / 1e9:.2f} GB, hash {self.hash[:12]}"
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadedParts:
    """Model and statistics for one contract."""

    model: SigmaTelepathyVLA
    normalisation: Normalisation
    info: CheckpointInfo


def load_parts(
    checkpoint: str,
    *,
    contract: Contract,
    device: str,
    dtype: str,
    allow_untrained: bool,
    base: str | None,
    revision: str | None,
    tokenizer: str | None,
) -> LoadedParts:
    """See `SigmaRuntime.load`."""
    folder = checkpoint_folder(checkpoint)
    manifest, digest = read_manifest(folder) if (folder / MANIFEST_FILE).is_file() else (None, None)
    loaded = load_base(
        _base_source(checkpoint, manifest, base),
        revision=revision if manifest is None or base is not None else manifest.base.revision,
        device=device,
        dtype=dtype,
        tokenizer=tokenizer,
        allow_untrained=allow_untrained,
    )
    normalisation = _normalisation(checkpoint, manifest, loaded)
    _check_contract(contract, loaded, normalisation)
    model = _model(manifest, folder, loaded, contract)
    info = CheckpointInfo(
        hash=digest or loaded.info.weights_hash,
        trained=loaded.info.trained,
        sigma_trained=manifest is not None and manifest.training.trained,
        source=checkpoint,
        base=loaded.info,
        sigma_parameters=sum(parameter.numel() for parameter in model.trained().values()),
    )
    return LoadedParts(model=model, normalisation=normalisation, info=info)


def _base_source(checkpoint: str, manifest: Manifest | None, base: str | None) -> str:
    if base is not None:
        return base
    return checkpoint if manifest is None else manifest.base.source


def _normalisation(checkpoint: str, manifest: Manifest | None, loaded: LoadedBase) -> Normalisation:
    own = None if manifest is None else manifest.normalisation
    if own is None:
        own = loaded.normalisation
    if own is None:
        raise CheckpointError(
            "the checkpoint has no normalisation statistics",
            where=checkpoint,
            expected="q01 and q99 of states and actions in normalisation.json or policy_preprocessor.json",
            remedy="use a fine-tuned policy or a Sigma checkpoint; the bare pi0.5 base knows no robot's units",
        )
    return own


def _check_contract(contract: Contract, loaded: LoadedBase, normalisation: Normalisation) -> None:
    keys = loaded.backbone.camera_keys
    foreign = [camera for camera in contract.cameras if camera.model_key not in keys]
    if foreign:
        raise ContractError(
            "the policy does not have the contract's cameras",
            where=f"contract {contract.name}: " + ", ".join(f"{c.name} -> {c.model_key}" for c in foreign),
            expected=f"model_key one of {', '.join(keys)}",
            remedy=f"change model_key in the contract, or make a small model for it: "
            f"sigma model make-mini --contract {contract.name} --out DIR",
        )
    if normalisation.state.dof != contract.dof or contract.dof > loaded.backbone.max_dof:
        raise ContractError(
            "the policy does not have the contract's joints",
            where=f"contract {contract.name}",
            expected=f"{normalisation.state.dof} joints, as in the checkpoint's statistics",
            got=f"{contract.dof}: {', '.join(contract.joint_names)}",
            remedy="use the contract of the robot the policy was trained for",
        )


def _model(manifest: Manifest | None, folder: Path, loaded: LoadedBase, contract: Contract) -> SigmaTelepathyVLA:
    if manifest is None:
        return SigmaTelepathyVLA(loaded.backbone, SigmaConfig.for_backbone(loaded.backbone, dof=contract.dof))
    model = SigmaTelepathyVLA(loaded.backbone, manifest.settings)
    identity = identify(model, loaded.info)
    manifest.base.check(identity, where=folder)
    load_trained(model, manifest, heads_path=folder / HEADS_FILE, lora_dir=folder)
    return model
