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
from lerobot.utils.constants import OBS_STATE
from numpy import ndarray
from torch import Tensor

from sigma_ros.contract_file import load_contract
from sigma_ros.errors import SigmaError, UsageError
from sigma_ros.lerobot.configuration_sigma import SigmaPolicyConfig, refuse_training
from sigma_ros.lerobot.episode import RowEpisode, finite, schedule_of
from sigma_ros.lerobot.files import write_lerobot_files
from sigma_ros.model.checkpoint.manifest import HASHED_FILES
from sigma_ros.model.loading import find_sigma
from sigma_ros.model.pi05.places import CONFIG_FILE, MANIFEST_FILE
from sigma_ros.model.runtime import SigmaRuntime
from sigma_ros.policy.loop import PolicySettings
from sigma_ros.streams.images import letterbox
from sigma_ros.values import AdapterSettings


class SigmaPolicy(PreTrainedPolicy):
    """Sigma for LeRobot. `runtime` is what the rest of the package uses; `model` its network.

    Args:
        config: Says which checkpoint and which robot.
        **_: LeRobot's data-set statistics; a checkpoint's own count.

    Raises:
        SigmaError: the checkpoint cannot be loaded, or does not fit the contract.
    """

    config_class = SigmaPolicyConfig
    name = "sigma"
    config: SigmaPolicyConfig

    def __init__(self, config: SigmaPolicyConfig, **_: Any) -> None:
        super().__init__(config)
        self.runtime = _load(config)
        self.model = self.runtime.model
        self._settings = PolicySettings(
            schedule=schedule_of(config.n_action_steps, self.runtime),
            adapter=AdapterSettings(
                min_scale=config.min_scale, max_scale=config.max_scale, risk_temperature=config.risk_temperature
            ),
        )
        self._episodes: list[RowEpisode] = []

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
            **options: Fields of the config, such as `contract`.

        Raises:
            SigmaError: see the constructor.
        """
        if config is None:
            config = _config_at(str(pretrained_name_or_path), revision)
        changes = {name: value for name, value in options.items() if name in SigmaPolicyConfig.__dataclass_fields__}
        changes |= {"pretrained_path": Path(pretrained_name_or_path), "pretrained_revision": revision}
        policy = cls(replace(config, **changes))
        policy.eval()
        return policy

    def _save_pretrained(self, save_directory: Path, state_dict: Mapping[str, Tensor] | None = None) -> None:
        """The checkpoint's own files, byte for byte, and LeRobot's beside them; a base is named, not copied."""
        source = find_sigma(self.runtime.info.source)
        is_sigma = (source.path / MANIFEST_FILE).is_file()
        for name in (MANIFEST_FILE, "README.md", *HASHED_FILES) if is_sigma else ():
            if (source.path / name).is_file():
                shutil.copyfile(source.path / name, save_directory / name)
        changes: dict[str, Any] = {"pretrained_path": None, "pretrained_revision": None}
        changes["checkpoint"] = None if is_sigma else self.runtime.info.source
        write_lerobot_files(save_directory, replace(self.config, **changes))

    def reset(self) -> None:
        """Forgets windows, memories and chunks of all environments."""
        self._episodes = []

    def get_optim_params(self) -> NoReturn:
        """LeRobot's trainer does not train Sigma.

        Raises:
            UsageError: always; it names the trainer.
        """
        refuse_training("SigmaPolicy.get_optim_params")

    def forward(self, batch: Mapping[str, Tensor]) -> NoReturn:
        """LeRobot's trainer does not train Sigma.

        Raises:
            UsageError: always; it names the trainer.
        """
        refuse_training("SigmaPolicy.forward")

    def select_action(self, batch: Mapping[str, Any], **asked: Any) -> Float[Tensor, "batch dof"]:
        """The next action of each environment, in the contract's policy units.

        Args:
            batch: One observation of each environment: the contract's cameras ([batch, 3, h, w], floats in 0..1 or
                bytes), `observation.state`, `task`.
            **asked: Noise and the like are refused: the noise follows seed and tick.

        Raises:
            SigmaError: the observation does not fit the contract.
        """
        return self._observe(batch, asked)[:, 0]

    def predict_action_chunk(self, batch: Mapping[str, Any], **asked: Any) -> Float[Tensor, "batch horizon dof"]:
        """A chunk planned at this very observation, which counts as the next tick; otherwise as `select_action`."""
        return self._observe(batch, asked, plan_now=True)

    @torch.no_grad()
    def _observe(
        self, batch: Mapping[str, Any], asked: Mapping[str, Any], *, plan_now: bool = False
    ) -> Float[Tensor, "batch steps dof"]:
        refused = sorted(name for name, value in asked.items() if value is not None)
        if refused:
            raise UsageError("Sigma makes its own noise and is not guided here", got=", ".join(refused))
        contract = self.runtime.contract
        states = finite(self._part(batch, OBS_STATE).double().cpu().numpy(), OBS_STATE)
        if states.ndim != 2 or states.shape[1] != contract.dof:
            raise SigmaError("the state is not the contract's", expected=f"[batch, {contract.dof}]", got=states.shape)
        pictures = {c.name: self._pictures(batch, c.dataset_key, len(states)) for c in contract.cameras}
        tasks = self._tasks(batch.get("task"), len(states))
        episodes = self._rows(len(states))
        for row, episode in enumerate(episodes):
            images = {name: some[row] for name, some in pictures.items()}
            episode.observe(images, contract.to_rad(states[row]), task=tasks[row], plan_now=plan_now)
        remaining = [episode.actions_rad() for episode in episodes]
        shortest = min(len(steps) for steps in remaining)
        actions = contract.to_policy(np.stack([steps[:shortest] for steps in remaining]))
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

    def _pictures(self, batch: Mapping[str, Any], key: str, count: int) -> list[UInt8[ndarray, "size size 3"]]:
        images = self._part(batch, key)
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
                remedy="""map the names with --rename_map='{"observation.images.front": "observation.images.up"}'""",
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


def _load(config: SigmaPolicyConfig) -> SigmaRuntime:
    checkpoint = config.checkpoint or config.pretrained_path
    if checkpoint is None:
        raise UsageError(
            "no checkpoint is named",
            where="--policy.type=sigma",
            remedy="--policy.checkpoint=mini, a folder or a Hub id; or --policy.path=FOLDER",
        )
    return SigmaRuntime.load(
        str(checkpoint),
        contract=load_contract(config.contract),
        device=config.device or "auto",
        dtype=config.dtype,
        seed=config.seed,
        allow_untrained=config.allow_untrained,
        base=config.base,
        revision=None if config.base else config.pretrained_revision,
        tokenizer=config.tokenizer,
        rename=config.rename,
    )
