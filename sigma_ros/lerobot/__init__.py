# SPDX-License-Identifier: Apache-2.0
"""Sigma as a policy and the simulator as an environment of LeRobot's own commands; see docs/lerobot.md."""

from sigma_ros.model.pi05.lerobot_symbols import PLUGIN, check

check(PLUGIN)
