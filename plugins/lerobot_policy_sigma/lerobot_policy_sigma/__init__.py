# SPDX-License-Identifier: Apache-2.0
"""LeRobot imports this by its name; the import registers `--policy.type=sigma`."""

from sigma_ros.lerobot.configuration_sigma import SigmaPolicyConfig

__all__ = ["SigmaPolicyConfig"]
