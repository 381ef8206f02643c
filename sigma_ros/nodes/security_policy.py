# SPDX-License-Identifier: Apache-2.0
"""The SROS2 policy of a robot: which enclave may say and hear what. Only the supervisor's may write commands.

    python -m sigma_ros.nodes.security_policy so101 > so101.policy.xml          # so101@arm1: in the namespace arm1

`scripts/make_keystore.sh` makes keys and permissions of it. Replay runs in another ROS domain and has no enclave.
"""

import sys
import xml.etree.ElementTree as ET
from collections.abc import Sequence
from dataclasses import dataclass

from sigma_ros.contract import Contract
from sigma_ros.contract_file import load_contract
from sigma_ros.contract_text import absolute_topic, chosen_namespace
from sigma_ros.nodes.shared import topics

VERSION = "0.2.0"
PARAMETER_SERVICES = (
    "describe_parameters",
    "get_parameter_types",
    "get_parameters",
    "list_parameters",
    "set_parameters",
    "set_parameters_atomically",
    "get_type_description",
)
LIFECYCLE_SERVICES = (
    "change_state",
    "get_state",
    "get_available_states",
    "get_available_transitions",
    "get_transition_graph",
)
_SUPERVISOR_SERVICES = (
    topics.ENGAGE,
    topics.ENGAGE_PAIRED,
    topics.RELEASE,
    topics.RESET_STOP,
    topics.RESET_STOP_PAIRED,
    topics.ESTOP_SERVICE,
)
_POLICY_SERVICES = (topics.RESET_MEMORY, topics.PAUSE)
_FROM_POLICY = (topics.ACTION_CHUNK, topics.TELEPATHY, topics.POLICY_HEARTBEAT, topics.POLICY_INFO, topics.TICK)
_TRANSITIONS = f"{topics.POLICY_NODE}/transition_event"
_TOLD = (topics.SUPERVISOR_STATE, topics.TELEPATHY, topics.POLICY_INFO, "/diagnostics")


@dataclass(frozen=True, slots=True, kw_only=True)
class Enclave:
    """One process and its permissions; names without a `/` in front lie in the robot's namespace.

    `runs`: actions that it serves; `sends`: those it calls.
    """

    path: str
    node: str
    publishes: tuple[str, ...] = ()
    hears: tuple[str, ...] = ()
    answers: tuple[str, ...] = ()
    calls: tuple[str, ...] = ()
    runs: tuple[str, ...] = ()
    sends: tuple[str, ...] = ()


def enclaves(contract: Contract) -> tuple[Enclave, ...]:
    """Everybody who takes part, with the least that is needed."""
    cameras = tuple(camera.topic for camera in contract.cameras)
    joints = tuple(part.topic for part in contract.states)
    commands = tuple(part.topic for part in contract.commands)
    actions = tuple(part.action.name for part in contract.commands if part.action)
    return (
        Enclave(
            path="/sigma/supervisor",
            node=topics.SUPERVISOR_NODE,
            publishes=(*commands, topics.SUPERVISOR_STATE, "/diagnostics"),
            hears=(*joints, *commands, topics.ACTION_CHUNK, topics.POLICY_HEARTBEAT, topics.E_STOP, topics.ENABLE),
            answers=(*_SUPERVISOR_SERVICES, *_of(topics.SUPERVISOR_NODE, PARAMETER_SERVICES)),
            sends=actions,
        ),
        Enclave(
            path="/sigma/policy",
            node=topics.POLICY_NODE,
            publishes=(*_FROM_POLICY, topics.ACTION_CHUNK_TRAJECTORY, "/diagnostics", _TRANSITIONS),
            hears=(*cameras, *joints, topics.TASK),
            answers=(*_POLICY_SERVICES, *_of(topics.POLICY_NODE, PARAMETER_SERVICES + LIFECYCLE_SERVICES)),
        ),
        _OPERATOR,
        Enclave(path="/sigma/driver", node="driver", publishes=(*joints, "/diagnostics"), hears=commands, runs=actions),
        Enclave(path="/sigma/cameras", node="cameras", publishes=(*cameras, "/diagnostics")),
        Enclave(
            path="/sigma/incidents",
            node="sigma_incidents",
            publishes=("/diagnostics",),
            hears=(*cameras, *joints, *commands, *_FROM_POLICY, *_TOLD, topics.E_STOP, topics.ENABLE, topics.TASK),
            answers=("sigma_incidents/save",),
        ),
    )


def _of(node: str, services: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(f"{node}/{service}" for service in services)


_OPERATOR = Enclave(
    path="/sigma/operator",
    node="sigma_operator",
    publishes=(topics.E_STOP, topics.ENABLE, topics.TASK),
    hears=(*_TOLD, topics.POLICY_HEARTBEAT),
    answers=(topics.START_POLICY, topics.CANCEL_POLICY, *_of(topics.RUN_NODE, PARAMETER_SERVICES)),
    runs=(topics.RUN_POLICY,),
    sends=(topics.RUN_POLICY,),
    calls=(
        *_SUPERVISOR_SERVICES,
        *_POLICY_SERVICES,
        *(topics.START_POLICY, topics.CANCEL_POLICY),
        *_of(topics.SUPERVISOR_NODE, PARAMETER_SERVICES),
        *_of(topics.POLICY_NODE, PARAMETER_SERVICES + LIFECYCLE_SERVICES),
    ),
)


def policy_xml(contract: Contract, namespace: str = "") -> str:
    """The policy as text, in the format of `ros2 security create_permission`, of nodes in a namespace."""
    root = ET.Element("policy", version=VERSION)
    listed = ET.SubElement(root, "enclaves")
    inside = absolute_topic("", namespace).rstrip("/") or "/"
    for enclave in enclaves(contract):
        profiles = ET.SubElement(ET.SubElement(listed, "enclave", path=enclave.path), "profiles")
        profile = ET.SubElement(profiles, "profile", ns=inside, node=enclave.node)
        common = ("/parameter_events", "/rosout")
        for group, each, qualifier, names in (
            ("topics", "topic", "publish", (*enclave.publishes, *common)),
            ("topics", "topic", "subscribe", (*enclave.hears, "/parameter_events", "/clock")),
            ("services", "service", "reply", enclave.answers),
            ("services", "service", "request", enclave.calls),
            ("actions", "action", "execute", enclave.runs),
            ("actions", "action", "call", enclave.sends),
        ):
            full = tuple(absolute_topic(name, namespace) for name in names)
            _rules(profile, group, each, {qualifier: "ALLOW"}, full)
    ET.indent(root)
    return f'<?xml version="1.0" encoding="UTF-8"?>\n{ET.tostring(root, encoding="unicode")}\n'


def _rules(profile: ET.Element, group: str, each: str, qualifier: dict[str, str], names: tuple[str, ...]) -> None:
    if not names:
        return
    rules = ET.SubElement(profile, group, qualifier)
    for name in dict.fromkeys(names):
        ET.SubElement(rules, each).text = name.removeprefix("/")


def main(arguments: Sequence[str] | None = None) -> int:
    """Prints the policy of a contract."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    contract = given[0] if given else "so101"
    sys.stdout.write(policy_xml(load_contract(contract), chosen_namespace(contract) or ""))
    return 0


if __name__ == "__main__":
    sys.exit(main())
