# SPDX-License-Identifier: Apache-2.0
"""Two arms in one domain, each with its policy and supervisor in a namespace: nothing of one reaches the other."""

import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from node_fakes import PatientOperator, make_chunk, spin_until
from rclpy.node import Node
from sensor_msgs.msg import JointState
from sigma_ros.msg import ActionChunk, SupervisorState
from std_msgs.msg import Bool, Float64MultiArray, String
from test_process import node_process

from sigma_ros.bags.reader import open_bag
from sigma_ros.bags.topics import check_topics, recorded_task
from sigma_ros.bags.writer import BagWriter
from sigma_ros.contract import Contract
from sigma_ros.contract_file import load_contract
from sigma_ros.contract_text import shipped_config_dir
from sigma_ros.errors import ContractError
from sigma_ros.nodes.shared import qos, topics
from sigma_ros.nodes.shared.messages import chunk_message
from sigma_ros.nodes.shared.sensor_messages import joint_state_message
from sigma_ros.supervisor.identity import Author

pytestmark = pytest.mark.ros
SHARED = ("/rosout", "/parameter_events", "/diagnostics", "/clock")
FAR_S = 90.0
PROPOSAL_PERIOD_NS = 1_000_000_000


class Arm(Node):
    """An arm that goes where it is told at once, and a policy that proposes when asked to, in one namespace."""

    def __init__(self, namespace: str) -> None:
        super().__init__("rig", namespace=namespace)
        self.contract = load_contract(topics.contract_name(self, "so101"))
        self.commands: list[np.ndarray] = []
        self.states: list[SupervisorState] = []
        self._joints = self.create_publisher(JointState, self.contract.joint_state_topic, qos.SENSOR)
        self._chunks = self.create_publisher(ActionChunk, topics.ACTION_CHUNK, qos.CHUNK)
        self._heartbeat = self.create_publisher(Bool, topics.POLICY_HEARTBEAT, qos.HEARTBEAT)
        self.task = self.create_publisher(String, topics.TASK, qos.LATCHED)
        self.create_subscription(Float64MultiArray, self.contract.command_topic, self._on_command, 100)
        self.create_subscription(SupervisorState, topics.SUPERVISOR_STATE, self.states.append, qos.LATCHED)
        self.operator = PatientOperator(self)
        self._proposed = 0
        self.create_timer(0.02, self._live)

    @property
    def now_ns(self) -> int:
        return self.get_clock().now().nanoseconds

    def _on_command(self, message: Float64MultiArray) -> None:
        self.commands.append(np.array(message.data))

    def _live(self) -> None:
        pose = self.commands[-1] if self.commands else np.zeros(6)
        names = self.contract.joint_names
        self._joints.publish(joint_state_message(at_ns=self.now_ns, names=names, positions_rad=pose))
        self._heartbeat.publish(Bool(data=True))

    def propose(self, to_rad: float) -> None:
        pose = self.commands[-1] if self.commands else np.zeros(6)
        base = np.linspace(pose, np.full(6, to_rad), 50)
        given = {"chunk_id": self._proposed, "stamp_ns": self.now_ns, "base_rad": base, "residual_rad": 0 * base}
        self._proposed += 1
        chunk = make_chunk(self.contract, **given)
        self._chunks.publish(chunk_message(chunk, Author(robot=self.contract.name, instance=self.get_name())))

    @property
    def moved(self) -> bool:
        return bool(self.commands) and bool(self.commands[-1][0] > 0.2)

    def driven(self, executor, to_rad: float) -> None:
        """Proposed to until it moves: on a machine that stalls, a chunk grows old."""
        proposed_ns = 0

        def under_way() -> bool:
            nonlocal proposed_ns
            if self.now_ns - proposed_ns > PROPOSAL_PERIOD_NS:
                proposed_ns = self.now_ns
                self.propose(to_rad)
            return self.moved

        spin_until(executor, under_way, what=f"{self.get_namespace()} in motion", timeout_s=FAR_S)


@pytest.fixture
def arms(executor) -> Iterator[tuple[Arm, Arm]]:
    names = ("arm1", "arm2")
    made = [Arm(name) for name in names]
    for arm in made:
        executor.add_node(arm)
    with (
        node_process("supervisor_node", "--ros-args", "-r", "__ns:=/arm1"),
        node_process("supervisor_node", "--ros-args", "-r", "__ns:=/arm2"),
    ):
        yield made[0], made[1]
    for arm in made:
        arm.destroy_node()


def test_a_proposal_to_one_arm_never_moves_the_other(arms, executor) -> None:
    """Both engaged, both policies alive: `arm2`'s policy has nothing to say, and its arm stays where it is."""
    first, second = arms
    engaged = lambda: all(arm.states and arm.states[-1].state != SupervisorState.DISENGAGED for arm in arms)  # noqa: E731
    spin_until(executor, engaged, what="both engaged", timeout_s=FAR_S)
    first.driven(executor, 0.4)
    spin_until(executor, lambda: len(first.commands) > 50, what="a second of commands")
    assert all((command == 0.0).all() for command in second.commands)
    assert second.states[-1].accepted_chunks == second.states[-1].refused_chunks == 0
    assert first.states[-1].accepted_chunks >= 1


def test_nothing_of_an_arm_lies_outside_its_namespace(arms, executor) -> None:
    first, _ = arms
    ours = ("rig", topics.SUPERVISOR_NODE)

    def there() -> bool:
        names = first.get_node_names_and_namespaces()
        return all((topics.SUPERVISOR_NODE, f"/arm{i}") in names for i in (1, 2))

    spin_until(executor, there, what="both supervisors", timeout_s=FAR_S)
    spin_until(executor, lambda: all(arm.states for arm in arms), what="both states", timeout_s=FAR_S)
    for name, space in first.get_node_names_and_namespaces():
        if name in ours:
            spoken = first.get_publisher_names_and_types_by_node(name, space)
            heard = first.get_subscriber_names_and_types_by_node(name, space)
            served = first.get_service_names_and_types_by_node(name, space)
            for topic, _types in (*spoken, *heard, *served):
                assert topic in SHARED or topic.startswith(f"{space}/"), f"{space}/{name} uses {topic}"


@pytest.fixture
def blind(tmp_path: Path) -> str:
    """A contract file without cameras."""
    contract = tmp_path / "blind.yaml"
    contract.write_text("extends: so101\nname: blind\ncameras: []\n", encoding="utf-8")
    return str(contract)


def test_a_recording_of_an_arm_is_read_with_the_namespace_behind_the_contract(executor, tmp_path, blind) -> None:
    arm = Arm("arm1")
    executor.add_node(arm)
    arm.task.publish(String(data="fold the towel"))
    given = ("--out", str(tmp_path / "bag"), "--contract", blind)
    with node_process("record_node", *given, "--ros-args", "-r", "__ns:=/arm1") as process:
        heard = lambda: arm._joints.get_subscription_count() and arm.task.get_subscription_count()  # noqa: E731
        spin_until(executor, heard, what="the recorder", timeout_s=FAR_S)
        until_s = time.monotonic() + 2.0
        spin_until(executor, lambda: time.monotonic() > until_s, what="two seconds of recording")
        process.send_signal(signal.SIGINT)
        spin_until(executor, lambda: process.poll() is not None, what="the recording's end", timeout_s=FAR_S)
    ours = load_contract(f"{blind}@arm1")
    with open_bag(tmp_path / "bag") as bag:
        assert {"/arm1/joint_states", "/arm1/sigma_policy/task"} <= set(bag.info.topics)
        assert "fold the towel" in [record.message for record in bag.records([f"/arm1/{topics.TASK}"])]
        assert recorded_task(bag, ours) in ("fold the towel", ours.tasks[0])
        assert next(bag.records([ours.joint_state_topic])).message.positions_rad.shape == (6,)
    arm.destroy_node()


def written(path: Path, contract: Contract) -> Path:
    with BagWriter(path) as bag:
        bag.joints(contract.joint_state_topic, 1_000, contract.joint_names, np.zeros(6))
        bag.array(contract.command_topic, 1_000, np.zeros(6))
    return path


def test_a_bag_from_a_namespace_says_which_one_to_give_and_an_old_bag_needs_none(tmp_path, blind) -> None:
    plain, ours = load_contract(blind), load_contract(f"{blind}@arm1")
    with open_bag(written(tmp_path / "new", ours)) as bag, open_bag(written(tmp_path / "old", plain)) as old:
        check_topics(bag, ours)
        check_topics(old, plain)
        assert "/joint_states" in old.info.topics
        with pytest.raises(ContractError, match="give it behind the contract: NAME@arm1"):
            check_topics(bag, plain)


def test_a_topic_with_a_slash_in_front_stays_where_it_is(tmp_path: Path) -> None:
    text = (shipped_config_dir() / "so101.yaml").read_text(encoding="utf-8")
    file = tmp_path / "shared.yaml"
    file.write_text(text.replace("topic: up_camera/", "topic: /up_camera/"), encoding="utf-8")
    up, side = load_contract(f"{file}@arm1").cameras
    assert (up.topic, side.topic) == ("/up_camera/image_raw", "/arm1/side_camera/image_raw")


def test_permissions_name_what_the_nodes_of_a_namespace_use() -> None:
    command = [sys.executable, "-m", "sigma_ros.nodes.security_policy", "so101@arm1"]
    text = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert '<profile ns="/arm1" node="sigma_supervisor">' in text
    assert "<topic>arm1/forward_position_controller/commands</topic>" in text
    assert "<topic>forward_position_controller/commands</topic>" not in text
