# SPDX-License-Identifier: Apache-2.0
"""States and actions to the policy's normalised space and back, by the statistics of its training data.

The arithmetic is LeRobot's own `NormalizerProcessorStep` and `UnnormalizerProcessorStep` in each of their modes, in the
float type of the input. A joint that never moved has a span of 0, for which LeRobot divides by 1e-8: states beside
the constant become huge, actions come back as the constant.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Self

import numpy as np
import torch
from jaxtyping import Bool, Float, Float32, Float64
from lerobot.configs import FeatureType, NormalizationMode, PolicyFeature
from lerobot.lerobot_types import TransitionKey
from lerobot.processor.normalize_processor import NormalizerProcessorStep, UnnormalizerProcessorStep
from lerobot.utils.constants import ACTION
from numpy import ndarray

from sigma_ros.contract import Contract
from sigma_ros.errors import CheckpointError
from sigma_ros.values import frozen_array

NEEDED: Mapping[str, tuple[str, ...]] = {
    "QUANTILES": ("q01", "q99"),
    "MEAN_STD": ("mean", "std"),
    "MIN_MAX": ("min", "max"),
    "QUANTILE10": ("q10", "q90"),
    "IDENTITY": (),
}
"""LeRobot's modes and the statistics that each needs, lower one first."""

_EPS = 1e-8
_USUAL_STD = 2.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Scaling:
    """LeRobot's affine map of one vector of joints, in the policy's units.

    Attributes:
        mode: One of `NEEDED`.
        statistics: What the mode needs, and whatever else is known of the training data; [dof] each.
        eps: LeRobot's, for joints that never moved.
        width: Number of joints, where no statistics say it.
    """

    mode: str
    statistics: Mapping[str, Float64[ndarray, " dof"]]
    eps: float = _EPS
    width: int = 0
    _steps: Mapping[type, tuple[Any, Any]] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        if self.mode not in NEEDED:
            raise CheckpointError("unknown normalisation", expected=", ".join(NEEDED), got=self.mode)
        kept = {name: np.array(values, dtype=np.float64) for name, values in self.statistics.items()}
        shapes = {values.shape for values in kept.values()}
        if (kept and (len(shapes) != 1 or len(next(iter(shapes))) != 1)) or () in shapes or (0,) in shapes:
            raise CheckpointError("statistics have no common shape", expected="[dof]", got=sorted(map(str, shapes)))
        missing = [name for name in NEEDED[self.mode] if name not in kept]
        if missing or not (kept or self.width):
            raise CheckpointError(f"{self.mode} lacks statistics", expected=NEEDED[self.mode], got=sorted(kept))
        self._refuse_senseless(kept)
        for values in kept.values():
            values.flags.writeable = False
        object.__setattr__(self, "statistics", {name: frozen_array(values) for name, values in kept.items()})
        steps = {kind: _steps(self.mode, kept, self.eps, dtype) for kind, dtype in _DTYPES.items()}
        object.__setattr__(self, "_steps", steps)

    def _refuse_senseless(self, kept: Mapping[str, ndarray]) -> None:
        if not NEEDED[self.mode]:
            return
        low, high = (kept[name] for name in NEEDED[self.mode])
        span = high if self.mode == "MEAN_STD" else high - low
        bad = [i for i in range(low.size) if not (np.isfinite(low[i]) and np.isfinite(span[i]) and span[i] >= 0.0)]
        if bad:
            names = NEEDED[self.mode]
            raise CheckpointError(
                "statistics are degenerate",
                where=f"joint(s) {', '.join(map(str, bad))}",
                expected=f"finite, {'std >= 0' if self.mode == 'MEAN_STD' else f'{names[0]} <= {names[1]}'}",
                got="; ".join(f"{names[0]} {low[i]}, {names[1]} {high[i]}" for i in bad),
            )

    @classmethod
    def quantiles(cls, q01: ndarray, q99: ndarray) -> Self:
        """pi0.5's own map: q01 -> -1, q99 -> +1."""
        return cls(mode="QUANTILES", statistics={"q01": np.asarray(q01), "q99": np.asarray(q99)})

    @property
    def dof(self) -> int:
        """Number of joints."""
        return next((int(values.size) for values in self.statistics.values()), self.width)

    @property
    def constant(self) -> Bool[ndarray, " dof"]:
        """Joints that never moved in the training data: they have no scale to measure by."""
        if not NEEDED[self.mode]:
            return np.zeros(self.dof, dtype=bool)
        low, high = (self.statistics[name] for name in NEEDED[self.mode])
        return np.asarray((high if self.mode == "MEAN_STD" else high - low) == 0.0)

    @property
    def usual(self) -> tuple[Float64[ndarray, " dof"], Float64[ndarray, " dof"]]:
        """The range of the training data, as closely as the statistics allow; infinite where they have none."""
        for low, high in (NEEDED["QUANTILES"], NEEDED["MIN_MAX"], NEEDED["QUANTILE10"]):
            if low in self.statistics and high in self.statistics:
                return self.statistics[low], self.statistics[high]
        if "mean" in self.statistics and "std" in self.statistics:
            half = _USUAL_STD * self.statistics["std"]
            return self.statistics["mean"] - half, self.statistics["mean"] + half
        return np.full(self.dof, -np.inf), np.full(self.dof, np.inf)

    @property
    def slope(self) -> Float64[ndarray, " dof"]:
        """Policy units per normalised unit."""
        ends = np.stack([np.full(self.dof, -1.0), np.full(self.dof, 1.0)])
        low, high = self.denormalise(ends)
        return np.asarray((high - low) / 2.0)

    def normalise(self, policy: Float[ndarray, "*batch dof"]) -> Float[ndarray, "*batch dof"]:
        """Policy units to the normalised space, in the input's float type, bit for bit as LeRobot does."""
        return self._apply(0, policy)

    def denormalise(self, normalised: Float[ndarray, "*batch dof"]) -> Float[ndarray, "*batch dof"]:
        """The normalised space to policy units, in the input's float type."""
        return self._apply(1, normalised)

    def _apply(self, which: int, values: ndarray) -> ndarray:
        if values.dtype.type not in self._steps:
            raise TypeError(f"expected a float32 or float64 array, got {values.dtype}")
        step = self._steps[values.dtype.type][which]
        given: Any = {TransitionKey.ACTION: torch.from_numpy(np.array(values))}
        return np.asarray(step(given)[TransitionKey.ACTION].numpy())

    def as_dict(self) -> dict[str, Any]:
        """For a checkpoint's config file; pi0.5's own mode is not named, as before there were others."""
        values = {name: array.tolist() for name, array in self.statistics.items()}
        if self.mode == "QUANTILES":
            return values if self.eps == _EPS else {**values, "mode": self.mode, "eps": self.eps}
        return {**values, "mode": self.mode, "eps": self.eps, "width": self.dof}

    @classmethod
    def from_dict(cls, values: object, *, where: object) -> Self:
        """Reads what `as_dict` gave."""
        mode = values.get("mode", "QUANTILES") if isinstance(values, Mapping) else None
        if not isinstance(values, Mapping) or not set(NEEDED.get(str(mode), ("mode",))) <= set(values):
            raise CheckpointError("quantiles cannot be read", where=where, expected="q01 and q99", got=values)
        settings = {name: values[name] for name in ("eps", "width") if name in values}
        try:
            arrays = {
                str(name): np.asarray(numbers, np.float64)
                for name, numbers in values.items()
                if name not in ("mode", "eps", "width")
            }
            return cls(mode=str(mode), statistics=arrays, **settings)
        except (TypeError, ValueError) as error:
            raise CheckpointError("quantiles are not numbers", where=where, got=error) from error


_DTYPES = {np.float32: torch.float32, np.float64: torch.float64}


def _steps(mode: str, statistics: Mapping[str, ndarray], eps: float, dtype: torch.dtype) -> tuple[Any, Any]:
    """LeRobot's two steps; each float type has its own, since they would convert themselves on the way."""
    settings: dict[str, Any] = {
        "features": {ACTION: PolicyFeature(type=FeatureType.ACTION, shape=())},
        "norm_map": {FeatureType.ACTION: NormalizationMode(mode)},
        "stats": {ACTION: {name: np.array(values) for name, values in statistics.items()}},
        "eps": eps,
        "dtype": dtype,
        "device": "cpu",
    }
    return NormalizerProcessorStep(**settings), UnnormalizerProcessorStep(**settings)


@dataclass(frozen=True, slots=True, kw_only=True)
class Normalisation:
    """The statistics of a checkpoint: states and actions of the same joints."""

    state: Scaling
    action: Scaling

    def __post_init__(self) -> None:
        if self.state.dof != self.action.dof:
            raise CheckpointError(
                "state and action statistics differ in joints",
                expected=f"{self.state.dof} joints",
                got=f"{self.action.dof}",
            )

    def as_dict(self) -> dict[str, dict[str, Any]]:
        """For a checkpoint's config file."""
        return {"state": self.state.as_dict(), "action": self.action.as_dict()}

    @classmethod
    def from_dict(cls, values: object, *, where: object) -> Self:
        """Reads what `as_dict` gave; `where` names the file in errors."""
        if not isinstance(values, Mapping) or not {"state", "action"} <= set(values):
            raise CheckpointError("normalisation cannot be read", where=where, expected="state and action", got=values)
        return cls(
            state=Scaling.from_dict(values["state"], where=f"{where}: state"),
            action=Scaling.from_dict(values["action"], where=f"{where}: action"),
        )


# Radians of the robot to the policy's normalised space and back: the contract's map, then the checkpoint's.


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
