# SPDX-License-Identifier: Apache-2.0
"""The parameters of every node, without ROS: defaults, ranges, descriptions.

`--help` of each node lists them; the documentation's page is made of them.
"""

from dataclasses import Field, dataclass, fields
from pathlib import Path
from typing import Any

from sigma_ros.errors import ContractError
from sigma_ros.nodes.launch.stages import STAGES
from sigma_ros.nodes.shared.parameters import Options, option
from sigma_ros.policy.alarm import ALARM_ACTIONS
from sigma_ros.policy.schedule import CROSSFADE_STEPS, REPLAN_TICKS, STITCHING, STITCHINGS
from sigma_ros.supervisor.limits import TIGHTENED, SupervisorLimits
from sigma_ros.values import AdapterSettings


@dataclass(frozen=True, slots=True, kw_only=True)
class PolicyOptions:
    """Parameters of `policy_node`."""

    contract: str = option("contract file, or the name of a shipped one", default="so101", read_only=True)
    checkpoint: str = option(
        "`mini`, a Sigma checkpoint folder, a pi0.5 folder or a Hub id", default="mini", read_only=True
    )
    base: str = option("base policy, where it is not the one the checkpoint names", default="", read_only=True)
    revision: str = option("revision of a Hub id; empty: the checkpoint's, else the newest", default="", read_only=True)
    tokenizer: str = option("tokenizer folder or Hub id; empty: the checkpoint's", default="", read_only=True)
    device: str = option("torch device; `auto` takes a GPU if there is one", default="auto", read_only=True)
    dtype: str = option(
        "number type of the weights", default="auto", choices=("auto", "float32", "bfloat16"), read_only=True
    )
    seed: int = option("seed of the flow-matching noise", default=0, low=0, high=2**31 - 1, read_only=True)
    allow_untrained: bool = option("accept random weights where a checkpoint has none", default=False, read_only=True)
    autostart: bool = option(
        "configure and activate at start, without a lifecycle manager", default=True, read_only=True
    )
    lockstep: bool = option("replay: ticks complete by messages alone, none is dropped", default=False, read_only=True)
    inference: str = option(
        "the model in a process of its own, or inside the node; auto: a process of its own, but not in lockstep",
        default="auto",
        choices=("auto", "process", "inside"),
        read_only=True,
    )
    engine: str = option(
        "how the model runs; cuda_graph falls back to plain where its chunk differs by more than 0.001 rad",
        default="plain",
        choices=("plain", "cuda_graph"),
        read_only=True,
    )
    baseline_diagnostics: bool = option(
        "at commits, also measure tau_l2 and sem_align without LoRA", default=False, read_only=True
    )
    state_file: str = option(
        "name of the file in `state_folder` for `~/save_state` and `~/restore_state`; empty: they are refused",
        default="",
        read_only=True,
    )
    state_folder: str = option("the only folder that the memory is written to", default="sigma_state", read_only=True)
    task: str = option("task text; empty: the contract's first", default="")
    replan_ticks: int = option("a chunk every so many ticks", default=REPLAN_TICKS, unit="ticks", low=1, high=50)
    stitching: str = option(
        "how a chunk takes over: at once, faded in, or with the base led on from the chunk before (rtc)",
        default=STITCHING,
        choices=STITCHINGS,
    )
    crossfade_steps: int = option(
        "steps over which `crossfade` fades in", default=CROSSFADE_STEPS, unit="steps", low=1, high=16
    )
    residual_every_tick: bool = option(
        "renew the residual at every tick on the chunk in execution, while the base replans slowly", default=False
    )
    alarm_threshold_rad: float = option(
        "alarm where a chunk is so far from what the one before had planned for the same ticks (rms); 0: never",
        default=0.0,
        unit="rad",
        low=0.0,
        high=10.0,
    )
    alarm_joint: str = option(
        "also alarm where this joint is measured below `alarm_below_rad`, as fingers are that closed on nothing; "
        "empty: none",
        default="",
        read_only=True,
    )
    alarm_below_rad: float = option("see `alarm_joint`", default=0.0, unit="rad", low=-10.0, high=10.0)
    on_alarm: str = option(
        "on an alarm: warn alone, plan twice as often, or propose nothing more until `~/reset_memory`",
        default="none",
        choices=ALARM_ACTIONS,
    )
    frozen_camera: str = option(
        "a camera that repeats its picture for a second: warn in the diagnostics, or also hold the arm",
        default="warn",
        choices=("warn", "hold"),
    )
    trajectory_for_viewers: bool = option(
        "also publish each chunk as `trajectory_msgs/JointTrajectory` on `inference/action_chunk`, not for controllers",
        default=False,
        read_only=True,
    )
    adapter_min_scale: float = option(
        "scale of the residual at infinite risk", default=0.0, name="adapter.min_scale", low=0.0, high=1.0
    )
    adapter_max_scale: float = option(
        "scale of the residual at no risk", default=1.0, name="adapter.max_scale", low=0.0, high=1.0
    )
    adapter_risk_temperature: float = option(
        "how slowly the scale falls with risk", default=1.0, name="adapter.risk_temperature", low=1e-3, high=1e3
    )

    @property
    def settings(self) -> AdapterSettings:
        """The adapter's settings as one value."""
        return AdapterSettings(
            min_scale=self.adapter_min_scale,
            max_scale=self.adapter_max_scale,
            risk_temperature=self.adapter_risk_temperature,
        )

    @property
    def has_own_process(self) -> bool:
        """Whether the model gets a process of its own."""
        return self.inference == "process" or (self.inference == "auto" and not self.lockstep)

    @property
    def state_path(self) -> Path | None:
        """Where the memory is kept; None: nowhere."""
        return Path(self.state_folder).expanduser() / self.state_file if self.state_file else None

    def conflicts(self) -> list[str]:
        """See `Options`."""
        found = []
        if self.adapter_min_scale > self.adapter_max_scale:
            found.append(
                f"adapter.min_scale = {self.adapter_min_scale} is above adapter.max_scale = {self.adapter_max_scale}; "
                "set both at once or the other one first"
            )
        name = self.state_file
        if name and (name != Path(name).name or name == ".." or "\0" in name):
            found.append(f"state_file = {name!r} must be the name of a file in state_folder, not a path")
        return found


@dataclass(frozen=True, slots=True, kw_only=True)
class SimOptions:
    """Parameters of `sim_node`."""

    contract: str = option("contract file, or the name of a shipped one", default="so101", read_only=True)
    setup: str = option(
        "which simulated set-up: the base policy's own, or one that differs from it",
        default="target",
        choices=("source", "target"),
        read_only=True,
    )
    seed: int = option(
        "seed of the first episode; each reset takes the next", default=0, low=0, high=2**31 - 1, read_only=True
    )

    def conflicts(self) -> list[str]:
        """See `Options`."""
        return []


@dataclass(frozen=True, slots=True, kw_only=True)
class DriverOptions:
    """Parameters of `so101_driver`."""

    contract: str = option("contract file, or the name of a shipped one", default="so101", read_only=True)
    port: str = option("serial device of the arm's bus", default="/dev/ttyACM0", read_only=True)
    calibration: str = option("LeRobot's calibration file of this arm (JSON)", default="", read_only=True)
    zero: str = option(
        "where 0 rad is: the encoder's middle, or the middle of the recorded range",
        default="encoder",
        choices=("encoder", "range"),
        read_only=True,
    )
    rate_hz: float = option(
        "the arm is read and commanded this often", default=50.0, unit="Hz", low=5.0, high=200.0, read_only=True
    )
    first_command_rad: float = option(
        "after a (re)connection the first command may be this far from the arm",
        default=0.15,
        unit="rad",
        low=0.01,
        high=1.0,
        read_only=True,
    )

    torque_limit: float = option(
        "the arm servos' torque limit as part of their stall torque; set and read back at each connection",
        default=1.0,
        low=0.05,
        high=1.0,
        read_only=True,
    )
    gripper_torque_limit: float = option("the gripper's, likewise", default=0.5, low=0.05, high=1.0, read_only=True)
    max_tip_force_n: float = option(
        "lower each joint's torque limit so that it alone pushes the tool no harder; 0: off; needs `kinematics`",
        default=0.0,
        unit="N",
        low=0.0,
        high=500.0,
        read_only=True,
    )

    def conflicts(self) -> list[str]:
        """See `Options`."""
        return [] if self.calibration else ["calibration must be given: the file that lerobot-calibrate wrote"]


@dataclass(frozen=True, slots=True, kw_only=True)
class CameraOptions:
    """Parameters of `camera_node`."""

    contract: str = option("contract file, or the name of a shipped one", default="so101", read_only=True)
    camera: str = option("the contract's camera that this device is", default="", read_only=True)
    device: str = option("number of a V4L2 device (0 is /dev/video0), its path, or a film", default="0", read_only=True)

    def conflicts(self) -> list[str]:
        """See `Options`."""
        return [] if self.camera else ["camera must be given: the name of one of the contract's cameras"]


@dataclass(frozen=True, slots=True, kw_only=True)
class PanelOptions:
    """Parameters of the panel's node."""

    contract: str = option("contract file, or the name of a shipped one", default="so101", read_only=True)
    host: str = option(
        "address to listen at; any but this machine's own needs a token", default="127.0.0.1", read_only=True
    )
    port: int = option("TCP port; 0: any that is free", default=8700, low=0, high=65535, read_only=True)
    browser: bool = option(
        "open the page in this machine's browser, if it has a display", default=False, read_only=True
    )

    def conflicts(self) -> list[str]:
        """See `Options`."""
        return []


@dataclass(frozen=True, slots=True, kw_only=True)
class RecordOptions:
    """Parameters of `record_node`."""

    out: str = option("the bag's folder, which must not exist; with `episodes` the bags'", default="", read_only=True)
    contract: str = option("contract file, or the name of a shipped one", default="so101", read_only=True)
    task: str = option("task text of this or the next bag; empty: the contract's first", default="")
    seconds: float = option("length; 0: until it is stopped", default=0.0, unit="s", low=0.0, high=1e5, read_only=True)
    episodes: bool = option(
        "a bag each from `~/start` to `~/save` or `~/discard`, instead of one at once", default=False, read_only=True
    )
    keyboard: bool = option(
        "keys of its terminal: r record, s save, d discard, n next prompt, i intervention, q quit",
        default=False,
        read_only=True,
    )
    everything: bool = option("every topic, instead of the contract's", default=False, read_only=True)
    least_free_gb: float = option(
        "less free disk ends the recording", default=1.0, unit="GB", low=0.0, high=1e4, read_only=True
    )
    storage: str = option("the bag's file format", default="mcap", choices=("mcap", "sqlite3"), read_only=True)

    def conflicts(self) -> list[str]:
        """See `Options`."""
        found = [] if self.out else ["out must be given: the folder of the bag"]
        if self.keyboard and not self.episodes:
            found.append("keyboard needs episodes: keys begin and end them")
        return found


_LIMIT_FIELDS: tuple[Field[Any], ...] = fields(SupervisorLimits)


def _of_limits(name: str, text: str = "") -> Any:
    """A setting of the supervisor as a parameter: default, unit and range are the setting's own."""
    [entry] = [entry for entry in _LIMIT_FIELDS if entry.name == name]
    default = ",".join(entry.default) if isinstance(entry.default, tuple) else entry.default
    facts = dict(entry.metadata)
    return option(facts.pop("text", text), default=default, read_only=name not in TIGHTENED, **facts)


@dataclass(frozen=True, slots=True, kw_only=True)
class SupervisorOptions:
    """Parameters of `supervisor_node`: its own, and every field of `SupervisorLimits`."""

    contract: str = option("contract file, or the name of a shipped one", default="so101", read_only=True)
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


@dataclass(frozen=True, slots=True, kw_only=True)
class IncidentOptions:
    """Parameters of `incident_recorder`."""

    contract: str = option("contract file, or the name of a shipped one", default="so101", read_only=True)
    folder: str = option("where bags of incidents go", default="incidents", read_only=True)
    seconds: float = option("how much is kept", default=30.0, unit="s", low=1.0, high=300.0, read_only=True)
    megabytes: float = option("memory for it", default=512.0, unit="MiB", low=16.0, high=16384.0, read_only=True)
    most_incidents: int = option(
        "bags kept in the folder; the oldest of ours go first", default=50, low=1, high=10000, read_only=True
    )
    most_gigabytes: float = option(
        "disk for them; the oldest of ours go first", default=10.0, unit="GB", low=0.1, high=1e4, read_only=True
    )
    jpeg_quality: int = option(
        "raw images are kept as JPEG of this quality; 0: as they come", default=90, low=0, high=100, read_only=True
    )

    def conflicts(self) -> list[str]:
        """See `Options`."""
        return []


@dataclass(frozen=True, slots=True, kw_only=True)
class RunOptions:
    """Parameters of `run_policy_node`."""

    prompt: str = option("`~/start_policy`: the task text; empty: the task in force", default="")
    max_duration_s: float = option(
        "`~/start_policy`: how long; 0: until it is cancelled", default=0.0, unit="s", low=0.0, high=86400.0
    )
    start_engages: bool = option(
        "`~/start_policy` also engages: a press of that button is an operator's", default=False
    )
    engage_timeout_s: float = option(
        "without an engaged arm: the run ends as not_engaged", default=60.0, unit="s", low=0.5, high=3600.0
    )
    hold_timeout_s: float = option("in HOLD for longer: it ends as held", default=1.5, unit="s", low=0.1, high=60.0)
    silence_s: float = option(
        "heartbeats or supervisor states older: it ends as lost", default=1.0, unit="s", low=0.2, high=10.0
    )
    task_timeout_s: float = option(
        "the policy may take so long to take the task up", default=15.0, unit="s", low=0.5, high=600.0
    )

    def conflicts(self) -> list[str]:
        """See `Options`."""
        return []


@dataclass(frozen=True, slots=True, kw_only=True)
class StageOptions:
    """Parameters of `stage_node`; `bringup.launch.py` gives them."""

    contract: str = option("contract file, or the name of a shipped one", default="so101", read_only=True)
    stage: str = option("which stage is measured", default="shadow", choices=STAGES, read_only=True)
    folder: str = option("where evidence goes", default="evidence", read_only=True)
    checkpoint: str = option("the checkpoint as it was given", default="mini", read_only=True)
    checkpoint_hash: str = option("the policy must say this hash; empty: any", default="", read_only=True)

    def conflicts(self) -> list[str]:
        """See `Options`."""
        return []


@dataclass(frozen=True, slots=True, kw_only=True)
class ReplayOptions:
    """Parameters of `replay_node`. What concerns the model is told by the policy node."""

    bag: str = option("the recording: a rosbag2 folder, .mcap or .db3 file", default="", read_only=True)
    out: str = option("folder for report.json, report.html and chunks.parquet", default="", read_only=True)
    contract: str = option("contract file, or the name of a shipped one", default="so101", read_only=True)
    task: str = option("task text; empty: the recorded one", default="", read_only=True)
    supervised: bool = option("run the supervisor at 50 Hz of bag time", default=True, read_only=True)
    strict: bool = option("any loss in the recording is a failure", default=False, read_only=True)
    recover: bool = option("read a recording whose end is cut off as far as it goes", default=False, read_only=True)
    stamps: str = option(
        "log: times of recording, where header stamps are zero or foreign",
        default="header",
        choices=("header", "log"),
        read_only=True,
    )
    force: bool = option("replace a report that is there", default=False, read_only=True)
    start_timeout_s: float = option(
        "how long the nodes may take to start", default=120.0, unit="s", low=1.0, high=3600.0, read_only=True
    )
    answer_timeout_s: float = option(
        "how long an answer may take", default=60.0, unit="s", low=0.1, high=3600.0, read_only=True
    )

    def conflicts(self) -> list[str]:
        """See `Options`."""
        return [f"{name} must be given" for name in ("bag", "out") if not getattr(self, name)]


NODES: dict[str, type[Options]] = {
    "policy_node": PolicyOptions,
    "supervisor_node": SupervisorOptions,
    "run_policy_node": RunOptions,
    "so101_driver": DriverOptions,
    "camera_node": CameraOptions,
    "record_node": RecordOptions,
    "incident_recorder": IncidentOptions,
    "replay_node": ReplayOptions,
    "sim_node": SimOptions,
    "stage_node": StageOptions,
    "sigma panel": PanelOptions,
}
"""What starts each node, and what it takes."""
