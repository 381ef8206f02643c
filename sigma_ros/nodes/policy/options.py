# SPDX-License-Identifier: Apache-2.0
"""The parameters of `policy_node`."""

from dataclasses import dataclass
from pathlib import Path

from sigma_ros.nodes.shared.parameters import RobotOptions, option
from sigma_ros.policy.alarm import ALARM_ACTIONS
from sigma_ros.policy.schedule import CROSSFADE_STEPS, REPLAN_TICKS, STITCHING, STITCHINGS
from sigma_ros.values import ENGINES, AdapterSettings


@dataclass(frozen=True, slots=True, kw_only=True)
class PolicyOptions(RobotOptions):
    """Parameters of `policy_node`."""

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
        "what runs the model; the plain one goes on where another differs by more than 0.001 rad",
        default="plain",
        choices=ENGINES,
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
