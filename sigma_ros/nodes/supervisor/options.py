# SPDX-License-Identifier: Apache-2.0
"""The parameters of `supervisor_node`: its own, and the settings of `SupervisorLimits` with their facts."""

from dataclasses import Field, dataclass, fields
from typing import Any

from sigma_ros.errors import ContractError
from sigma_ros.nodes.shared.parameters import RobotOptions, option
from sigma_ros.supervisor.limits import TIGHTENED, SupervisorLimits

_LIMIT_FIELDS: tuple[Field[Any], ...] = fields(SupervisorLimits)


def _of_limits(name: str, text: str = "") -> Any:
    """A setting of the supervisor as a parameter: default, unit and range are the setting's own."""
    [entry] = [entry for entry in _LIMIT_FIELDS if entry.name == name]
    default = ",".join(entry.default) if isinstance(entry.default, tuple) else entry.default
    facts = dict(entry.metadata)
    return option(facts.pop("text", text), default=default, read_only=name not in TIGHTENED, **facts)


@dataclass(frozen=True, slots=True, kw_only=True)
class SupervisorOptions(RobotOptions):
    """Parameters of `supervisor_node`: its own, and every field of `SupervisorLimits`."""

    lockstep: bool = option(
        "replay: ticks at `/clock` messages; commands go to the replay topic only", default=False, read_only=True
    )
    realtime_priority: int = option(
        "SCHED_FIFO level of its thread where permitted; 0: ordinary", default=20, low=0, high=99, read_only=True
    )
    pairing: bool = option(
        "engage and reset_stop only with the token that is shown at start: `~/engage_paired`, `~/reset_stop_paired`",
        default=False,
        read_only=True,
    )
    scale_ceiling: float = option("the applied scale never exceeds this", default=1.0, low=0.0, high=1.0)

    position_margin_rad: float = _of_limits("position_margin_rad")
    velocity_scale: float = _of_limits("velocity_scale")
    acceleration_scale: float = _of_limits("acceleration_scale")
    jerk_scale: float = _of_limits("jerk_scale")
    cap_tool_speed: bool = _of_limits(
        "cap_tool_speed", "bound the speed of the tool; needs `kinematics` in the contract"
    )
    max_tool_speed_mps: float = _of_limits("max_tool_speed_mps")
    keep_above_plane: bool = _of_limits(
        "keep_above_plane", "keep the tool above a level plane; needs `kinematics` in the contract"
    )
    plane_height_m: float = _of_limits("plane_height_m")
    avoid_collisions: bool = _of_limits(
        "avoid_collisions", "keep the links clear of each other and more; needs `capsules` in the contract's kinematics"
    )
    collision_margin_m: float = _of_limits("collision_margin_m")
    joint_hold_s: float = _of_limits("joint_hold_s")
    joint_stop_s: float = _of_limits("joint_stop_s")
    heartbeat_timeout_s: float = _of_limits("heartbeat_timeout_s")
    max_chunk_delay_s: float = _of_limits("max_chunk_delay_s")
    max_stamp_lead_s: float = _of_limits("max_stamp_lead_s")
    max_observation_age_s: float = _of_limits("max_observation_age_s")
    max_chunk_age_s: float = _of_limits("max_chunk_age_s")
    estop_hold_s: float = _of_limits("estop_hold_s")
    estop_timeout_s: float = _of_limits("estop_timeout_s")
    enabling_timeout_s: float = _of_limits("enabling_timeout_s")
    max_tick_gap_s: float = _of_limits("max_tick_gap_s")
    clock_jump_s: float = _of_limits("clock_jump_s")
    resume_after_s: float = _of_limits("resume_after_s")
    authority_hold_s: float = _of_limits("authority_hold_s")
    authority_engaging_s: float = _of_limits("authority_engaging_s")
    start_tolerance_rad: float = _of_limits("start_tolerance_rad")
    max_start_offset_rad: float = _of_limits("max_start_offset_rad")
    ramp_speed_radps: float = _of_limits("ramp_speed_radps")
    crossfade_steps: float = _of_limits("crossfade_steps")
    scale_rise_per_s: float = _of_limits("scale_rise_per_s")
    scale_fall_s: float = _of_limits("scale_fall_s")
    recover_after_s: float = _of_limits("recover_after_s")
    recover_per_s: float = _of_limits("recover_per_s")
    miss_tolerance_rad: float = _of_limits("miss_tolerance_rad")
    max_residual_rad: float = _of_limits("max_residual_rad")
    base_miss_rad: float = _of_limits("base_miss_rad")
    max_measured_speed_radps: float = _of_limits("max_measured_speed_radps")
    tracking_error_rad: float = _of_limits("tracking_error_rad")
    max_lead_rad: float = _of_limits("max_lead_rad")
    contact_lead_rad: float = _of_limits("contact_lead_rad")
    servo_lag_s: float = _of_limits("servo_lag_s")
    authority_ages: bool = _of_limits(
        "authority_ages", "an arm that stood for too long asks for engage; false (simulator only): it goes on by itself"
    )
    require_heartbeat: bool = _of_limits("require_heartbeat", "engage only while the policy's heartbeat is heard")
    require_estop_heartbeat: bool = _of_limits("require_estop_heartbeat", "without an e-stop publisher: ESTOP")
    require_enabling: bool = _of_limits(
        "require_enabling", "move only while one enabling device says true on `sigma/enable` (hold-to-run)"
    )
    start_ramp: bool = _of_limits("start_ramp", "lead the arm slowly to a first target beyond start_tolerance_rad")
    check_tracking: bool = _of_limits("check_tracking", "stop when a joint does not follow or freezes")
    bound_lead: bool = _of_limits(
        "bound_lead", "bound how far commands run ahead of the measured joints; hold when a joint is blocked"
    )
    keep_path: bool = _of_limits(
        "keep_path", "slow the arm along the policy's path where that breaks a limit; false: bound each joint alone"
    )
    untracked_joints: str = _of_limits(
        "untracked_joints", "joints not judged for that, separated by commas; a gripper holds things"
    )

    @property
    def limits(self) -> SupervisorLimits:
        """The supervisor's settings as one value.

        Raises:
            ContractError: they do not fit together.
        """
        values = {entry.name: getattr(self, entry.name) for entry in _LIMIT_FIELDS}
        values["untracked_joints"] = tuple(filter(None, values["untracked_joints"].split(",")))
        return SupervisorLimits(**values)

    def conflicts(self) -> list[str]:
        """See `Options`."""
        try:
            _ = self.limits
        except ContractError as error:
            return [str(error.got)]
        return []


def supervisor_options(limits: SupervisorLimits) -> SupervisorOptions:
    """The parameters that give these settings."""
    values = {entry.name: getattr(limits, entry.name) for entry in _LIMIT_FIELDS}
    values["untracked_joints"] = ",".join(limits.untracked_joints)
    return SupervisorOptions(**values)
