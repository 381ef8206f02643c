# SPDX-License-Identifier: Apache-2.0
"""LeRobot's pipelines around Sigma (rename, batch, device), and the three files by which it finds a checkpoint.

Sigma itself normalises, as its checkpoint says. lerobot-train hands its statistics to two steps by their
names; with the config's empty map these leave all as it is.
"""

from pathlib import Path
from typing import Any

from lerobot.processor import (
    AddBatchDimensionProcessorStep,
    DeviceProcessorStep,
    NormalizerProcessorStep,
    PolicyAction,
    PolicyProcessorPipeline,
    RenameObservationsProcessorStep,
    UnnormalizerProcessorStep,
)
from lerobot.processor.converters import policy_action_to_transition, transition_to_policy_action
from lerobot.utils.constants import POLICY_POSTPROCESSOR_DEFAULT_NAME, POLICY_PREPROCESSOR_DEFAULT_NAME

from sigma_ros.lerobot.configuration_sigma import SigmaPolicyConfig

Pipelines = tuple[
    PolicyProcessorPipeline[dict[str, Any], dict[str, Any]], PolicyProcessorPipeline[PolicyAction, PolicyAction]
]


def make_sigma_pre_post_processors(config: SigmaPolicyConfig, dataset_stats: object = None) -> Pipelines:
    """Pre- and post-processor; `dataset_stats` are not used, for a checkpoint's own statistics are its units."""
    before = PolicyProcessorPipeline[dict[str, Any], dict[str, Any]](
        steps=[
            RenameObservationsProcessorStep(rename_map={}),
            AddBatchDimensionProcessorStep(),
            DeviceProcessorStep(device=config.device or "cpu"),
            NormalizerProcessorStep(features={}, norm_map={}),
        ],
        name=POLICY_PREPROCESSOR_DEFAULT_NAME,
    )
    after = PolicyProcessorPipeline[PolicyAction, PolicyAction](
        steps=[UnnormalizerProcessorStep(features={}, norm_map={}), DeviceProcessorStep(device="cpu")],
        name=POLICY_POSTPROCESSOR_DEFAULT_NAME,
        to_transition=policy_action_to_transition,
        to_output=transition_to_policy_action,
    )
    return before, after


def write_lerobot_files(folder: Path, config: SigmaPolicyConfig) -> None:
    """Writes `config.json` and both pipelines; they hold no number of the checkpoint, which stays as it is."""
    config._save_pretrained(folder)  # noqa: SLF001 - LeRobot's own hook
    for pipeline in make_sigma_pre_post_processors(config):
        pipeline.save_pretrained(folder)


def contract_place(name: str) -> str:
    """A contract's name, or its file's absolute path, so that it is found from another working folder."""
    file = Path(name).expanduser()
    return str(file.resolve()) if file.is_file() else name
