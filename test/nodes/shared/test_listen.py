# SPDX-License-Identifier: Apache-2.0
"""Watching a running graph: what `sigma doctor` and `sigma monitor` gather, and what they show of it."""

import time

import pytest
from live_robot import LiveRobot
from node_fakes import FakeRuntime, fake_model, small_contract, spin_until
from rclpy.node import Node
from rich.console import Console

from sigma_ros.cli.robot.monitor import view
from sigma_ros.nodes.policy_node import PolicyNode
from sigma_ros.nodes.shared.listen import Monitor, MonitorView, StreamWatch
from sigma_ros.nodes.supervisor_node import SupervisorNode

pytestmark = pytest.mark.ros


def text_of(seen: MonitorView) -> str:
    console = Console(width=160, record=True, file=None, quiet=False)
    with console.capture() as captured:
        console.print(view(seen, time.monotonic()))
    return captured.get()


def test_the_watch_sees_who_publishes_how_often_and_what_does_not_fit(executor) -> None:
    contract = small_contract()
    robot, watcher = LiveRobot(contract), Node("test_watcher")
    executor.add_node(robot)
    executor.add_node(watcher)
    watch = StreamWatch(watcher, contract)
    spin_until(executor, lambda: all(fact.received >= 5 for fact in watch.facts()), what="five of each")
    up, side, joints = watch.facts()
    assert [fact.name for fact in (up, side, joints)] == ["up", "side", "joints"]
    assert up.publishers == ("test_live_robot",)
    assert 0.0 < up.rate_hz < 60.0
    assert -50.0 < joints.delay_ms < 500.0
    assert [fact.problems for fact in (up, side, joints)] == [{}, {}, {}]
    assert len(watch.joints[-1]) == 6
    robot.wild_joints = True
    spin_until(executor, lambda: watch.facts()[2].problems, what="a refusal")


def test_the_monitor_shows_supervisor_policy_rates_and_reasons(executor) -> None:
    contract = small_contract()
    runtime = FakeRuntime(contract)
    nodes = [PolicyNode(load=lambda _options, _logger: fake_model(contract, runtime)), SupervisorNode()]
    robot, watcher = LiveRobot(contract), Node("test_watcher")
    for node in (*nodes, robot, watcher):
        executor.add_node(node)
    seen = Monitor(watcher).seen
    assert "nothing heard yet" in text_of(seen)
    spin_until(executor, lambda: seen.chunk and seen.supervisor and seen.telepathy, what="all of them")
    spin_until(executor, lambda: seen.troubles or seen.rates["supervisor"].hz(time.monotonic()) > 5, what="rates")
    shown = text_of(seen)
    for part in ("DISENGAGED", "risk", "residual", "chunks", "last reasons", "adapter", contract.tasks[0]):
        assert part in shown
    robot.dark = "side"
    spin_until(executor, lambda: any("unusable" in reason for reason in seen.reasons), what="a reason")
    assert "side" in text_of(seen)
