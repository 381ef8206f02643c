# SPDX-License-Identifier: Apache-2.0
"""States and actions to the policy's [-1, 1] and back, by the 1 % and 99 % quantiles of its training data.

Source: LeRobot's `NormalizerProcessorStep` in mode QUANTILES. It replaces a span of 0 by 1e-8, which turns a
joint that never moved into a step function; here such statistics are refused.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Self

import numpy as np
from jaxtyping import Float, Float64
from numpy import ndarray

from sigma_ros.errors import CheckpointError
from sigma_ros.values import frozen_array

_SMALLEST_SPAN = 1e-6


@dataclass(frozen=True, slots=True, kw_only=True)
class Quantiles:
    """The affine map q01 -> -1, q99 -> +1 per joint, in the policy's units."""

    q01: Float64[ndarray, " dof"]
    q99: Float64[ndarray, " dof"]

    def __post_init__(self) -> None:
        q01, q99 = (np.array(values, dtype=np.float64) for values in (self.q01, self.q99))
        if q01.ndim != 1 or q01.shape != q99.shape or q01.size == 0:
            raise CheckpointError("quantiles have no common shape", expected="[dof]", got=f"{q01.shape}, {q99.shape}")
        bad = [i for i in range(q01.size) if not q99[i] - q01[i] >= _SMALLEST_SPAN or not np.isfinite(q99[i] - q01[i])]
        if bad:
            raise CheckpointError(
                "quantiles are degenerate",
                where=f"joint(s) {', '.join(map(str, bad))}",
                expected=f"finite, q99 - q01 >= {_SMALLEST_SPAN}",
                got="; ".join(f"q01 {q01[i]}, q99 {q99[i]}" for i in bad),
                remedy="compute the statistics on recordings in which every joint moves",
            )
        for name, values in (("q01", q01), ("q99", q99)):
            values.flags.writeable = False
            object.__setattr__(self, name, frozen_array(values))

    @property
    def dof(self) -> int:
        """Number of joints."""
        return int(self.q01.size)

    def normalise(self, policy: Float[ndarray, "*batch dof"]) -> Float[ndarray, "*batch dof"]:
        """Policy units to [-1, 1] (beyond it outside the quantiles), in the input's float type as LeRobot does."""
        q01, span = self._constants(policy)
        return 2.0 * (policy - q01) / span - 1.0

    def denormalise(self, normalised: Float[ndarray, "*batch dof"]) -> Float[ndarray, "*batch dof"]:
        """[-1, 1] to policy units, in the input's float type."""
        q01, span = self._constants(normalised)
        return (normalised + 1.0) * span / 2.0 + q01

    def _constants(self, like: ndarray) -> tuple[ndarray, ndarray]:
        if not np.issubdtype(like.dtype, np.floating):
            raise TypeError(f"expected a float array, got {like.dtype}")
        q01, q99 = self.q01.astype(like.dtype), self.q99.astype(like.dtype)
        return q01, q99 - q01

    def as_dict(self) -> dict[str, list[float]]:
        """For a checkpoint's config file."""
        return {"q01": self.q01.tolist(), "q99": self.q99.tolist()}

    @classmethod
    def from_dict(cls, values: object, *, where: object) -> Self:
        """Reads what `as_dict` gave."""
        if not isinstance(values, Mapping) or not {"q01", "q99"} <= set(values):
            raise CheckpointError("quantiles cannot be read", where=where, expected="q01 and q99", got=values)
        try:
            return cls(q01=np.asarray(values["q01"], np.float64), q99=np.asarray(values["q99"], np.float64))
        except (TypeError, ValueError) as error:
            raise CheckpointError("quantiles are not numbers", where=where, got=error) from error


@dataclass(frozen=True, slots=True, kw_only=True)
class Normalisation:
    """The statistics of a checkpoint: states and actions of the same joints."""

    state: Quantiles
    action: Quantiles

    def __post_init__(self) -> None:
        if self.state.dof != self.action.dof:
            raise CheckpointError(
                "state and action statistics differ in joints",
                expected=f"{self.state.dof} joints",
                got=f"{self.action.dof}",
            )

    def as_dict(self) -> dict[str, dict[str, list[float]]]:
        """For a checkpoint's config file."""
        return {"state": self.state.as_dict(), "action": self.action.as_dict()}

    @classmethod
    def from_dict(cls, values: object, *, where: object) -> Self:
        """Reads what `as_dict` gave; `where` names the file in errors."""
        if not isinstance(values, Mapping) or not {"state", "action"} <= set(values):
            raise CheckpointError("normalisation cannot be read", where=where, expected="state and action", got=values)
        return cls(
            state=Quantiles.from_dict(values["state"], where=f"{where}: state"),
            action=Quantiles.from_dict(values["action"], where=f"{where}: action"),
        )
