# SPDX-License-Identifier: Apache-2.0
"""The policy node live: ticks by time, silence told as gaps, a heartbeat that says whether the policy can act."""

import pytest
from live_robot import LiveRobot, policy_of
from node_fakes import call, spin_until
from std_srvs.srv import SetBool

from sigma_ros.nodes.shared import topics
from sigma_ros.nodes.shared.sensor_messages import stamp_ns

pytestmark = pytest.mark.ros


@pytest.fixture
def rig(executor):
    return policy_of(executor, LiveRobot)


def test_chunks_come_at_the_planning_ticks_soon_after_them(rig, executor):
    robot, _, _ = rig
    spin_until(executor, lambda: len(robot.chunks) >= 4, what="four chunks")
    ticks = [chunk.tick for _, chunk in robot.chunks]
    assert ticks == sorted(set(ticks))
    assert any(tick % 8 == 0 for tick in ticks), "later ones only where the thread was busy"
    delays = [arrived - stamp_ns(chunk.header.stamp) for arrived, chunk in robot.chunks]
    assert min(delays) < 150_000_000


def test_a_silent_camera_makes_gaps_and_an_unhealthy_heartbeat_and_recovers(rig, executor):
    robot, _, _ = rig
    robot.dark = "side"
    spin_until(executor, lambda: robot.telepathy and not robot.telepathy[-1].valid, what="a gap")
    assert any("side" in reason for reason in robot.telepathy[-1].reasons)
    assert robot.heartbeats[-1] is False
    robot.dark = ""
    spin_until(executor, lambda: robot.telepathy[-1].valid and robot.heartbeats[-1], what="recovery")


def test_paused_the_heartbeat_goes_on_and_says_so(rig, executor):
    robot, _, runtime = rig
    for wanted in (True, False):
        call(executor, robot, topics.PAUSE, SetBool.Request(data=wanted), SetBool)
        spin_until(
            executor,
            lambda wanted=wanted: robot.heartbeats and robot.heartbeats[-1] is not wanted,
            what="the heartbeat's word",
        )
    assert runtime.calls[-1][0] >= 0


def test_a_hung_inference_leaves_the_heartbeat_alive_and_is_not_used_again(rig, executor):
    robot, policy, runtime = rig
    runtime.gate.clear()
    spin_until(executor, lambda: policy._session.thread.busy_ns > 0, what="an inference to hang")
    beats = len(robot.heartbeats)
    spin_until(executor, lambda: len(robot.heartbeats) > beats + 3, what="heartbeats")
    policy.trigger_deactivate()
    assert policy._model is None
    runtime.gate.set()
