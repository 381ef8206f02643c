# SPDX-License-Identifier: Apache-2.0
"""A robot of LeRobot that is not there: its joints wave, its pictures change, and it keeps what it was sent."""

import json
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from lerobot.robots import Robot, RobotConfig

JOINTS = tuple(
    f"{name}.pos" for name in ("shoulder_pan", "shoulder_lift", "elbow_flex", "wrist_flex", "wrist_roll", "gripper")
)
CAMERAS = ("up", "side")


def observation(number: int) -> dict[str, Any]:
    """The one with this number since the robot was connected."""
    pose = 20.0 * np.sin(0.2 * number + np.arange(6)) + 30.0 * (np.arange(6) == 5)
    seen: dict[str, Any] = {name: float(value) for name, value in zip(JOINTS, pose, strict=True)}
    for index, camera in enumerate(CAMERAS):
        picture = np.full((480, 640, 3), 40 + 60 * index, dtype=np.uint8)
        picture[100:180, (8 * number) % 560 :][:, :80] = 220
        seen[camera] = picture
    return seen


@RobotConfig.register_subclass("waving_arm")
@dataclass
class WavingArmConfig(RobotConfig):
    """`log`: file for the actions."""

    log: str = "actions.json"


class WavingArm(Robot):
    config_class = WavingArmConfig
    name = "waving_arm"
    is_connected = False
    is_calibrated = True

    def __init__(self, config: WavingArmConfig) -> None:
        super().__init__(config)
        self._log = Path(config.log)
        self._observed = 0
        self._sent: list[dict[str, float]] = []

    @cached_property
    def observation_features(self) -> dict[str, Any]:
        return {**dict.fromkeys(JOINTS, float), **dict.fromkeys(CAMERAS, (480, 640, 3))}

    @cached_property
    def action_features(self) -> dict[str, Any]:
        return dict.fromkeys(JOINTS, float)

    def connect(self, calibrate: bool = True) -> None:
        self.is_connected = True

    def calibrate(self) -> None:
        """Is always."""

    def configure(self) -> None:
        """Nothing."""

    def get_observation(self) -> dict[str, Any]:
        self._observed += 1
        return observation(self._observed - 1)

    def send_action(self, action: dict[str, Any]) -> dict[str, Any]:
        self._sent.append({name: float(action[name]) for name in JOINTS})
        return action

    def disconnect(self) -> None:
        self.is_connected = False
        self._log.write_text(json.dumps(self._sent), encoding="utf-8")
