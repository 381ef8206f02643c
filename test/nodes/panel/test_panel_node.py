# SPDX-License-Identifier: Apache-2.0
"""The panel's node against a real supervisor and policy: it shows, asks and records; its end changes nothing.

What it shows is JSON without NaN at every moment, the arm as the contract's kinematics have it, both plans.
"""

import asyncio
import json
import math
import threading
import urllib.error
import urllib.request
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from live_robot import LiveRobot
from node_fakes import AUTHOR, FakeRuntime, fake_model, make_chunk, small_contract, small_so101, spin_until
from rclpy.parameter import Parameter
from sigma_ros.msg import SupervisorState, TelepathyState

from sigma_ros.contract_file import load_contract
from sigma_ros.kinematics import ForwardKinematics
from sigma_ros.nodes.panel.node import KnownMemories, PanelNode, Skeleton, finite, page_view, plans
from sigma_ros.nodes.policy_node import PolicyNode
from sigma_ros.nodes.record_node import RecordNode
from sigma_ros.nodes.shared.listen import MonitorView, Rate
from sigma_ros.nodes.shared.messages import chunk_message
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
    first = small_contract().tasks[0]
    view_until(executor, panel, lambda v: first in v["memory_like"], "a memory of the first task")
    assert asked(executor, panel.url + "order/task", "fold the towel")[0] == 200
    view_until(executor, panel, lambda v: v["telepathy"]["task"] == "fold the towel", "the new task")
    view_until(executor, panel, lambda v: {first, "fold the towel"} <= set(v["memory_like"]), "both")

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


CONTRACT = load_contract("so101")
POSE = dict(zip(CONTRACT.joint_names, [0.1, -0.4, 0.6, 0.2, -0.3, 0.5], strict=True))


def seen(**changes: object) -> MonitorView:
    view = MonitorView(rates={name: Rate() for name in ("supervisor", "chunks", "telepathy")})
    for name, value in changes.items():
        setattr(view, name, value)
    return view


def test_the_arm_ends_where_the_contracts_kinematics_put_its_tool() -> None:
    assert CONTRACT.kinematics is not None
    pose = np.array(list(POSE.values()))
    known = ForwardKinematics(CONTRACT.kinematics, CONTRACT.joint_names)
    chain, *fingers = Skeleton(CONTRACT).lines(pose)
    assert len(chain) == 1 + len(CONTRACT.kinematics.links)
    ends = dict(zip((point.name for point in CONTRACT.kinematics.points), (line[1] for line in fingers), strict=True))
    for name, place in zip(known.names, known.points_m(pose[None])[0].T, strict=True):
        np.testing.assert_allclose(ends[name], place, atol=1e-4)
    assert all(line[0] in chain for line in fingers), "a finger begins at its joint"


def test_sigmas_plan_is_the_bases_and_the_scaled_residual() -> None:
    skeleton = Skeleton(CONTRACT)
    chunk = make_chunk(CONTRACT, scale=0.5)
    found = plans(chunk_message(chunk, AUTHOR), skeleton)
    assert found["base"]["path"] == skeleton.path(chunk.base_rad)
    assert found["sigma"]["path"] == skeleton.path(chunk.base_rad + 0.5 * chunk.residual_rad)
    assert found["sigma"]["arm"] == skeleton.lines(chunk.base_rad[-1] + 0.5 * chunk.residual_rad[-1])
    assert found["base"]["path"] != found["sigma"]["path"]


@pytest.mark.parametrize("told", [None, SupervisorState(applied_scale=math.nan, scale_ceiling=math.inf)])
@pytest.mark.parametrize("joints", [{}, POSE])
def test_every_moment_is_json_that_a_browser_reads(told: SupervisorState | None, joints: dict[str, float]) -> None:
    view = seen(supervisor=told, chunk=chunk_message(make_chunk(CONTRACT), AUTHOR))
    view.rates["supervisor"].note(0.0)
    shown = page_view(view, CONTRACT, Skeleton(CONTRACT), joints, 0.0)
    assert json.loads(json.dumps(shown, allow_nan=False)) == shown
    if told is not None:
        assert shown["supervisor"]["applied_scale"] is None


def test_what_is_bounded_and_how_many_incidents_were_written_is_shown() -> None:
    view = seen(supervisor=SupervisorState(clipped_joints=["elbow_flex"]), incidents="2 written")
    view.rates["supervisor"].note(0.0)
    shown = page_view(view, CONTRACT, Skeleton(CONTRACT), POSE, 0.0)
    assert (shown["supervisor"]["bounded"], shown["incidents"]) == (["elbow_flex"], "2 written")


def told(task: str, tick: int, *memory: float, **more: object) -> TelepathyState:
    return TelepathyState(task=task, tick=tick, semantic_memory=memory, **{"valid": True, "committed": True} | more)


def test_what_the_memory_holds_is_its_likeness_to_that_of_each_task_that_was_heard() -> None:
    known = KnownMemories()
    assert known.alike(None) == {}
    assert known.alike(told("fold", 1, 3.0, 0.0)) == {"fold": 1.0}
    assert known.alike(told("pick", 2, 0.0, 2.0)) == {"fold": 0.0, "pick": 1.0}
    wavering = told("pick", 3, 1.0, 1.0)
    assert known.alike(wavering)["fold"] == pytest.approx(0.5**0.5)
    assert known.alike(wavering) == known.alike(wavering), "a moment that is shown again counts once"


def test_a_memory_that_was_not_committed_is_compared_and_not_kept_and_an_unusable_one_neither() -> None:
    known = KnownMemories()
    known.alike(told("fold", 1, 1.0, 0.0))
    assert known.alike(told("pick", 2, 0.0, 1.0, committed=False)) == {"fold": 0.0}
    for unusable in (told("pick", 3, valid=False), told("pick", 4, math.nan, 1.0), told("pick", 5)):
        assert known.alike(unusable) == {}
    assert list(known.alike(told("fold", 6, 1.0, 0.0))) == ["fold"]
    for number in range(20):
        many = known.alike(told(f"task {number}", 7 + number, 1.0, 0.0))
    assert len(many) == 8


def test_a_supervisor_that_fell_silent_is_not_shown_as_if_it_spoke() -> None:
    view = seen(supervisor=SupervisorState(state=SupervisorState.RUN))
    view.rates["supervisor"].note(0.0)
    assert page_view(view, CONTRACT, Skeleton(CONTRACT), POSE, 1.0)["supervisor"]["state"] == "RUN"
    assert page_view(view, CONTRACT, Skeleton(CONTRACT), POSE, 10.0)["supervisor"] is None


def test_an_arm_without_kinematics_has_no_lines() -> None:
    bare = Skeleton(replace(CONTRACT, kinematics=None))
    assert bare.lines(np.zeros(6)) == []
    assert bare.path(np.zeros((3, 6))) == []


def test_numbers_that_are_none_become_null() -> None:
    assert finite({"a": [math.nan, 1.0, (math.inf, "x", 3, True)]}) == {"a": [None, 1.0, [None, "x", 3, True]]}
