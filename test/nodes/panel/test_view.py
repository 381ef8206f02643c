# SPDX-License-Identifier: Apache-2.0
"""What the page shows: JSON without NaN at every moment, the arm as the contract's kinematics have it, both plans."""

import json
import math
from dataclasses import replace

import numpy as np
import pytest
from node_fakes import AUTHOR, make_chunk
from sigma_ros.msg import SupervisorState, TelepathyState

from sigma_ros.contract_file import load_contract
from sigma_ros.kinematics import ForwardKinematics
from sigma_ros.nodes.panel.view import KnownMemories, Skeleton, finite, page_view, plans
from sigma_ros.nodes.shared.listen import MonitorView, Rate
from sigma_ros.nodes.shared.messages import chunk_message

pytestmark = pytest.mark.ros
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
