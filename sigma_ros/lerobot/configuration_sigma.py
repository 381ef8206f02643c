# SPDX-License-Identifier: Apache-2.0
"""`--policy.type=sigma`: what LeRobot's commands know of Sigma before anything is loaded.

LeRobot finds policy and processors by name: `modeling_sigma` and `processor_sigma` stand beside this module.
"""

from dataclasses import dataclass, field
from importlib import import_module
from typing import Any

from lerobot.configs import FeatureType, NormalizationMode, PolicyFeature, PreTrainedConfig
from lerobot.utils.constants import ACTION, OBS_IMAGES, OBS_STATE

from sigma_ros.contract import Camera
from sigma_ros.contract_file import load_contract
from sigma_ros.errors import UsageError
from sigma_ros.policy.schedule import REPLAN_TICKS
from sigma_ros.starting import training_package
from sigma_ros.values import WINDOW_TICKS

CHUNK_STEPS = 50
"""Actions of a pi0.5 chunk; a policy with shorter ones uses the first of them."""


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
        rename: The contract's cameras -> those of a base without Sigma, as `--rename` elsewhere.
        cameras: The contract's cameras -> what a data set, robot or environment calls them, as `{"up": "front"}`.
        n_action_steps: Ticks between two chunks.
        min_scale: Least scale of the residual.
        max_scale: Largest scale of the residual; 0 is the base alone.
        risk_temperature: How much risk halves the scale; more is bolder.
        train_windows: For lerobot-train: so many windows of 16 ticks, up to the drawn frame, the memory goes through.
        late_ticks: For lerobot-train: largest latency that is drawn for a window.
        gradient_checkpointing: For lerobot-train: less memory for more time.
        normalization_mapping: Empty, which is LeRobot's word for as it is: Sigma normalises by its checkpoint.
    """

    checkpoint: str | None = None
    contract: str = "so101"
    base: str | None = None
    tokenizer: str | None = None
    dtype: str = "auto"
    seed: int = 0
    allow_untrained: bool = False
    rename: dict[str, str] = field(default_factory=dict)
    cameras: dict[str, str] = field(default_factory=dict)
    n_action_steps: int = REPLAN_TICKS
    min_scale: float = 0.0
    max_scale: float = 1.0
    risk_temperature: float = 1.0
    train_windows: int = 4
    late_ticks: int = 15
    gradient_checkpointing: bool = True
    normalization_mapping: dict[str, NormalizationMode] = field(default_factory=dict)
    push_to_hub: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        robot = load_contract(self.contract)
        unknown = sorted(set(self.cameras) - {camera.name for camera in robot.cameras})
        if unknown or self.train_windows < 1 or self.late_ticks < 0 or self.normalization_mapping:
            raise UsageError(
                "the policy's options make no sense",
                where=f"contract {robot.name}",
                expected=f"cameras {', '.join(c.name for c in robot.cameras)}; train_windows >= 1; late_ticks >= 0; "
                "no normalization_mapping, for the checkpoint has its own",
                got=f"cameras {', '.join(self.cameras)}; {self.train_windows}; {self.late_ticks}; "
                f"{', '.join(self.normalization_mapping)}",
            )
        self.input_features = {
            OBS_STATE: PolicyFeature(type=FeatureType.STATE, shape=(robot.dof,)),
            **{
                self.observed_key(c): PolicyFeature(type=FeatureType.VISUAL, shape=(3, c.height_px, c.width_px))
                for c in robot.cameras
            },
        }
        self.output_features = {ACTION: PolicyFeature(type=FeatureType.ACTION, shape=(robot.dof,))}

    def observed_key(self, camera: Camera) -> str:
        """A camera's key in observations."""
        own = self.cameras.get(camera.name)
        return camera.dataset_key if own is None else f"{OBS_IMAGES}.{own.removeprefix(OBS_IMAGES + '.')}"

    @property
    def observation_delta_indices(self) -> list[int]:
        """Of a training sample: consecutive windows up to the drawn frame. Elsewhere the policy keeps its window."""
        return list(range(1 - WINDOW_TICKS * self.train_windows, 1))

    @property
    def action_delta_indices(self) -> list[int]:
        """Of a training sample: a chunk's actions from the newest tick of each window on."""
        return list(range(-WINDOW_TICKS * (self.train_windows - 1), CHUNK_STEPS))

    @property
    def reward_delta_indices(self) -> None:
        """None: there are no rewards."""
        return

    @property
    def drop_n_last_frames(self) -> int:
        """A window counts when the first 16 actions from its newest tick on were recorded."""
        return WINDOW_TICKS - 1

    def get_optimizer_preset(self) -> Any:
        """That of `training.train`."""
        return in_lerobot().optimizer_preset()

    def get_scheduler_preset(self) -> Any:
        """That of `training.train`, over LeRobot's `--steps`."""
        return in_lerobot().scheduler_preset(self.get_optimizer_preset().lr)

    def validate_features(self) -> None:
        """Nothing: the features are the contract's."""


def in_lerobot() -> Any:
    """The training package's step for LeRobot's loop."""
    return import_module(f"{training_package().__name__}.in_lerobot.step")
