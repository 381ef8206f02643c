# SPDX-License-Identifier: Apache-2.0
"""Where the tool is: as MuJoCo says, as the oracle says, and whatever the order of the joints."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy import ndarray
from supervision import CONTRACT, QUICK_LAW

from safety import oracle
from sigma_ros.contract_file import load_contract
from sigma_ros.errors import ContractError
from sigma_ros.kinematics import ForwardKinematics, Kinematics, read_kinematics
from sigma_ros.nodes.driver.last_line import torque_for_tip_force

ROOT = Path(__file__).resolve().parents[3]


poses = arrays(np.float64, (6,), elements=st.floats(-3.0, 3.0))


def shipped() -> Kinematics:
    assert CONTRACT.kinematics is not None
    return CONTRACT.kinematics


FORWARD = ForwardKinematics(shipped(), CONTRACT.joint_names)


def places(pose: ndarray) -> dict[str, ndarray]:
    return dict(zip(FORWARD.names, FORWARD.points_m(pose[None])[0].T, strict=True))


def test_the_tool_is_where_mujoco_has_it() -> None:
    mujoco = pytest.importorskip("mujoco", reason="mujoco is not installed")
    from sigma_ros.sim.arm import LINKS  # noqa: PLC0415 (needs mujoco)
    from sigma_ros.sim.scene import build_model  # noqa: PLC0415
    from sigma_ros.sim.setups import SOURCE  # noqa: PLC0415

    model = build_model(SOURCE, CONTRACT)
    data = mujoco.MjData(model)
    body_of = {link.joint: link.name for link in LINKS}
    rng = np.random.default_rng(0)
    for pose in CONTRACT.lower_rad + (CONTRACT.upper_rad - CONTRACT.lower_rad) * rng.random((100, 6)):
        for name, angle in zip(CONTRACT.joint_names, pose, strict=True):
            data.qpos[model.joint(name).qposadr[0]] = angle
        mujoco.mj_kinematics(model, data)
        for point in shipped().points:
            body = data.body(body_of[point.joint])
            expected = body.xpos + body.xmat.reshape(3, 3) @ np.array(point.position_m)
            np.testing.assert_allclose(places(pose)[point.name], expected, atol=1e-9)


@QUICK_LAW
@given(poses)
def test_the_oracles_own_kinematics_agree(pose: ndarray) -> None:
    raw = yaml.safe_load((ROOT / "config" / "oracle_so101.yaml").read_text(encoding="utf-8"))["tool"]
    tool = oracle.Tool.read(raw | {"min_height_m": 0.0})
    assert tool is not None
    ours = places(pose)
    np.testing.assert_allclose([ours["fixed_finger"], ours["moving_finger"]], tool.places(pose[None])[0], atol=1e-7)


@QUICK_LAW
@given(poses, poses)
def test_many_poses_at_once_are_each_of_them_alone(one: ndarray, other: ndarray) -> None:
    both = FORWARD.points_m(np.stack((one, other)))
    np.testing.assert_allclose(both[0], FORWARD.points_m(one[None])[0], atol=1e-12)
    np.testing.assert_allclose(both[1], FORWARD.points_m(other[None])[0], atol=1e-12)


@QUICK_LAW
@given(poses, st.permutations(range(6)))
def test_joints_are_taken_by_name(pose: ndarray, order: list[int]) -> None:
    names = tuple(CONTRACT.joint_names[i] for i in order)
    turned = ForwardKinematics(shipped(), names).points_m(pose[order][None])
    np.testing.assert_array_equal(turned, FORWARD.points_m(pose[None]))


@QUICK_LAW
@given(poses, st.floats(-3.0, 3.0))
def test_a_joint_that_moves_no_link_moves_no_point(pose: ndarray, angle: float) -> None:
    without = replace(shipped(), links=shipped().links[:5], points=shipped().points[:1])
    forward = ForwardKinematics(without, CONTRACT.joint_names)
    turned = np.array(pose)
    turned[5] = angle
    np.testing.assert_array_equal(forward.points_m(turned[None]), forward.points_m(pose[None]))


def test_the_pan_joint_turns_the_tool_about_the_vertical_through_it() -> None:
    there = {angle: places(np.array([angle, 0.3, -0.4, 0.5, 0.6, 0.7])) for angle in (0.0, 1.0)}
    axis = np.array(shipped().links[0].position_m)
    for name in FORWARD.names:
        before, after = there[0.0][name] - axis, there[1.0][name] - axis
        assert after[2] == pytest.approx(before[2], abs=1e-12)
        turned = np.arctan2(after[1], after[0]) - np.arctan2(before[1], before[0])
        assert abs(turned) == pytest.approx(1.0, abs=1e-9)


LINK = {"joint": "a", "position_m": [0, 0, 1], "quaternion": [2, 0, 0, 0], "axis": [0, 0, 5]}
POINT = {"name": "tip", "joint": "a", "position_m": [1, 0, 0]}


def test_directions_are_brought_to_length_one() -> None:
    problems: list[str] = []
    read = read_kinematics({"links": [LINK], "points": [POINT]}, ("a",), problems)
    assert read is not None
    assert not problems
    assert read.links[0].axis == (0.0, 0.0, 1.0)
    assert read.links[0].quaternion == (1.0, 0.0, 0.0, 0.0)
    forward = ForwardKinematics(read, ("a",))
    np.testing.assert_allclose(forward.points_m(np.array([[np.pi / 2]]))[0, :, 0], [0.0, 1.0, 1.0], atol=1e-12)


@pytest.mark.parametrize(
    ("entry", "problem"),
    [
        ("nothing", "links must be a list"),
        ({"links": [LINK], "points": []}, "points must be a list"),
        ({"links": [LINK], "points": [POINT], "tool": 1}, "kinematics.tool is not known"),
        ({"links": [LINK | {"joint": "b"}], "points": [POINT]}, "'b' is no joint"),
        ({"links": [LINK, LINK], "points": [POINT]}, "'a' moves two links"),
        ({"links": [LINK], "points": [POINT | {"joint": "c"}]}, "tip sits on 'c', which moves no link"),
        (
            {"links": [LINK | {"axis": [0, 0, 0]}], "points": [POINT]},
            "links[0].axis must be 3 numbers that are not all 0",
        ),
        ({"links": [LINK | {"axis": [0, 1]}], "points": [POINT]}, "links[0].axis"),
        ({"links": [LINK | {"position_m": [0, 0, float("nan")]}], "points": [POINT]}, "links[0].position_m"),
        ({"links": [LINK | {"quaternion": [1, 0, 0, True]}], "points": [POINT]}, "links[0].quaternion"),
        ({"links": [LINK], "points": [POINT | {"position_m": [0, 0, 11]}]}, "points[0].position_m"),
        ({"links": [{"joint": "a"}], "points": [POINT]}, "links[0] must be a mapping with exactly"),
        ({"links": [LINK], "points": [7]}, "points[0] must be a mapping with exactly"),
    ],
)
def test_what_cannot_be_a_chain_is_refused_with_the_reason(entry: object, problem: str) -> None:
    problems: list[str] = []
    assert read_kinematics(entry, ("a",), problems) is None
    assert any(problem in text for text in problems), problems


def test_a_contract_need_not_know_its_kinematics() -> None:
    assert read_kinematics(None, ("a",), []) is None
    assert load_contract("cr5").kinematics is None
    assert load_contract("so101_rospai").kinematics == CONTRACT.kinematics


@QUICK_LAW
@given(arrays(np.float64, (10,), elements=st.floats(-1.0, 1.0)))
def test_a_link_stands_and_turns_as_its_numbers_say_whatever_they_are(numbers: ndarray) -> None:
    """Against the quaternion's own formula, v + 2 u x (u x v + w v)."""
    quaternion, axis, place = numbers[:4].copy(), numbers[4:7].copy(), numbers[7:]
    quaternion[0] += 1.5
    axis[2] += 1.5
    entry = {"joint": "a", "position_m": place.tolist(), "quaternion": quaternion.tolist(), "axis": axis.tolist()}
    tip = np.array([0.3, -0.2, 0.7])
    problems: list[str] = []
    read = read_kinematics({"links": [entry], "points": [POINT | {"position_m": tip.tolist()}]}, ("a",), problems)
    assert read is not None, problems

    def turned(v: ndarray, w: float, u: ndarray) -> ndarray:
        return v + 2.0 * np.cross(u, np.cross(u, v) + w * v)

    unit = axis / np.linalg.norm(axis)
    turn = turned(tip, np.cos(0.35), np.sin(0.35) * unit)
    w, *u = quaternion / np.linalg.norm(quaternion)
    found = ForwardKinematics(read, ("a",)).points_m(np.array([[0.7]]))[0, :, 0]
    np.testing.assert_allclose(found, place + turned(turn, w, np.array(u)), atol=1e-12)


def test_no_joint_alone_pushes_the_tool_harder_than_is_asked_for() -> None:
    """By the poses' own levers; in one of a hundred poses a tool point lies nearer to the axis than that counts for."""
    contract = load_contract("so101")
    assert contract.kinematics is not None
    limits = torque_for_tip_force(contract, 50.0)
    forward = ForwardKinematics(contract.kinematics, contract.joint_names)
    poses = np.random.default_rng(7).uniform(contract.lower_rad, contract.upper_rad, (500, contract.dof))
    for joint, name in enumerate(contract.joint_names):
        turned = forward.points_m(poses + 1e-4 * np.eye(contract.dof)[joint])
        lever_m = np.linalg.norm(turned - forward.points_m(poses), axis=1).max(axis=1) / 1e-4
        assert (2.94 * limits[name] / lever_m <= 50.0 + 1e-6).mean() >= 0.97
    assert limits["shoulder_lift"] == 1.0, "strength is not taken where the lever is long"
    with pytest.raises(ContractError, match="kinematics"):
        torque_for_tip_force(replace(contract, kinematics=None), 50.0)
