# SPDX-License-Identifier: Apache-2.0
"""`SigmaPolicy`: Sigma behind LeRobot's policy interface, for `lerobot-eval`, `lerobot-rollout` and the like.

Its chunks are `SigmaRuntime`'s. Every row of a batch is an environment of its own, with its own window and memory;
each observation is one tick of the contract's rate. There is no supervisor behind it: see docs/lerobot.md.
"""

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NoReturn, Self

import numpy as np
import torch
from jaxtyping import Float, UInt8
from lerobot.configs import PreTrainedConfig
from lerobot.policies.pretrained import PreTrainedPolicy
from lerobot.utils.constants import ACTION, OBS_STATE
from numpy import ndarray
from torch import Tensor

from sigma_ros.camera_names import read_rename
from sigma_ros.contract_file import load_contract
from sigma_ros.conventions import DEGREES_REMEDY, of_pose
from sigma_ros.errors import SigmaError, UsageError
from sigma_ros.lerobot.configuration_sigma import SigmaPolicyConfig, in_lerobot
from sigma_ros.lerobot.data import check_cameras, checked_statistics
from sigma_ros.lerobot.episode import RowEpisode, finite, schedule_of
from sigma_ros.lerobot.processor_sigma import write_lerobot_files
from sigma_ros.model.checkpoint.folder import identify, save_checkpoint
from sigma_ros.model.checkpoint.manifest import HASHED_FILES, Training, read_manifest
from sigma_ros.model.loading import find_sigma
from sigma_ros.model.pi05.places import CONFIG_FILE, MANIFEST_FILE, check_pushable
from sigma_ros.model.runtime import SigmaRuntime
from sigma_ros.policy.loop import PolicySettings
from sigma_ros.streams.images import letterbox
from sigma_ros.values import AdapterSettings


class SigmaPolicy(PreTrainedPolicy):
    """Sigma for LeRobot. `runtime` is what the rest of the package uses; `model` its network.

    Args:
        config: Says which checkpoint and which robot.
        dataset_meta: lerobot-train's; must be of the contract, and gives a bare base its statistics.
        **_: What else LeRobot hands to its policies.

    Raises:
        SigmaError: the checkpoint cannot be loaded, or it or the data set does not fit the contract.
    """

    config_class = SigmaPolicyConfig
    name = "sigma"
    config: SigmaPolicyConfig

    def __init__(self, config: SigmaPolicyConfig, dataset_meta: Any = None, **_: Any) -> None:
        super().__init__(config)
        self.runtime = _load(config, dataset_meta)
        self.model = self.runtime.model
        if dataset_meta is not None and config.push_to_hub:
            check_pushable(config.repo_id or "", base=self.runtime.info.base.source)
        self._settings = PolicySettings(
            schedule=schedule_of(config.n_action_steps, self.runtime),
            adapter=AdapterSettings(
                min_scale=config.min_scale, max_scale=config.max_scale, risk_temperature=config.risk_temperature
            ),
        )
        self._episodes: list[RowEpisode] = []
        self._step: Any = None
        self._steps = 0

    @classmethod
    def from_pretrained(
        cls,
        pretrained_name_or_path: str | Path,
        *,
        config: SigmaPolicyConfig | None = None,
        revision: str | None = None,
        **options: Any,
    ) -> Self:
        """A Sigma checkpoint or base, by folder or Hub id, with our strict loader.

        Args:
            pretrained_name_or_path: Folder or Hub id; need not have LeRobot's `config.json`.
            config: Instead of the one that is there.
            revision: Of a Hub id.
            **options: Fields of the config, such as `contract`; else as the constructor's.

        Raises:
            SigmaError: see the constructor.
        """
        if config is None:
            config = _config_at(str(pretrained_name_or_path), revision)
        known = SigmaPolicyConfig.__dataclass_fields__
        changes = {name: options.pop(name) for name in list(options) if name in known}
        changes |= {"pretrained_path": Path(pretrained_name_or_path), "pretrained_revision": revision}
        if (find_sigma(str(pretrained_name_or_path), revision=revision).path / MANIFEST_FILE).is_file():
            changes["checkpoint"] = None  # a resumed run's config still names what it began with
        policy = cls(replace(config, **changes), **options)
        policy.eval()
        return policy

    def _save_pretrained(self, save_directory: Path, state_dict: Mapping[str, Tensor] | None = None) -> None:
        """The checkpoint's own files, byte for byte, or what was trained, and LeRobot's beside them.

        A base is named, not copied.
        """
        source = find_sigma(self.runtime.info.source)
        is_sigma = self._steps > 0 or (source.path / MANIFEST_FILE).is_file()
        if self._steps:
            self._save_trained(save_directory, source.path)
        elif is_sigma:
            for name in (MANIFEST_FILE, "README.md", *HASHED_FILES):
                if (source.path / name).is_file():
                    shutil.copyfile(source.path / name, save_directory / name)
        changes: dict[str, Any] = {"pretrained_path": None, "pretrained_revision": None}
        changes["checkpoint"] = None if is_sigma else self.runtime.info.source
        write_lerobot_files(save_directory, replace(self.config, **changes))

    def _save_trained(self, folder: Path, began_with: Path) -> None:
        runtime, before = self.runtime, began_with / MANIFEST_FILE
        earlier = read_manifest(began_with)[0].training.steps if before.is_file() else 0
        self.model.references = self._step.references()
        save_checkpoint(
            self.model,
            folder / "partial",
            base=identify(self.model, runtime.info.base),
            training=Training(
                trained=True,
                steps=earlier + self._steps,
                command="lerobot-train --policy.type=sigma (its options: train_config.json)",
            ),
            normalisation=runtime.normalisation,
            rename=runtime.inputs.mapping.renamed(runtime.contract, self.model.backbone.camera_keys),
        )
        for file in (folder / "partial").iterdir():
            file.replace(folder / file.name)
        (folder / "partial").rmdir()

    def reset(self) -> None:
        """Forgets windows, memories and chunks of all environments."""
        self._episodes = []

    def get_optim_params(self) -> list[Tensor]:
        """Heads and adapters; the base stays as it is."""
        return list(self.model.trained().values())

    def wrap_with_peft(self, peft_config: Any = None, peft_cli_overrides: Any = None) -> NoReturn:
        """Refused: Sigma brings its adapters, and nothing else of the base may change.

        Raises:
            UsageError: always.
        """
        raise UsageError(
            "Sigma trains low-rank adapters of its own", got="--peft", remedy="leave --peft out; the base is frozen"
        )

    def forward(self, batch: Mapping[str, Any]) -> tuple[Tensor, dict[str, float]]:
        """The loss of a batch of lerobot-train and its parts, by the names of `training/losses.py`.

        Args:
            batch: Cameras [batch, ticks, 3, h, w], `observation.state` [batch, ticks, dof] and `action`
                [batch, steps, dof] at the config's delta indices, with their `_is_pad`; `task`.

        Raises:
            SigmaError: the batch does not fit the contract.
        """
        if self._step is None:
            options = {
                "late_ticks": self.config.late_ticks,
                "gradient_checkpointing": self.config.gradient_checkpointing,
            }
            self._step = in_lerobot().DrawnLosses(self.runtime, **options)
        return self._step.loss(self._drawn(batch))

    def update(self) -> None:
        """LeRobot's call after each optimiser step."""
        self._steps += 1

    def _drawn(self, batch: Mapping[str, Any]) -> Any:
        contract = self.runtime.contract
        ticks, steps = len(self.config.observation_delta_indices), len(self.config.action_delta_indices)
        states, actions = (self._part(batch, key).float().cpu().numpy() for key in (OBS_STATE, ACTION))
        finite(states, OBS_STATE), finite(actions, ACTION)
        forms = ((ticks, contract.dof), (steps, contract.dof))
        if (states.shape[1:], actions.shape[1:]) != forms:
            raise SigmaError("the batch is not of this policy", expected=forms, got=(states.shape, actions.shape))
        pictures = []
        for camera in contract.cameras:
            key = self.config.observed_key(camera)
            flat = self._pictures(self._part(batch, key).flatten(0, 1), key, len(states) * ticks)
            pictures.append(np.stack(flat).reshape(len(states), ticks, *flat[0].shape))
        return in_lerobot().Drawn(
            pictures=np.stack(pictures, axis=2),
            states=states,
            valid=~self._part(batch, f"{OBS_STATE}_is_pad").bool(),
            actions=actions,
            acted=~self._part(batch, f"{ACTION}_is_pad").bool(),
            tasks=self._tasks(batch.get("task"), len(states)),
        )

    def select_action(self, batch: Mapping[str, Any], **asked: Any) -> Float[Tensor, "batch dof"]:
        """The next action of each environment, in the contract's policy units.

        Args:
            batch: One observation of each environment: the contract's cameras ([batch, 3, h, w], floats in 0..1 or
                bytes), `observation.state`, `task`.
            **asked: Noise and the like are refused: the noise follows seed and tick.

        Raises:
            SigmaError: the observation does not fit the contract.
        """
        self._observe(batch, asked)
        return self._actions()[:, 0]

    def predict_action_chunk(self, batch: Mapping[str, Any], **asked: Any) -> Float[Tensor, "batch horizon dof"]:
        """A chunk planned at this very observation, which counts as the next tick; otherwise as `select_action`."""
        self._observe(batch, asked, plan=True)
        return self._actions()

    def notice(self, batch: Mapping[str, Any]) -> None:
        """The next tick of window and memory, on which nothing is planned; for a server that plans on few."""
        self._observe(batch, {}, plan=False)

    def pass_ticks(self, count: int) -> None:
        """Ticks of which there is no observation."""
        for episode in self._episodes:
            episode.pass_ticks(count)

    @torch.no_grad()
    def _observe(self, batch: Mapping[str, Any], asked: Mapping[str, Any], *, plan: bool | None = None) -> None:
        refused = sorted(name for name, value in asked.items() if value is not None)
        if refused:
            raise UsageError("Sigma makes its own noise and is not guided here", got=", ".join(refused))
        contract = self.runtime.contract
        states = finite(self._part(batch, OBS_STATE).double().cpu().numpy(), OBS_STATE)
        if states.ndim != 2 or states.shape[1] != contract.dof:
            raise SigmaError("the state is not the contract's", expected=f"[batch, {contract.dof}]", got=states.shape)
        if foreign := next(filter(None, (of_pose(contract, state) for state in states)), ""):
            where = f"{OBS_STATE}, contract {contract.name}"
            raise SigmaError("the arm is not in the contract's units", where=where, got=foreign, remedy=DEGREES_REMEDY)
        keys = {camera.name: self.config.observed_key(camera) for camera in contract.cameras}
        pictures = {name: self._pictures(self._part(batch, key), key, len(states)) for name, key in keys.items()}
        tasks = self._tasks(batch.get("task"), len(states))
        for row, episode in enumerate(self._rows(len(states))):
            images = {name: some[row] for name, some in pictures.items()}
            episode.observe(images, contract.to_rad(states[row]), task=tasks[row], plan=plan)

    def _actions(self) -> Float[Tensor, "batch steps dof"]:
        remaining = [episode.actions_rad() for episode in self._episodes]
        shortest = min(len(steps) for steps in remaining)
        actions = self.runtime.contract.to_policy(np.stack([steps[:shortest] for steps in remaining]))
        return torch.from_numpy(actions.astype(np.float32)).to(self.runtime.model.backbone.device)

    def _rows(self, count: int) -> list[RowEpisode]:
        if not self._episodes:
            self._episodes = [RowEpisode(self.runtime, self._settings) for _ in range(count)]
        if len(self._episodes) != count:
            raise SigmaError(
                "the number of environments changed within an episode",
                expected=len(self._episodes),
                got=count,
                remedy="call reset() before another batch of environments",
            )
        return self._episodes

    def _pictures(self, images: Tensor, key: str, count: int) -> list[UInt8[ndarray, "size size 3"]]:
        if images.ndim != 4 or images.shape[:2] != (count, 3):
            raise SigmaError(f"{key} is not a batch of pictures", expected=f"[{count}, 3, h, w]", got=images.shape)
        if images.is_floating_point():
            finite(images.amax(dim=(1, 2, 3)).float().cpu().numpy(), key)
            if float(images.min()) < 0.0 or float(images.max()) > 1.0:
                raise SigmaError(f"{key} is out of range", expected="0 to 1, or bytes")
            images = (images * 255.0).round().to(torch.uint8)
        pixels = images.permute(0, 2, 3, 1).contiguous().cpu().numpy()
        return [letterbox(one, self.runtime.image_size_px) for one in pixels]

    def _part(self, batch: Mapping[str, Any], key: str) -> Tensor:
        if not isinstance(batch.get(key), Tensor):
            raise SigmaError(
                f"the observation lacks {key}",
                where=f"contract {self.runtime.contract.name}",
                got=", ".join(sorted(name for name, value in batch.items() if isinstance(value, Tensor))),
                remedy="""map the names with --rename_map='{"observation.images.front": "observation.images.up"}' or """
                """--policy.cameras='{"up": "front"}'""",
            )
        return batch[key]

    def _tasks(self, tasks: str | Sequence[str] | None, count: int) -> list[str]:
        """Texts of the rows; where there is none, the contract's first."""
        given = [tasks] * count if isinstance(tasks, str) else list(tasks or [""] * count)
        if len(given) != count:
            raise SigmaError("not every environment has a task", expected=count, got=len(given))
        default = next(iter(self.runtime.contract.tasks), "")
        if not all(given) and not default:
            raise SigmaError("there is no task", where=f"contract {self.runtime.contract.name}", expected="a text")
        return [text or default for text in given]


SigmaPolicyPolicy = SigmaPolicy
"""LeRobot derives the policy's name from the config's: `SigmaPolicyConfig` without `Config`, and `Policy`."""


def _config_at(checkpoint: str, revision: str | None) -> SigmaPolicyConfig:
    """The config beside a checkpoint, if it is Sigma's; else the defaults."""
    place = find_sigma(checkpoint, revision=revision)
    if not (place.path / CONFIG_FILE).is_file():
        return SigmaPolicyConfig()
    config = PreTrainedConfig.from_pretrained(place.path)
    return config if isinstance(config, SigmaPolicyConfig) else SigmaPolicyConfig()


def _load(config: SigmaPolicyConfig, dataset_meta: Any) -> SigmaRuntime:
    contract = load_contract(config.contract)
    known = None
    if dataset_meta is not None:
        keys = {camera.name: config.observed_key(camera) for camera in contract.cameras}
        check_cameras(dataset_meta, keys, config.pretrained_path)
        known = checked_statistics(dataset_meta, contract)
    checkpoint = config.checkpoint or config.pretrained_path
    if checkpoint is None:
        raise UsageError(
            "no checkpoint is named",
            where="--policy.type=sigma",
            remedy="--policy.checkpoint=mini, a folder or a Hub id; or --policy.path=FOLDER",
        )
    return SigmaRuntime.load(
        str(checkpoint),
        contract=contract,
        device=config.device or "auto",
        dtype=config.dtype,
        seed=config.seed,
        allow_untrained=config.allow_untrained,
        base=config.base,
        revision=None if config.base else config.pretrained_revision,
        tokenizer=config.tokenizer,
        rename=read_rename([f"{old}={new}" for old, new in config.rename.items()]),
        statistics=known if known and known.state.mode == "QUANTILES" else None,
    )
