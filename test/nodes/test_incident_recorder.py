# SPDX-License-Identifier: Apache-2.0
"""What was heard before a stop is in a bag that the rest of the package opens, with the reason."""

from pathlib import Path

import numpy as np
import pytest
from node_fakes import AUTHOR, call, make_chunk, picture, small_contract, spin_until
from rclpy.node import Node
from rclpy.parameter import Parameter
from sensor_msgs.msg import Image, JointState
from sigma_ros.msg import ActionChunk, SupervisorState
from std_msgs.msg import Float64MultiArray

from sigma_ros.bags.episode import Episode
from sigma_ros.bags.reader import open_bag
from sigma_ros.nodes.incident_recorder import IncidentRecorder
from sigma_ros.nodes.record.incident import make_room, write_incident
from sigma_ros.nodes.shared import qos, topics
from sigma_ros.nodes.shared.diagnostics import Level
from sigma_ros.nodes.shared.image_messages import image_message
from sigma_ros.nodes.shared.messages import chunk_message
from sigma_ros.nodes.shared.sensor_messages import array_message, joint_state_message

pytestmark = pytest.mark.ros


@pytest.fixture
def graph(executor, monkeypatch, tmp_path):
    """A recorder, and a rig that publishes 20 ticks of everything, stamped on the contract's grid."""
    contract = small_contract()
    monkeypatch.setattr("sigma_ros.nodes.incident_recorder.load_contract", lambda _name: contract)
    recorder = IncidentRecorder([Parameter("folder", value=str(tmp_path / "incidents"))])
    rig = Node("test_rig")
    executor.add_node(recorder)
    executor.add_node(rig)
    cameras = [(camera, rig.create_publisher(Image, camera.topic, qos.EVENT)) for camera in contract.cameras]
    joints = rig.create_publisher(JointState, contract.joint_state_topic, qos.EVENT)
    commands = rig.create_publisher(Float64MultiArray, contract.command_topic, qos.EVENT)
    chunks = rig.create_publisher(ActionChunk, topics.ACTION_CHUNK, qos.EVENT)
    states = rig.create_publisher(SupervisorState, topics.SUPERVISOR_STATE, qos.LATCHED)
    publishers = [joints, commands, chunks, states, *(publisher for _, publisher in cameras)]
    spin_until(executor, lambda: all(p.get_subscription_count() for p in publishers), what="the recorder")
    begun_ns = rig.get_clock().now().nanoseconds

    def tick(index: int, state: int, reason: str) -> None:
        at_ns = begun_ns + contract.tick_offset_ns(index)
        pose = np.full(6, 0.01 * index)
        for camera, publisher in cameras:
            publisher.publish(image_message(at_ns=at_ns, frame_id="", rgb=picture(camera, 10 * index)))
        joints.publish(joint_state_message(at_ns=at_ns, names=contract.joint_names, positions_rad=pose))
        commands.publish(array_message(pose))
        if index % 8 == 0:
            chunks.publish(chunk_message(make_chunk(contract, stamp_ns=at_ns, chunk_id=index), AUTHOR))
        states.publish(SupervisorState(state=state, reason=reason, reason_text=f"because of {reason}"))

    def play(count: int, state: int = SupervisorState.RUN, reason: str = "OK", first: int = 0) -> None:
        for index in range(first, first + count):
            tick(index, state, reason)
            for _ in range(12):
                executor.spin_once(timeout_sec=0.002)

    return recorder, rig, contract, play


def test_a_stop_leaves_a_bag_with_its_reason_that_is_read_as_ticks(graph, executor):
    recorder, _rig, contract, play = graph
    play(20)
    play(2, SupervisorState.STOPPED, "JOINTS_IMPLAUSIBLE", first=20)
    spin_until(executor, lambda: recorder.written, what="the bag")
    path = recorder.written[0]
    assert path.name.endswith("joints_implausible")
    with open_bag(path) as bag:
        notes = bag.info.metadata
        assert notes["sigma.incident.reason"] == "JOINTS_IMPLAUSIBLE"
        assert notes["sigma.incident.state"] == "STOPPED"
        ticks = list(Episode(bag, contract, image_size_px=32))
    usable = [tick for tick in ticks if tick.window is not None]
    assert len(usable) >= 15
    assert {f"/{name}" for name in (topics.ACTION_CHUNK, topics.SUPERVISOR_STATE)} <= set(bag.info.topics)


def test_a_second_stop_in_a_row_is_the_same_incident(graph, executor):
    recorder, _rig, _contract, play = graph
    play(3, SupervisorState.STOPPED, "TRACKING")
    play(3, SupervisorState.ESTOP, "ESTOP_PRESSED", first=3)
    spin_until(executor, lambda: recorder.written, what="the bag")
    recorder.stop()
    assert [path.name.partition("-")[2].partition("-")[2] for path in recorder.written] == ["tracking"]


def test_a_user_can_ask_for_it(graph, executor):
    recorder, rig, _contract, play = graph
    play(3)
    assert call(executor, rig, "/sigma_incidents/save").success
    spin_until(executor, lambda: recorder.written, what="the bag")


def test_what_the_disk_refuses_stays_in_memory_is_told_and_written_later(graph, executor, monkeypatch):
    recorder, _rig, _contract, play = graph
    monkeypatch.setattr("sigma_ros.nodes.incident_recorder.RETRY_S", 0.1)
    folder = Path(recorder._options.folder)
    folder.parent.mkdir(exist_ok=True)
    folder.write_text("the place is taken, as a full disk would refuse it")
    play(3)
    play(2, SupervisorState.STOPPED, "TRACKING", first=3)
    spin_until(executor, lambda: recorder._refused, what="the refusal")
    assert recorder._task_status().level is Level.ERROR
    assert "waits in memory" in recorder._task_status().text
    folder.unlink()
    spin_until(executor, lambda: recorder.written, what="the bag")
    recorder.wait()
    assert recorder._task_status().level is Level.OK
    with open_bag(recorder.written[0]) as bag:
        assert bag.info.metadata["sigma.incident.reason"] == "TRACKING"


@pytest.mark.parametrize(("most", "most_bytes", "left"), [(3, 10**9, 2), (100, 10**9, 5), (100, 1, 0)])
def test_room_is_made_by_removing_the_oldest_of_ours_and_nothing_else(tmp_path, most, most_bytes, left):
    names = [f"20260101-00000{number}-tracking" for number in range(5)]
    for name in names:
        write_incident(tmp_path / name, (), facts={"reason": "TRACKING"})
    theirs = tmp_path / "20250101-000000-holiday"
    theirs.mkdir()
    (theirs / "metadata.yaml").write_text("of the user")
    (tmp_path / "notes.txt").write_text("of the user")
    make_room(tmp_path, most=most, most_bytes=most_bytes)
    assert sorted(path.name for path in tmp_path.glob("2026*")) == names[5 - left :]
    assert (theirs / "metadata.yaml").read_text() == (tmp_path / "notes.txt").read_text() == "of the user"
