# SPDX-License-Identifier: Apache-2.0
"""Contact: a blocked joint is held in time at any speed and pressed on by no more than was allowed, and a healthy,
lagging, sagging servo is neither slowed down nor taken for a blocked one."""

import itertools
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy import ndarray
from supervision import CONTRACT, EASY, MIDDLE, QUICK_LAW, Bench, excess

from sigma_ros.supervisor.contact import ContactWatch
from sigma_ros.supervisor.guard import Reach
from sigma_ros.supervisor.inputs import ENCODER_COUNT_RAD, JointReading
from sigma_ros.supervisor.limits import SupervisorLimits
from sigma_ros.supervisor.reasons import Reason, State

REAL = Path(__file__).resolve().parents[3] / "shared" / "data" / "so107_cmd_vs_achieved"
DT_S = CONTRACT.command_period_ns * 1e-9
MOTION = EASY.motion(CONTRACT)
JOINT = 1
SAG_RAD = 0.045
"""The most that a resting joint of a sister arm hangs beside its command."""

MAX_LEAD_RAD = 0.08


@dataclass
class Servos:
    """SYNTHETIC: goals come a period late; lag, friction, gravity, an encoder, and a wall before one joint."""

    pose: ndarray
    lag_s: float = 0.0
    sag_rad: float = 0.0
    stick_rad: float = 0.0
    wall_rad: float = np.inf
    goals: deque[ndarray] = field(default_factory=lambda: deque(maxlen=2))

    def follow(self, goal: ndarray) -> ndarray:
        self.goals.append(np.array(goal))
        aim = self.goals[0] - self.sag_rad if self.lag_s else self.goals[-1]
        share = 1.0 - np.exp(-DT_S / self.lag_s) if self.lag_s else 1.0
        away = aim - self.pose
        self.pose = self.pose + share * np.sign(away) * np.maximum(0.0, np.abs(away) - self.stick_rad)
        self.pose[JOINT] = min(self.pose[JOINT], self.wall_rad)
        return np.round(self.pose / ENCODER_COUNT_RAD) * ENCODER_COUNT_RAD if self.lag_s else self.pose


Course = Callable[[ndarray], ndarray]
"""Where one joint is asked to be, from where it began [rad], at times since then [s]."""


def steadily(speed_radps: float, shake_rad: float = 0.0) -> Course:
    """Taken up smoothly, and shaking at 2.5 Hz."""
    shake = 5.0 * np.pi
    return lambda t: speed_radps * (t - 0.15 * (1.0 - np.exp(-t / 0.15))) + shake_rad * np.sin(shake * t)


def drive(
    servos: Servos,
    path: Course,
    *,
    seconds: float,
    limits: SupervisorLimits = EASY,
    joints: slice = slice(JOINT, JOINT + 1),
) -> Bench:
    """The arm settles on its first command; then one joint, or some, are asked to go along a path."""
    bench = Bench(limits=limits, pose=servos.pose.copy()).running()
    start, begin_ns, step_s = bench.pose.copy(), bench.stamp_ns + 800_000_000, CONTRACT.tick_period_ns * 1e-9
    for tick in range(40 + round(seconds / DT_S)):
        if tick % 5 == 0:
            t = np.maximum(0.0, (bench.stamp_ns - begin_ns) * 1e-9 + step_s * np.arange(50))
            base = np.repeat(start[None], 50, axis=0)
            base[:, joints] += path(t)[:, None]
            bench.offer(base)
        bench.tick()
        if bench.last.command_rad is None:
            break
        bench.pose = servos.follow(bench.last.command_rad)
    return bench


SPEEDS = (0.1, 0.15, 0.25, 0.3, 0.5, 0.8, 1.2, 1.8)


def blocked(
    speed_radps: float, lag_s: float, *, seconds: float = 1.2, shake_rad: float = 0.0, limits: SupervisorLimits = EASY
) -> Bench:
    begin = MIDDLE - 0.6
    wall = begin[JOINT] + 0.05 + 0.1 * speed_radps
    servos, course = Servos(begin, lag_s=lag_s, wall_rad=wall), steadily(speed_radps, shake_rad)
    bench = drive(servos, course, seconds=seconds + 0.8, limits=limits)
    bench.wall_rad = wall  # type: ignore[attr-defined]
    return bench


@pytest.mark.parametrize("lag_s", [0.0, 0.075])
@pytest.mark.parametrize(
    ("speed_radps", "shake_rad"), [*((speed, 0.0) for speed in SPEEDS), (0.15, 0.006), (0.8, 0.006)]
)
def test_a_blocked_joint_is_held_within_three_tenths_of_a_second(
    speed_radps: float, shake_rad: float, lag_s: float
) -> None:
    bench = blocked(speed_radps, lag_s, shake_rad=shake_rad)
    held = next(i for i, d in enumerate(bench.decisions) if d.reason is Reason.CONTACT)
    commands = [d.command_rad for d in bench.decisions[:held]]
    wall: float = bench.wall_rad  # type: ignore[attr-defined]
    ahead = sum(c is not None and c[JOINT] >= wall + speed_radps * lag_s for c in commands)
    assert ahead * DT_S <= 0.3
    assert CONTRACT.joint_names[JOINT] in bench.decisions[held].reason_text
    assert excess(bench.commands, MOTION) <= 1e-6


@pytest.mark.parametrize("speed_radps", SPEEDS)
def test_at_rest_a_command_presses_with_no_more_than_it_may(speed_radps: float) -> None:
    """On the way there it is ahead by at most one stop from that speed more: what was certified before the contact."""
    bench = blocked(speed_radps, 0.0)
    wall: float = bench.wall_rad  # type: ignore[attr-defined]
    stop_rad = speed_radps**2 / 60.0 + 0.06 * speed_radps
    assert bench.commands[:, JOINT].max() - wall <= MAX_LEAD_RAD + max(0.0, stop_rad - 0.04)
    assert bench.commands[-1, JOINT] - wall <= MAX_LEAD_RAD + 1e-9


def test_until_a_blocked_joint_is_held_the_others_go_on_and_do_not_wait_for_it() -> None:
    walls = (np.inf, MIDDLE[JOINT] - 0.5)
    free, bench = (
        drive(Servos(MIDDLE - 0.6, wall_rad=wall), steadily(0.5), seconds=1.2, joints=slice(None)) for wall in walls
    )
    held = sum(d.reason is not Reason.CONTACT and d.command_rad is not None for d in bench.decisions)
    apart = bench.commands[:held] - free.commands[:held]
    assert apart[:, JOINT].min() < -0.03, "held back before it is a contact"
    np.testing.assert_allclose(np.delete(apart, JOINT, axis=1), 0.0, atol=1e-9)


def test_contact_asks_for_an_operator() -> None:
    bench = blocked(0.5, 0.0, seconds=4.0)
    assert State.HOLD in bench.states
    assert bench.last.state is State.DISENGAGED
    assert bench.last.counters.engagements == 1


def test_only_who_says_so_is_not_bounded() -> None:
    limits = replace(EASY, bound_lead=False)
    bench = blocked(0.3, 0.0, limits=limits)
    assert all(d.reason is not Reason.CONTACT for d in bench.decisions)
    assert SupervisorLimits().bound_lead


@pytest.mark.parametrize("sag_rad", [-SAG_RAD, 0.0, SAG_RAD])
@pytest.mark.parametrize("lag_s", [0.0, 0.05, 0.075, 0.1])
def test_a_servos_lag_and_sag_are_no_contact(lag_s: float, sag_rad: float) -> None:
    for speed_radps in (0.1, 0.3, 0.8, 1.2):
        bench = drive(Servos(MIDDLE - 0.6, lag_s=lag_s, sag_rad=sag_rad), steadily(speed_radps), seconds=1.0)
        assert bench.last.state is State.RUN, f"{speed_radps} rad/s: {bench.last.reason_text}"
        assert max(d.miss_rad for d in bench.decisions) <= 0.005


@pytest.mark.parametrize("lag_s", [0.05, 0.08, 0.1])
def test_a_lagging_sticking_servo_that_starts_or_turns_is_no_contact(lag_s: float) -> None:
    """It answers to what it was asked a while ago, which may be the other way than what it is asked now.

    A small sway, a pause in which friction holds the joint, and a quick start.
    """
    t = np.arange(0.0, 2.0, DT_S)
    for sway_s, size_rad, pause_s in itertools.product((0.2, 0.3, 0.4), (0.01, 0.02, 0.03), (0.0, 0.05, 0.1, 0.15)):
        sway = size_rad * (1.0 - np.cos(2.0 * np.pi * np.clip((t - 0.5) / sway_s, 0.0, 1.0)))
        gone_s = np.maximum(0.0, t - 0.5 - sway_s - pause_s)
        away = np.where(gone_s < 0.1, 7.5 * gone_s**2, 1.5 * gone_s - 0.075)
        servos, watch = Servos(MIDDLE, lag_s=lag_s, stick_rad=0.015), ContactWatch(CONTRACT, SupervisorLimits())
        commands = MIDDLE + np.outer(sway - away, np.arange(6) == JOINT)
        measured = np.array([MIDDLE, *(servos.follow(command) for command in commands)])[:-1]
        found = contacts(watch, np.arange(1, len(t) + 1) * DT_S, commands, measured)
        assert found == 0, f"a sway of {size_rad} rad in {sway_s} s, {pause_s} s of rest"


@QUICK_LAW
@given(data=st.data())
def test_no_reach_makes_a_command_break_a_limit(data: st.DataObject) -> None:
    """Wherever the joints are said to be, the commands keep every limit, and end within the reach if it stays."""
    from sigma_ros.supervisor.guard import MotionGuard, Request  # noqa: PLC0415

    guard = MotionGuard(MOTION)
    track = guard.rest(MIDDLE)
    commands = [track.command_rad]
    poses = st.floats(-1.0, 1.0).map(lambda share: MIDDLE + share * 0.5 * (MOTION.upper_rad - MOTION.lower_rad))
    for _ in range(4):
        goal, around, width = data.draw(poses), data.draw(poses), data.draw(st.floats(0.0, 0.3))
        reach = Reach(lower_rad=around - width, upper_rad=around + width, speed_radps=np.zeros(6))
        for _ in range(15):
            track = guard.advance(track, Request.at(goal), reach).track
            commands.append(track.command_rad)
    for _ in range(250):
        track = guard.advance(track, Request.at(goal), reach).track
        commands.append(track.command_rad)
    assert excess(np.array(commands), MOTION) <= 1e-6
    assert ((track.command_rad >= reach.lower_rad - 1e-3) & (track.command_rad <= reach.upper_rad + 1e-3)).all()


def found_after(course: Course, follows: Course = lambda t: 0.0 * t) -> float | None:
    """Seconds until a joint that is asked to go along a course, and goes along another one, is a contact."""
    t = np.arange(0.0, 1.5, DT_S)
    joint, gone_s = np.arange(6) == JOINT, np.maximum(0.0, t - 0.5)
    commands, measured = (MIDDLE + np.outer(path(gone_s), joint) for path in (course, follows))
    watch = ContactWatch(CONTRACT, SupervisorLimits())
    for tick in range(len(t)):
        now = slice(tick, tick + 1)
        if contacts(watch, t[now] + DT_S, commands[now], measured[now]):
            return float(gone_s[tick])
    return None


def test_what_presses_lightly_must_be_ignored_for_80_ms() -> None:
    """At 0.1 rad/s 0.016 rad are asked of a servo with the longest lag after 0.15 + 0.16 s: from the tick at 0.32 s."""
    assert found_after(lambda t: 0.1 * t) == pytest.approx(0.32 + 0.08)


def test_a_joint_beyond_its_reach_that_moves_on_is_not_blocked() -> None:
    """A heavy arm that comes late is held back, and yet follows."""

    def far(t: ndarray) -> ndarray:
        return np.minimum(t, 0.25)

    assert found_after(far) is not None
    assert found_after(far, lambda t: 0.5 * t) is None


def contacts(watch: ContactWatch, times_s: ndarray, commanded: ndarray, measured: ndarray) -> int:
    """How often what was commanded and measured at those times is taken for a contact."""
    found = 0
    for now_s, command, pose in zip(times_s, commanded, measured, strict=True):
        now_ns = round(now_s * 1e9)
        reach = watch.reach(JointReading(stamp_ns=now_ns, now_ns=now_ns, positions_rad=pose), now_ns, MOTION)
        assert reach is not None
        held_back = (command < reach.lower_rad) | (command > reach.upper_rad)
        found += not watch.judge(command, held_back, now_ns).accepted
    return found


def contacts_of(commanded: ndarray, measured: ndarray) -> int:
    """Of a recording of a real arm at 30 Hz, five joints of it."""
    recorded_s = np.arange(len(commanded)) / 30.0
    times_s = np.arange(DT_S, recorded_s[-1], DT_S)
    at = [
        np.stack([*(np.interp(times_s, recorded_s, rad[:, j]) for j in range(5)), np.zeros_like(times_s)], axis=1)
        for rad in (commanded, measured)
    ]
    return contacts(ContactWatch(CONTRACT, SupervisorLimits()), times_s, *at)


@pytest.mark.skipif(not REAL.is_dir(), reason="recordings of a real arm are not here")
def test_a_real_arm_that_holds_still_or_sticks_is_not_blocked() -> None:
    """Friction holds a joint of the sister arm for 0.28 s at 0.1 rad/s."""
    unit_rad = 0.0175
    still, moving = np.load(REAL / "static_hold.npz"), np.load(REAL / "pred.npz")
    for side in ("l", "r"):
        assert not contacts_of(still[f"cmd_{side}"] * unit_rad, still[f"obs_{side}"] * unit_rad)
    assert not contacts_of(moving["action"] * unit_rad, moving["state"] * unit_rad)
