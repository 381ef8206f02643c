# SPDX-License-Identifier: Apache-2.0
"""Smooth joint motion through waypoints, within speed, acceleration and jerk limits.

Each leg is a minimum-jerk curve (Flash and Hogan 1985) in joint space: `s(x) = 10x^3 - 15x^4 + 6x^5`
with peaks 15/8, 10/sqrt(3) and 60 in its derivatives, which fix the shortest time the limits allow.
"""

import math
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from jaxtyping import Float64
from numpy import ndarray

from sigma_ros.contract import Contract

_PEAK_SPEED, _PEAK_ACCELERATION, _PEAK_JERK = 15 / 8, 10 / math.sqrt(3), 60.0

_CALM_ACCELERATION_RADPS2, _CALM_JERK_RADPS3 = 10.0, 100.0
"""A demonstrator's hand is calmer than the arm's limits, which leave room for a real policy's noise."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Waypoint:
    """A pose to stop at, how long to stay there, and the phase's name for those who look."""

    phase: str
    angles_rad: Float64[ndarray, " dof"]
    pause_s: float = 0.0


@dataclass(frozen=True, slots=True)
class JointPath:
    """Waypoints with the time each one is reached (`arrive_s`) and left (`leave_s`)."""

    waypoints: tuple[Waypoint, ...]
    arrive_s: tuple[float, ...]
    leave_s: tuple[float, ...]

    @property
    def duration_s(self) -> float:
        """Time at which the last waypoint's pause ends."""
        return self.leave_s[-1]

    def at(self, time_s: float) -> Float64[ndarray, " dof"]:
        """Joint angles at a time; the ends hold before and after."""
        leg, x = self.progress(time_s)
        goal = self.waypoints[leg].angles_rad
        if x == 1.0:
            return goal
        before = self.waypoints[leg - 1].angles_rad
        return before + (goal - before) * (x**3 * (10 - 15 * x + 6 * x * x))

    def phase(self, time_s: float) -> str:
        """Name of the waypoint being approached or held at a time."""
        return self.waypoints[self._leg(time_s)].phase

    def progress(self, time_s: float) -> tuple[int, float]:
        """Which leg a time belongs to, and the part of it that has passed (1 while its end is held)."""
        leg = self._leg(time_s)
        if leg == 0 or time_s >= self.arrive_s[leg]:
            return leg, 1.0
        start_s = self.leave_s[leg - 1]
        return leg, (time_s - start_s) / (self.arrive_s[leg] - start_s)

    def _leg(self, time_s: float) -> int:
        return next((i for i, leave_s in enumerate(self.leave_s) if time_s < leave_s), len(self.leave_s) - 1)


def joint_path(waypoints: list[Waypoint], contract: Contract, *, speed: float) -> JointPath:
    """Times the legs between waypoints, each as short as `speed` (0..1] of the contract's limits allows."""
    arrive, leave = [0.0], [waypoints[0].pause_s]
    for before, after in pairwise(waypoints):
        distance = np.abs(after.angles_rad - before.angles_rad)
        arrive.append(leave[-1] + max(shortest_leg_s(distance, contract, speed=speed), 1e-3))
        leave.append(arrive[-1] + after.pause_s)
    return JointPath(tuple(waypoints), tuple(arrive), tuple(leave))


def shortest_leg_s(distance_rad: Float64[ndarray, " dof"], contract: Contract, *, speed: float) -> float:
    """Shortest time of a minimum-jerk leg over `distance_rad`, at `speed` times the contract's limits, calmly."""
    by_speed = _PEAK_SPEED * distance_rad / (speed * contract.max_velocity_radps)
    acceleration = np.minimum(contract.max_acceleration_radps2, _CALM_ACCELERATION_RADPS2)
    jerk = np.minimum(contract.max_jerk_radps3, _CALM_JERK_RADPS3)
    by_acceleration = np.sqrt(_PEAK_ACCELERATION * distance_rad / (speed * acceleration))
    by_jerk = np.cbrt(_PEAK_JERK * distance_rad / (speed * jerk))
    return float(np.max([by_speed, by_acceleration, by_jerk]))
