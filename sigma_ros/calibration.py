# SPDX-License-Identifier: Apache-2.0
"""LeRobot's calibration files and unit conventions: encoder counts, -100..100, degrees and radians into each other.

A Feetech servo counts 4096 a turn. LeRobot's `_normalize` maps the recorded range onto -100..100 (gripper 0..100), or
counts from the middle of that range to degrees with 4095 counts a turn. A ROS driver speaks radians from a zero of its
own: the encoder's middle (2048) or the middle of the range. Between all of them lies one affine map per joint.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from jaxtyping import Float64
from numpy import ndarray

from sigma_ros.border import read_json
from sigma_ros.contract import Contract
from sigma_ros.errors import ContractError, SigmaError

COUNTS_PER_TURN = 4096
_LAST_COUNT = COUNTS_PER_TURN - 1

Convention = Literal["range", "degrees"]
Zero = Literal["encoder", "range"]


@dataclass(frozen=True, slots=True, kw_only=True)
class JointCalibration:
    """One joint of a LeRobot calibration file, in encoder counts after homing. `flipped`: LeRobot's drive mode 1."""

    name: str
    range_min: int
    range_max: int
    flipped: bool

    @property
    def middle(self) -> float:
        """Middle of the recorded range [counts]."""
        return (self.range_min + self.range_max) / 2.0

    def counts_to_rad(self, counts: float, *, zero: Zero) -> float:
        """Radians as a ROS driver reports them, from the encoder's middle or from the range's."""
        return (counts - self._zero(zero)) * 2.0 * math.pi / COUNTS_PER_TURN

    def rad_to_counts(self, rad: float, *, zero: Zero) -> float:
        """The inverse; not rounded."""
        return rad * COUNTS_PER_TURN / (2.0 * math.pi) + self._zero(zero)

    def affine(self, convention: Convention, *, gripper: bool) -> tuple[float, float]:
        """`(scale, offset)` with policy = counts * scale + offset, as LeRobot computes it (without its clamping)."""
        if convention == "degrees" and not gripper:
            scale = 360.0 / _LAST_COUNT
            return scale, -self.middle * scale
        span = float(self.range_max - self.range_min)
        scale, offset = (100.0, 0.0) if gripper else (200.0, -100.0)
        scale, offset = scale / span, offset - self.range_min * scale / span
        if not self.flipped:
            return scale, offset
        return (-scale, 100.0 - offset) if gripper else (-scale, -offset)

    def policy_unit(self, convention: Convention, *, gripper: bool, zero: Zero) -> tuple[float, float]:
        """`(scale, offset)` with policy = radians * scale + offset: a contract's `policy_unit`."""
        scale, offset = self.affine(convention, gripper=gripper)
        per_rad = COUNTS_PER_TURN / (2.0 * math.pi)
        return scale * per_rad, scale * self._zero(zero) + offset

    def _zero(self, zero: Zero) -> float:
        return COUNTS_PER_TURN / 2.0 if zero == "encoder" else self.middle


def read_calibration(path: Path) -> tuple[JointCalibration, ...]:
    """Reads a LeRobot calibration file.

    Raises:
        ContractError: it is not one, is of LeRobot's old format, or a range is empty; all problems are listed.
    """
    try:
        content = read_json(path)
    except SigmaError as error:
        raise ContractError("the calibration file cannot be read", where=path, got=error.got or error.what) from error
    if isinstance(content, dict) and "calib_mode" in content:
        raise ContractError(
            "the calibration file is of LeRobot's old format",
            where=path,
            got="calib_mode, start_pos and end_pos, which do not say where the joints' ranges end",
            remedy="calibrate again with lerobot-calibrate of LeRobot 0.4 or newer",
        )
    if not isinstance(content, dict) or not content:
        raise ContractError("not a calibration file", where=path, expected="joints with range_min and range_max")
    problems: list[str] = []
    joints = tuple(found for name, entry in content.items() if (found := _joint(name, entry, problems)) is not None)
    if problems:
        raise ContractError("the calibration file makes no sense", where=path, got=" | ".join(problems))
    return joints


def _joint(name: str, entry: object, problems: list[str]) -> JointCalibration | None:
    if not isinstance(entry, Mapping):
        problems.append(f"{name} is not a mapping")
        return None
    low, high, mode = (entry.get(key) for key in ("range_min", "range_max", "drive_mode"))
    if not (_is_count(low) and _is_count(high)) or not isinstance(low, int) or not isinstance(high, int) or low >= high:
        problems.append(f"{name}: range_min {low!r} must be below range_max {high!r}, both counts")
        return None
    if mode not in (0, 1, False, True):
        problems.append(f"{name}: drive_mode {mode!r} must be 0 or 1")
        return None
    return JointCalibration(name=name, range_min=low, range_max=high, flipped=bool(mode))


def _is_count(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and -(1 << 16) <= value <= 1 << 16


@dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    """How numbers in a joint state may be meant: what turns them into radians of the contract."""

    name: str
    remedy: str
    to_rad: Float64[ndarray, "2 dof"]

    def rad(self, values: Float64[ndarray, "*n dof"]) -> Float64[ndarray, "*n dof"]:
        """The values as radians."""
        scaled: Float64[ndarray, "*n dof"] = values * self.to_rad[0] + self.to_rad[1]
        return scaled


def readings(contract: Contract) -> tuple[Reading, ...]:
    """What a driver may have sent: radians as it should, degrees, LeRobot's -100..100, or encoder counts."""
    ones, zeros = np.ones(contract.dof), np.zeros(contract.dof)
    low, high = contract.lower_rad, contract.upper_rad
    gripper = np.array([joint.name == "gripper" for joint in contract.joints])
    percent = np.where(gripper, (high - low) / 100.0, (high - low) / 200.0)
    percent_zero = np.where(gripper, low, (high + low) / 2.0)
    count = 2.0 * math.pi / COUNTS_PER_TURN
    return (
        Reading(name="radians", remedy="nothing to do", to_rad=np.stack([ones, zeros])),
        Reading(
            name="degrees",
            remedy="the driver sends degrees; JointState is in radians: convert in the driver",
            to_rad=np.stack([ones * math.pi / 180.0, zeros]),
        ),
        Reading(
            name="-100..100",
            remedy="the driver sends LeRobot's normalised values; convert them with its calibration file",
            to_rad=np.stack([percent, percent_zero]),
        ),
        Reading(
            name="encoder counts",
            remedy="the driver sends raw counts; convert them in the driver",
            to_rad=np.stack([ones * count, -ones * math.pi]),
        ),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Fit:
    """How a reading agrees with the training data: joints that are outside."""

    reading: Reading
    outside: tuple[str, ...]

    @property
    def fits(self) -> bool:
        """Whether every joint lies within one span of the training quantiles."""
        return not self.outside


def judge(
    values: Float64[ndarray, " dof"],
    contract: Contract,
    q01: Float64[ndarray, " dof"],
    q99: Float64[ndarray, " dof"],
) -> tuple[Fit, ...]:
    """Judges every reading of a measured pose against the training quantiles (policy units), in reading order."""
    found = []
    for reading in readings(contract):
        policy = contract.to_policy(reading.rad(values))
        span = np.where(q99 > q01, q99 - q01, np.inf)  # a joint that never moved in training tells nothing
        beyond = np.maximum(np.maximum(q01 - policy, policy - q99), 0.0) / span
        bad = ~(beyond <= 1.0)
        outside = tuple(name for name, there in zip(contract.joint_names, bad, strict=True) if there)
        found.append(Fit(reading=reading, outside=outside))
    return tuple(found)


def policy_units(
    calibration: Sequence[JointCalibration], contract: Contract, convention: Convention, *, zero: Zero
) -> dict[str, tuple[float, float]]:
    """`policy_unit` of each contract joint by name.

    Raises:
        ContractError: the calibration lacks a joint of the contract.
    """
    order = contract.joint_order(tuple(joint.name for joint in calibration))
    pairs = zip(contract.joint_names, order, strict=True)
    return {
        name: calibration[index].policy_unit(convention, gripper=name == "gripper", zero=zero) for name, index in pairs
    }


LimitsFrom = Literal["both", "calibration"]
_REACH_TOLERANCE_RAD = 0.05
"""An arm that rests further outside its limits than this cannot be engaged (`start_tolerance_rad`)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class JointLimits:
    """Position limits of one joint [rad], and how far its recorded range goes beyond them at either end."""

    lower_rad: float
    upper_rad: float
    beyond_low_rad: float
    beyond_high_rad: float

    @property
    def strands(self) -> bool:
        """Whether the arm may rest where `engage` refuses it."""
        return max(self.beyond_low_rad, self.beyond_high_rad) > _REACH_TOLERANCE_RAD


def joint_limits(
    calibration: Sequence[JointCalibration], contract: Contract, *, zero: Zero, limits_from: LimitsFrom = "both"
) -> dict[str, JointLimits]:
    """Position limits of each contract joint by name: what the calibration recorded and, with `both`, the model allows.

    Raises:
        ContractError: the calibration lacks a joint of the contract, nothing is left of a joint's range, or the gripper
            could not close; all problems are listed.
    """
    order = contract.joint_order(tuple(joint.name for joint in calibration))
    problems: list[str] = []
    found = {}
    for model, index in zip(contract.joints, order, strict=True):
        joint = calibration[index]
        low, high = (joint.counts_to_rad(end, zero=zero) for end in (joint.range_min, joint.range_max))
        lower, upper = (max(low, model.lower_rad), min(high, model.upper_rad)) if limits_from == "both" else (low, high)
        if not lower < upper:
            problems.append(f"{model.name}: {low:.2f}..{high:.2f} rad and {model.lower_rad:.2f}..{model.upper_rad:.2f}")
            continue
        limits = JointLimits(lower_rad=lower, upper_rad=upper, beyond_low_rad=lower - low, beyond_high_rad=high - upper)
        closed_off_rad = limits.beyond_high_rad if joint.flipped else limits.beyond_low_rad
        if model.name == "gripper" and closed_off_rad > _REACH_TOLERANCE_RAD:
            problems.append(f"gripper: {closed_off_rad:.2f} rad short of closed")
        found[model.name] = limits
    if problems:
        raise ContractError(
            "calibration and contract do not fit together",
            expected="ranges that overlap, and a gripper that can close",
            got=" | ".join(problems),
            remedy="take the calibration's own limits (--limits calibration), or calibrate with the gripper closed",
        )
    return found
