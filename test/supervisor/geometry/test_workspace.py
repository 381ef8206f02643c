# SPDX-License-Identifier: Apache-2.0
"""Laws of the tool's limits: never faster than the cap, never below the plane, whatever is asked for."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy import ndarray
from supervision import CONTRACT, EASY, LAW, QUICK_LAW, Bench, excess, follow

from safety import oracle
from sigma_ros.contract_file import load_contract
from sigma_ros.errors import ContractError
from sigma_ros.supervisor.guard import GuardedStep, MotionGuard, Request, Track
from sigma_ros.supervisor.limits import SupervisorLimits, limit_excess
from sigma_ros.supervisor.reasons import Reason, State

ROOT = Path(__file__).resolve().parents[3]


RAISED = np.array([0.0, -0.3, 0.3, 0.3, 0.0, 0.4])
"""A pose whose lower finger is 0.18 m above the base."""

CAPPED = replace(EASY, cap_tool_speed=True)
ABOVE = replace(EASY, keep_above_plane=True, plane_height_m=0.1)
BOTH = replace(ABOVE, cap_tool_speed=True)
GUARD = MotionGuard(BOTH.motion(CONTRACT))
SLOW = MotionGuard(CAPPED.motion(CONTRACT))
FREE = MotionGuard(EASY.motion(CONTRACT))
goals = arrays(np.float64, st.tuples(st.integers(2, 12), st.just(6)), elements=st.floats(-3.0, 3.0))


def tool(**bounds: float) -> oracle.Tool:
    raw = yaml.safe_load((ROOT / "config" / "oracle_so101.yaml").read_text(encoding="utf-8"))["tool"]
    read = oracle.Tool.read(raw | {"max_speed_mps": 0.25, "min_height_m": 0.1} | bounds)
    assert read is not None
    return read


TOOL = tool()
"""Judged with the oracle's own kinematics."""


def speeds_mps(commands: ndarray) -> ndarray:
    return np.linalg.norm(np.diff(TOOL.places(commands), axis=0), axis=2).max(axis=1) / 0.02


def lowest_m(commands: ndarray) -> float:
    return float(TOOL.places(commands)[:, :, 2].min())


@LAW
@given(goals, st.integers(1, 12))
def test_whatever_is_asked_for_the_tool_keeps_its_limits_and_the_joints_theirs(points: ndarray, every: int) -> None:
    commands, _, _ = follow(GUARD, RAISED, np.repeat(points, every, axis=0))
    assert speeds_mps(commands).max() <= 0.25 + 1e-6
    assert lowest_m(commands) >= 0.1 - 1e-6
    assert excess(commands, GUARD.limits) < 1e-6


@QUICK_LAW
@given(goals)
def test_the_stop_behind_every_command_keeps_the_tools_limits_too(points: ndarray) -> None:
    track = GUARD.rest(RAISED)
    for goal in np.repeat(points, 4, axis=0):
        track = _one(track, goal).track
        ahead = np.concatenate((track.recent_rad[1:], track.stop_rad))
        assert speeds_mps(ahead).max() <= 0.25 + 1e-6
        assert lowest_m(ahead) >= 0.1 - 1e-6


def _one(track: Track, goal: ndarray) -> GuardedStep:
    return GUARD.advance(track, Request.at(goal))


@QUICK_LAW
@given(goals)
def test_limits_that_bound_nothing_change_nothing(points: ndarray) -> None:
    wide = replace(BOTH, max_tool_speed_mps=5.0, plane_height_m=-2.0)
    wanted = np.repeat(points, 6, axis=0)
    free, _, _ = follow(FREE, RAISED, wanted)
    loose, _, _ = follow(MotionGuard(wide.motion(CONTRACT)), RAISED, wanted)
    np.testing.assert_array_equal(loose, free)


def wave(size: float, frequency: float, ticks: int = 300) -> ndarray:
    t = 0.02 * np.arange(ticks)[:, None]
    return RAISED + size * np.array([1.0, 0.3, 0.0, 0.0, 0.0, 0.2]) * (1.0 - np.cos(2.0 * np.pi * frequency * t))


def test_a_motion_slower_than_the_cap_is_followed_exactly() -> None:
    wanted = wave(0.5, 0.2)
    assert 0.2 < speeds_mps(wanted).max() < 0.25
    commands, clipped, _ = follow(SLOW, RAISED, wanted)
    assert not clipped[:-3].any()
    np.testing.assert_allclose(commands[1:], wanted, atol=1e-9)


def test_a_faster_motion_runs_smoothly_at_the_cap_and_ends_on_its_goal() -> None:
    wanted = np.concatenate((wave(0.8, 0.5, 50), np.repeat(wave(0.8, 0.5, 50)[-1:], 200, axis=0)))
    assert speeds_mps(wanted).max() > 0.8
    commands, _, _ = follow(SLOW, RAISED, wanted)
    speed = speeds_mps(commands)
    at_cap = slice(int(np.argmax(speed > 0.249)), 80)
    assert speed[at_cap].min() > 0.24
    np.testing.assert_allclose(commands[-1], wanted[-1], atol=1e-6)


def test_misses_are_told_with_the_tools_limits_too() -> None:
    goal = RAISED + np.array([0.5, 0.0, 0.0, 0.0, 0.0, 0.0])
    request = Request(
        upcoming_rad=np.stack((goal, goal + 0.1, goal + 0.2)),
        velocity_radps=np.zeros(6),
        acceleration_radps2=np.zeros(6),
    )
    step = SLOW.advance(SLOW.rest(RAISED), request)
    np.testing.assert_allclose(step.miss_rad, np.abs(goal - step.track.command_rad))
    assert step.clipped[0]


def test_a_step_below_the_plane_is_not_taken_and_says_so() -> None:
    down = np.array([0.0, 1.2, 1.0, 0.5, 0.0, 0.4])
    assert lowest_m(down[None]) < 0.0
    track = GUARD.rest(RAISED)
    said = []
    for _ in range(200):
        step = _one(track, down)
        track = step.track
        said.append(step.too_low)
    assert said[-1]
    assert lowest_m(track.recent_rad) >= 0.1
    assert track.is_resting


def test_the_supervisors_own_check_sees_a_tool_that_is_too_fast_or_too_low() -> None:
    motion = BOTH.motion(CONTRACT)
    still = np.stack([RAISED] * 4)
    assert limit_excess(motion, still) <= 0.0
    fast = still.copy()
    fast[3, 0] += 0.03
    speed = float(speeds_mps(fast[2:])[0])
    assert limit_excess(EASY.motion(CONTRACT), fast) == pytest.approx(limit_excess(motion, fast))  # its jerk is worse
    calm = replace(motion, jerk_radps3=np.full(6, 1e9), acceleration_radps2=np.full(6, 1e9))
    assert limit_excess(calm, fast) == pytest.approx(speed - 0.25, abs=1e-6)
    low = replace(BOTH, plane_height_m=lowest_m(still) + 0.003).motion(CONTRACT)
    assert limit_excess(low, still) == pytest.approx(0.003, abs=1e-6)


# In the supervisor


def raised(limits: SupervisorLimits) -> Bench:
    return Bench(limits, pose=RAISED.copy()).running()


def test_a_fast_policy_is_slowed_and_the_state_says_why() -> None:
    bench = raised(CAPPED)
    for _ in range(4):
        bench.offer(bench.sway(size=0.8, period_s=1.5))
        bench.tick(20)
    assert speeds_mps(bench.commands).max() <= 0.25 + 1e-6
    assert any(d.reason is Reason.TOOL_SPEED and d.state in (State.RUN, State.BASE_ONLY) for d in bench.decisions)
    assert bench.last.counters.violations == 0
    assert State.HOLD not in bench.states


def test_a_slow_tool_alone_is_no_misbehaviour_of_the_base() -> None:
    bench = raised(replace(CAPPED, max_tool_speed_mps=0.02))
    far = RAISED + np.array([1.0, 0.0, 0.0, 0.0, 0.0, 0.0])
    for _ in range(30):
        steps = np.arange(50)[:, None] / 49.0
        bench.offer(bench.pose + np.minimum(steps * 4.0, 1.0) * (far - bench.pose))
        bench.tick(10)
    assert bench.last.state in (State.RUN, State.BASE_ONLY), bench.last.reason_text


def test_a_policy_that_goes_for_the_table_means_hold_and_ends_when_it_thinks_better() -> None:
    bench = raised(ABOVE)
    down = np.array([0.0, 1.0, 0.4, 0.0, 0.0, 0.0])
    bench.offer(bench.pose + down * np.arange(50)[:, None] / 25.0)
    while bench.last.state is not State.HOLD:
        assert len(bench.decisions) < 200
        bench.tick()
    assert bench.last.reason is Reason.TOOL_PLANE
    bench.tick(15)
    assert lowest_m(bench.commands) >= 0.1
    bench.offer()
    bench.tick(15)
    assert bench.last.state in (State.RUN, State.BASE_ONLY)
    assert bench.last.counters.violations == 0


def test_an_arm_below_the_plane_is_not_engaged() -> None:
    bench = Bench(replace(ABOVE, plane_height_m=0.3), pose=RAISED.copy())
    bench.tick(2)
    answer = bench.engage()
    assert not answer.success
    assert answer.reason is Reason.TOOL_BELOW
    assert f"by {1e3 * (0.3 - lowest_m(RAISED[None])):.1f} mm" in answer.text
    assert bench.tick().command_rad is None


def test_the_tools_limits_can_be_switched_on_and_tightened_in_run_but_not_loosened() -> None:
    bench = raised(EASY)
    assert bench.supervisor.tighten(plane_height_m=-0.2, max_tool_speed_mps=0.5).success, "they are off as yet"
    assert bench.supervisor.tighten(cap_tool_speed=True, keep_above_plane=True).success
    bench.tick(40)
    assert bench.supervisor.limits.cap_tool_speed
    assert bench.supervisor.tighten(max_tool_speed_mps=0.1, plane_height_m=0.0).success
    bench.tick(40)
    assert bench.supervisor.limits.max_tool_speed_mps == 0.1
    for loose in (
        {"max_tool_speed_mps": 0.2},
        {"plane_height_m": -0.1},
        {"cap_tool_speed": False},
        {"keep_above_plane": False},
    ):
        answer = bench.supervisor.tighten(**loose)
        assert not answer.success
        assert "loosen" in answer.text
    too_high = bench.supervisor.tighten(plane_height_m=0.5)
    assert not too_high.success
    assert "below the new plane" in too_high.text


def test_they_need_the_arms_kinematics() -> None:
    blind = replace(CONTRACT, kinematics=None)
    with pytest.raises(ContractError, match="kinematics"):
        CAPPED.motion(blind)
    assert EASY.motion(blind).workspace is None
    bench = Bench(EASY, contract=blind)
    answer = bench.supervisor.tighten(keep_above_plane=True)
    assert not answer.success
    assert "kinematics" in answer.text
    assert not bench.supervisor.configure(CAPPED).success
    assert ABOVE.motion(load_contract("so101_trajectory")).workspace is not None


def test_the_oracle_finds_a_tool_that_is_too_fast_or_too_low() -> None:
    limits = oracle.Limits.read(ROOT / "config" / "oracle_so101.yaml")
    assert limits.tool is None, "the shipped file bounds no tool"
    commands, _, _ = follow(FREE, RAISED, wave(0.8, 0.5))
    run = list(commands), ["RUN"] * len(commands)
    assert oracle.check(limits, *run).violations == 0
    fast = oracle.check(replace(limits, tool=tool(min_height_m=-1.0)), *run)
    assert fast.found["tool"] == fast.violations > 0
    assert "m/s" in fast.first
    low = oracle.check(replace(limits, tool=tool(max_speed_mps=9.0, min_height_m=lowest_m(commands) + 1e-5)), *run)
    assert low.found["tool"] == low.violations > 0
    live = oracle.Live(replace(limits, tool=TOOL))
    for index, command in enumerate(commands):
        live.tick(20_000_000 * index, "RUN", command)
    assert live.report.found["tool"] == oracle.check(replace(limits, tool=TOOL), *run).found["tool"]
