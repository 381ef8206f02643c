# SPDX-License-Identifier: Apache-2.0
"""A contract drafted from what inspection found: valid as it is, and every guess in it marked by a comment."""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import yaml

from sigma_ros.bags.lerobot import ACTION_KEY, STATE_KEY
from sigma_ros.border import one_line
from sigma_ros.calibration import JointCalibration, Zero
from sigma_ros.camera_names import IMAGES
from sigma_ros.contract import COMMAND_TYPES, IMAGE_TYPES, POLICY_UNITS, Contract, Joint, joint_name, joint_order
from sigma_ros.contract_file import load_contract
from sigma_ros.errors import ContractError, UsageError
from sigma_ros.inspection.bag import JOINT_TYPE, action_topic, state_topic
from sigma_ros.inspection.facts import Contents, TopicFacts

GUESS = "GUESS"
"""Begins the comment behind everything that was not read from a file."""

_KNOWN = "so101"
_RATES = (10.0, 15.0, 20.0, 24.0, 25.0, 30.0, 50.0, 60.0)
_ROOM = 0.1
_LEAST_ROOM_RAD = 0.2
_HALF_TURN_RAD = math.pi
_SIZE_PX = (640, 480)
_PLAIN_WORDS = ("image", "raw", "image_raw", "image_color", "color", "rgb", "compressed", "camera")


@dataclass(frozen=True, slots=True)
class Said:
    """A value and why it was chosen; an empty reason means that a file said so."""

    value: object
    reason: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class DraftCamera:
    """A camera of the draft; `device` is the number of its video device, where the user has given one."""

    name: str
    topic: Said
    kind: Said
    size_px: Said
    dataset_key: Said
    device: str = ""


def draft_contract(
    contents: Contents,
    name: str,
    *,
    calibration: Sequence[JointCalibration] = (),
    zero: Zero = "encoder",
    cameras: Mapping[str, str] | None = None,
) -> str:
    """The text of a contract file for what was found.

    Args:
        contents: Of a bag, a data set or a checkpoint.
        name: The contract's.
        calibration: LeRobot's, for limits and units; without it limits are guessed from the recorded ranges.
        zero: Where the robot's driver has its zero (`calibration`).
        cameras: Names of the cameras to keep -> their video devices; None keeps all.

    Raises:
        UsageError: nothing tells the joints, or a camera is not there; the real names are listed.
        ContractError: the calibration lacks a joint.
    """
    known = load_contract(_KNOWN)
    names = _joint_names(contents, known)
    found = _chosen(list(_cameras(contents)), cameras)
    sources = _Sources(contents=contents, known=known, calibration=tuple(calibration), zero=zero)
    joints = [_joint(sources, joint, i) for i, joint in enumerate(names)]
    lines = [
        f"# Drafted by sigma from the {contents.kind} {one_line(contents.path)}.",
        f"# Lines with {GUESS} were not read from it: check each of them before the arm moves.",
        _line("name", Said(name)),
        _line("fps", _fps(contents)),
        _line("settle_ms", Said(40, "how long a live tick waits for late messages")),
        _line("tasks", _tasks(contents)),
        "joints:",
        *(line for joint in joints for line in _block(joint)),
        "cameras:" if found else "cameras: []",
        *(line for camera in found for line in _camera_lines(camera)),
        *_topics(contents),
    ]
    return "\n".join(lines) + "\n"


def _line(key: str, said: Said) -> str:
    comment = f"  # {GUESS}: {said.reason}" if said.reason else ""
    return f"{key}: {_plain(said.value)}{comment}"


def _plain(value: object) -> str:
    """A value as YAML in one line."""
    return str(yaml.safe_dump(value, default_flow_style=True, width=10_000)).removesuffix("\n").removesuffix("\n...")


def _block(fields: Mapping[str, Said], lead: str = "  - ") -> list[str]:
    """A mapping, one line a field; a guess is marked in its own line. `lead` stands before the first field."""
    lines = [_line(key, said) for key, said in fields.items()]
    return [(lead if not i else " " * len(lead)) + line for i, line in enumerate(lines)]


def _fps(contents: Contents) -> Said:
    fps = contents.facts.get("fps")
    if isinstance(fps, float) and fps >= 1.0:
        return Said(fps)
    rates = [camera.rhythm.rate_hz for camera in contents.cameras() if camera.rhythm is not None]
    if not rates:
        return Said(30.0, "LeRobot's usual rate")
    nearest = min(_RATES, key=lambda rate: abs(math.log(rate / min(rates))))
    return Said(nearest, f"the slowest camera has {min(rates):.3g} Hz")


def _tasks(contents: Contents) -> Said:
    if contents.tasks:
        return Said(list(contents.tasks))
    return Said(["do the task"], "no task was recorded; write what the robot shall do")


def _state(contents: Contents) -> TopicFacts | None:
    if contents.kind == "bag":
        return state_topic(contents.streams)
    return next((stream for stream in contents.streams if stream.name == STATE_KEY), None)


def _joint_names(contents: Contents, known: Contract) -> tuple[str, ...]:
    names = tuple(guess.joint for guess in contents.units)
    if not names and contents.kind == "checkpoint":
        return known.joint_names
    if not names:
        raise UsageError(
            "nothing tells the robot's joints",
            where=contents.path,
            expected=f"{JOINT_TYPE} with names and positions, or {STATE_KEY}",
            got=", ".join([*(f"{s.name} ({s.kind})" for s in contents.streams), *contents.losses]) or "no streams",
        )
    return names


@dataclass(frozen=True, slots=True, kw_only=True)
class _Sources:
    """What a joint's entry is made of: see `draft_contract`."""

    contents: Contents
    known: Contract
    calibration: tuple[JointCalibration, ...]
    zero: Zero


def _joint(sources: _Sources, name: str, index: int) -> dict[str, Said]:
    contents = sources.contents
    like = _alike(name, sources.known)
    unit = _unit(contents, index, like)
    low, high = _limits(sources, name, index, like)
    borrowed = like or sources.known.joints[0]
    speed = "as the shipped so101's; check your arm's"
    plain = joint_name(name)
    return {
        "name": Said(plain, "a checkpoint names no joints" if contents.kind == "checkpoint" else ""),
        **({"aliases": Said([name])} if name != plain else {}),
        "lower_rad": low,
        "upper_rad": high,
        "max_velocity_radps": Said(borrowed.max_velocity_radps, speed),
        "max_acceleration_radps2": Said(borrowed.max_acceleration_radps2, speed),
        "max_jerk_radps3": Said(borrowed.max_jerk_radps3, speed),
        "policy_unit": unit,
    }


def _alike(name: str, known: Contract) -> Joint | None:
    """The shipped SO-101's joint of this name."""
    for joint in known.joints:
        try:
            joint_order((joint,), (joint_name(name),))
        except ContractError:
            continue
        return joint
    return None


def _unit(contents: Contents, index: int, like: Joint | None) -> Said:
    if contents.kind == "data set":
        guess = contents.units[index]
        if guess.unit in POLICY_UNITS:
            return Said(guess.unit, "" if guess.certain else guess.reason)
    usual = "radians" if like is None else like.policy_unit
    return Said(usual, "what the policy was trained on is not said here")


def _limits(sources: _Sources, name: str, index: int, like: Joint | None) -> tuple[Said, Said]:
    contents = sources.contents
    if sources.calibration:
        found = _calibrated(name, like, sources.calibration)
        ends = sorted(found.counts_to_rad(count, zero=sources.zero) for count in (found.range_min, found.range_max))
        return Said(round(ends[0], 5)), Said(round(ends[1], 5))
    if like is not None:
        reason = "as the shipped so101's"
        return Said(like.lower_rad, reason), Said(like.upper_rad, reason)
    state = _state(contents)
    in_rad = contents.kind == "bag" or (contents.units and contents.units[index].unit == "radians")
    if state is None or not state.low or not in_rad:
        reason = "half a turn to each side; give --calibration"
        return Said(-_HALF_TURN_RAD, reason), Said(_HALF_TURN_RAD, reason)
    low, high = state.low[index], state.high[index]
    room = max(_ROOM * (high - low), _LEAST_ROOM_RAD)
    reason = "the recorded range and a little more"
    return Said(round(low - room, 5), reason), Said(round(high + room, 5), reason)


def _calibrated(name: str, like: Joint | None, calibration: Sequence[JointCalibration]) -> JointCalibration:
    names = {joint_name(name), *(() if like is None else (like.name, *like.aliases))}
    for joint in calibration:
        if joint.name in names:
            return joint
    raise ContractError(
        f"the calibration has no joint {one_line(name, 60)}", got=", ".join(joint.name for joint in calibration)
    )


def _cameras(contents: Contents) -> Iterator[DraftCamera]:
    for stream in contents.cameras():
        size = Said(stream.size_px) if stream.size_px else Said(_SIZE_PX, "a usual size")
        if contents.kind == "bag":
            name = _camera_name(stream.name)
            kind = Said(stream.kind) if stream.kind in IMAGE_TYPES else Said(IMAGE_TYPES[0], "raw")
            key = Said(IMAGES + name, "from the topic's name")
            yield DraftCamera(name=name, topic=Said(stream.name), kind=kind, size_px=size, dataset_key=key)
            continue
        name = stream.name.removeprefix(IMAGES).rpartition(".")[2]
        if contents.kind == "checkpoint":
            size = replace(size, reason="the policy's; the camera's own may be larger")
        topic, kind = Said(f"{name}_camera/image_raw", "the usual name"), Said(IMAGE_TYPES[0], "raw pictures")
        yield DraftCamera(name=name, topic=topic, kind=kind, size_px=size, dataset_key=Said(stream.name))


def _camera_name(topic: str) -> str:
    words = [word for word in topic.strip("/").split("/") if word not in _PLAIN_WORDS]
    return (words or topic.strip("/").split("/"))[-1].removesuffix("_camera").removeprefix("camera_")


def _chosen(found: list[DraftCamera], wanted: Mapping[str, str] | None) -> list[DraftCamera]:
    if wanted is None:
        return found
    by_name = {camera.name: camera for camera in found}
    missing = [name for name in wanted if name not in by_name]
    if missing:
        raise UsageError(
            f"there is no camera {', '.join(missing)}",
            expected="cameras of the recording",
            got=", ".join(f"{camera.name} ({camera.dataset_key.value})" for camera in found) or "no camera",
        )
    return [replace(by_name[name], device=device) for name, device in wanted.items()]


def _camera_lines(camera: DraftCamera) -> list[str]:
    size = camera.size_px.value
    assert isinstance(size, tuple)
    fields = {
        "name": Said(camera.name),
        "topic": camera.topic,
        "type": camera.kind,
        "width_px": replace(camera.size_px, value=size[0]),
        "height_px": replace(camera.size_px, value=size[1]),
        "dataset_key": camera.dataset_key,
        "max_age_ms": Said(200, "as the shipped so101's"),
    }
    if not camera.device:
        return _block(fields)
    driver = f"ros2 run v4l2_camera v4l2_camera_node --ros-args -p video_device:=/dev/video{camera.device}"
    return [f"  # {driver} -r image_raw:={one_line(camera.topic.value)}", *_block(fields)]


def _names_the_joints(action: TopicFacts, state: TopicFacts) -> bool:
    """Whether an action is of the state's joints, as far as names tell: velocities, say, have names of their own."""
    return not action.joints or set(state.joints) <= set(action.joints)


def _topics(contents: Contents) -> list[str]:
    usual = "the usual name"
    state, action = _state(contents), None
    topic = Said("joint_states", usual)
    acting = tuple(s for s in contents.streams if s is state or state is None or _names_the_joints(s, state))
    if contents.kind == "bag" and state is not None:
        topic = Said(state.name)
        action = action_topic(tuple(s for s in acting if s.kind in COMMAND_TYPES or s is state), state)
    command = Said("forward_position_controller/commands", usual)
    kind, source = Said(COMMAND_TYPES[0], "positions of all joints"), Said("command")
    if action is not None:
        command, kind = Said(action.name), Said(action.kind)
    elif contents.kind == "bag" or not any(stream.name == ACTION_KEY for stream in acting):
        source = Said("next_state", "no commands of these joints were recorded")
    if contents.kind == "checkpoint":
        source = Said("command", "a checkpoint does not say")
    rate = Said(50, "of the commands to the arm")
    return [
        "state:",
        *_block({"topic": topic, "max_age_ms": Said(100, "as the shipped so101's")}, "  "),
        "action:",
        *_block({"source": source}, "  "),
        "command:",
        *_block({"topic": command, "type": kind, "rate_hz": rate}, "  "),
    ]
