# SPDX-License-Identifier: Apache-2.0
"""Does a bag hold what a contract needs? Answered from its table of contents, before a model is loaded."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, NamedTuple

from sigma_ros.contract import IMAGE_TYPES, Contract
from sigma_ros.errors import ContractError

if TYPE_CHECKING:
    from sigma_ros.evaluation.bag import BagInfo

_COMPRESSED_TYPE = "sensor_msgs/msg/CompressedImage"


class CameraTopic(NamedTuple):
    """Where a camera's images are in a bag."""

    topic: str
    msgtype: str


def resolve_cameras(types: Mapping[str, str], contract: Contract) -> dict[str, CameraTopic]:
    """Camera name to topic: the contract's, raw or compressed, or image_transport's `/compressed` beside it."""
    found = {}
    for camera in contract.cameras:
        for topic, accepted in ((camera.topic, IMAGE_TYPES), (camera.topic + "/compressed", (_COMPRESSED_TYPE,))):
            if types.get(topic) in accepted:
                found[camera.name] = CameraTopic(topic, types[topic])
                break
    return found


def check_topics(info: "BagInfo", contract: Contract) -> None:
    """Raises a ContractError that lists every topic which is missing, empty or of another type."""
    needs: dict[str, tuple[str, ...]] = {contract.joint_state_topic: ("sensor_msgs/msg/JointState",)}
    if contract.action_source == "command":
        needs[contract.command_topic] = (contract.command_type,)
    cameras = resolve_cameras(info.types, contract)
    for camera in contract.cameras:
        place = cameras.get(camera.name)
        needs[place.topic if place else camera.topic] = IMAGE_TYPES
    problems = [problem for topic, accepted in needs.items() if (problem := _problem(info, topic, accepted))]
    if problems:
        raise ContractError(
            f"the bag does not hold what the contract {contract.name} needs: {'; '.join(problems)}",
            where=info.path,
            expected=", ".join(f"{topic} ({' or '.join(accepted)})" for topic, accepted in needs.items()),
            got=", ".join(f"{topic} ({info.types[topic]}, {info.counts[topic]})" for topic in info.topics)
            or "no topics",
            remedy=_remedy(info, tuple(needs)),
        )


def _remedy(info: "BagInfo", needs: tuple[str, ...]) -> str:
    """Names a namespace in which the bag has all that is needed."""
    spaces = [{have.removesuffix(topic) for have in info.topics if have.endswith(topic)} for topic in needs]
    found = sorted(set[str].intersection(*spaces) - {""})
    if found:
        return f"the bag has them in a namespace; give it behind the contract: NAME@{found[0].strip('/')}"
    return "correct the contract's topics, or record the missing ones"


def _problem(info: "BagInfo", topic: str, accepted: tuple[str, ...]) -> str | None:
    if topic not in info.types:
        return f"{topic} is missing"
    if info.types[topic] not in accepted:
        return f"{topic} is a {info.types[topic]}"
    if info.counts[topic] == 0:
        return f"{topic} is empty"
    return None
