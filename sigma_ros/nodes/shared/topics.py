# SPDX-License-Identifier: Apache-2.0
"""Names of the topics between our nodes, relative to their namespace, and who publishes on a topic.

Topics of the robot are in its contract.
"""

from collections import Counter
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from rclpy.node import Node

from sigma_ros.contract import Camera
from sigma_ros.contract_text import absolute_topic, chosen_namespace
from sigma_ros.supervisor.identity import Author, Source

if TYPE_CHECKING:
    from rclpy.subscription import MessageInfo


ACTION_CHUNK = "sigma/action_chunk"
ACTION_CHUNK_TRAJECTORY = "inference/action_chunk"  # the name that other stacks' viewers look for
COMMIT_CHUNK = "sigma/commit_chunk"
TICK = "sigma/tick"
TELEPATHY = "sigma/telepathy"
POLICY_HEARTBEAT = "sigma/policy_heartbeat"
POLICY_INFO = "sigma/policy_info"
SUPERVISOR_STATE = "sigma/supervisor_state"
E_STOP = "sigma/e_stop"
GHOST = "sigma/ghost/joint_states"
INTERVENTION = "sigma/intervention"
ENABLE = "sigma/enable"
CLOCK = "clock"  # of a replay; that of ROS, for `use_sim_time`, is always /clock
REPLAY_COMMANDS = "sigma/replay_commands"

POLICY_NODE = "sigma_policy"
SUPERVISOR_NODE = "sigma_supervisor"
REPLAY_NODE = "sigma_replay"
SIM_NODE = "sigma_sim"
DRIVER_NODE = "so101_driver"
RECORD_NODE = "sigma_record"
CAMERA_NODE = "sigma_camera"
PANEL_NODE = "sigma_panel"
RUN_NODE = "sigma_run"
STAGE_NODE = "sigma_stage"

TASK = f"{POLICY_NODE}/task"
RESET_MEMORY = f"{POLICY_NODE}/reset_memory"
PAUSE = f"{POLICY_NODE}/pause"
SAVE_STATE = f"{POLICY_NODE}/save_state"
RESTORE_STATE = f"{POLICY_NODE}/restore_state"
ENGAGE = f"{SUPERVISOR_NODE}/engage"
RELEASE = f"{SUPERVISOR_NODE}/release"
RESET_STOP = f"{SUPERVISOR_NODE}/reset_stop"
ENGAGE_PAIRED = f"{ENGAGE}_paired"
RESET_STOP_PAIRED = f"{RESET_STOP}_paired"
ESTOP_SERVICE = f"{SUPERVISOR_NODE}/estop"
SAVE_INCIDENT = "sigma_incidents/save"
START_EPISODE = f"{RECORD_NODE}/start"
SAVE_EPISODE = f"{RECORD_NODE}/save"
DISCARD_EPISODE = f"{RECORD_NODE}/discard"
NEXT_PROMPT = f"{RECORD_NODE}/prompt"
RUN_POLICY = "run_policy"  # an action, by the name that other stacks give it
START_POLICY = f"{RUN_NODE}/start_policy"
CANCEL_POLICY = f"{RUN_NODE}/cancel_policy"


def full_name(node: Node, name: str) -> str:
    """The name of a topic, service or neighbour of a node, with its namespace: for bags and for texts to a user."""
    return absolute_topic(name, node.get_namespace())


def contract_name(node: Node, name: str) -> str:
    """A contract (path or shipped name) with the node's namespace behind it, unless a user has put one there."""
    namespace = node.get_namespace().strip("/")
    return name if not namespace or chosen_namespace(name) is not None else f"{name}@{namespace}"


def raw_topic(camera: Camera) -> str:
    """Where raw images of a camera go in lockstep replay: the contract's topic if it is of that type."""
    return camera.topic if camera.message_type == "sensor_msgs/msg/Image" else f"{camera.topic}/raw"


def compressed_topic(camera: Camera) -> str:
    """Where compressed images of a camera go in lockstep replay, image_transport's name beside a raw topic."""
    return camera.topic if camera.message_type != "sensor_msgs/msg/Image" else f"{camera.topic}/compressed"


_FAST_DDS = "rmw_fastrtps"
_PROCESS_BYTES = 12
"""An id of Fast DDS is a GUID: the first bytes name the participant, which is one process."""


def publishers(node: Node, topic: str) -> tuple[str, ...]:
    """Full names of all publishers of a topic, namesakes as often as they are there."""
    return tuple(sorted(_full_name(info) for info in node.get_publishers_info_by_topic(topic)))


def foreign_publishers(node: Node, topic: str) -> tuple[str, ...]:
    """Names of the topic's publishers other than the one that `node` has; a namesake counts as another.

    Counting is a heuristic (a process may be discovered late); the primary defence is access control (SROS2).
    """
    mine = node.get_fully_qualified_name()
    names = Counter(publishers(node, topic))
    names[mine] -= 1
    return tuple(sorted(name for name, count in names.items() if count > 0))


class Senders:
    """Turns what the middleware says of a message into a `Source`.

    Where the middleware does not tell who published (rclpy before 9), every source is the same nameless one.
    """

    def __init__(self, node: Node, topics: Iterable[str]) -> None:
        self._node = node
        self._topics = tuple(topics)
        self._names: dict[str, str] = {}
        self._asked: set[str] = set()

    def refresh(self) -> None:
        """Asks the graph who is there; call it now and then."""
        infos = [info for topic in self._topics for info in self._node.get_publishers_info_by_topic(topic)]
        self._names = {bytes(info.endpoint_gid).hex(): _full_name(info) for info in infos}
        self._asked.clear()

    @property
    def names(self) -> dict[str, str]:
        """The nodes of all publishers on the topics, by their ids, as of the last look at the graph."""
        return self._names

    def source(self, info: "MessageInfo", author: Author | None = None) -> Source:
        """Who sent the message that `info` came with."""
        gid = info.get("publisher_gid")
        if not gid:
            return Source(author=author)
        publisher = gid["data"].hex()
        if publisher not in self._names and publisher not in self._asked:
            self.refresh()
            self._asked.add(publisher)
        known = gid["implementation_identifier"].startswith(_FAST_DDS)
        process = publisher[: 2 * _PROCESS_BYTES] if known else ""
        return Source(publisher=publisher, process=process, name=self._names.get(publisher, ""), author=author)


def _full_name(info: Any) -> str:
    return f"{info.node_namespace.rstrip('/')}/{info.node_name}"
