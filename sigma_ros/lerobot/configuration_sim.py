# SPDX-License-Identifier: Apache-2.0
"""`--env.type=sigma_sim`: the simulated arm as an environment of LeRobot's commands."""

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import gymnasium as gym
from lerobot.configs import FeatureType, PolicyFeature
from lerobot.envs import EnvConfig
from lerobot.utils.constants import ACTION, OBS_STATE

from sigma_ros.camera_names import IMAGES
from sigma_ros.contract import Contract
from sigma_ros.contract_file import load_contract
from sigma_ros.sim.tasks.task import PLACE


@EnvConfig.register_subclass("sigma_sim")
@dataclass
class SigmaSimConfig(EnvConfig):
    """Options of `--env.NAME`; states and actions are in the contract's `policy_unit`.

    Attributes:
        task: `place`, or one of the test bed's (P1, L1, ...; `sim/tasks/catalogue.py`).
        contract: Joints, units, cameras and rate.
        setup: `source` or `target`.
        episode_s: Longest episode [s]; None: 20, or the bed's own limit. Where buttons count, it is judged at its end.
        fps: Is the contract's.
    """

    task: str | None = PLACE
    contract: str = "so101"
    setup: str = "target"
    episode_s: float | None = None
    features: dict[str, PolicyFeature] = field(default_factory=dict)
    features_map: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        robot = load_contract(self.contract)
        self.fps = round(robot.fps)
        self.features = {
            ACTION: PolicyFeature(type=FeatureType.ACTION, shape=(robot.dof,)),
            "agent_pos": PolicyFeature(type=FeatureType.STATE, shape=(robot.dof,)),
        }
        self.features_map = {ACTION: ACTION, "agent_pos": OBS_STATE}
        for camera in robot.cameras:
            shape = (camera.height_px, camera.width_px, 3)
            self.features[camera.dataset_key] = PolicyFeature(type=FeatureType.VISUAL, shape=shape)
            self.features_map[camera.dataset_key] = camera.dataset_key

    @property
    def gym_kwargs(self) -> dict[str, Any]:
        """Arguments of `SigmaSimEnv`."""
        return {"task": self.task, "contract": self.contract, "setup": self.setup, "episode_s": self.episode_s}

    def create_envs(
        self,
        n_envs: int,
        use_async_envs: bool = False,  # noqa: FBT001, FBT002 - LeRobot's signature
    ) -> dict[str, dict[int, gym.vector.VectorEnv]]:
        """One suite with one task, as LeRobot asks for it."""
        makers: list[Callable[[], gym.Env]] = [partial(_make, **self.gym_kwargs)] * n_envs
        same_step = gym.vector.AutoresetMode.SAME_STEP
        if use_async_envs and n_envs > 1:
            parallel = gym.vector.AsyncVectorEnv(makers, autoreset_mode=same_step, context="forkserver")
            return {self.type: {0: parallel}}
        return {self.type: {0: gym.vector.SyncVectorEnv(makers, autoreset_mode=same_step)}}


def _make(**options: Any) -> gym.Env:
    from sigma_ros.lerobot.environment import SigmaSimEnv  # noqa: PLC0415 - MuJoCo, only when it is asked for

    return SigmaSimEnv(**options)


def pixel_names(contract: Contract) -> dict[str, str]:
    """Camera of the contract -> its name in `pixels`; LeRobot puts `observation.images.` before it."""
    return {camera.name: camera.dataset_key.removeprefix(IMAGES) for camera in contract.cameras}
