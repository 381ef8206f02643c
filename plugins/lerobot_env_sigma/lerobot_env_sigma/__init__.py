# SPDX-License-Identifier: Apache-2.0
"""LeRobot imports this by its name; the import registers `--env.type=sigma_sim`."""

from sigma_ros.lerobot.configuration_sim import SigmaSimConfig

__all__ = ["SigmaSimConfig"]
