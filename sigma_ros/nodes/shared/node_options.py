# SPDX-License-Identifier: Apache-2.0
"""The parameters of the smaller nodes, and of which options each node's are: defaults, ranges, descriptions.

`--help` of each node lists them; the documentation's page is made of them.
"""

from dataclasses import dataclass

from sigma_ros.nodes.launch.stages import STAGES
from sigma_ros.nodes.policy.options import PolicyOptions
from sigma_ros.nodes.shared.parameters import Options, RobotOptions, option
from sigma_ros.nodes.supervisor.options import SupervisorOptions
from sigma_ros.sim.setups import SETUPS


@dataclass(frozen=True, slots=True, kw_only=True)
class SimOptions(RobotOptions):
    """Parameters of `sim_node`."""

    setup: str = option(
        "which simulated set-up: the base policy's own, one that differs from it, or that one bumped",
        default="target",
        choices=tuple(SETUPS),
        read_only=True,
    )
    seed: int = option(
        "seed of the first episode; each reset takes the next", default=0, low=0, high=2**31 - 1, read_only=True
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class DriverOptions(RobotOptions):
    """Parameters of `so101_driver`."""

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
class CameraOptions(RobotOptions):
    """Parameters of `camera_node`."""

    camera: str = option("the contract's camera that this device is", default="", read_only=True)
    device: str = option("number of a V4L2 device (0 is /dev/video0), its path, or a film", default="0", read_only=True)

    def conflicts(self) -> list[str]:
        """See `Options`."""
        return [] if self.camera else ["camera must be given: the name of one of the contract's cameras"]


@dataclass(frozen=True, slots=True, kw_only=True)
class PanelOptions(RobotOptions):
    """Parameters of the panel's node."""

    host: str = option(
        "address to listen at; any but this machine's own needs a token", default="127.0.0.1", read_only=True
    )
    port: int = option("TCP port; 0: any that is free", default=8700, low=0, high=65535, read_only=True)
    browser: bool = option(
        "open the page in this machine's browser, if it has a display", default=False, read_only=True
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class RecordOptions(RobotOptions):
    """Parameters of `record_node`."""

    out: str = option("the bag's folder, which must not exist; with `episodes` the bags'", default="", read_only=True)
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


@dataclass(frozen=True, slots=True, kw_only=True)
class IncidentOptions(RobotOptions):
    """Parameters of `incident_recorder`."""

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


@dataclass(frozen=True, slots=True, kw_only=True)
class RunOptions(Options):
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


@dataclass(frozen=True, slots=True, kw_only=True)
class StageOptions(RobotOptions):
    """Parameters of `stage_node`; `bringup.launch.py` gives them."""

    stage: str = option("which stage is measured", default="shadow", choices=STAGES, read_only=True)
    folder: str = option("where evidence goes", default="evidence", read_only=True)
    checkpoint: str = option("the checkpoint as it was given", default="mini", read_only=True)
    checkpoint_hash: str = option("the policy must say this hash; empty: any", default="", read_only=True)


@dataclass(frozen=True, slots=True, kw_only=True)
class ReplayNodeOptions(RobotOptions):
    """Parameters of `replay_node`. What concerns the model is told by the policy node."""

    bag: str = option("the recording: a rosbag2 folder, .mcap or .db3 file", default="", read_only=True)
    out: str = option("folder for report.json, report.html and chunks.parquet", default="", read_only=True)
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
    "replay_node": ReplayNodeOptions,
    "sim_node": SimOptions,
    "stage_node": StageOptions,
    "sigma panel": PanelOptions,
}
"""What starts each node, and what it takes."""
