# SPDX-License-Identifier: Apache-2.0
"""The parameters of every node, without ROS: defaults, ranges, descriptions.

`docs/ros_interface.md` has the same tables; a test keeps them equal.
"""

from dataclasses import Field, dataclass, fields, make_dataclass
from pathlib import Path
from typing import Any

from sigma_ros.errors import ContractError
from sigma_ros.nodes.shared.parameters import option
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
    replan_ticks: int = option("a chunk every so many ticks", default=8, unit="ticks", low=1, high=50)
    stitching: str = option(
        "how a chunk takes over: at once, faded in, or with the base led on from the chunk before (rtc)",
        default="latest",
        choices=("latest", "crossfade", "rtc"),
    )
    crossfade_steps: int = option("steps over which `crossfade` fades in", default=4, unit="steps", low=1, high=16)
    residual_every_tick: bool = option(
        "renew the residual at every tick on the chunk in execution, while the base replans slowly", default=False
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

    def conflicts(self) -> list[str]:
        """See `Options`."""
        return [] if self.calibration else ["calibration must be given: the file that lerobot-calibrate wrote"]


@dataclass(frozen=True, slots=True, kw_only=True)
class RecordOptions:
    """Parameters of `record_node`."""

    out: str = option("the bag's folder, which must not exist", default="", read_only=True)
    contract: str = option("contract file, or the name of a shipped one", default="so101", read_only=True)
    task: str = option("task text; empty: the contract's first", default="", read_only=True)
    seconds: float = option("length; 0: until it is stopped", default=0.0, unit="s", low=0.0, high=1e5, read_only=True)
    least_free_gb: float = option(
        "less free disk ends the recording", default=1.0, unit="GB", low=0.0, high=1e4, read_only=True
    )
    storage: str = option("the bag's file format", default="mcap", choices=("mcap", "sqlite3"), read_only=True)

    def conflicts(self) -> list[str]:
        """See `Options`."""
        return [] if self.out else ["out must be given: the folder of the bag"]


@dataclass(frozen=True, slots=True, kw_only=True)
class _SupervisorBase:
    contract: str = option("contract file, or the name of a shipped one", default="so101", read_only=True)
    lockstep: bool = option(
        "replay: ticks at `/clock` messages; commands go to the replay topic only", default=False, read_only=True
    )
    realtime_priority: int = option(
        "SCHED_FIFO level of its thread where permitted; 0: ordinary", default=20, low=0, high=99, read_only=True
    )
    scale_ceiling: float = option("the applied scale never exceeds this", default=1.0, low=0.0, high=1.0)

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


_LIMIT_FIELDS: tuple[Field[Any], ...] = fields(SupervisorLimits)
_LIMIT_TEXTS = {
    "cap_tool_speed": "bound the speed of the tool; needs `kinematics` in the contract",
    "keep_above_plane": "keep the tool above a level plane; needs `kinematics` in the contract",
    "authority_ages": "an arm that stood for too long asks for engage; false (simulator only): it goes on by itself",
    "require_heartbeat": "engage only while the policy's heartbeat is heard",
    "require_estop_heartbeat": "without an e-stop publisher: ESTOP",
    "start_ramp": "lead the arm slowly to a first target beyond start_tolerance_rad",
    "check_tracking": "stop when a joint does not follow or freezes",
    "bound_lead": "bound how far commands run ahead of the measured joints; hold when a joint is blocked",
    "untracked_joints": "joints not judged for that, separated by commas; a gripper holds things",
}


def _limit_option(entry: Field[Any]) -> tuple[str, type, Any]:
    """A supervisor setting as a parameter: text, unit and range are the setting's own."""
    default = ",".join(entry.default) if isinstance(entry.default, tuple) else entry.default
    facts = entry.metadata
    text = facts.get("text") or _LIMIT_TEXTS[entry.name]
    bounds = {"unit": facts["unit"], "low": facts["low"], "high": facts["high"]} if facts else {}
    fixed = entry.name not in TIGHTENED
    return entry.name, type(default), option(text, default=default, read_only=fixed, **bounds)


SupervisorOptions: Any = make_dataclass(
    "SupervisorOptions",
    [_limit_option(entry) for entry in _LIMIT_FIELDS],
    bases=(_SupervisorBase,),
    frozen=True,
    kw_only=True,
    module=__name__,
)
SupervisorOptions.__doc__ = "Parameters of `supervisor_node`: its own, and every field of `SupervisorLimits`."


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
