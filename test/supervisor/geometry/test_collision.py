# SPDX-License-Identifier: Apache-2.0
"""Laws of keeping clear: whatever is asked for, no link comes nearer than the margin to another, the table or a box."""

from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy import ndarray
from supervision import CONTRACT, QUICK_LAW, Bench, excess, follow
from supervision import EASY as PLAIN_LIMITS

from sigma_ros.contract_file import load_contract
from sigma_ros.kinematics import Capsule, KeepOut, Kinematics, read_keep_out, read_kinematics
from sigma_ros.supervisor.geometry.collision import Collisions, collisions_of
from sigma_ros.supervisor.guard import MotionGuard, Request
from sigma_ros.supervisor.limits import SupervisorLimits, limit_excess
from sigma_ros.supervisor.reasons import Reason, State

EASY = replace(PLAIN_LIMITS, avoid_collisions=True)
RAISED = np.array([0.0, -0.3, 0.3, 0.3, 0.0, 0.4])
FOLDED = np.array([0.0, -1.65, 1.55, 1.15, 0.0, 0.05])
"""The simulator's rest pose: the arm lies on itself, and its capsules overlap."""

INTO_ITSELF = np.array([0.0, -1.6, 1.69, 1.2, 0.0, 0.4])
SHELF = KeepOut(name="the shelf", low_m=(0.15, -0.4, 0.0), high_m=(0.5, -0.1, 0.5))
WITH_SHELF = replace(CONTRACT, keep_out=(SHELF,))
ABOVE = replace(EASY, keep_above_plane=True, plane_height_m=0.0)
LIMITS = ABOVE.motion(WITH_SHELF)
GUARD = MotionGuard(LIMITS)
goals = arrays(np.float64, st.tuples(st.integers(2, 10), st.just(6)), elements=st.floats(-3.0, 3.0))


def of(motion_limits: object) -> Collisions:
    found = getattr(motion_limits, "collisions", None)
    assert isinstance(found, Collisions)
    return found


def finely(commands: ndarray, steps: int = 8) -> ndarray:
    shares = np.arange(1, steps + 1)[:, None] / steps
    return np.concatenate([before + shares * (after - before) for before, after in pairwise(commands)])


@QUICK_LAW
@given(goals, st.integers(1, 15))
def test_whatever_is_asked_for_nothing_comes_nearer_than_the_margin_nor_does_the_stop(
    points: ndarray, every: int
) -> None:
    track = GUARD.rest(RAISED)
    commands = [track.command_rad]
    for goal in np.repeat(points, every, axis=0):
        track = GUARD.advance(track, Request.at(goal)).track
        commands.append(track.command_rad)
    run = np.array(commands)
    clear = of(LIMITS).clearances_m(np.concatenate((run, track.stop_rad)))
    assert clear.min() >= 0.005 - 1e-6
    assert of(LIMITS).clearances_m(finely(run)).min() > 0.002, "on the way from one command to the next"
    assert excess(run, LIMITS) < 1e-6


@QUICK_LAW
@given(arrays(np.float64, (6,), elements=st.floats(-1.5, 1.5)))
def test_clearances_are_the_least_distances_of_the_capsules(pose: ndarray) -> None:
    kinematics = CONTRACT.kinematics
    assert kinematics is not None
    collisions = of(ABOVE.motion(WITH_SHELF))
    starts, ends = (places[:, :, 0] for places in collisions._links.places_m(pose[None]))
    shares = np.linspace(0.0, 1.0, 41)[:, None]
    lines = [starts[:, k] + shares * (ends[:, k] - starts[:, k]) for k in range(len(kinematics.capsules))]
    clear = dict(zip(collisions.names, collisions.clearances_m(pose[None])[0], strict=True))
    capsules = [c for c in zip(kinematics.capsules, lines, strict=True) if c[0].link in ("shoulder", "gripper")]
    apart = min(
        float(np.linalg.norm(p[:, None] - q, axis=2).min()) - a.radius_m - b.radius_m
        for a, p in capsules
        for b, q in capsules
        if (a.link, b.link) == ("shoulder", "gripper")
    )
    assert clear["the shoulder would meet the gripper"] == pytest.approx(apart, abs=3e-3)
    grips = [(c, line) for c, line in capsules if c.link == "gripper"]
    lowest = min(float(line[:, 2].min()) - c.radius_m for c, line in grips)
    assert clear["the gripper would meet the table"] == pytest.approx(lowest, abs=1e-9)
    beyond = [np.maximum(np.maximum(SHELF.low_m - line, line - SHELF.high_m), 0.0) for _, line in grips]
    outside = min(float(np.linalg.norm(b, axis=1).min()) - c.radius_m for (c, _), b in zip(grips, beyond, strict=True))
    if outside > 0.0:
        found = clear["the gripper would enter the shelf"]
        assert outside - 2e-3 <= found <= outside + 1e-9, "balls are a little thicker than the capsule"


def test_the_shipped_capsules_hold_all_that_the_simulator_has_of_each_link() -> None:
    pytest.importorskip("mujoco", reason="mujoco is not installed")
    from safety.collision.fit import distances_m, shapes_m  # noqa: PLC0415 (needs mujoco)
    from sigma_ros.sim.arm import LINKS  # noqa: PLC0415
    from sigma_ros.sim.scene import build_model  # noqa: PLC0415
    from sigma_ros.sim.setups import SOURCE  # noqa: PLC0415

    model = build_model(SOURCE, CONTRACT)
    for link in LINKS:
        own = [c for c in CONTRACT.capsules if c.joint == link.joint]
        for corners in shapes_m(model, link.name):
            inside = np.array([distances_m(corners, np.array(c.start_m), np.array(c.end_m)) <= c.radius_m for c in own])
            assert inside.any(axis=0).all(), f"a corner of the {link.name} is in none of its capsules"


def test_pairs_are_those_of_the_contract_or_all_that_are_no_neighbours() -> None:
    kinematics = CONTRACT.kinematics
    assert kinematics is not None
    assert len(collisions_of(CONTRACT, margin_m=0.0, plane_height_m=-np.inf, fastest_step_rad=0.04).names) == len(  # type: ignore[union-attr]
        kinematics.pairs
    )
    every = replace(CONTRACT, kinematics=replace(kinematics, pairs=()))
    derived = collisions_of(every, margin_m=0.0, plane_height_m=-np.inf, fastest_step_rad=0.04)
    assert derived is not None
    assert len(derived.names) == 15, "7 links, without the 6 pairs of neighbours"
    assert not [name for name in derived.names if "wrist would meet the gripper" in name]


# The arm stands too near


def test_a_folded_arm_gets_up_and_lies_down_again_where_it_lay() -> None:
    motion = EASY.motion(CONTRACT)
    assert of(motion).clearances_m(FOLDED[None]).min() < 0.0
    guard = MotionGuard(replace(motion, collisions=of(motion).standing_at(FOLDED)))
    there = np.concatenate((np.linspace(FOLDED, RAISED, 100), np.repeat(RAISED[None], 20, axis=0)))
    commands, _, track = follow(guard, FOLDED, there)
    np.testing.assert_allclose(commands[-1], RAISED, atol=1e-6)
    back = np.concatenate((np.linspace(RAISED, FOLDED, 100), np.repeat(FOLDED[None], 40, axis=0)))
    commands, _, track = follow(guard, RAISED, back)
    np.testing.assert_allclose(commands[-1], FOLDED, atol=1e-6)
    np.testing.assert_allclose(track.stop_rad[-1], FOLDED, atol=1e-6)


def test_the_way_out_of_a_fold_may_dip_by_half_a_millimetre_and_no_further() -> None:
    """All joints set off together, and the gripper passes the shoulder 0.37 mm nearer than it lay (a demonstration)."""
    motion = EASY.motion(CONTRACT)
    free = of(motion)
    number = free.names.index("the shoulder would meet the gripper")
    home = free.standing_at(FOLDED)
    nearer = [FOLDED + np.array([0.0, 0.0, 0.0, share, 0.0, 0.0]) for share in np.linspace(-0.02, 0.02, 401)]
    dips_m = free.clearances_m(FOLDED[None])[0, number] - free.clearances_m(np.array(nearer))[:, number]
    assert dips_m.max() > 1e-3, "the test asks for more than is given"
    for pose, dip_m in zip(nearer, dips_m, strict=True):
        refused = home.shortfalls_m(np.stack((FOLDED, pose))[None])[0, number] > 0.0
        assert refused == (dip_m > 5e-4 + 1e-8), dip_m
    commands, _, _ = follow(MotionGuard(replace(motion, collisions=home)), FOLDED, np.array(nearer)[::8])
    assert free.clearances_m(commands)[:, number].min() >= free.clearances_m(FOLDED[None])[0, number] - 5e-4 - 1e-8


@QUICK_LAW
@given(goals)
def test_an_arm_that_stands_too_near_never_comes_nearer(points: ndarray) -> None:
    guard, collisions = MotionGuard(EASY.motion(CONTRACT)), of(EASY.motion(CONTRACT))
    commands, _, _ = follow(guard, FOLDED, np.repeat(points, 10, axis=0))
    clear = np.minimum(collisions.clearances_m(commands), 0.005)
    assert (np.diff(clear, axis=0) >= -1e-8).all()


# In the supervisor


def going_to(pose: ndarray, limits: SupervisorLimits, contract: object = CONTRACT) -> Bench:
    bench = Bench(limits, contract=contract, pose=RAISED.copy()).running()  # type: ignore[arg-type]
    for _ in range(40):
        if bench.last.state is State.HOLD:
            break
        bench.offer(bench.pose + np.minimum(np.arange(50)[:, None] / 50.0, 1.0) * (pose - bench.pose))
        bench.tick(10)
    return bench


@pytest.mark.parametrize(
    ("limits", "goal", "words"),
    [
        (EASY, INTO_ITSELF, "would meet the"),
        (ABOVE, np.array([0.0, 1.2, 0.4, 0.5, 0.0, 0.4]), "would meet the table"),
        (EASY, np.array([0.9, 0.3, 0.0, 0.3, 0.0, 0.4]), "would enter the shelf"),
    ],
)
def test_a_policy_that_goes_for_a_collision_means_hold_and_the_words_say_with_what(
    limits: SupervisorLimits, goal: ndarray, words: str
) -> None:
    bench = going_to(goal, limits, WITH_SHELF)
    assert bench.last.state is State.HOLD
    assert bench.last.reason is Reason.COLLISION
    assert words in bench.last.reason_text
    bench.tick(15)
    assert of(limits.motion(WITH_SHELF)).clearances_m(bench.commands).min() >= 0.005 - 1e-6
    assert bench.last.counters.violations == 0
    bench.offer()
    bench.tick(20)
    assert bench.last.state in (State.RUN, State.BASE_ONLY), "it goes on once the policy thinks better"


def test_switched_off_or_without_capsules_nothing_is_different() -> None:
    off = replace(EASY, avoid_collisions=False)
    assert going_to(INTO_ITSELF, off).last.state is not State.HOLD
    assert off.motion(CONTRACT).collisions is None
    bare = replace(CONTRACT, kinematics=replace(CONTRACT.kinematics, capsules=(), pairs=()))  # type: ignore[type-var]
    assert EASY.motion(bare).collisions is None
    assert EASY.motion(load_contract("cr5")).collisions is None
    assert EASY.motion(load_contract("so101_bimanual")).collisions is None
    for name in ("so101_degrees", "so101_split", "so101_trajectory", "so101_rospai_degrees"):
        assert EASY.motion(load_contract(name)).collisions is not None


def test_it_can_be_switched_on_and_the_margin_raised_in_motion_but_neither_loosened() -> None:
    bench = Bench(replace(EASY, avoid_collisions=False), pose=RAISED.copy()).running()
    bench.offer(bench.sway())
    bench.tick(10)
    assert bench.supervisor.tighten(avoid_collisions=True, collision_margin_m=0.02).success
    bench.tick(30)
    assert bench.supervisor.limits.collision_margin_m == 0.02
    bench.offer()
    bench.tick(20)
    assert going_on(bench, INTO_ITSELF) is Reason.COLLISION
    collisions = of(replace(EASY, collision_margin_m=0.02).motion(CONTRACT))
    assert collisions.clearances_m(bench.commands).min() >= 0.02 - 1e-6
    for loose in ({"avoid_collisions": False}, {"collision_margin_m": 0.01}):
        answer = bench.supervisor.tighten(**loose)
        assert not answer.success
        assert "loosen" in answer.text


def going_on(bench: Bench, pose: ndarray) -> Reason:
    """Why a policy that goes to a pose is held."""
    while bench.last.state is not State.HOLD:
        assert len(bench.decisions) < 600
        bench.offer(bench.pose + np.minimum(np.arange(50)[:, None] / 50.0, 1.0) * (pose - bench.pose))
        bench.tick(10)
    return bench.last.reason


def test_the_own_check_sees_a_command_that_comes_nearer() -> None:
    still = np.stack([INTO_ITSELF] * 4)
    nearer = still.copy()
    nearer[:3, 2] = 1.67
    calm = replace(EASY.motion(CONTRACT), jerk_radps3=np.full(6, 1e9), acceleration_radps2=np.full(6, 1e9))
    assert limit_excess(calm, still) <= 0.0
    assert limit_excess(calm, nearer) > 1e-4


# The contract's entries

LINK = {"joint": "a", "position_m": [0, 0, 1], "quaternion": [1, 0, 0, 0], "axis": [0, 0, 1]}
POINT = {"name": "tip", "joint": "a", "position_m": [1, 0, 0]}
CAPSULE = {"link": "arm", "joint": "a", "start_m": [0, 0, 0], "end_m": [1, 0, 0], "radius_m": 0.1}
BASE = CAPSULE | {"link": "base", "joint": None}
PLAIN = {"links": [LINK], "points": [POINT]}


def test_capsules_and_pairs_are_read_as_they_stand() -> None:
    problems: list[str] = []
    read = read_kinematics(PLAIN | {"capsules": [BASE, CAPSULE], "pairs": [["base", "arm"]]}, ("a",), problems)
    assert isinstance(read, Kinematics), problems
    assert read.pairs == (("base", "arm"),)
    assert read.capsules[1] == Capsule(
        link="arm", joint="a", start_m=(0.0, 0.0, 0.0), end_m=(1.0, 0.0, 0.0), radius_m=0.1
    )
    assert Collisions(read, ("a",), margin_m=0.0, fastest_step_rad=0.1).clearances_m(np.zeros((1, 1)))[0, 0] == (
        pytest.approx(0.8)
    )


@pytest.mark.parametrize(
    ("entry", "problem"),
    [
        ({"capsules": []}, "kinematics.capsules must be a list"),
        ({"capsules": [7]}, "kinematics.capsules[0] must be a mapping with exactly"),
        ({"capsules": [CAPSULE | {"joint": "b"}]}, "arm sits on 'b', which moves no link"),
        ({"capsules": [CAPSULE, CAPSULE | {"joint": None}]}, "arm sits on two joints"),
        ({"capsules": [CAPSULE | {"radius_m": 0}]}, "capsules[0].radius_m must be within (0, 1]"),
        ({"capsules": [CAPSULE | {"radius_m": "wide"}]}, "capsules[0].radius_m"),
        ({"capsules": [CAPSULE | {"end_m": [1, 0]}]}, "capsules[0].end_m must be 3 numbers"),
        ({"capsules": [CAPSULE], "pairs": [["arm", "leg"]]}, "'leg' has no capsule"),
        ({"capsules": [CAPSULE], "pairs": [["arm", "arm"]]}, "arm is paired with itself"),
        ({"capsules": [CAPSULE], "pairs": [["arm"]]}, "pairs[0] must be the names of two links"),
    ],
)
def test_senseless_capsules_are_refused_with_the_reason(entry: dict[str, object], problem: str) -> None:
    problems: list[str] = []
    assert read_kinematics(PLAIN | entry, ("a",), problems) is None
    assert any(problem in text for text in problems), problems


@pytest.mark.parametrize(
    ("entry", "problem"),
    [
        ("shelf", "keep_out must be a list"),
        ([{"name": "shelf"}], "keep_out[0] must be a mapping with exactly"),
        ([{"name": "shelf", "low_m": [0, 0, 0], "high_m": [1, 0, 1]}], "keep_out[0].low_m must be below high_m"),
        ([{"name": "shelf", "low_m": [0, 0], "high_m": [1, 1, 1]}], "keep_out[0].low_m must be 3 numbers"),
    ],
)
def test_senseless_boxes_are_refused_with_the_reason(entry: object, problem: str) -> None:
    problems: list[str] = []
    assert read_keep_out(entry, problems) == ()
    assert any(problem in text for text in problems), problems
    assert read_keep_out(None, []) == ()
