# SPDX-License-Identifier: Apache-2.0
"""The three files that make a checkpoint folder one that LeRobot's `--policy.path` takes."""

from pathlib import Path

from sigma_ros.lerobot.configuration_sigma import SigmaPolicyConfig
from sigma_ros.lerobot.processor_sigma import make_sigma_pre_post_processors


def write_lerobot_files(folder: Path, config: SigmaPolicyConfig) -> None:
    """Writes `config.json` and both pipelines; they hold no number of the checkpoint, which stays as it is."""
    config._save_pretrained(folder)  # noqa: SLF001 - LeRobot's own hook
    for pipeline in make_sigma_pre_post_processors(config):
        pipeline.save_pretrained(folder)


def contract_place(name: str) -> str:
    """A contract's name, or its file's absolute path, so that it is found from another working folder."""
    file = Path(name).expanduser()
    return str(file.resolve()) if file.is_file() else name
