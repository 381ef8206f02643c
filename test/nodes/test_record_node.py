# SPDX-License-Identifier: Apache-2.0
"""A live recording: what comes is in the bag byte for byte, what is missing or lost is told while it happens."""

from pathlib import Path

import numpy as np
import pytest
from node_fakes import small_contract, spin_until
from rclpy.parameter import Parameter
from std_msgs.msg import Float64MultiArray, String
from test_live_loop import small_so101
from test_policy_live import LiveRobot

from sigma_ros.bags.episode import Episode, recorded_task
from sigma_ros.bags.reader import open_bag
from sigma_ros.errors import UsageError
from sigma_ros.nodes.record_node import RecordNode, StreamTally, judge
from sigma_ros.nodes.shared import qos, topics
from sigma_ros.nodes.shared.sensor_messages import array_message

pytestmark = pytest.mark.ros
MS = 1_000_000


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
    info = robot.create_publisher(String, topics.POLICY_INFO, qos.LATCHED)
    info.publish(String(data='{"certificate": "bit for bit"}'))
    node = make(task="fold the towel")
    spin_until(executor, lambda: all(t.received >= 20 for t in node.tallies.values()), what="twenty of each")
    assert end(executor, node) in (0, 3), "a busy machine may leave gaps"
    with open_bag(out) as bag:
        bag.check_against(robot.contract)
        assert recorded_task(bag, robot.contract) == "fold the towel"
        ticks = [tick for tick in Episode(bag, robot.contract, image_size_px=16) if tick.window is not None]
        assert f"/{topics.POLICY_INFO}" in bag.info.topics
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


def test_gaps_slow_streams_and_a_slow_disk_are_losses() -> None:
    good, gap, slow, disk = (StreamTally(33 * MS) for _ in range(4))
    for k in range(100):
        good.note(1 + k * 33 * MS)
        gap.note(1 + (k + (10 if k > 50 else 0)) * 33 * MS)
        slow.note(1 + k * 60 * MS)
        disk.note(1 + k * 33 * MS)
    disk.lost = 4
    useless, losses = judge({"a": good, "gap": gap, "slow": slow, "disk": disk, "none": StreamTally(33 * MS)}, 30.0)
    assert useless == ["none: nothing came"]
    assert {line.split(":")[0] for line in losses} == {"gap", "slow", "disk"}
