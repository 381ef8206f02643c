# SPDX-License-Identifier: Apache-2.0
"""`--policy.type=sigma`: what LeRobot's commands know of Sigma before anything is loaded.

LeRobot finds policy and processors by name: `modeling_sigma` and `processor_sigma` stand beside this module.
"""

from dataclasses import dataclass, field
from typing import NoReturn

from lerobot.configs import FeatureType, PolicyFeature, PreTrainedConfig
from lerobot.utils.constants import ACTION, OBS_STATE

from sigma_ros.contract_file import load_contract
from sigma_ros.errors import UsageError
from sigma_ros.policy.schedule import REPLAN_TICKS


def refuse_training(asked: str) -> NoReturn:
    """Sigma's memory needs consecutive windows of an episode; LeRobot's sampler draws frames one by one.

    Raises:
        UsageError: always.
    """
    raise UsageError(
        "lerobot-train does not train Sigma",
        where=asked,
        expected="episodes window after window: the memory is carried from one to the next, lerobot-train shuffles",
        remedy="python -m training.preprocess --dataset DATASET --contract CONTRACT --out SHARDS, then "
        "python -m training.train --base_model_id BASE --dataset_dir SHARDS --output_dir OUT (docs/lerobot.md)",
    )


@PreTrainedConfig.register_subclass("sigma")
@dataclass
class SigmaPolicyConfig(PreTrainedConfig):
    """Options of `--policy.NAME`; states and actions are in the contract's `policy_unit`.

    Attributes:
        checkpoint: `mini`, a folder or a Hub id, of a Sigma or of a base pi0.5; None: where this config was found.
        contract: The robot: joints, units, and cameras by the names that the data set gives them.
        base: Where the base of a Sigma checkpoint is now, if not where the checkpoint says.
        tokenizer: Folder or Hub id, if not the checkpoint's own.
        dtype: `float32`, `bfloat16`, or `auto`.
        seed: Of the flow noise.
        allow_untrained: Accept a base that says it has random weights.
        rename: Keys of the contract's cameras -> those of a base without Sigma, as `--rename` elsewhere.
        n_action_steps: Ticks between two chunks.
        min_scale: Least scale of the residual.
        max_scale: Largest scale of the residual; 0 is the base alone.
        risk_temperature: How much risk halves the scale; more is bolder.
    """

    checkpoint: str | None = None
    contract: str = "so101"
    base: str | None = None
    tokenizer: str | None = None
    dtype: str = "auto"
    seed: int = 0
    allow_untrained: bool = False
    rename: dict[str, str] = field(default_factory=dict)
    n_action_steps: int = REPLAN_TICKS
    min_scale: float = 0.0
    max_scale: float = 1.0
    risk_temperature: float = 1.0
    push_to_hub: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        robot = load_contract(self.contract)
        self.input_features = {
            OBS_STATE: PolicyFeature(type=FeatureType.STATE, shape=(robot.dof,)),
            **{
                c.dataset_key: PolicyFeature(type=FeatureType.VISUAL, shape=(3, c.height_px, c.width_px))
                for c in robot.cameras
            },
        }
        self.output_features = {ACTION: PolicyFeature(type=FeatureType.ACTION, shape=(robot.dof,))}

    @property
    def observation_delta_indices(self) -> None:
        """None: the policy keeps its window of 16 ticks itself."""
        return

    @property
    def action_delta_indices(self) -> None:
        """None: LeRobot's trainer does not train Sigma."""
        return

    @property
    def reward_delta_indices(self) -> None:
        """None: there are no rewards."""
        return

    def get_optimizer_preset(self) -> NoReturn:
        """The first thing `lerobot-train` asks for, before it reads any data.

        Raises:
            UsageError: always; it names the trainer.
        """
        refuse_training("--policy.type=sigma")

    def get_scheduler_preset(self) -> None:
        """None, as there is no optimizer."""
        return

    def validate_features(self) -> None:
        """Nothing: the features are the contract's."""
