# SPDX-License-Identifier: Apache-2.0
"""The one list of what the project touches of LeRobot: another LeRobot is named as such, not by an ImportError."""

import importlib
import importlib.metadata
from collections.abc import Mapping

from sigma_ros import __version__
from sigma_ros.errors import MachineError

WRITTEN_FOR = "0.6.1"
"""The LeRobot that the laws of equality were last held against; requirements/model.in pins it."""

Symbols = Mapping[str, tuple[str, ...]]
"""Module -> what is used of it; a dot reaches into a class."""

MODEL: Symbols = {
    "lerobot.configs": ("FeatureType", "NormalizationMode", "PolicyFeature"),
    "lerobot.lerobot_types": ("TransitionKey",),
    "lerobot.policies.common.flow_matching": ("euler_integrate",),
    "lerobot.policies.common.vla_utils": (
        "prepare_attention_masks_4d",
        "resize_with_pad_torch",
    ),
    "lerobot.policies.pi05": ("modeling_pi05",),
    "lerobot.policies.pi05.configuration_pi05": ("PI05Config",),
    "lerobot.policies.pi05.modeling_pi05": (
        "PI05Policy",
        "PI05Policy.init_rtc_processor",
        "PI05Pytorch",
        "PI05Pytorch.denoise_step",
        "PI05Pytorch.embed_suffix",
        "PI05Pytorch._rtc_enabled",
        "GemmaConfig",
        "PaliGemmaForConditionalGenerationWithPiGemma",
        "PiGemmaForCausalLM",
        "get_gemma_config",
    ),
    "lerobot.policies.rtc.configuration_rtc": ("RTCConfig",),
    "lerobot.processor": ("ProcessorStepRegistry",),
    "lerobot.processor.normalize_processor": ("NormalizerProcessorStep", "UnnormalizerProcessorStep"),
    "lerobot.processor.relative_action_processor": (
        "RelativeActionsProcessorStep",
        "RelativeActionsProcessorStep._build_mask",
    ),
    "lerobot.utils.constants": ("ACTION", "OBS_STATE"),
}
"""Of the network: checked when `sigma_ros.model` is imported."""

PLUGIN: Symbols = {
    "lerobot.configs": ("FeatureType", "NormalizationMode", "PolicyFeature", "PreTrainedConfig"),
    "lerobot.configs.parser": ("get_path_arg", "parse_arg"),
    "lerobot.envs": ("EnvConfig",),
    "lerobot.policies.pretrained": ("PreTrainedPolicy",),
    "lerobot.processor": (
        "AddBatchDimensionProcessorStep",
        "DeviceProcessorStep",
        "NormalizerProcessorStep",
        "PolicyAction",
        "PolicyProcessorPipeline",
        "RenameObservationsProcessorStep",
        "UnnormalizerProcessorStep",
    ),
    "lerobot.processor.converters": ("policy_action_to_transition", "transition_to_policy_action"),
    "lerobot.utils.constants": (
        "ACTION",
        "OBS_IMAGES",
        "OBS_STATE",
        "POLICY_POSTPROCESSOR_DEFAULT_NAME",
        "POLICY_PREPROCESSOR_DEFAULT_NAME",
    ),
}
"""Of `sigma_ros.lerobot`: checked when that is imported."""

ELSEWHERE: Symbols = {
    "lerobot.datasets.dataset_metadata": ("CODEBASE_VERSION",),
    "lerobot.datasets.io_utils": ("load_info", "write_info"),
    "lerobot.datasets.lerobot_dataset": ("LeRobotDataset",),
    "lerobot.async_inference.constants": ("SUPPORTED_POLICIES",),
    "lerobot.async_inference.helpers": ("TimedObservation", "raw_observation_to_observation"),
    "lerobot.async_inference.policy_server": ("PolicyServer",),
    "lerobot.async_inference": ("policy_server",),
    "lerobot.datasets.utils": ("create_lerobot_dataset_card",),
    "lerobot.optim.optimizers": ("AdamWConfig",),
    "lerobot.optim.schedulers": ("CosineDecayWithWarmupSchedulerConfig",),
    "lerobot.policies.common.vla_utils": ("resize_with_pad_torch",),
    "lerobot.robots.so_follower": ("SO101Follower", "SO101FollowerConfig"),
    "lerobot.transforms": ("ImageTransformConfig", "ImageTransforms", "ImageTransformsConfig"),
}
"""Of data sets, driver and training: heavy or optional, so nothing checks them before they are needed."""


def check(symbols: Symbols) -> None:
    """Refuses a LeRobot that lacks one of them.

    Raises:
        MachineError: it names both versions and everything that is missing.
    """
    missing = [f"{module}.{name}" for module, names in symbols.items() for name in _missing(module, names)]
    if missing:
        raise MachineError(
            f"the installed LeRobot lacks what sigma_ros {__version__} is written for",
            where=f"lerobot {_installed()}",
            expected=f"lerobot {WRITTEN_FOR}",
            got=f"without {', '.join(missing)}",
            remedy=f'install it into this environment: pip install "lerobot[dataset,peft,pi]=={WRITTEN_FOR}"',
        )


def _missing(module: str, names: tuple[str, ...]) -> tuple[str, ...]:
    try:
        found = importlib.import_module(module)
    except ImportError:
        return names
    return tuple(name for name in names if not _has(found, name))


def _has(holder: object, name: str) -> bool:
    for part in name.split("."):
        if not hasattr(holder, part):
            return False
        holder = getattr(holder, part)
    return True


def _installed() -> str:
    try:
        return importlib.metadata.version("lerobot")
    except importlib.metadata.PackageNotFoundError:
        return "none"
