# SPDX-License-Identifier: Apache-2.0
"""`SigmaSimEnv`: the simulated arm as a gymnasium environment with LeRobot's observation keys.

A step is one tick of the contract; the command goes straight to the servos, as LeRobot's robots do it. Success is
the closed loop's (`SimArm.succeeded`).
"""

from typing import Any

import gymnasium as gym
import numpy as np
from jaxtyping import Float32, UInt8
from numpy import ndarray

from sigma_ros.contract_file import load_contract
from sigma_ros.lerobot.configuration_sim import pixel_names
from sigma_ros.sim.setups import setup_named
from sigma_ros.sim.tasks.robot import limit_of, robot_for
from sigma_ros.sim.tasks.task import PLACE
from sigma_ros.values import NS_PER_S

Observation = dict[str, Any]


class SigmaSimEnv(gym.Env[Observation, ndarray]):
    """One simulated arm. `pixels` holds RGB by camera, `agent_pos` the joints in the contract's policy units.

    Args:
        task: `place` or the name of one of the bed's tasks.
        contract: As `load_contract` takes it.
        setup: A shipped set-up's name.
        episode_s: Longest episode [s]; None: the task's own.

    Raises:
        UsageError: there is no such task, or no such set-up.
    """

    metadata: dict[str, Any] = {"render_modes": ["rgb_array"], "render_fps": 30}  # noqa: RUF012 - as gymnasium has it
    render_mode = "rgb_array"

    def __init__(
        self, *, task: str = PLACE, contract: str = "so101", setup: str = "target", episode_s: float | None = None
    ) -> None:
        self.contract = load_contract(contract)
        self.task = task
        self._arm = robot_for(task, setup_named(setup), contract=self.contract)
        self._max_episode_steps = max(1, round((episode_s or limit_of(task)) * self.contract.fps))
        self.metadata = {**type(self).metadata, "render_fps": round(self.contract.fps)}
        self._tick = 0
        names, dof = pixel_names(self.contract), self.contract.dof
        pictures: dict[str, gym.Space[Any]] = {
            names[c.name]: gym.spaces.Box(0, 255, (c.height_px, c.width_px, 3), np.uint8) for c in self.contract.cameras
        }
        joints = gym.spaces.Box(-np.inf, np.inf, (dof,), np.float32)
        self.observation_space = gym.spaces.Dict({"pixels": gym.spaces.Dict(pictures), "agent_pos": joints})
        self.action_space = gym.spaces.Box(-np.inf, np.inf, (dof,), np.float32)

    @property
    def task_description(self) -> str:
        """What the policy is told."""
        return self._arm.text

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Observation, dict[str, Any]]:
        """Begins the episode of a seed; without one, of a number drawn by the environment's own generator."""
        super().reset(seed=seed)
        number = int(self.np_random.integers(2**31)) if seed is None else seed
        self._arm.start(number)
        self._tick = 0
        return self._observation(), {"is_success": False}

    def step(self, action: Float32[ndarray, " dof"]) -> tuple[Observation, float, bool, bool, dict[str, Any]]:
        """Commands joints in policy units for one tick; the reward is 1 on success.

        Raises:
            SigmaError: the action is not finite, or not one number a joint.
        """
        period_ns = self.contract.tick_offset_ns(self._tick + 1) - self.contract.tick_offset_ns(self._tick)
        self._arm.step(self.contract.to_rad(np.asarray(action, np.float64)), period_ns / NS_PER_S)
        self._tick += 1
        observation = self._observation()
        ended = self._tick >= self._max_episode_steps
        success = self._arm.succeeded() and (ended or self._arm.finished())
        return observation, float(success), success, ended and not success, {"is_success": success}

    def render(self) -> UInt8[ndarray, "height width 3"]:
        """The first camera's picture."""
        return self._arm.render(self.contract.cameras[0].name)

    def close(self) -> None:
        """Frees what rendering took."""
        self._arm.close()

    def _observation(self) -> Observation:
        self._arm.look_around()
        pixels = {key: self._arm.render(name) for name, key in pixel_names(self.contract).items()}
        return {"pixels": pixels, "agent_pos": self.contract.to_policy(self._arm.positions_rad()).astype(np.float32)}
