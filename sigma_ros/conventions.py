# SPDX-License-Identifier: Apache-2.0
"""Are numbers in the contract's units? LeRobot recorded the SO-101 in -100 .. 100, since 0.4.4 it does in degrees.

Sources: LeRobot's `motors_bus.MotorsBus._normalize`: -100 .. 100 is cut to that range; degrees are whole servo steps of
360/4095 degrees from the middle of the calibrated range.
"""

from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Float64
from numpy import ndarray

from sigma_ros.contract import Contract, Joint

if TYPE_CHECKING:
    from sigma_ros.model.normalise import Normalisation, Scaling

_BEYOND = 101.0
_LEAST_ROWS, _LEAST_SHARE, _LARGEST_DEGREES = 3, 0.002, 400.0
_STEP_DEG = 180.0 / 4095.0  # half a servo step, since the middle of a range may lie between two
_STEP_ERROR, _LEAST_STEPS, _LEAST_JOINTS = 0.01, 12, 2
_ROUNDING = 1e-3
_WILD_SHARE = 0.2
DEGREES_REMEDY = "use the contract of the other convention: so101_degrees for degrees, so101 for -100 .. 100"


def certain(contract: Contract, policy: Float64[ndarray, "rows dof"]) -> list[str]:
    """Why rows of a LeRobot data set cannot be in the contract's units; empty where they may be."""
    ranged = [i for i, joint in enumerate(contract.joints) if joint.policy_unit == "range_m100_100"]
    problems = []
    for i in ranged:
        size = np.abs(policy[:, i])
        beyond = size[(size > _BEYOND) & (size < _LARGEST_DEGREES)]
        if len(beyond) >= max(_LEAST_ROWS, _LEAST_SHARE * len(policy)):
            problems.append(
                f"{contract.joints[i].name} reaches {beyond.max():.1f}, which -100 .. 100 cannot (degrees?)"
            )
    stepping = [contract.joints[i].name for i in ranged if _in_servo_steps(policy[:, i])]
    if len(stepping) >= _LEAST_JOINTS:
        problems.append(f"{', '.join(stepping)} move in whole servo steps of 360/4095 degrees: these are degrees")
    return problems


def likely(contract: Contract, policy: Float64[ndarray, "rows dof"]) -> list[str]:
    """Why rows may be in other units than the contract's: a joint in degrees that stops at exactly -100 and 100."""
    return [
        f"{joint.name} ends at exactly -100 and 100 (a range, not degrees?)"
        for i, joint in enumerate(contract.joints)
        if joint.policy_unit == "degrees" and _is_a_range(policy[:, i])
    ]


def of_statistics(contract: Contract, normalisation: "Normalisation") -> list[str]:
    """Why a checkpoint's statistics cannot be of the contract's units; statistics that it lacks say nothing."""
    problems = []
    for kind, scaling in (("state", normalisation.state), ("action", normalisation.action)):
        low, high = _extremes(scaling)
        for i, joint in enumerate(contract.joints):
            if not np.isfinite([low[i], high[i]]).all():
                continue
            if joint.policy_unit == "range_m100_100" and max(-low[i], high[i]) > _BEYOND:
                problems.append(
                    f"{kind} of {joint.name}: {low[i]:.1f} to {high[i]:.1f} is beyond -100 .. 100 (degrees?)"
                )
            elif joint.policy_unit == "degrees" and _is_beyond_motion(joint, low[i], high[i]):
                problems.append(f"{kind} of {joint.name}: {low[i]:.1f} to {high[i]:.1f} degrees is no motion of it")
    return problems


def unreal(contract: Contract, rad: Float64[ndarray, "rows dof"]) -> str | None:
    """The first row that no joint can reach: outside its limits by more than its whole range of motion.

    None also where most rows are: then their units are at fault, which is said of the whole.
    """
    if not len(rad):
        return None
    room = contract.upper_rad - contract.lower_rad
    bad = (rad < contract.lower_rad - room) | (rad > contract.upper_rad + room)
    if not 0.0 < bad.any(axis=1).mean() < _WILD_SHARE:
        return None
    row, joint = (int(index) for index in np.argwhere(bad)[0])
    value = contract.to_policy(rad[row])[joint]
    return f"frame {row}: {contract.joints[joint].name} {value:.6g} ({np.count_nonzero(bad.any(axis=1))} such frames)"


def _in_servo_steps(values: Float64[ndarray, " rows"]) -> bool:
    steps = values / _STEP_DEG
    distinct = np.unique(np.round(steps, 1))
    return len(distinct) >= _LEAST_STEPS and bool((np.abs(steps - np.round(steps)) < _STEP_ERROR).all())


def _is_a_range(values: Float64[ndarray, " rows"]) -> bool:
    return abs(float(values.min()) + 100.0) < _ROUNDING and abs(float(values.max()) - 100.0) < _ROUNDING


def _is_beyond_motion(joint: Joint, low: float, high: float) -> bool:
    """Outside the limits by more than a quarter of the range: calibrations differ by less."""
    ends = (np.array([low, high]) - joint.policy_offset) / joint.policy_scale
    room = 0.25 * (joint.upper_rad - joint.lower_rad)
    return bool(ends.min() < joint.lower_rad - room or ends.max() > joint.upper_rad + room)


def _extremes(scaling: "Scaling") -> tuple[ndarray, ndarray]:
    """The least and largest value that the training data surely had."""
    statistics = scaling.statistics
    if "mean" in statistics and "min" not in statistics and "q01" not in statistics:
        return statistics["mean"] - statistics["std"], statistics["mean"] + statistics["std"]
    found = [statistics[name] for name in ("q01", "q99", "q10", "q90", "min", "max") if name in statistics]
    if not found:
        return scaling.usual
    return np.min(found, axis=0), np.max(found, axis=0)
