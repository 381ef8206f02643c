# SPDX-License-Identifier: Apache-2.0
"""A live recording: what comes is in the bag byte for byte, what is missing or lost is told while it happens."""

import os
import pty
import signal
import subprocess
import sys
import termios
from pathlib import Path

import numpy as np
import pytest
from live_robot import LiveRobot
from node_fakes import call, small_contract, small_so101, spin_until
from rclpy.parameter import Parameter
from sigma_ros.msg import SupervisorState
from std_msgs.msg import Bool, Float64MultiArray, String

from sigma_ros.bags.episode import Episode
from sigma_ros.bags.reader import open_bag
from sigma_ros.bags.topics import check_topics, recorded_task
from sigma_ros.contract_file import load_contract
from sigma_ros.errors import UsageError
from sigma_ros.nodes.record_node import RecordNode
from sigma_ros.nodes.shared import qos, topics
from sigma_ros.nodes.shared.sensor_messages import array_message

pytestmark = pytest.mark.ros


@pytest.fixture
def rig(executor, tmp_path: Path):
    contract = small_contract()
    out = tmp_path / "bag"

    def make(**options: object) -> RecordNode:
        given = {"out": str(out), "contract": str(small_so101(tmp_path)), **options}
        node = RecordNode([Parameter(name, value=value) for name, value in given.items()])
        executor.add_node(node)
        return node

    robot = LiveRobot(contract)
    commands = robot.create_publisher(Float64MultiArray, contract.command_topic, qos.COMMAND)
    robot.create_timer(0.02, lambda: commands.publish(array_message(np.full(6, 0.1))))
    executor.add_node(robot)
    return make, robot, out


def end(executor, node: RecordNode) -> int:
    executor.remove_node(node)
    assert node.stop()
    node.destroy_node()
    return node.exit_code


def test_a_recording_holds_what_replay_needs(rig, executor) -> None:
    make, robot, out = rig
    node = make(task="fold the towel")
    spin_until(executor, lambda: all(t.received >= 20 for t in node.tallies.values()), what="twenty of each")
    assert end(executor, node) in (0, 3), "a busy machine may leave gaps"
    with open_bag(out) as bag:
        check_topics(bag, robot.contract)
        assert recorded_task(bag, robot.contract) == "fold the towel"
        ticks = [tick for tick in Episode(bag, robot.contract, image_size_px=16) if tick.window is not None]
    assert len(ticks) >= 10
    np.testing.assert_allclose(ticks[0].window.newest.positions_rad, np.full(6, 0.1))
    assert ticks[0].window.newest.images["up"].max() == 90
    np.testing.assert_allclose(ticks[5].action_rad, np.full(6, 0.1))


def test_a_stream_that_never_comes_makes_the_recording_useless(rig, executor) -> None:
    make, robot, _ = rig
    robot.dark = "side"
    node = make()
    spin_until(executor, lambda: node.tallies["up"].received >= 5, what="pictures")
    assert "nothing came yet" in node._task_status(node.tallies["side"]).text
    assert end(executor, node) == 1


def test_a_disk_that_runs_full_ends_the_recording_with_a_whole_bag(rig, executor) -> None:
    make, _, out = rig
    node = make(least_free_gb=1e4)
    spin_until(executor, lambda: node.tallies["up"].received >= 3 and node.finished, what="the end")
    assert end(executor, node) in (1, 3)
    with open_bag(out) as bag:
        assert bag.info.messages > 0


def test_a_recording_that_is_there_is_never_overwritten(rig, executor) -> None:
    make, _, out = rig
    out.mkdir()
    with pytest.raises(UsageError, match="exists already"):
        make()


# Episode by episode.


def test_episodes_are_started_saved_and_discarded_by_services_and_a_discarded_one_leaves_nothing(rig, executor) -> None:
    make, robot, out = rig
    node = make(episodes=True)
    assert not call(executor, robot, topics.SAVE_EPISODE).success, "nothing is being recorded"
    prompt = robot.create_publisher(String, topics.NEXT_PROMPT, qos.EVENT)
    spin_until(executor, prompt.get_subscription_count, what="the prompt's reader")
    for task, ends in (("fold", "save"), ("tear", "discard"), ("unfold", "save")):
        prompt.publish(String(data=task))
        spin_until(executor, lambda task=task: node._task == task, what="the prompt")
        assert call(executor, robot, topics.START_EPISODE).success
        assert not call(executor, robot, topics.START_EPISODE).success, "one at a time"
        spin_until(executor, lambda: all(t.received >= 5 for t in node.tallies.values()), what="five of each")
        assert call(executor, robot, f"{topics.RECORD_NODE}/{ends}").success
    assert sorted(path.name for path in out.iterdir()) == ["episode_000000", "episode_000001"]
    for name, task in (("episode_000000", "fold"), ("episode_000001", "unfold")):
        with open_bag(out / name) as bag:
            assert recorded_task(bag, robot.contract) == task
    end(executor, node)


def test_a_bag_holds_the_contracts_text_the_policy_and_the_operators_interventions(rig, executor, tmp_path) -> None:
    make, robot, out = rig
    info = robot.create_publisher(String, topics.POLICY_INFO, qos.LATCHED)
    info.publish(String(data='{"checkpoint_hash": "abc"}'))
    marks = robot.create_publisher(Bool, topics.INTERVENTION, qos.LATCHED)
    marks.publish(Bool(data=False))
    node = make(episodes=True)
    spin_until(executor, lambda: node._policy and node._mark is False, what="what is latched")
    node.start()
    marks.publish(Bool(data=True))
    spin_until(executor, lambda: node._mark and node.tallies["up"].received > 5, what="the mark")
    node.save()
    with open_bag(out / "episode_000000") as bag:
        notes = bag.info.metadata
        said = [record.message for record in bag.records() if record.topic == f"/{topics.INTERVENTION}"]
    assert notes["sigma.checkpoint"] == "abc"
    again = tmp_path / "again.yaml"
    again.write_text(notes["sigma.contract_text"], encoding="utf-8")
    assert load_contract(again) == load_contract(small_so101(tmp_path))
    assert said == [False, True]
    end(executor, node)


def test_everything_means_topics_that_no_contract_names(rig, executor) -> None:
    make, robot, out = rig
    states = robot.create_publisher(SupervisorState, topics.SUPERVISOR_STATE, qos.LATCHED)
    node = make(everything=True)
    name = f"/{topics.SUPERVISOR_STATE}"
    robot.create_timer(0.05, lambda: states.publish(SupervisorState(reason="OK")))
    spin_until(executor, lambda: name in node.tallies and node.tallies[name].received > 3, what="the states")
    end(executor, node)
    with open_bag(out) as bag:
        assert bag.info.types[name] == "sigma_ros/msg/SupervisorState"
        assert bag.info.counts[name] > 3


def test_a_killed_recorder_leaves_what_was_saved_and_the_next_goes_on(rig, executor, tmp_path) -> None:
    """By its keys, in a terminal of its own."""
    make, _robot, out = rig
    ours, theirs = pty.openpty()
    command = [sys.executable, "-m", "sigma_ros.nodes.record_node", "--out", str(out), "--episodes", "true"]
    command += ["--keyboard", "true", "--contract", str(small_so101(tmp_path))]
    process = subprocess.Popen(command, stdin=theirs, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        unsaved = out / "episode_000001.tmp"
        spin_until(executor, lambda: not termios.tcgetattr(theirs)[3] & termios.ICANON, what="it", timeout_s=60.0)
        os.write(ours, b"r")
        spin_until(executor, lambda: list(out.glob("*.tmp/*/*.mcap")), what="a bag that grows", timeout_s=60.0)
        os.write(ours, b"sr")
        spin_until(executor, unsaved.exists, what="the second episode", timeout_s=60.0)
        process.send_signal(signal.SIGKILL)
        process.wait(30)
    finally:
        process.kill()
        os.close(ours)
        os.close(theirs)
    with open_bag(out / "episode_000000") as bag:
        assert bag.info.messages > 0
    node = make(episodes=True)
    assert "episode_000001" in node.start()
    node.save()
    assert sorted(path.name for path in out.iterdir()) == ["episode_000000", "episode_000001"]
    end(executor, node)
