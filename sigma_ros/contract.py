# SPDX-License-Identifier: Apache-2.0
"""The robot's facts as one frozen value that every part shares; `contract_file` reads it from YAML.

A contract says which joints there are (order, aliases, limits, the policy's units), which cameras,
where states and actions come from, the frame rate and where commands go. Nothing else in the
package knows a joint name, a limit or a topic.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, get_args

import numpy as np
from jaxtyping import Float64
from numpy import ndarray

from sigma_ros.errors import ContractError
from sigma_ros.kinematics import Capsule, KeepOut, Kinematics
from sigma_ros.values import NS_PER_S, frozen_array

IMAGE_TYPES = ("sensor_msgs/msg/Image", "sensor_msgs/msg/CompressedImage")
VIDEO_TYPES = ("foxglove_msgs/msg/CompressedVideo", "ffmpeg_image_transport_msgs/msg/FFMPEGPacket")
"""Packets of a video, which recordings may hold in the place of images."""

CommandType = Literal[
    "std_msgs/msg/Float64MultiArray", "trajectory_msgs/msg/JointTrajectory", "sensor_msgs/msg/JointState"
]
COMMAND_TYPES: tuple[CommandType, ...] = get_args(CommandType)
ActionType = Literal[
    "control_msgs/action/FollowJointTrajectory",
    "control_msgs/action/GripperCommand",
    "control_msgs/action/ParallelGripperCommand",
]
ACTION_TYPES: tuple[ActionType, ...] = get_args(ActionType)
POLICY_UNITS = ("range_m100_100", "range_0_100", "degrees", "radians")
OWN_UNIT = "scale and offset"
MAX_SKEW_NS = 50_000_000
"""Two periods of a driver at 40 Hz; a joint at 2 rad/s moves 0.1 rad meanwhile."""


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
    the two are joined); None leaves it to the checkpoint. `rate_hz`: what it sends at most, where that is promised.
    """

    name: str
    topic: str
    message_type: Literal["sensor_msgs/msg/Image", "sensor_msgs/msg/CompressedImage"]
    width_px: int
    height_px: int
    dataset_key: str
    max_age_ns: int
    policy_key: str | None = None
    rate_hz: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ControllerAction:
    """A controller's action, to which the commands of a part go as goals."""

    name: str
    type: ActionType


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """Some joints with a topic of their own: one arm of two, or a gripper with its own controller.

    `joints`: names of the contract, in the order of a message without names. In a message with names each is called
    `prefix` less: two equal arms say `shoulder_pan`, the contract `left_shoulder_pan`. `message_type`: of commands.
    With an `action` the goals move the arm, and what is published on `topic` is for recordings and viewers.
    """

    topic: str
    joints: tuple[str, ...]
    prefix: str = ""
    message_type: CommandType | None = None
    action: ControllerAction | None = None

    @property
    def own_names(self) -> tuple[str, ...]:
        """What the joints are called on the topic."""
        return tuple(name.removeprefix(self.prefix) for name in self.joints)


@dataclass(frozen=True, slots=True, kw_only=True)
class Delays:
    """How late a robot's parts are, as `sigma delays` measured them [ns]; None: not measured.

    `camera_ns`: a picture's content is so much older than its stamp. `inference_ns`: from an observation to its chunk.
    `actuator_ns`: the joints follow their commands so much later.
    """

    camera_ns: int | None = None
    inference_ns: int | None = None
    actuator_ns: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Contract:
    """A robot as the policy and the supervisor see it. Joint order is the order of `joints`.

    `action_source` is `command` (the recording has commands on `command_topic`) or `next_state`
    (it has none: the action of a tick is the state of the next one). `kinematics` is needed for limits of
    the tool, its capsules to keep the arm out of itself and of the boxes `keep_out`. `leader_topic` is where recordings
    have the actions of a leader arm, if not on the command's topic.
    `state_parts` and `command_parts` are empty where one message has all joints; else they share the joints out, and
    the topics of the whole are those of replays and transcoded recordings. What is joined of parts has stamps that are
    `max_skew_ns` apart at most.
    `delays` are what the simulator and its latency assume by default. `joint_state_rate_hz`: as a camera's `rate_hz`.
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
    keep_out: tuple[KeepOut, ...] = ()
    leader_topic: str | None = None
    state_parts: tuple[Part, ...] = ()
    command_parts: tuple[Part, ...] = ()
    max_skew_ns: int = MAX_SKEW_NS
    delays: Delays = Delays()
    joint_state_rate_hz: float | None = None

    @property
    def capsules(self) -> tuple[Capsule, ...]:
        """The shapes around the arm's links; empty where they are not known."""
        return () if self.kinematics is None else self.kinematics.capsules

    @property
    def states(self) -> tuple[Part, ...]:
        """Where joint states come from: the parts, or the whole as one part."""
        return self.state_parts or (Part(topic=self.joint_state_topic, joints=self.joint_names),)

    @property
    def commands(self) -> tuple[Part, ...]:
        """Where commands go: the parts, or the whole as one part."""
        whole = Part(topic=self.command_topic, joints=self.joint_names, message_type=self.command_type)
        return self.command_parts or (whole,)

    def require_whole(self, who: str) -> None:
        """Refuses a robot in parts for somebody who drives one arm by one topic.

        Raises:
            ContractError: joint states or commands are shared out.
        """
        if self.state_parts or self.command_parts:
            topics = ", ".join(part.topic for part in (*self.state_parts, *self.command_parts))
            remedy = "give it the contract of one arm, such as so101@left"
            raise ContractError(f"{who} takes a contract without parts", where=self.name, got=topics, remedy=remedy)

    def part(self, part: Part) -> "Contract":
        """The robot that has the joints of a part alone, by the part's names for them, on its topic."""
        joints = {joint.name: joint for joint in self.joints}
        named = []
        for name, own in zip(part.joints, part.own_names, strict=True):
            aliases = tuple(alias.removeprefix(part.prefix) for alias in joints[name].aliases)
            named.append(replace(joints[name], name=own, aliases=aliases))
        return replace(
            self,
            joints=tuple(named),
            joint_state_topic=part.topic,
            command_topic=part.topic,
            command_type=part.message_type or self.command_type,
            kinematics=None,
            keep_out=(),
            state_parts=(),
            command_parts=(),
        )

    def columns(self, part: Part) -> ndarray:
        """Indices of a part's joints among the contract's."""
        return np.array([self.joint_names.index(name) for name in part.joints], dtype=np.intp)

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

    def ticks_of(self, delay_ns: int | None) -> int:
        """A delay in whole ticks, rounded; 0 where it was not measured."""
        return round((delay_ns or 0) / self.tick_period_ns)

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

    def is_order_of(self, names: tuple[str, ...]) -> bool:
        """Whether names are the contract's joints one by one, by name or alias."""
        known = {name: joint.name for joint in self.joints for name in (joint.name, *joint.aliases)}
        return tuple(known.get(name) for name in names) == self.joint_names


def joint_name(lerobot: str) -> str:
    """A joint's name without LeRobot's ornaments: `shoulder_pan.pos`, `main_shoulder_pan`."""
    return lerobot.removesuffix(".pos").removeprefix("main_")


def feature_names(feature: Mapping[str, Any]) -> tuple[str, ...]:
    """Names of a feature's entries, without LeRobot's ornaments; none where it does not say them."""
    names = feature.get("names")
    names = next(iter(names.values()), None) if isinstance(names, dict) else names
    return tuple(joint_name(str(name)) for name in names) if isinstance(names, list) else ()


def shortened(names: Sequence[object]) -> str:
    """Foreign names for a message, however many and long they are."""
    return ", ".join(str(name)[:80] for name in names[:24]) + (", ..." if len(names) > 24 else "")


def joint_order(joints: tuple[Joint, ...], names: tuple[str, ...]) -> ndarray:
    """See `Contract.joint_order`; names outside the contract are ignored."""
    if len(set(names)) != len(names):
        raise ContractError(
            "joint names repeat", expected="each name once", got=shortened(names), remedy="fix the publisher"
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
                got=shortened(tuple(names[i] for i in hits)),
                remedy="publish each joint once",
            )
        else:
            missing.append(joint.name)
    if missing:
        raise ContractError(
            f"joints are missing: {', '.join(missing)}",
            expected=", ".join(joint.name for joint in joints),
            got=shortened(names) or "no names",
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
