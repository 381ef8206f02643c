# SPDX-License-Identifier: Apache-2.0
"""Which topics of a bag are the contract's: cameras, joint states, actions and the task; and what is missing."""

from dataclasses import replace
from posixpath import commonpath
from typing import NamedTuple

from sigma_ros.bags.reader import Bag, BagInfo
from sigma_ros.border import one_line
from sigma_ros.contract import COMMAND_TYPES, IMAGE_TYPES, VIDEO_TYPES, Contract, Part
from sigma_ros.errors import ContractError

PICTURE_TYPES = (*IMAGE_TYPES, *VIDEO_TYPES)
"""Message types that give `ImageMessage` records."""

TEXT_TYPE = "std_msgs/msg/String"
TASK_TOPIC = "/sigma_policy/task"


class CameraTopic(NamedTuple):
    """Where a camera's images are in a bag."""

    topic: str
    msgtype: str


def camera_topics(bag: Bag, contract: Contract) -> dict[str, CameraTopic]:
    """Camera name to where its pictures are: the contract's topic, or that of another image transport beside it."""
    types = bag.info.types
    found = {}
    for camera in contract.cameras:
        base = camera.topic.removesuffix("/compressed")
        for name in (camera.topic, base, base + "/compressed", base + "/ffmpeg"):
            topic = bag.topic(name)
            if types.get(topic) in PICTURE_TYPES:
                found[camera.name] = CameraTopic(topic, types[topic])
                break
    return found


def joint_parts(bag: Bag, contract: Contract) -> tuple[Part, ...]:
    """Where a bag has the joint states: on the topic of the whole, or on those of the parts."""
    whole = Part(topic=contract.joint_state_topic, joints=contract.joint_names)
    return _parts(bag, whole, contract.state_parts)


def action_parts(bag: Bag, contract: Contract) -> tuple[Part, ...]:
    """Where a bag has the actions, likewise; a leader arm's are on one topic, of any type of command."""
    kind = None if contract.leader_topic else contract.command_type
    whole = Part(topic=contract.action_topic, joints=contract.joint_names, message_type=kind)
    return _parts(bag, whole, () if contract.leader_topic else contract.command_parts)


def _parts(bag: Bag, whole: Part, parts: tuple[Part, ...]) -> tuple[Part, ...]:
    found = (whole,) if not parts or bag.topic(whole.topic) in bag.info.types else parts
    return tuple(replace(part, topic=bag.topic(part.topic)) for part in found)


def task_topic(bag: Bag, contract: Contract) -> str | None:
    """The recorded topic with the task text: ours, or else the only String whose name ends in `task`.

    Of several of ours, as in a recording of two arms, the one nearest to the contract's joint states by name. Several
    foreign ones are a counted loss, and none is taken: which of them means the task, nobody knows.
    """
    info = bag.info
    found = [
        topic
        for topic in info.topics
        if info.types[topic] == TEXT_TYPE and topic.split("/")[-1] == "task" and info.counts[topic]
    ]
    ours = nearest(bag, contract, TASK_TOPIC.removeprefix("/"), TEXT_TYPE)
    if not ours and len(found) > 1:
        bag.lose_once(f"the task is not read: {len(found)} topics end in task ({', '.join(found)[:100]})")
        return None
    return next(iter([*ours, *found]), None)


def nearest(bag: Bag, contract: Contract, name: str, kind: str) -> list[str]:
    """Topics of a name in any namespace that hold something, the one nearest to the joint states' first."""
    info = bag.info
    found = [t for t in info.topics if t.endswith(name) and info.types[t] == kind and info.counts[t]]
    joints = bag.topic(contract.joint_state_topic).strip("/")
    return sorted(found, key=lambda topic: len(commonpath([topic.strip("/"), joints])), reverse=True)


def recorded_task(bag: Bag, contract: Contract) -> str:
    """The task of a recording: its first task message, else its note `sigma.task`, else the contract's first task."""
    topic = task_topic(bag, contract)
    text = bag.first_text(topic) if topic is not None else ""
    return text or bag.info.metadata.get("sigma.task") or contract.tasks[0]


def check_topics(bag: Bag, contract: Contract) -> None:
    """Refuses a bag that lacks what the contract needs, naming all that is missing or of another type.

    Raises:
        ContractError: topics are missing, empty or of another type.
    """
    info = bag.info
    needs: dict[str, tuple[str, ...]] = {
        part.topic: ("sensor_msgs/msg/JointState",) for part in joint_parts(bag, contract)
    }
    for part in action_parts(bag, contract) if contract.action_source == "command" else ():
        needs[part.topic] = COMMAND_TYPES if part.message_type is None else (part.message_type,)
    cameras = camera_topics(bag, contract)
    for camera in contract.cameras:
        place = cameras.get(camera.name)
        needs[place.topic if place else bag.topic(camera.topic)] = PICTURE_TYPES
    problems = [problem for topic, accepted in needs.items() if (problem := _problem(info, topic, accepted))]
    if problems:
        raise ContractError(
            f"the bag does not hold what the contract {contract.name} needs: {'; '.join(problems)}",
            where=info.path,
            expected=", ".join(f"{topic} ({' or '.join(accepted)})" for topic, accepted in needs.items()),
            got=", ".join(f"{topic} ({info.types[topic]}, {info.counts[topic]})" for topic in info.topics)
            or "; ".join(reason for reason, _ in bag.foreign.values())[:400]
            or "no topics",
            remedy=_remedy(info, tuple(needs)),
        )


def _remedy(info: BagInfo, needs: tuple[str, ...]) -> str:
    """Names a namespace in which the bag has all that is needed."""
    spaces = [{have.removesuffix(topic) for have in info.topics if have.endswith(topic)} for topic in needs]
    found = sorted(set[str].intersection(*spaces) - {""})
    if found:
        return f"the bag has them in a namespace; give it behind the contract: NAME@{one_line(found[0]).strip('/')}"
    return "correct the contract's topics, or record the missing ones"


def _problem(info: BagInfo, topic: str, accepted: tuple[str, ...]) -> str | None:
    if topic not in info.types:
        return f"{topic} is missing"
    if info.types[topic] not in accepted:
        return f"{topic} is a {info.types[topic]}"
    if info.counts[topic] == 0:
        return f"{topic} is empty"
    return None
