# SPDX-License-Identifier: Apache-2.0
"""The robot's facts as one frozen value that every part shares; `contract_file` reads it from YAML.

A contract says which joints there are (order, aliases, limits, the policy's units), which cameras,
where states and actions come from, the frame rate and where commands go. Nothing else in the
package knows a joint name, a limit or a topic.
"""

import math
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
from jaxtyping import Float64
from numpy import ndarray

from sigma_ros.errors import ContractError
from sigma_ros.kinematics import Kinematics
from sigma_ros.values import NS_PER_S, frozen_array

IMAGE_TYPES = ("sensor_msgs/msg/Image", "sensor_msgs/msg/CompressedImage")
VIDEO_TYPES = ("foxglove_msgs/msg/CompressedVideo", "ffmpeg_image_transport_msgs/msg/FFMPEGPacket")
"""Packets of a video, which recordings may hold in the place of images."""

CommandType = Literal[
    "std_msgs/msg/Float64MultiArray", "trajectory_msgs/msg/JointTrajectory", "sensor_msgs/msg/JointState"
]
COMMAND_TYPES: tuple[CommandType, ...] = get_args(CommandType)
POLICY_UNITS = ("range_m100_100", "range_0_100", "degrees", "radians")
OWN_UNIT = "scale and offset"


@dataclass(frozen=True, slots=True, kw_only=True)
class Joint:
    """One joint: names it goes by, hard limits, and the affine map to the policy's units.

    `policy = radians * policy_scale + policy_offset`; `policy_unit` is one of `POLICY_UNITS`, or OWN_UNIT where the
    contract gives scale and offset themselves.
    """

    name: str
    aliases: tuple[str, ...]
    lower_rad: float
    upper_rad: float
    max_velocity_radps: float
    max_acceleration_radps2: float
    max_jerk_radps3: float
    policy_scale: float
    policy_offset: float
    policy_unit: str = OWN_UNIT


@dataclass(frozen=True, slots=True, kw_only=True)
class Camera:
    """One camera: `name` inside the package, `dataset_key` its feature in LeRobot data sets.

    `policy_key` is the feature of the policy that it feeds, where that has another name (`model.cameras` says how
    the two are joined); None leaves it to the checkpoint.
    """

    name: str
    topic: str
    message_type: Literal["sensor_msgs/msg/Image", "sensor_msgs/msg/CompressedImage"]
    width_px: int
    height_px: int
    dataset_key: str
    max_age_ns: int
    policy_key: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """A topic with some of a robot's joints; `prefix` stands before the names that it sends (`left_`), or is empty."""

    topic: str
    prefix: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Contract:
    """A robot as the policy and the supervisor see it. Joint order is the order of `joints`.

    `action_source` is `command` (the recording has commands on `command_topic`) or `next_state`
    (it has none: the action of a tick is the state of the next one). `kinematics` is needed for limits of
    the tool alone. `leader_topic` is where recordings have the actions of a leader arm, if not on the command's topic.
    `state_parts` and `leader_parts` are the topics of recordings in which several make one state or action; the first
    of them is then `joint_state_topic` or `leader_topic`.
    """

    name: str
    joints: tuple[Joint, ...]
    cameras: tuple[Camera, ...]
    joint_state_topic: str
    joint_state_max_age_ns: int
    command_topic: str
    command_type: CommandType
    command_period_ns: int
    action_source: Literal["command", "next_state"]
    fps: float
    settle_ns: int
    tasks: tuple[str, ...]
    kinematics: Kinematics | None = None
    leader_topic: str | None = None
    state_parts: tuple[Part, ...] = ()
    leader_parts: tuple[Part, ...] = ()

    @property
    def action_topic(self) -> str:
        """Where recordings have their actions: the leader arm's topic, or that of the commands."""
        return self.leader_topic or self.command_topic

    @property
    def dof(self) -> int:
        """Number of joints."""
        return len(self.joints)

    @property
    def joint_names(self) -> tuple[str, ...]:
        """Joint names in contract order."""
        return tuple(joint.name for joint in self.joints)

    def tick_offset_ns(self, ticks: int) -> int:
        """Nanoseconds from a tick to the one `ticks` later; rounded once, so a long grid does not drift."""
        return round(ticks * NS_PER_S / self.fps)

    @property
    def tick_period_ns(self) -> int:
        """Nanoseconds between two ticks, rounded; for grids use `tick_offset_ns`."""
        return self.tick_offset_ns(1)

    def _column(self, field: str) -> Float64[ndarray, " dof"]:
        values = np.array([getattr(joint, field) for joint in self.joints], dtype=np.float64)
        values.flags.writeable = False
        return frozen_array(values)

    @property
    def lower_rad(self) -> Float64[ndarray, " dof"]:
        """Hard lower position limits."""
        return self._column("lower_rad")

    @property
    def upper_rad(self) -> Float64[ndarray, " dof"]:
        """Hard upper position limits."""
        return self._column("upper_rad")

    @property
    def max_velocity_radps(self) -> Float64[ndarray, " dof"]:
        """Hard speed limits."""
        return self._column("max_velocity_radps")

    @property
    def max_acceleration_radps2(self) -> Float64[ndarray, " dof"]:
        """Hard acceleration limits."""
        return self._column("max_acceleration_radps2")

    @property
    def max_jerk_radps3(self) -> Float64[ndarray, " dof"]:
        """Hard jerk limits."""
        return self._column("max_jerk_radps3")

    @property
    def policy_scale(self) -> Float64[ndarray, " dof"]:
        """Slope of the map radians -> policy units."""
        return self._column("policy_scale")

    @property
    def policy_offset(self) -> Float64[ndarray, " dof"]:
        """Offset of the map radians -> policy units."""
        return self._column("policy_offset")

    def to_policy(self, rad: Float64[ndarray, "*batch dof"]) -> Float64[ndarray, "*batch dof"]:
        """Radians to the policy's training units."""
        return rad * self.policy_scale + self.policy_offset

    def to_rad(self, policy: Float64[ndarray, "*batch dof"]) -> Float64[ndarray, "*batch dof"]:
        """The policy's training units to radians."""
        return (policy - self.policy_offset) / self.policy_scale

    def joint_order(self, names: tuple[str, ...]) -> ndarray:
        """Indices into `names` that put a message into contract order, by name or alias.

        Raises:
            ContractError: a joint is missing, or two entries of `names` are the same joint.
        """
        return joint_order(self.joints, names)


def whole_state(contract: Contract) -> Contract:
    """The contract, for those who know one topic of joint states only: nodes, the simulator, whoever writes bags.

    Raises:
        ContractError: its state or action is in several topics.
    """
    if contract.state_parts or contract.leader_parts:
        raise ContractError(
            "states and actions in several topics are read from recordings only",
            where=contract.name,
            expected="one topic with all joints",
            got=", ".join(part.topic for part in (*contract.state_parts, *contract.leader_parts)),
            remedy="publish all joints on one topic, and give a contract with that topic",
        )
    return contract


def joint_name(lerobot: str) -> str:
    """A joint's name without LeRobot's ornaments: `shoulder_pan.pos`, `main_shoulder_pan`."""
    return lerobot.removesuffix(".pos").removeprefix("main_")


def joint_order(joints: tuple[Joint, ...], names: tuple[str, ...]) -> ndarray:
    """See `Contract.joint_order`; names outside the contract are ignored."""
    if len(set(names)) != len(names):
        raise ContractError(
            "joint names repeat", expected="each name once", got=", ".join(names), remedy="fix the publisher"
        )
    order: list[int] = []
    missing: list[str] = []
    for joint in joints:
        hits = [i for i, name in enumerate(names) if name == joint.name or name in joint.aliases]
        if len(hits) == 1:
            order.append(hits[0])
        elif hits:
            raise ContractError(
                f"two names mean the joint {joint.name}",
                got=", ".join(names[i] for i in hits),
                remedy="publish each joint once",
            )
        else:
            missing.append(joint.name)
    if missing:
        raise ContractError(
            f"joints are missing: {', '.join(missing)}",
            expected=", ".join(joint.name for joint in joints),
            got=", ".join(names) or "no names",
            remedy="add the names as aliases in the contract, or fix the publisher",
        )
    return np.array(order, dtype=np.intp)


def unit_map(unit: str, lower_rad: float, upper_rad: float) -> tuple[float, float]:
    """(scale, offset) of radians -> one of LeRobot's unit conventions over a joint's calibrated range.

    `degrees` count from the middle of the range, as LeRobot's `motors_bus` does; `range_m100_100` and
    `range_0_100` run from the lower to the upper limit.
    """
    span = upper_rad - lower_rad
    middle = 0.5 * (lower_rad + upper_rad)
    if unit == "radians":
        return 1.0, 0.0
    if unit == "degrees":
        return math.degrees(1.0), -math.degrees(middle)
    if unit == "range_m100_100":
        return 200.0 / span, -200.0 / span * middle
    if unit == "range_0_100":
        return 100.0 / span, -100.0 / span * lower_rad
    raise ContractError("unknown policy unit", expected=", ".join(POLICY_UNITS), got=unit)
