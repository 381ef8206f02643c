# SPDX-License-Identifier: Apache-2.0
"""Which ticks of an episode are windows, how much moves in them, and the statistics of what they hold."""

import numpy as np

from sigma_ros.contract import Contract
from sigma_ros.model.normalise import Normalisation, Scaling

from .shards import EpisodeArrays

TARGET_STEPS = 16
"""Actions a window is trained on (model card: horizon T = 16)."""

_BEYOND_LIMITS_RAD = 0.35
_TOO_STILL_RAD = 0.1


def windows_of(arrays: EpisodeArrays, stride: int) -> list[int]:
    """Rows every `stride` ticks from the epoch's first that are valid and have all their target actions."""
    last = arrays.ticks - TARGET_STEPS
    return [
        row for row in range(0, last + 1, stride) if arrays.valid[row] and arrays.acted[row : row + TARGET_STEPS].all()
    ]


def motion_of(arrays: EpisodeArrays, row: int) -> float:
    """The largest L2 distance of a target action from the first of them, in the policy's units.

    The paper tests an unstated norm of the actions; absolute positions have no meaningful norm, so ours is
    that of the motion.
    """
    targets = arrays.actions[row : row + TARGET_STEPS]
    return float(np.linalg.norm(targets - targets[0], axis=1).max())


def quantiles(rows: list[np.ndarray]) -> Scaling:
    """1 % and 99 % quantiles per joint over all rows, in the policy's units."""
    values = np.concatenate(rows).astype(np.float64)
    q01, q99 = np.quantile(values, [0.01, 0.99], axis=0)
    return Scaling.quantiles(q01, q99)


def unit_problems(found: Normalisation, contract: Contract) -> list[str]:
    """Why data with these quantiles cannot be in the contract's units: beyond the joints' limits, or all but still."""
    problems = []
    for name, quantiles in (("state", found.state), ("action", found.action)):
        found_low, found_high = quantiles.usual
        ends = np.sort(np.stack([contract.to_rad(found_low), contract.to_rad(found_high)]), axis=0)
        low, high = contract.lower_rad - _BEYOND_LIMITS_RAD, contract.upper_rad + _BEYOND_LIMITS_RAD
        problems += [
            f"{name} of {joint.name}: {found_low[i]:.4g} to {found_high[i]:.4g} is "
            f"{ends[0, i]:.3g} to {ends[1, i]:.3g} rad, its limits are {joint.lower_rad} to {joint.upper_rad} rad"
            for i, joint in enumerate(contract.joints)
            if ends[0, i] < low[i] or ends[1, i] > high[i]
        ]
        if float((ends[1] - ends[0]).max()) < _TOO_STILL_RAD:
            problems.append(f"{name}: no joint moves by more than {_TOO_STILL_RAD} rad (radians taken for degrees?)")
    return problems
