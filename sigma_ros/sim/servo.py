# SPDX-License-Identifier: Apache-2.0
"""The part of a Feetech servo that MuJoCo's actuator does not model: bus delay, speed limit, encoder.

The position loop itself (stiffness, damping, torque limit, and thereby lag and gravity sag) is the
actuator that `arm` adds to the model.
"""

import math
from collections import deque

import numpy as np
from jaxtyping import Float64
from numpy import ndarray

from sigma_ros.sim.setups import ServoConfig


class ServoGoals:
    """What each servo is steering to at a physics step, given the commands it was sent."""

    def __init__(self, servo: ServoConfig, start_rad: Float64[ndarray, " dof"], step_s: float) -> None:
        delay_steps = round(servo.bus_delay_s / step_s)
        self._on_the_bus = deque([start_rad.copy()] * delay_steps)
        self._goal_rad = start_rad.copy()
        self._largest_step_rad = servo.max_speed_radps * step_s

    def advance(self, command_rad: Float64[ndarray, " dof"]) -> Float64[ndarray, " dof"]:
        """Sends one command and returns the goals of this physics step [rad]."""
        self._on_the_bus.append(command_rad)
        arrived = self._on_the_bus.popleft()
        change = np.clip(arrived - self._goal_rad, -self._largest_step_rad, self._largest_step_rad)
        self._goal_rad = self._goal_rad + change
        return self._goal_rad


def encoder_reading(angle_rad: Float64[ndarray, " dof"], counts_per_turn: int) -> Float64[ndarray, " dof"]:
    """Angles rounded to the encoder's counts [rad]."""
    count_rad = 2 * math.pi / counts_per_turn
    return np.round(angle_rad / count_rad) * count_rad
