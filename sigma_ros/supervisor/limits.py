# SPDX-License-Identifier: Apache-2.0
"""What the supervisor enforces: motion limits and its settings, each with unit, range and reason.

Defaults follow the project's safety study: command age 0.1 s with a cap of 0.2 s (Universal Robots'
receive timeout is capped alike), start pose 0.05 rad, scale slew 0.5 /s up and 0.1 s down.
"""

import math
from dataclasses import dataclass, field, fields, replace
from typing import Any

import numpy as np
from jaxtyping import Float64
from numpy import ndarray

from sigma_ros.contract import Contract
from sigma_ros.errors import ContractError
from sigma_ros.supervisor.geometry.collision import Collisions, collisions_of
from sigma_ros.supervisor.geometry.workspace import Workspace, workspace_of
from sigma_ros.values import NS_PER_S, frozen_array


@dataclass(frozen=True, slots=True, kw_only=True)
class MotionLimits:
    """Position, velocity, acceleration and jerk per joint, and the period for which they hold.

    `workspace` holds the limits of the tool, if any are switched on; `collisions` what the links may not come near.
    """

    lower_rad: Float64[ndarray, " dof"]
    upper_rad: Float64[ndarray, " dof"]
    velocity_radps: Float64[ndarray, " dof"]
    acceleration_radps2: Float64[ndarray, " dof"]
    jerk_radps3: Float64[ndarray, " dof"]
    period_s: float
    workspace: Workspace | None = None
    collisions: Collisions | None = None

    @property
    def dof(self) -> int:
        """Number of joints."""
        return int(self.lower_rad.size)


def _setting(default: float, low: float, high: float, unit: str, text: str) -> Any:
    return field(default=default, metadata={"low": low, "high": high, "unit": unit, "text": text})


TIGHTENED = {
    "position_margin_rad": 1,
    "velocity_scale": -1,
    "acceleration_scale": -1,
    "jerk_scale": -1,
    "cap_tool_speed": 1,
    "max_tool_speed_mps": -1,
    "keep_above_plane": 1,
    "plane_height_m": 1,
    "avoid_collisions": 1,
    "collision_margin_m": 1,
}
"""Motion limits: they can be made tighter at any time, never looser before a restart; 1: upwards is tighter."""

_SWITCHES = {
    "max_tool_speed_mps": "cap_tool_speed",
    "plane_height_m": "keep_above_plane",
    "collision_margin_m": "avoid_collisions",
}
"""What a number means nothing without: it may be set at will while its switch is off."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SupervisorLimits:
    """Settings of the supervisor; the metadata of each field holds its range, unit and meaning.

    Raises:
        ContractError: a value is not finite, out of range, or does not fit the others; all are listed.
    """

    position_margin_rad: float = _setting(0.0, 0.0, 0.5, "rad", "soft position limits lie this far inside the hard")
    velocity_scale: float = _setting(1.0, 0.01, 1.0, "", "soft speed limit as part of the contract's")
    acceleration_scale: float = _setting(1.0, 0.01, 1.0, "", "soft acceleration limit as part of the contract's")
    jerk_scale: float = _setting(1.0, 0.01, 1.0, "", "soft jerk limit as part of the contract's")
    cap_tool_speed: bool = False
    max_tool_speed_mps: float = _setting(0.25, 0.01, 5.0, "m/s", "that limit, for each tool point of the contract")
    keep_above_plane: bool = False
    plane_height_m: float = _setting(0.0, -2.0, 2.0, "m", "height of that plane in the frame of the arm's base")
    avoid_collisions: bool = False
    collision_margin_m: float = _setting(
        0.005, 0.0, 0.1, "m", "links keep this far from each other, from that plane and from the contract's `keep_out`"
    )

    joint_hold_s: float = _setting(0.0, 0.0, 1.0, "s", "joint states older: HOLD; 0 takes the contract's limit")
    joint_stop_s: float = _setting(1.0, 0.1, 10.0, "s", "joint states older: STOPPED")
    heartbeat_timeout_s: float = _setting(
        0.1, 0.04, 0.2, "s", "policy heartbeat older: HOLD; cannot be switched off live"
    )
    max_chunk_delay_s: float = _setting(0.5, 0.05, 1.0, "s", "from a chunk's stamp to its arrival")
    max_stamp_lead_s: float = _setting(
        0.05, 0.0, 0.5, "s", "chunks and joint states may be stamped this far in the future"
    )
    max_observation_age_s: float = _setting(
        0.0, 0.0, 2.0, "s", "observations of a chunk; 0 takes the contract's oldest"
    )
    max_chunk_age_s: float = _setting(0.0, 0.0, 5.0, "s", "a chunk is executed this long after its stamp; 0: 30 ticks")
    estop_hold_s: float = _setting(0.05, 0.02, 1.0, "s", "e-stop heartbeat older: HOLD until it is heard again")
    estop_timeout_s: float = _setting(0.15, 0.1, 1.0, "s", "e-stop heartbeat older: ESTOP, once it was heard")
    enabling_timeout_s: float = _setting(0.08, 0.04, 0.2, "s", "enabling device's beat older: HOLD until engage")
    max_tick_gap_s: float = _setting(0.1, 0.04, 1.0, "s", "own ticks further apart: HOLD")
    clock_jump_s: float = _setting(0.5, 0.1, 10.0, "s", "the observation clock against the own clock, between ticks")
    resume_after_s: float = _setting(0.2, 0.0, 10.0, "s", "all must be well this long before HOLD ends by itself")
    authority_hold_s: float = _setting(
        2.0, 0.0, 60.0, "s", "in HOLD for longer since the arm last moved: asks for engage"
    )
    authority_engaging_s: float = _setting(
        10.0, 0.5, 600.0, "s", "in ENGAGING for longer since the arm last moved: asks for engage"
    )

    start_tolerance_rad: float = _setting(0.05, 0.0, 0.5, "rad", "first target against where the arm is")
    max_start_offset_rad: float = _setting(1.0, 0.0, 3.2, "rad", "largest distance that start_ramp bridges")
    ramp_speed_radps: float = _setting(0.25, 0.01, 1.0, "rad/s", "speed of that ramp")
    crossfade_steps: float = _setting(
        0, 0, 16, "steps", "a new chunk fades in over this many steps; 0 switches at once"
    )

    scale_rise_per_s: float = _setting(0.5, 0.0, 0.5, "1/s", "in motion the applied scale rises this fast at most")
    scale_fall_s: float = _setting(0.1, 0.01, 0.1, "s", "the applied scale falls from 1 to 0 in this time")
    recover_after_s: float = _setting(2.0, 0.0, 60.0, "s", "all must be well this long before the ceiling rises")
    recover_per_s: float = _setting(0.2, 0.0, 0.5, "1/s", "the ceiling rises this fast")
    miss_tolerance_rad: float = _setting(
        0.02, 0.001, 0.5, "rad", "further from its request than the base alone would be: lowers the ceiling"
    )
    max_residual_rad: float = _setting(1.5, 0.0, 3.2, "rad", "largest correction that the residual may apply")
    base_miss_rad: float = _setting(
        0.3, 0.05, 3.2, "rad", "this far from the request for 1 s, and the base alone as well: HOLD"
    )

    max_measured_speed_radps: float = _setting(10.0, 1.0, 100.0, "rad/s", "a joint measured faster: STOPPED")
    tracking_error_rad: float = _setting(0.6, 0.05, 3.2, "rad", "measured against commanded for 0.5 s: STOPPED")
    max_lead_rad: float = _setting(0.08, 0.02, 0.6, "rad", "a command is at most this far ahead of a joint that stands")
    contact_lead_rad: float = _setting(
        0.02, 0.01, 0.3, "rad", "a joint that ignores its commands is blocked once they are this far ahead, sag apart"
    )
    servo_lag_s: float = _setting(0.15, 0.0, 0.3, "s", "and by what a joint goes in this time further, if it moves")

    authority_ages: bool = True
    require_heartbeat: bool = True
    require_estop_heartbeat: bool = False
    require_enabling: bool = False
    start_ramp: bool = False
    check_tracking: bool = True
    bound_lead: bool = True
    keep_path: bool = True
    untracked_joints: tuple[str, ...] = ("gripper", "left_gripper", "right_gripper")

    def __post_init__(self) -> None:
        problems = [text for entry in fields(self) if entry.metadata for text in self._range_problem(entry)]
        if not problems:
            problems = self._cross_problems()
        if problems:
            raise ContractError(
                f"the supervisor's settings have {len(problems)} problem(s)",
                got=" | ".join(problems),
                remedy="supervisor_node --help lists every setting with its range",
            )

    @classmethod
    def for_replay(cls) -> "SupervisorLimits":
        """For recordings, whose joints do not follow our commands and whose policy is called in step."""
        return cls(
            authority_ages=False,
            require_heartbeat=False,
            check_tracking=False,
            start_ramp=True,
            max_start_offset_rad=3.2,
            ramp_speed_radps=1.0,
        )

    def motion(self, contract: Contract) -> MotionLimits:
        """The soft limits for a robot.

        Raises:
            ContractError: the margin leaves a joint no range, or a limit of the tool needs kinematics it does not know.
        """
        lower = contract.lower_rad + self.position_margin_rad
        upper = contract.upper_rad - self.position_margin_rad
        empty = [name for name, low, high in zip(contract.joint_names, lower, upper, strict=True) if not low < high]
        if empty:
            raise ContractError(
                f"no range is left for {', '.join(empty)}",
                got=f"position_margin_rad {self.position_margin_rad}",
                remedy="lower position_margin_rad",
            )
        velocity_radps, period_s = (
            contract.max_velocity_radps * self.velocity_scale,
            contract.command_period_ns / NS_PER_S,
        )
        plane_height_m = self.plane_height_m if self.keep_above_plane else -math.inf
        return MotionLimits(
            lower_rad=frozen_array(lower),
            upper_rad=frozen_array(upper),
            velocity_radps=velocity_radps,
            acceleration_radps2=contract.max_acceleration_radps2 * self.acceleration_scale,
            jerk_radps3=contract.max_jerk_radps3 * self.jerk_scale,
            period_s=period_s,
            workspace=workspace_of(
                contract,
                speed_mps=self.max_tool_speed_mps if self.cap_tool_speed else math.inf,
                plane_height_m=plane_height_m,
            ),
            collisions=collisions_of(
                contract,
                margin_m=self.collision_margin_m,
                plane_height_m=plane_height_m,
                fastest_step_rad=float(velocity_radps.max()) * period_s,
            )
            if self.avoid_collisions
            else None,
        )

    def tightened(self, **changes: float) -> "SupervisorLimits":
        """These settings with some motion limits tightened.

        Raises:
            ContractError: a setting is not a motion limit, is out of range, or would be loosened.
        """
        problems = [
            f"{name} cannot be changed, only {', '.join(TIGHTENED)}" for name in changes if name not in TIGHTENED
        ]
        for name, upwards in TIGHTENED.items():
            old, new = getattr(self, name), changes.get(name)
            in_force = getattr(self, _SWITCHES[name]) if name in _SWITCHES else True
            if new is not None and in_force and (new < old if upwards > 0 else new > old):
                problems.append(f"{name} {new} would loosen {old}")
        if problems:
            raise ContractError(
                "limits may only be tightened while engaged",
                got=" | ".join(problems),
                remedy="release the arm first",
            )
        return replace(self, **changes)  # type: ignore[arg-type]

    def _range_problem(self, entry: Any) -> list[str]:
        value, low, high = getattr(self, entry.name), entry.metadata["low"], entry.metadata["high"]
        if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
            return [f"{entry.name} must be a finite number, got {value!r}"]
        if not low <= value <= high:
            return [f"{entry.name} must be within [{low:g}, {high:g}] {entry.metadata['unit']}, got {value!r}"]
        return []

    def _cross_problems(self) -> list[str]:
        problems = []
        if self.joint_hold_s > self.joint_stop_s:
            problems.append(f"joint_hold_s {self.joint_hold_s} must not exceed joint_stop_s {self.joint_stop_s}")
        if self.estop_hold_s > self.estop_timeout_s:
            problems.append(f"estop_hold_s {self.estop_hold_s} must not exceed estop_timeout_s {self.estop_timeout_s}")
        if 0.0 < self.max_chunk_age_s < self.max_chunk_delay_s:
            problems.append(
                f"max_chunk_delay_s {self.max_chunk_delay_s} must not exceed max_chunk_age_s {self.max_chunk_age_s}"
            )
        if self.start_tolerance_rad > self.max_start_offset_rad:
            problems.append(
                f"start_tolerance_rad {self.start_tolerance_rad} must not exceed "
                f"max_start_offset_rad {self.max_start_offset_rad}"
            )
        return problems


def limit_excess(limits: MotionLimits, stream: Float64[ndarray, "ticks dof"]) -> float:
    """By how much the newest command of a stream of four breaks a limit (SI units; <= 0 is fine).

    Written without the planner, so that the supervisor's own check does not share its mistakes.
    """
    dt = limits.period_s
    v = (stream[3] - stream[2]) / dt
    v_before = (stream[2] - stream[1]) / dt
    a = (v - v_before) / dt
    a_before = (v_before - (stream[1] - stream[0]) / dt) / dt
    j = (a - a_before) / dt
    tool = -math.inf if limits.workspace is None else limits.workspace.excess(stream[2], stream[3])
    nearer = -math.inf if limits.collisions is None else limits.collisions.shortfalls_m(stream[None, 2:]).max()
    return float(
        max(
            tool,
            nearer,
            np.max(stream[3] - limits.upper_rad),
            np.max(limits.lower_rad - stream[3]),
            np.max(np.abs(v) - limits.velocity_radps),
            np.max(np.abs(a) - limits.acceleration_radps2),
            np.max(np.abs(j) - limits.jerk_radps3),
        )
    )
