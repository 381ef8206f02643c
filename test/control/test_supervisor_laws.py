# SPDX-License-Identifier: Apache-2.0
"""Whatever happens in whatever order: the invariants of the supervisor, searched by a stateful machine.

I1 limits, I2 no motion but towards rest unless ENGAGING, RUN or BASE_ONLY, I3 a latched stop stays,
I4 nothing old is followed, I5 a certified stop is behind every command, I6 counters never fall.
"""

import math
from dataclasses import astuple
from typing import Any

import numpy as np
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule
from supervision import CONTRACT, MS, PERIOD, Bench, excess

from sigma_ros.control.limits import SupervisorLimits, limit_excess
from sigma_ros.control.reasons import Reason, State
from sigma_ros.control.stop_plan import StopPlanner

MOTION = SupervisorLimits().motion(CONTRACT)
PLANNER = StopPlanner(MOTION)
STOP_TICKS = PLANNER.ticks
HISTORY = 4


class Surroundings(RuleBasedStateMachine):
    """Everything the outside can do to a supervisor."""

    @initialize(ramp=st.booleans(), heartbeat=st.booleans(), crossfade=st.integers(0, 6))
    def begin(self, ramp: bool, heartbeat: bool, crossfade: int) -> None:
        limits = SupervisorLimits(
            start_ramp=ramp, require_heartbeat=heartbeat, crossfade_steps=crossfade, resume_after_s=0.04
        )
        self.bench = Bench(limits)
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

    @rule(pressed=st.booleans())
    def emergency_stop(self, pressed: bool) -> None:
        self.bench.supervisor.on_estop(pressed, self.bench.now_ns)
        if pressed:
            assert self.bench.supervisor.state is State.ESTOP

    @rule(call=st.sampled_from(["release", "estop"]))
    def operator_stops(self, call: str) -> None:
        getattr(self.bench.supervisor, call)()

    @rule()
    def operator_engages(self) -> None:
        answer = self.bench.engage()
        assert answer.success is self.bench.supervisor.state.may_move

    @rule()
    def operator_resets(self) -> None:
        was_latched = self.bench.supervisor.state.is_latched
        answer = self.bench.supervisor.reset_stop(self.bench.now_ns)
        assert not answer.success or was_latched
        self.reset = self.reset or answer.success
        if answer.success:
            assert self.bench.supervisor.state is State.DISENGAGED, "reset never engages"

    @rule(reason=st.sampled_from([Reason.FOREIGN_PUBLISHER, Reason.INTERNAL_ERROR]))
    def shell_stops(self, reason: Reason) -> None:
        self.bench.supervisor.stop(reason)

    @rule(ceiling=st.sampled_from([0.0, 0.3, 1.0, math.nan, 2.0]))
    def ceiling_moves(self, ceiling: float) -> None:
        assert self.bench.supervisor.set_ceiling(ceiling).success is (0.0 <= ceiling <= 1.0)

    @rule(change=st.sampled_from([{"velocity_scale": 0.5}, {"position_margin_rad": 0.2}, {"jerk_scale": 2.0}]))
    def limits_tighten(self, change: dict[str, float]) -> None:
        self.bench.supervisor.tighten(**change)

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
            self.emergency_stop(False)
            self.operator_resets()
        self.time_passes(3)
        self.emergency_stop(False)
        bench.engage()
        for _ in range(4):
            bench.offer()
            self.emergency_stop(False)
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
