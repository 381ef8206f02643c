# SPDX-License-Identifier: Apache-2.0
"""Are numbers in the contract's units? LeRobot recorded the SO-101 in -100 .. 100, since 0.4.4 it does in degrees.

Sources: LeRobot's `motors_bus.MotorsBus._normalize`: -100 .. 100 is cut to that range; degrees are whole servo steps of
360/4095 degrees from the middle of the calibrated range.
"""

from collections.abc import Sequence
from dataclasses import dataclass
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
_JOINTS_OF_A_POSE = 4
_ROUNDING = 1e-3
_BEYOND_LIMITS_RAD = 0.35
_TOO_STILL_RAD = 0.1
_WIDE = ("degrees", "range_m100_100")
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


def of_pose(contract: Contract, policy: Float64[ndarray, " dof"]) -> str:
    """Why one pose that LeRobot read from an arm cannot be in -100 .. 100 as the contract says; empty where it may be.

    By chance one joint of fifty stands on a servo step of degrees; all of an arm's do not.
    """
    ranged = [i for i, joint in enumerate(contract.joints) if joint.policy_unit == "range_m100_100"]
    beyond = [f"{contract.joints[i].name} {policy[i]:.1f}" for i in ranged if abs(policy[i]) > _BEYOND]
    if beyond:
        return f"{', '.join(beyond)}: beyond -100 .. 100 (degrees?)"
    steps = policy[ranged] / _STEP_DEG
    moved = np.abs(steps) > 0.5
    on_steps = np.abs(steps - np.round(steps)) < _STEP_ERROR
    if int(moved.sum()) >= _JOINTS_OF_A_POSE and bool(on_steps.all()):
        return "all joints stand on whole servo steps of 360/4095 degrees: these are degrees"
    return ""


def likely(contract: Contract, policy: Float64[ndarray, "rows dof"]) -> list[str]:
    """Why rows may be in other units than the contract's: a range as degrees, shares as percentages."""
    ends = {joint: np.abs(policy[:, i]).max() for i, joint in enumerate(contract.joints)}
    doubts = [
        f"{joint.name} ends at exactly -100 and 100 (a range, not degrees?)"
        for i, joint in enumerate(contract.joints)
        if joint.policy_unit == "degrees" and _is_a_range(policy[:, i])
    ]
    shares = [joint.name for joint, end in ends.items() if joint.policy_unit == "range_0_100" and 0.0 < end <= 1.0]
    return doubts + [f"{name} is never beyond 1 (a share, not a percentage?)" for name in shares]


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
        problems += _in_radians(contract, kind, low, high)
    return problems


def of_data(contract: Contract, found: "Normalisation") -> list[str]:
    """Why a data set with these statistics cannot be in the contract's units: see `of_ends`, or it is all but still.

    Quantiles are taken where there are any: one wild value of a recording says nothing of its units.
    """
    problems = []
    for kind, scaling in (("state", found.state), ("action", found.action)):
        statistics = scaling.statistics
        low, high = (statistics["q01"], statistics["q99"]) if "q01" in statistics else _extremes(scaling)
        beyond = of_ends(contract, kind, low, high)
        still = float(np.abs(contract.to_rad(high) - contract.to_rad(low)).max()) < _TOO_STILL_RAD
        if still and not beyond:
            beyond = [f"{kind}: no joint moves by more than {_TOO_STILL_RAD} rad (radians taken for degrees?)"]
        problems += beyond
    return problems


def of_ends(contract: Contract, kind: str, found_low: ndarray, found_high: ndarray) -> list[str]:
    """Why usual values from `found_low` to `found_high` cannot be in the contract's units: beyond reach, or radians."""
    ends = np.sort(np.stack([contract.to_rad(found_low), contract.to_rad(found_high)]), axis=0)
    low, high = contract.lower_rad - _BEYOND_LIMITS_RAD, contract.upper_rad + _BEYOND_LIMITS_RAD
    problems = [
        f"{kind} of {joint.name}: {found_low[i]:.4g} to {found_high[i]:.4g} is "
        f"{ends[0, i]:.3g} to {ends[1, i]:.3g} rad, its limits are {joint.lower_rad} to {joint.upper_rad} rad"
        for i, joint in enumerate(contract.joints)
        if ends[0, i] < low[i] or ends[1, i] > high[i]
    ]
    return problems + _in_radians(contract, kind, found_low, found_high)


def _in_radians(contract: Contract, kind: str, low: ndarray, high: ndarray) -> list[str]:
    ends = [max(-low[i], high[i]) for i, joint in enumerate(contract.joints) if joint.policy_unit in _WIDE]
    if ends and max(ends) <= 2.0 * np.pi:
        return [f"{kind}: no joint of the arm is ever beyond {max(ends):.2f} (radians, or -1 .. 1?)"]
    return []


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


@dataclass(frozen=True, slots=True, kw_only=True)
class UnitGuess:
    """In which unit a joint's numbers are (one of `contract.POLICY_UNITS`, or `unknown`), and what says so."""

    joint: str
    unit: str
    reason: str
    certain: bool = False


def guessed_units(names: Sequence[str], values: Float64[ndarray, "rows dof"]) -> tuple[UnitGuess, ...]:
    """What unit the numbers of a robot's joints are in: what is certain for some holds for its neighbours too.

    A gripper is read by itself: LeRobot gives it 0 .. 100 beside joints in degrees as beside a range.
    """
    values = values[np.isfinite(values).all(axis=1)]
    columns = list(zip(names, values.T, strict=True))
    arm = [column for name, column in columns if not _is_gripper(name)] or [column for _, column in columns]
    unit, reason, sure = _arm_unit(np.stack(arm, axis=1)) if len(values) else ("unknown", "there are no values", False)
    found = []
    for name, column in columns:
        percent = (
            _is_gripper(name) and unit not in ("radians", "unknown") and -1.0 <= column.min() <= column.max() < 101
        )
        own = ("range_0_100", "a gripper between 0 and 100", False) if percent else (unit, reason, sure)
        found.append(UnitGuess(joint=name, unit=own[0], reason=own[1], certain=own[2]))
    return tuple(found)


def _arm_unit(values: Float64[ndarray, "rows dof"]) -> tuple[str, str, bool]:
    largest = float(np.abs(values).max())
    if largest > _LARGEST_DEGREES:
        return "unknown", f"values reach {largest:.0f}: encoder counts?", False
    if largest > _BEYOND:
        return "degrees", f"values reach {largest:.1f}, beyond -100 .. 100", True
    if sum(_in_servo_steps(column) for column in values.T) >= _LEAST_JOINTS:
        return "degrees", "joints move in whole servo steps of 360/4095 degrees", True
    if any(_is_a_range(column) for column in values.T):
        return "range_m100_100", "a joint ends at exactly -100 and 100", False
    if largest <= 2.0 * np.pi:
        return "radians", f"no value is beyond {largest:.2f}", False
    return "range_m100_100", f"values reach {largest:.1f} and no servo steps show; degrees are possible too", False


def _is_gripper(name: str) -> bool:
    return any(word in name.lower() for word in ("gripper", "jaw"))
