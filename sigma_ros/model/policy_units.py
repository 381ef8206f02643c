# SPDX-License-Identifier: Apache-2.0
"""Radians of the robot to the policy's normalised space and back: the contract's map, then the checkpoint's."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float32, Float64
from numpy import ndarray

from sigma_ros.contract import Contract
from sigma_ros.model.normalise import Normalisation

_FOREIGN_SPANS = 1.0  # beyond the training data, in widths of its range


@dataclass(frozen=True, slots=True, kw_only=True)
class PolicyUnits:
    """The two affine maps of one robot and one checkpoint.

    `relative` are joints whose actions the policy counts from the state at planning time (LeRobot's relative
    actions): chunks are made and read with that pose. None: all are absolute, and the pose does not matter.
    """

    contract: Contract
    normalisation: Normalisation
    relative: Bool[ndarray, " dof"] | None = None

    def normalise_state(self, positions_rad: Float64[ndarray, " dof"]) -> Float32[ndarray, " dof"]:
        """Joint positions as the policy's prompt takes them, in the float type LeRobot computes them in."""
        return self.normalisation.state.normalise(self.contract.to_policy(positions_rad).astype(np.float32))

    def normalise_chunk(
        self, rad: Float64[ndarray, "*n dof"], pose_rad: Float64[ndarray, " dof"]
    ) -> Float64[ndarray, "*n dof"]:
        """Actions as the policy gives them when it plans at a pose."""
        return self._normalise(self.contract.to_policy(rad) - self._anchor(pose_rad))

    def denormalise_chunk(
        self, normalised: Float64[ndarray, "*n dof"], pose_rad: Float64[ndarray, " dof"]
    ) -> Float64[ndarray, "*n dof"]:
        """The policy's chunk, planned at a pose, in radians."""
        return self.contract.to_rad(self.normalisation.action.denormalise(normalised) + self._anchor(pose_rad))

    def _anchor(self, pose_rad: Float64[ndarray, " dof"]) -> Float64[ndarray, " dof"] | float:
        return 0.0 if self.relative is None else np.where(self.relative, self.contract.to_policy(pose_rad), 0.0)

    def normalise_actions(self, rad: Float64[ndarray, "*n dof"]) -> Float64[ndarray, "*n dof"]:
        """Radians by the scale of the normalised actions, where errors are measured; no pose is taken off."""
        return self._normalise(self.contract.to_policy(rad))

    def _normalise(self, policy: Float64[ndarray, "*n dof"]) -> Float64[ndarray, "*n dof"]:
        """A joint that never moved in training has no scale: beside its constant it would outweigh all others."""
        action = self.normalisation.action
        normalised = action.normalise(policy)
        return np.where(action.constant, normalised.clip(-1.0, 1.0), normalised)

    def denormalise_actions(self, normalised: Float64[ndarray, "*n dof"]) -> Float64[ndarray, "*n dof"]:
        """The inverse of `normalise_actions`."""
        return self.contract.to_rad(self.normalisation.action.denormalise(normalised))

    def residual_rad(self, normalised: Float64[ndarray, "*n dof"]) -> Float64[ndarray, "*n dof"]:
        """What a change of the normalised actions changes in radians."""
        return normalised * (self.normalisation.action.slope / self.contract.policy_scale)

    def problems(self, positions_rad: Float64[ndarray, " dof"]) -> tuple[str, ...]:
        """Why a measured pose cannot be in the units of the training data; empty where it can.

        A joint counts when it lies further outside the training data than these range; one that never moved there,
        when it is outside by more than its whole range of motion.
        """
        policy = self.contract.to_policy(positions_rad)
        low, high = self.normalisation.state.usual
        motion = np.abs((self.contract.upper_rad - self.contract.lower_rad) * self.contract.policy_scale)
        room = _FOREIGN_SPANS * np.where(high > low, high - low, motion)
        return tuple(
            f"{joint.name}: {positions_rad[i]:.3f} rad is {policy[i]:.1f} in the policy's units, "
            f"trained on {low[i]:.1f} to {high[i]:.1f}"
            for i, joint in enumerate(self.contract.joints)
            if not low[i] - room[i] <= policy[i] <= high[i] + room[i]
        )
