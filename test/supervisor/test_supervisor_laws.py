# SPDX-License-Identifier: Apache-2.0
"""Whatever happens in whatever order: the invariants of the supervisor, searched by a stateful machine.

I1 limits, I2 no motion but towards rest unless ENGAGING, RUN or BASE_ONLY, I3 a latched stop stays,
I4 nothing old is followed, I5 a certified stop is behind every command, I6 counters never fall.
I7 from the moment at which a tighter limit is accepted, a command keeps it or is the stop that was certified before.
I8 no motion begins unless an engage, or motion, lies in the recent past. I9 release ends the commands, whatever else
is wrong. I10 a reset needs every station of the emergency stop, heard just now and not pressed.
"""

import math
from dataclasses import astuple
from typing import Any

import numpy as np
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule
from supervision import CONTRACT, MS, PERIOD, Bench, excess

from sigma_ros.kinematics import ForwardKinematics
from sigma_ros.supervisor.identity import Source
from sigma_ros.supervisor.limits import SupervisorLimits, limit_excess
from sigma_ros.supervisor.reasons import Decision, Reason, State
from sigma_ros.supervisor.stop_plan import StopPlanner

MOTION = SupervisorLimits().motion(CONTRACT)
PLANNER = StopPlanner(MOTION)
STOP_TICKS = PLANNER.ticks
HISTORY = 4
HOLD_S, ENGAGING_S, OVERRUN_S = 0.4, 1.0, 0.1
STATIONS = tuple(Source(publisher=name, name=f"/{name}") for name in ("left", "right"))
FOLLOWING = (State.RUN, State.BASE_ONLY)

assert CONTRACT.kinematics is not None
TOOL = ForwardKinematics(CONTRACT.kinematics, CONTRACT.joint_names)


def is_led(decision: Decision) -> bool:
    return decision.state in FOLLOWING or decision.reason is Reason.RAMPING


def plane_below(bench: Bench, below_m: float) -> dict[str, float]:
    """The setting that keeps the tool above a plane so far below where it is now."""
    lowest_m = float(TOOL.points_m(np.array(bench.pose)[None])[0, 2].min())
    return {"keep_above_plane": True, "plane_height_m": lowest_m - below_m}


class Witness:
    """Writes down what operators were promised, and holds each command to it: I7, I8, I9."""

    def __init__(self, bench: Bench) -> None:
        self.bench = bench
        self.promised = bench.limits
        self.stop: np.ndarray | None = None
        self.leave_ns = self.held_ns = self.ticked_ns = 0
        self.ticks_since_release: int | None = None

    def tighten(self, change: dict[str, float]) -> None:
        if self.bench.supervisor.tighten(**change).success:
            self.promised = self.promised.tightened(**change)
            last = self.bench.decisions[-1] if self.bench.decisions else None
            self.stop = None if last is None or last.stop_rad is None else np.array(last.stop_rad)

    def engage(self) -> Any:
        answer = self.bench.engage()
        if answer.reason is Reason.OK:
            self.leave_ns, self.held_ns, self.ticks_since_release = self.bench.now_ns, 0, None
        return answer

    def release(self) -> None:
        assert self.bench.supervisor.release().success
        self.ticks_since_release = 0

    def check(self) -> None:
        self.check_promise()
        self.check_leave()
        self.check_release()
        self.ticked_ns = self.bench.now_ns

    def check_promise(self) -> None:
        """I7 on the newest command."""
        command = self.bench.last.command_rad
        if command is None:
            self.stop = None
            return
        if self.stop is not None and np.array_equal(command, self.stop[0]):
            self.stop = np.concatenate([self.stop[1:], self.stop[-1:]])
            return
        self.stop = None
        recent: list[np.ndarray] = []
        for decision in reversed(self.bench.decisions[-HISTORY:]):
            if decision.command_rad is None:
                break
            recent.insert(0, decision.command_rad)
        padded = np.concatenate([np.repeat(recent[:1], HISTORY - len(recent), axis=0), recent])
        assert limit_excess(self.promised.motion(CONTRACT), padded) < 1e-6, "a limit that was accepted"

    def check_leave(self) -> None:
        """I8: what leads the arm now began within the ages of an operator's leave."""
        last, now_ns, limits = self.bench.last, self.bench.now_ns, self.bench.limits
        previous = self.bench.decisions[-2] if len(self.bench.decisions) > 1 else last
        passed_ns = now_ns - self.ticked_ns
        if is_led(last) and not is_led(previous) and limits.authority_ages:
            most_s = limits.authority_hold_s + limits.authority_engaging_s
            assert now_ns - self.leave_ns <= most_s * 1e9 + 2 * PERIOD, "motion without an engage"
            assert self.held_ns <= limits.authority_hold_s * 1e9 + 2 * PERIOD, "motion after a long HOLD"
        if is_led(last) and passed_ns <= OVERRUN_S * 1e9:
            self.leave_ns, self.held_ns = now_ns, 0
        elif last.state is State.HOLD:
            self.held_ns += passed_ns

    def check_release(self) -> None:
        """I9."""
        if self.ticks_since_release is None:
            return
        self.ticks_since_release += 1
        if self.ticks_since_release > STOP_TICKS + 4:
            assert self.bench.last.command_rad is None, "commands after a release"
            assert self.bench.last.state is State.DISENGAGED or self.bench.last.state.is_latched


class Surroundings(RuleBasedStateMachine):
    """Everything the outside can do to a supervisor."""

    @initialize(ramp=st.booleans(), heartbeat=st.booleans(), crossfade=st.integers(0, 6))
    def begin(self, ramp: bool, heartbeat: bool, crossfade: int) -> None:
        limits = SupervisorLimits(
            start_ramp=ramp,
            require_heartbeat=heartbeat,
            crossfade_steps=crossfade,
            resume_after_s=0.04,
            authority_hold_s=HOLD_S,
            authority_engaging_s=ENGAGING_S,
        )
        self.stations: dict[str, tuple[bool, int]] = {}
        self.bench = Bench(limits)
        self.witness = Witness(self.bench)
        self.rng = np.random.default_rng(0)
        self.rest_since: int | None = None
        self.was_latched = False
        self.reset = False
        self.checked = 0

    @rule(count=st.integers(1, 25))
    def time_passes(self, count: int) -> None:
        for _ in range(count):
            self.bench.tick()
            self.check()
            self.witness.check()

    @rule(
        size=st.sampled_from([0.0, 0.01, 0.2, 1.0, 3.0]),
        jump=st.sampled_from([0.0, 0.04, 0.5]),
        residual=st.sampled_from([0.0, 0.1, 2.0]),
        scale=st.sampled_from([0.0, 0.5, 1.0]),
        age_ms=st.sampled_from([0, 100, 400, 600, -100]),
    )
    def chunk(self, size: float, jump: float, residual: float, scale: float, age_ms: int) -> None:
        base = self.bench.sway(size=size, period_s=float(self.rng.uniform(0.5, 5.0))) + jump
        noise = residual * self.rng.choice([-1.0, 1.0], base.shape)
        self.bench.offer(base, residual_rad=noise, scale=scale, stamp_ns=self.bench.stamp_ns - age_ms * MS)

    @rule(
        value=st.sampled_from([math.nan, math.inf, -math.inf, 1e308]),
        part=st.sampled_from(["base_rad", "residual_rad"]),
    )
    def poisoned_chunk(self, value: float, part: str) -> None:
        array = self.bench.sway()
        array[7, 3] = value
        refusals = self.bench.supervisor.counters.refused_chunks
        verdict = self.bench.offer(**({part: array} if part == "residual_rad" else {"base": array}))
        assert not verdict.accepted
        assert self.bench.supervisor.counters.refused_chunks == refusals + 1

    @rule(epoch=st.integers(0, 3))
    def epoch_changes(self, epoch: int) -> None:
        self.bench.epoch = epoch

    @rule()
    def policy_restarts(self) -> None:
        self.bench.next_id = 0

    @rule(alive=st.booleans())
    def heartbeat(self, alive: bool) -> None:
        self.bench.heartbeat = alive

    @rule(alive=st.booleans())
    def joints(self, alive: bool) -> None:
        self.bench.joints = alive

    @rule(value=st.sampled_from([math.nan, math.inf, 50.0]), joint=st.integers(0, 5))
    def bad_joint_state(self, value: float, joint: int) -> None:
        pose = np.array(self.bench.pose)
        pose[joint] = value
        assert not self.bench.supervisor.on_joints(self.bench.stamp_ns + 1, pose, self.bench.now_ns).accepted

    @rule(pressed=st.booleans(), station=st.sampled_from(STATIONS))
    def emergency_stop(self, pressed: bool, station: Source) -> None:
        self.bench.supervisor.on_estop(pressed, self.bench.now_ns, source=station)
        self.stations[station.publisher] = (pressed, self.bench.now_ns)
        if pressed:
            assert self.bench.supervisor.state is State.ESTOP

    def stations_are_calm(self) -> None:
        for station in STATIONS:
            if station.publisher in self.stations:
                self.emergency_stop(False, station)

    @rule()
    def operator_releases(self) -> None:
        self.witness.release()

    @rule()
    def operator_stops(self) -> None:
        self.bench.supervisor.estop()

    @rule()
    def operator_engages(self) -> None:
        answer = self.witness.engage()
        assert answer.success is self.bench.supervisor.state.may_move

    @rule()
    def operator_resets(self) -> None:
        was_latched = self.bench.supervisor.state.is_latched
        answer = self.bench.supervisor.reset_stop(self.bench.now_ns)
        assert not answer.success or was_latched
        self.reset = self.reset or answer.success
        if answer.success:
            assert self.bench.supervisor.state is State.DISENGAGED, "reset never engages"
            assert not any(pressed for pressed, _ in self.stations.values())
            assert all(self.bench.now_ns - at_ns <= 150 * MS for _, at_ns in self.stations.values())

    @rule(reason=st.sampled_from([Reason.FOREIGN_PUBLISHER, Reason.INTERNAL_ERROR]))
    def shell_stops(self, reason: Reason) -> None:
        self.bench.supervisor.stop(reason)

    @rule(ceiling=st.sampled_from([0.0, 0.3, 1.0, math.nan, 2.0]))
    def ceiling_moves(self, ceiling: float) -> None:
        assert self.bench.supervisor.set_ceiling(ceiling).success is (0.0 <= ceiling <= 1.0)

    @rule(
        change=st.sampled_from(
            [{"velocity_scale": 0.5}, {"velocity_scale": 0.05}, {"position_margin_rad": 0.2}, {"jerk_scale": 2.0}]
        ),
        engages=st.booleans(),
    )
    def limits_tighten(self, change: dict[str, float], engages: bool) -> None:
        self.witness.tighten(change)
        if engages:
            self.operator_engages()

    @rule(below_m=st.sampled_from([0.001, 0.05]), engages=st.booleans())
    def tool_is_kept_above_where_it_is(self, below_m: float, engages: bool) -> None:
        self.limits_tighten(plane_below(self.bench, below_m), engages)

    @rule(jump_ms=st.sampled_from([-5000, -30, 700, 10_000]))
    def observation_clock_jumps(self, jump_ms: int) -> None:
        self.bench.offset_ns += jump_ms * MS

    @rule(stall_ms=st.sampled_from([30, 90, 300, 1500]))
    def supervisor_stalls(self, stall_ms: int) -> None:
        self.bench.now_ns += stall_ms * MS

    @rule()
    def all_is_made_well(self) -> None:
        """What an operator does to get going again, so that the search does not end in a latched stop."""
        bench = self.bench
        bench.heartbeat = bench.joints = True
        if bench.supervisor.state.is_latched:
            self.time_passes(STOP_TICKS)
            self.stations_are_calm()
            self.operator_resets()
        self.time_passes(3)
        self.stations_are_calm()
        self.operator_engages()
        for _ in range(4):
            bench.offer()
            self.stations_are_calm()
            self.time_passes(5)

    def check(self) -> None:
        """After each tick, on what was published."""
        last = self.bench.last
        previous = self.bench.decisions[-2] if len(self.bench.decisions) > 1 else None
        if previous is not None:
            assert all(new >= old for new, old in zip(astuple(last.counters), astuple(previous.counters), strict=True))
            if previous.state.is_latched and not self.reset:
                assert last.state.is_latched
            if previous.state is State.ESTOP and not self.reset:
                assert last.state is State.ESTOP
        self.reset = False
        assert last.counters.violations == 0
        assert 0.0 <= last.applied_scale <= 1.0
        if last.command_rad is None:
            assert last.state is State.DISENGAGED or last.state.is_latched, "nobody engaged since"
        else:
            assert last.state is not State.DISENGAGED
        resting = last.state in (State.HOLD, State.STOPPED, State.ESTOP)
        self.rest_since = (self.rest_since or 0) + 1 if resting else None
        if last.command_rad is None:
            return
        assert last.stop_rad is not None
        self.check_motion()
        if last.state in (State.RUN, State.BASE_ONLY):
            assert last.joint_state_age_s <= 0.1 + 1e-9
            assert last.chunk_age_s <= 1.0 + 1e-9

    def check_motion(self) -> None:
        """I1 on the last four commands of the motion, I2, I5."""
        last = self.bench.last
        commands = []
        for decision in reversed(self.bench.decisions[-HISTORY:]):
            if decision.command_rad is None:
                break
            commands.insert(0, decision.command_rad)
        padded = (
            np.concatenate([np.repeat(commands[:1], HISTORY - len(commands), axis=0), commands]) if commands else None
        )
        if padded is None:
            return
        assert limit_excess(MOTION, padded) < 1e-6
        assert last.stop_rad is not None
        assert PLANNER.keeps_limits(np.concatenate([padded[1:], last.stop_rad])).all()
        np.testing.assert_array_equal(last.stop_rad[-1], last.stop_rad[-2])
        if self.rest_since is not None and self.rest_since > STOP_TICKS and len(commands) > 1:
            np.testing.assert_array_equal(commands[-1], commands[-2])

    @invariant()
    def state_and_reason_are_named(self) -> None:
        if hasattr(self, "bench") and self.bench.decisions:
            assert self.bench.last.reason_text.startswith(self.bench.last.reason.sentence)


Surroundings.TestCase.settings = settings(
    derandomize=True,
    deadline=None,
    database=None,
    max_examples=40,
    stateful_step_count=40,
    suppress_health_check=list(HealthCheck),
)
TestSurroundings = Surroundings.TestCase


ACTS = ("tighten", "plane", "engage", "release", "policy dies", "policy lives", "joints pause", "wait", "wait long")


@settings(derandomize=True, deadline=None, database=None, max_examples=60)
@given(st.lists(st.sampled_from(ACTS), min_size=3, max_size=12), st.booleans())
def test_a_moving_arm_keeps_every_promise_through_any_sequence_of_calls_and_faults(acts: list[str], ages: bool) -> None:
    """A policy that always wants to move; operators and faults in any order. I7, I8, I9."""
    limits = SupervisorLimits(
        authority_ages=ages,
        authority_hold_s=HOLD_S,
        authority_engaging_s=ENGAGING_S,
        start_ramp=True,
        ramp_speed_radps=1.0,
    )
    bench = Bench(limits).running()
    home, steps_s = np.array(bench.pose), np.arange(50)[:, None] * CONTRACT.tick_period_ns / 1e9
    witness = Witness(bench)
    witness.leave_ns = witness.ticked_ns = bench.now_ns
    speed = 0.8

    def go_on(ticks: int) -> None:
        for tick in range(ticks):
            if tick % 5 == 0 and bench.heartbeat:
                bench.offer(home + 0.5 * np.sin(3.0 * (bench.now_ns / 1e9 + steps_s)) * np.ones(6))
            bench.tick()
            witness.check()

    go_on(25)
    for act in acts:
        if act == "tighten":
            speed *= 0.5
            witness.tighten({"velocity_scale": max(0.01, speed)})
        elif act == "plane":
            witness.tighten(plane_below(bench, 0.02))
        elif act == "engage":
            witness.engage()
        elif act == "release":
            witness.release()
        elif act.startswith("policy"):
            bench.heartbeat = act == "policy lives"
        elif act == "joints pause":
            bench.joints = False
            go_on(8)
            bench.joints = True
        go_on({"wait": 15, "wait long": 45}.get(act, 1))
    go_on(60)


FEW = settings(derandomize=True, deadline=None, database=None, max_examples=6)


def scenario(seed: int, **changes: Any) -> Bench:
    """The same eventful run for every seed: chunks of all kinds, a gap, a stop."""
    rng = np.random.default_rng(seed)
    bench = Bench(**changes).running()
    for index in range(25):
        bench.offer(bench.sway(size=float(rng.uniform(0.0, 0.6)), period_s=float(rng.uniform(1.0, 4.0))))
        bench.tick(int(rng.integers(1, 10)))
        if index == 12:
            bench.tick(90)
    bench.supervisor.estop()
    bench.tick(25)
    return bench


@FEW
@given(st.integers(0, 50), st.integers(-(10**6), 10**6), st.integers(0, 10**6))
def test_moving_all_stamps_or_the_own_clock_changes_no_command(seed: int, stamps_ms: int, own_ms: int) -> None:
    plain = scenario(seed)
    offset = 1_700_000_000_000 + stamps_ms
    moved = scenario(seed, now_ns=(6_000 + own_ms) * MS, offset_ns=offset * MS)
    np.testing.assert_allclose(moved.commands, plain.commands, atol=1e-12)
    assert moved.states == plain.states


@FEW
@given(st.integers(0, 50))
def test_the_same_inputs_give_the_same_outputs(seed: int) -> None:
    first, second = scenario(seed), scenario(seed)
    np.testing.assert_array_equal(first.commands, second.commands)
    assert [d.reason for d in first.decisions] == [d.reason for d in second.decisions]


@FEW
@given(st.integers(0, 50))
def test_two_heartbeats_or_joint_states_a_tick_change_nothing(seed: int) -> None:
    class Chatty(Bench):
        def tick(self, count: int = 1) -> Any:
            for _ in range(count):
                self.supervisor.on_policy_heartbeat(self.now_ns)
                self.supervisor.on_joints(self.stamp_ns + PERIOD // 2, self.pose, self.now_ns)
                super().tick()
            return self.last

    rng = np.random.default_rng(seed)
    plain, chatty = Bench().running(), Chatty().running()
    for _ in range(10):
        size = float(rng.uniform(0.0, 0.4))
        for bench in (plain, chatty):
            bench.offer(bench.sway(size=size))
            bench.tick(6)
    np.testing.assert_array_equal(chatty.commands, plain.commands)


@FEW
@given(st.integers(0, 1000))
def test_an_eventful_run_keeps_the_limits(seed: int) -> None:
    bench = scenario(seed)
    assert excess(bench.commands, MOTION) < 1e-6
    assert bench.last.state is State.ESTOP
    np.testing.assert_array_equal(bench.commands[-1], bench.commands[-2])
