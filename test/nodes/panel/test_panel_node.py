# SPDX-License-Identifier: Apache-2.0
"""The panel's node against a real supervisor and policy: it shows, asks and records; its end changes nothing."""

import asyncio
import json
import threading
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from live_robot import LiveRobot
from node_fakes import FakeRuntime, fake_model, small_contract, small_so101, spin_until
from rclpy.parameter import Parameter

from sigma_ros.nodes.panel.node import PanelNode
from sigma_ros.nodes.policy_node import PolicyNode
from sigma_ros.nodes.record_node import RecordNode
from sigma_ros.nodes.supervisor_node import SupervisorNode

pytestmark = pytest.mark.ros


@pytest.fixture
def panel(executor, tmp_path: Path) -> PanelNode:
    given = {"contract": str(small_so101(tmp_path)), "port": 0}
    node = PanelNode([Parameter(name, value=value) for name, value in given.items()])
    executor.add_node(node)
    return node


@pytest.fixture
def graph(executor) -> tuple[SupervisorNode, PolicyNode, LiveRobot]:
    contract = small_contract()
    runtime = FakeRuntime(contract)
    nodes = (
        SupervisorNode(),
        PolicyNode(load=lambda _options, _logger: fake_model(contract, runtime)),
        LiveRobot(contract),
    )
    for node in nodes:
        executor.add_node(node)
    return nodes


def asked(executor, url: str, body: object = None) -> tuple[int, bytes]:
    """A request from another thread while the nodes spin; without a body a GET."""
    answers: list[tuple[int, bytes]] = []

    def ask() -> None:
        data = None if body is None else json.dumps(body).encode()
        try:
            with urllib.request.urlopen(urllib.request.Request(url, data=data), timeout=20) as answer:
                answers.append((answer.status, answer.read()))
        except urllib.error.HTTPError as error:
            answers.append((error.code, error.read()))

    thread = threading.Thread(target=ask)
    thread.start()
    spin_until(executor, lambda: answers, what=f"an answer of {url}")
    thread.join()
    return answers[0]


def view_until(executor, panel: PanelNode, condition: Callable[[dict[str, Any]], object], what: str) -> dict[str, Any]:
    spin_until(executor, lambda: condition(panel.view()), what=what)
    return panel.view()


def test_the_page_shows_arm_state_plans_cameras_and_task(executor, panel, graph) -> None:
    shown = view_until(
        executor, panel, lambda v: v["supervisor"] and v["policy"] and v["telepathy"] and v["arm"], "all"
    )
    assert shown["supervisor"]["state"] == "DISENGAGED"
    assert shown["telepathy"]["task"] == small_contract().tasks[0]
    assert shown["cameras"] == ["up", "side"]
    assert len(shown["policy"]["plans"]["sigma"]["path"]) == 50
    assert all(joint["rad"] is not None for joint in shown["joints"])
    json.dumps(shown, allow_nan=False)
    spin_until(executor, lambda: panel.picture("side") is not None, what="a picture")
    status, jpeg = asked(executor, panel.url + "camera/side")
    assert status == 200
    assert cv2.imdecode(np.frombuffer(jpeg, np.uint8), cv2.IMREAD_COLOR).shape == (48, 64, 3)


def test_orders_of_the_page_are_judged_by_the_supervisor_and_the_policy(executor, panel, graph) -> None:
    supervisor, policy, _ = graph
    view_until(executor, panel, lambda v: v["policy"], "a chunk")
    assert asked(executor, panel.url + "order/scale", 0.4)[0] == 200
    assert supervisor.get_parameter("scale_ceiling").value == 0.4
    assert asked(executor, panel.url + "order/max_scale", 0.3)[0] == 200
    assert policy.get_parameter("adapter.max_scale").value == 0.3
    assert asked(executor, panel.url + "order/task", "fold the towel")[0] == 200
    view_until(executor, panel, lambda v: v["telepathy"]["task"] == "fold the towel", "the new task")
    view_until(
        executor, panel, lambda v: {small_contract().tasks[0], "fold the towel"} <= set(v["memory_like"]), "both"
    )

    assert asked(executor, panel.url + "stop", "")[0] == 200
    view_until(executor, panel, lambda v: v["supervisor"]["state"] == "ESTOP", "the stop")
    status, said = asked(executor, panel.url + "order/engage", "")
    assert status == 409
    assert b"a stop is latched" in said
    for order, value in (("scale", "much"), ("scale", True), ("scale", 7), ("fly", 1), ("task", 5)):
        assert asked(executor, panel.url + f"order/{order}", value)[0] == 409, order


def test_an_episode_is_recorded_saved_and_discarded_from_the_page(executor, panel, graph, tmp_path: Path) -> None:
    status, said = asked(executor, panel.url + "order/record", "")
    assert status == 409
    assert b"nobody answers" in said
    given = {"out": str(tmp_path / "bags"), "contract": str(small_so101(tmp_path)), "episodes": True}
    recorder = RecordNode([Parameter(name, value=value) for name, value in given.items()])
    executor.add_node(recorder)
    spin_until(executor, panel._operator._orders["record"].service_is_ready, what="the recorder")
    assert asked(executor, panel.url + "order/save", "")[0] == 409, "nothing is being recorded"
    for ends, left in (("save", 1), ("discard", 1)):
        assert asked(executor, panel.url + "order/record", "")[0] == 200
        assert asked(executor, panel.url + f"order/{ends}", "")[0] == 200
        assert len(list((tmp_path / "bags").iterdir())) == left


def test_stop_needs_no_executor(executor, panel, graph) -> None:
    """The panel's own node stands still: STOP goes out from the server's thread all the same."""
    supervisor, _, _ = graph
    spin_until(executor, panel._operator._orders["stop"].service_is_ready, what="the supervisor")
    executor.remove_node(panel)
    panel.emergency_stop()
    spin_until(executor, lambda: supervisor.drive.state == "ESTOP", what="the stop")
    executor.add_node(panel)


def test_without_a_supervisor_stop_says_that_it_was_not_delivered(executor, panel) -> None:
    status, said = asked(executor, panel.url + "stop", "")
    assert status == 409
    assert b"nobody answers" in said
    assert panel.view()["supervisor"] is None


def test_the_end_of_the_panel_is_no_emergency(executor, panel, graph) -> None:
    supervisor, _, _ = graph
    view_until(executor, panel, lambda v: v["supervisor"], "the supervisor")
    executor.remove_node(panel)
    assert panel.stop()
    panel.destroy_node()
    before = supervisor.get_clock().now().nanoseconds
    spin_until(executor, lambda: supervisor.get_clock().now().nanoseconds - before > 400_000_000, what="time")
    assert supervisor.drive.state == "DISENGAGED"


def test_an_answer_that_never_comes_is_told(panel, monkeypatch: pytest.MonkeyPatch) -> None:
    from rclpy.task import Future  # noqa: PLC0415

    from sigma_ros.errors import SigmaError  # noqa: PLC0415
    from sigma_ros.nodes.panel import node  # noqa: PLC0415

    monkeypatch.setattr(node, "ANSWER_S", 0.05)
    with pytest.raises(SigmaError, match="no answer came"):
        asyncio.run(node._answer(Future()))
