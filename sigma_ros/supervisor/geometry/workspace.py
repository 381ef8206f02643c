# SPDX-License-Identifier: Apache-2.0
"""Optional limits of the tool: how fast its points may be, and a plane they stay above.

Speed is what lies between one command and the next: the straight distance of a point, divided by the control period.
"""

import math
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float64
from numpy import ndarray

from sigma_ros.contract import Contract
from sigma_ros.errors import ContractError
from sigma_ros.kinematics import ForwardKinematics
from sigma_ros.values import NS_PER_S


@dataclass(frozen=True, slots=True, kw_only=True)
class Workspace:
    """What the tool is held to. A limit that is off is infinite."""

    forward: ForwardKinematics
    speed_mps: float
    plane_height_m: float
    period_s: float

    def judge(
        self, runs_rad: Float64[ndarray, "runs ticks dof"]
    ) -> tuple[Bool[ndarray, " runs"], Bool[ndarray, " runs"]]:
        """(too fast, too low) for some runs of commands; the first command of each was published already."""
        places = self._places_m(runs_rad)
        heights = places[:, 1:, 2].reshape(len(runs_rad), -1)
        too_low: Bool[ndarray, " runs"] = heights.min(axis=1) < self.plane_height_m
        return np.asarray(self._too_fast(places).any(axis=1)), too_low

    def is_too_fast(self, runs_rad: Float64[ndarray, "runs ticks dof"]) -> Bool[ndarray, "runs later"]:
        """Which commands of some runs are too far from the one before them; the first of each is no step."""
        return self._too_fast(self._places_m(runs_rad))

    def _places_m(self, runs_rad: Float64[ndarray, "runs ticks dof"]) -> Float64[ndarray, "runs ticks 3 points"]:
        runs, ticks, dof = runs_rad.shape
        return self.forward.points_m(runs_rad.reshape(runs * ticks, dof)).reshape(runs, ticks, 3, -1)

    def _too_fast(self, places: Float64[ndarray, "runs ticks 3 points"]) -> Bool[ndarray, "runs later"]:
        steps = places[:, 1:] - places[:, :-1]
        squares = np.einsum("rtcp,rtcp->rtp", steps, steps).max(axis=2)
        return np.asarray(squares > (self.speed_mps * self.period_s) ** 2)

    def depth_m(self, positions_rad: Float64[ndarray, " dof"]) -> float:
        """How far the lowest point is below the plane; negative above it."""
        return float(self.plane_height_m - self.forward.points_m(positions_rad[None])[0, 2].min())

    def excess(self, before_rad: Float64[ndarray, " dof"], after_rad: Float64[ndarray, " dof"]) -> float:
        """By how much a step is too fast [m/s] or ends below the plane [m], whichever is more; <= 0 is fine."""
        places = self.forward.points_m(np.stack((before_rad, after_rad)))
        speed = np.linalg.norm(places[1] - places[0], axis=0).max() / self.period_s
        return float(max(speed - self.speed_mps, self.plane_height_m - places[1, 2].min()))


def workspace_of(contract: Contract, *, speed_mps: float, plane_height_m: float) -> Workspace | None:
    """A robot's workspace; None where neither limit is finite.

    Raises:
        ContractError: the contract says nothing of the arm's kinematics.
    """
    if math.isinf(speed_mps) and math.isinf(plane_height_m):
        return None
    if contract.kinematics is None:
        raise ContractError(
            "limits of the tool need the arm's kinematics",
            where=f"contract {contract.name}",
            expected="an entry `kinematics`, as in config/so101.yaml",
            remedy="add it, or switch cap_tool_speed and keep_above_plane off",
        )
    return Workspace(
        forward=ForwardKinematics(contract.kinematics, contract.joint_names),
        speed_mps=speed_mps,
        plane_height_m=plane_height_m,
        period_s=contract.command_period_ns / NS_PER_S,
    )
