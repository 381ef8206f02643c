# SPDX-License-Identifier: Apache-2.0
"""Radians of the robot to the policy's normalised space and back: the contract's map, then the checkpoint's."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float32, Float64
from numpy import ndarray

from sigma_ros.contract import Contract
from sigma_ros.model.normalise import Normalisation

_FOREIGN = 3.0  # normalised: one whole quantile span outside the quantiles


@dataclass(frozen=True, slots=True, kw_only=True)
class PolicyUnits:
    """The two affine maps of one robot and one checkpoint."""

    contract: Contract
    normalisation: Normalisation

    def normalise_state(self, positions_rad: Float64[ndarray, " dof"]) -> Float32[ndarray, " dof"]:
        """Joint positions as the policy's prompt takes them, in the float type LeRobot computes them in."""
        return self.normalisation.state.normalise(self.contract.to_policy(positions_rad).astype(np.float32))

    def normalise_actions(self, rad: Float64[ndarray, "*n dof"]) -> Float64[ndarray, "*n dof"]:
        """Radians to the normalised action space, where errors are measured."""
        return self.normalisation.action.normalise(self.contract.to_policy(rad))

    def denormalise_actions(self, normalised: Float64[ndarray, "*n dof"]) -> Float64[ndarray, "*n dof"]:
        """Normalised actions to radians."""
        return self.contract.to_rad(self.normalisation.action.denormalise(normalised))

    def residual_rad(self, normalised: Float64[ndarray, "*n dof"]) -> Float64[ndarray, "*n dof"]:
        """What a change of the normalised actions changes in radians."""
        action = self.normalisation.action
        return normalised * ((action.q99 - action.q01) / 2.0 / self.contract.policy_scale)

    def problems(self, positions_rad: Float64[ndarray, " dof"]) -> tuple[str, ...]:
        """Why a measured pose cannot be in the units of the training data; empty where it can.

        A joint counts when it lies more than one quantile span outside the training quantiles.
        """
        state = self.normalisation.state
        policy = self.contract.to_policy(positions_rad)
        normalised = state.normalise(policy)
        return tuple(
            f"{joint.name}: {positions_rad[i]:.3f} rad is {policy[i]:.1f} in the policy's units, "
            f"trained on {state.q01[i]:.1f} to {state.q99[i]:.1f}"
            for i, joint in enumerate(self.contract.joints)
            if not abs(normalised[i]) <= _FOREIGN
        )
