# SPDX-License-Identifier: Apache-2.0
"""The supervisor as its shell and its operator see it: one behaviour per test, time passed in."""

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from supervision import CONTRACT, EASY, MIDDLE, MS, PERIOD, Bench, excess, resting_chunk

from sigma_ros.supervisor.limits import SupervisorLimits
from sigma_ros.supervisor.reasons import Reason, State
from sigma_ros.supervisor.supervisor import Supervisor

LIVE = SupervisorLimits()
MOTION = EASY.motion(CONTRACT)
FOLLOWING = (State.RUN, State.BASE_ONLY)


def swaying(limits: SupervisorLimits = EASY, *, ticks: int = 30, **changes: Any) -> Bench:
    """In RUN and moving."""
    bench = Bench(limits).running()
    bench.offer(bench.sway(), **changes)
    bench.tick(ticks)
    assert bench.last.state is State.RUN
    assert np.abs(np.diff(bench.commands[-2:], axis=0)).max() > 1e-3
    return bench


def standstill_ticks(bench: Bench, limit: int = 40) -> int:
    for tick in range(limit):
        before = bench.last.command_rad
        if np.array_equal(bench.tick().command_rad, before):
            return tick
    raise AssertionError("the arm did not come to rest")


# Start


def test_it_starts_disengaged_and_publishes_nothing() -> None:
    bench = Bench()
    bench.offer()
    decision = bench.tick(5)
    assert decision.state is State.DISENGAGED
    assert decision.reason is Reason.NOT_ENGAGED
    assert decision.command_rad is None
    assert decision.counters.ticks == 0


@pytest.mark.parametrize("last_chunk_first", [False, True])
def test_the_first_command_is_the_measured_pose_exactly(last_chunk_first: bool) -> None:
    bench = Bench()
    bench.tick(2)
    if last_chunk_first:
        bench.offer(bench.sway())
    assert bench.engage().success
    decision = bench.tick()
    np.testing.assert_array_equal(decision.command_rad, MIDDLE)
    assert decision.state is State.ENGAGING


def test_engaging_needs_joint_states_heartbeat_and_emergency_stop_in_this_order() -> None:
    bench = Bench(SupervisorLimits(require_estop_heartbeat=True), joints=False, heartbeat=False)
    assert bench.engage().reason is Reason.ESTOP_HEARTBEAT
    bench.supervisor.on_estop(False, bench.now_ns)
    assert bench.engage().reason is Reason.JOINTS_MISSING
    for number in range(3):
        bench.supervisor.on_joints(bench.stamp_ns + number, MIDDLE, bench.now_ns)
    assert bench.engage().reason is Reason.HEARTBEAT_MISSING
    bench.supervisor.on_policy_heartbeat(bench.now_ns, healthy=False)
    assert bench.engage().reason is Reason.POLICY_UNHEALTHY
    bench.supervisor.on_policy_heartbeat(bench.now_ns)
    assert bench.engage().success
    assert bench.engage().reason is Reason.ALREADY_ENGAGED


def test_an_unheard_emergency_stop_does_not_latch_before_anybody_engages() -> None:
    bench = Bench(SupervisorLimits(require_estop_heartbeat=True))
    assert bench.tick(10).state is State.DISENGAGED


def test_it_waits_for_a_chunk_and_then_runs() -> None:
    bench = Bench()
    bench.tick()
    bench.engage()
    assert bench.tick(10).reason is Reason.WAITING_FOR_CHUNK
    bench.offer()
    assert bench.tick().state is State.RUN
    assert bench.last.reason is Reason.OK


def test_a_first_target_far_away_is_not_followed() -> None:
    bench = Bench()
    bench.tick()
    bench.engage()
    for _ in range(5):
        bench.offer(np.repeat(MIDDLE[None] + 0.3, 50, axis=0))
        bench.tick(5)
    assert bench.last.state is State.ENGAGING
    assert bench.last.reason is Reason.START_POSE
    assert (bench.commands == MIDDLE).all()


def test_with_a_ramp_it_is_approached_slowly_and_then_followed() -> None:
    bench = Bench(SupervisorLimits(start_ramp=True))
    bench.tick()
    bench.engage()
    bench.tick()
    for _ in range(40):
        bench.offer(np.repeat(MIDDLE[None] + 0.3, 50, axis=0))
        bench.tick(5)
    assert State.RUN in bench.states
    ramping = [d for d in bench.decisions if d.reason is Reason.RAMPING]
    assert all(d.state is State.ENGAGING for d in ramping)
    assert len(ramping) > 40
    np.testing.assert_allclose(bench.last.command_rad, MIDDLE + 0.3, atol=1e-9)
    assert np.abs(np.diff(bench.commands, axis=0)).max() / 0.02 <= 0.25 + 1e-6
    assert bench.last.counters.clipped_ticks == 0


def test_a_chunk_made_before_engaging_is_used_only_while_it_is_fresh() -> None:
    bench = Bench()
    bench.tick()
    bench.offer(bench.sway())
    bench.tick(60)
    bench.engage()
    assert bench.tick(2).state is State.ENGAGING
    assert bench.last.reason is Reason.CHUNK_EXPIRED


# Following


def test_a_calm_chunk_is_followed_exactly() -> None:
    bench = Bench().running()
    bench.offer(bench.sway())
    bench.tick(20)
    for _ in range(10):
        bench.tick(5)
        assert not bench.last.clipped_joints
        assert bench.last.miss_rad == 0.0
    assert bench.last.counters.clipped_ticks == 0
    assert bench.last.counters.violations == 0


def test_the_command_is_base_plus_applied_scale_times_residual() -> None:
    bench = Bench().running()
    for _ in range(60):
        base = np.repeat(MIDDLE[None], 50, axis=0)
        bench.offer(base, residual_rad=np.full_like(base, 0.1), scale=0.6)
        bench.tick(5)
    assert bench.last.applied_scale == pytest.approx(0.6)
    assert bench.last.requested_scale == 0.6
    np.testing.assert_allclose(bench.last.command_rad, MIDDLE + 0.06, atol=1e-6)


def test_motion_begins_with_the_scale_it_may_have_and_after_trouble_with_the_base() -> None:
    bench = Bench()
    bench.tick(2)
    bench.supervisor.set_ceiling(0.7)
    assert bench.engage().success
    bench.tick()
    base = bench.sway(size=0.1)
    bench.offer(base, residual_rad=np.full_like(base, 0.02), scale=1.0)
    bench.tick(15)
    moving = [d.applied_scale for d in bench.decisions if d.command_rad is not None and d.state is State.RUN]
    assert moving == [0.7] * len(moving)
    assert moving
    bench.joints = False
    bench.tick(30)
    assert bench.last.state is State.HOLD
    assert bench.last.applied_scale == 0.0
    bench.joints = True
    for _ in range(4):
        base = bench.sway(size=0.1)
        bench.offer(base, residual_rad=np.full_like(base, 0.02), scale=1.0)
        bench.tick(8)
    assert bench.last.state is State.BASE_ONLY
    assert bench.last.applied_scale == 0.0


def test_at_ceiling_zero_the_command_is_the_base_bit_for_bit() -> None:
    plain, capped = Bench().running(), Bench().running()
    capped.supervisor.set_ceiling(0.0)
    capped.tick(10)
    plain.tick(10)
    base = plain.sway()
    plain.offer(base)
    assert capped.offer(base, residual_rad=np.random.default_rng(0).uniform(-1.5, 1.5, base.shape)).accepted
    plain.tick(40)
    capped.tick(40)
    np.testing.assert_array_equal(plain.commands[-40:], capped.commands[-40:])
    assert capped.last.scale_ceiling == 0.0
    assert capped.last.state is State.RUN, "the user's ceiling is not a fault"


def test_a_wild_chunk_is_bounded_reported_and_breaks_nothing() -> None:
    bench = Bench().running()
    wild = np.random.default_rng(0).uniform(CONTRACT.lower_rad, CONTRACT.upper_rad, (50, 6))
    bench.offer(wild)
    bench.tick(30)
    assert bench.last.clipped_joints
    assert set(bench.last.clipped_joints) <= set(CONTRACT.joint_names)
    assert bench.last.counters.clipped_ticks > 20
    assert bench.last.counters.violations == 0
    assert excess(bench.commands, MOTION) < 1e-6


def test_a_residual_that_works_against_the_base_for_long_leaves_the_base_alone() -> None:
    bench = Bench().running()
    for _ in range(8):
        base = bench.sway(size=0.2)
        bench.offer(base, residual_rad=base[0] - base)
        bench.tick(8)
    assert bench.last.state is State.BASE_ONLY
    assert bench.last.reason is Reason.SCALE_RESIDUAL_OPPOSED
    assert bench.last.applied_scale == 0.0
    for _ in range(60):
        bench.offer(bench.sway(size=0.1), scale=1.0)
        bench.tick(8)
    assert bench.last.state is State.RUN
    assert bench.last.applied_scale > 0.5


def test_a_base_that_misses_more_is_not_handed_the_arm_by_a_residual_that_undoes_its_motion() -> None:
    """One course of many; with `bound_lead` the same draws lead elsewhere."""
    bench, rng = Bench(limits=replace(EASY, bound_lead=False)).running(), np.random.default_rng(5)
    for _ in range(60):
        base = rough(bench, rng, 0.2)
        bench.offer(base, residual_rad=bench.pose - base, scale=1.0)
        bench.tick(8)
    assert State.BASE_ONLY not in bench.states
    assert bench.last.applied_scale == 1.0


@pytest.mark.parametrize(("trained_s", "scale"), [(0.0, 0.0), (0.5, 1.0)])
def test_a_late_chunk_keeps_its_residual_if_it_was_trained_for_that(trained_s: float, scale: float) -> None:
    bench = Bench().running()
    for _ in range(60):
        base, stamp_ns = bench.sway(size=0.1), bench.stamp_ns
        bench.tick(24)
        bench.offer(base, stamp_ns=stamp_ns, scale=1.0, trained_delay_s=trained_s)
        bench.tick(1)
    assert bench.last.applied_scale == pytest.approx(scale, abs=0.1)


def test_a_base_that_misbehaves_on_its_own_leads_to_hold_until_somebody_engages() -> None:
    bench = Bench().running()
    bench.supervisor.set_ceiling(0.0)
    rng = np.random.default_rng(0)
    for _ in range(15):
        bench.offer(rng.uniform(CONTRACT.lower_rad, CONTRACT.upper_rad, (50, 6)))
        bench.tick(5)
    assert bench.last.state is State.HOLD
    assert bench.last.reason is Reason.BASE_MISBEHAVES
    bench.tick(20)
    bench.offer()
    assert bench.tick(10).reason is Reason.BASE_MISBEHAVES
    assert bench.engage().success
    bench.offer()
    assert bench.tick(3).state in FOLLOWING


def rough(bench: Bench, rng: np.random.Generator, size: float) -> np.ndarray:
    """A sway whose steps tremble by up to `size`: more than the acceleration limit lets the arm follow."""
    return bench.sway(size=0.1) + rng.uniform(-size, size, (50, 6))


def test_a_rough_base_alone_does_not_turn_the_residual_down() -> None:
    bench, rng = Bench().running(), np.random.default_rng(1)
    for _ in range(40):
        bench.offer(rough(bench, rng, 0.12), scale=1.0)
        bench.tick(8)
    assert max(d.miss_rad for d in bench.decisions[-100:]) > bench.limits.miss_tolerance_rad
    assert bench.last.applied_scale == 1.0
    assert bench.last.scale_ceiling == 1.0


def test_a_residual_that_smooths_a_rough_base_is_let_through_and_followed() -> None:
    bench, rng = Bench().running(), np.random.default_rng(2)
    for _ in range(40):
        smooth = bench.sway(size=0.1)
        base = smooth + rng.uniform(-0.12, 0.12, (50, 6))
        bench.offer(base, residual_rad=smooth - base, scale=1.0)
        bench.tick(8)
    assert bench.last.applied_scale == 1.0
    assert max(d.miss_rad for d in bench.decisions[-50:]) < bench.limits.miss_tolerance_rad


def test_lateness_never_hands_the_arm_to_a_base_that_is_worse() -> None:
    """430 ms late with the right stamp, from a checkpoint that was trained for no delay."""
    bench, rng = Bench().running(), np.random.default_rng(2)
    for _ in range(40):
        still = np.repeat(bench.pose[None], 50, axis=0)
        base = still + rng.uniform(-0.12, 0.12, (50, 6))
        bench.offer(base, residual_rad=still - base, scale=1.0, stamp_ns=bench.stamp_ns - 430 * MS)
        bench.tick(8)
    assert bench.last.applied_scale == 1.0
    for _ in range(40):
        bench.offer(bench.sway(size=0.05), scale=1.0, stamp_ns=bench.stamp_ns - 430 * MS)
        bench.tick(8)
    assert bench.last.reason is Reason.SCALE_DELAY, "a base that is as good takes over as before"


def test_a_residual_that_makes_a_rough_base_rougher_is_turned_down() -> None:
    bench, rng = Bench().running(), np.random.default_rng(3)
    for _ in range(40):
        bench.offer(rough(bench, rng, 0.05), residual_rad=rng.uniform(-0.4, 0.4, (50, 6)), scale=1.0)
        bench.tick(8)
    assert bench.last.scale_ceiling < 0.5
    assert Reason.SCALE_MISSES in {d.reason for d in bench.decisions}


def test_a_base_that_misbehaves_leads_to_hold_at_any_scale() -> None:
    bench, rng = Bench().running(), np.random.default_rng(4)
    for _ in range(30):
        bench.offer(rng.uniform(CONTRACT.lower_rad, CONTRACT.upper_rad, (50, 6)), scale=1.0)
        bench.tick(5)
    assert bench.last.reason is Reason.BASE_MISBEHAVES


# Gaps, ages and clocks


def test_at_the_end_of_the_chunk_the_arm_stops_and_nothing_is_repeated() -> None:
    bench = Bench().running()
    t = np.arange(20)[:, None]
    bench.offer(bench.pose + 0.0005 * t**2 * np.ones(6))
    end_tick = next(i for i in range(60) if bench.tick().state is State.HOLD)
    assert (end_tick + 1) * 20 >= 19 * CONTRACT.tick_period_ns / MS > (end_tick - 1) * 20
    assert bench.last.reason is Reason.CHUNK_EXHAUSTED
    assert standstill_ticks(bench) <= 20
    assert excess(bench.commands, MOTION) < 1e-6


def test_a_chunk_too_old_is_not_executed_further() -> None:
    bench = Bench(SupervisorLimits(require_heartbeat=False, max_chunk_age_s=0.5)).running()
    bench.offer(bench.sway())
    states = [bench.tick().state for _ in range(30)]
    assert states[24] is State.RUN
    assert states[25] is State.HOLD
    assert bench.decisions[-1].reason in (Reason.CHUNK_EXPIRED, Reason.WAITING_FOR_CHUNK)


def test_a_dead_policy_means_hold_within_150_ms() -> None:
    bench = swaying(LIVE)
    bench.heartbeat = False
    died_ns = bench.now_ns
    while bench.last.state is State.RUN:
        bench.offer(bench.sway())
        bench.tick()
    assert bench.now_ns - died_ns <= 150 * MS
    assert bench.last.reason is Reason.HEARTBEAT_LOST
    assert standstill_ticks(bench) <= 20


def test_hold_ends_by_itself_once_all_is_well_again_for_a_while() -> None:
    bench = swaying(LIVE)
    bench.heartbeat = False
    bench.tick(30)
    assert bench.last.state is State.HOLD
    bench.heartbeat = True
    recovered = 0
    while bench.last.state is State.HOLD:
        bench.tick()
        recovered += 1
    assert 10 <= recovered <= 12
    bench.offer()
    assert bench.tick(3).state is State.BASE_ONLY, "the residual comes back later and slowly"
    assert bench.last.reason is Reason.SCALE_FAULT
    assert bench.last.counters.holds == 1


def test_a_policy_that_says_it_cannot_act_is_believed() -> None:
    bench = swaying(LIVE)
    bench.heartbeat = False
    bench.supervisor.on_policy_heartbeat(bench.now_ns, healthy=False)
    assert bench.tick().reason is Reason.POLICY_UNHEALTHY
    assert bench.last.state is State.HOLD


def test_after_a_hold_chunks_from_before_it_are_refused() -> None:
    bench = swaying(LIVE)
    stamp = bench.stamp_ns
    bench.heartbeat = False
    bench.tick(10)
    bench.heartbeat = True
    bench.tick(15)
    assert bench.offer(stamp_ns=stamp).reason is Reason.CHUNK_BEFORE_STOP
    assert bench.offer(chunk_id=0).accepted, "a restarted policy counts from 0"


@pytest.mark.parametrize("state", [State.DISENGAGED, State.HOLD, State.STOPPED])
def test_a_policy_started_again_while_the_arm_stands_is_heard_although_it_counts_from_zero(state: State) -> None:
    bench = Bench(LIVE).running()
    if state is State.HOLD:
        bench.joints = False
        bench.tick(10)
    elif state is State.STOPPED:
        bench.supervisor.stop(Reason.FOREIGN_PUBLISHER)
    else:
        bench.supervisor.release()
        bench.tick(30)
    bench.next_id, bench.epoch = 500, 3
    bench.tick(10)
    assert bench.last.state is state
    assert bench.offer().accepted
    bench.heartbeat = False
    bench.tick(8)
    bench.offer()
    bench.tick(2)
    bench.heartbeat, bench.joints = True, True
    bench.next_id, bench.epoch = 0, 0
    bench.tick(2)
    assert bench.offer().accepted
    if state is State.STOPPED:
        assert bench.supervisor.reset_stop(bench.now_ns).success
    bench.tick(2)
    assert bench.engage().success
    for _ in range(5):
        bench.offer()
        bench.tick(10)
    assert bench.last.state in FOLLOWING, bench.last.reason_text


def test_missing_joint_states_mean_hold_and_later_stopped() -> None:
    bench = swaying()
    bench.joints = False
    seen = [(bench.tick().state, bench.last.reason, bench.last.joint_state_age_s) for _ in range(55)]
    hold = next(i for i, (state, _, _) in enumerate(seen) if state is State.HOLD)
    stopped = next(i for i, (state, _, _) in enumerate(seen) if state is State.STOPPED)
    assert seen[hold][1] is Reason.JOINTS_STALE
    assert seen[hold][2] == pytest.approx(0.12)
    assert seen[stopped][1] is Reason.JOINTS_LOST
    assert seen[stopped][2] == pytest.approx(1.02)


def test_a_teleporting_joint_stops_and_latches() -> None:
    bench = swaying()
    jumped = np.array(bench.pose)
    jumped[3] += 1.0
    assert bench.supervisor.on_joints(bench.stamp_ns + 1, jumped, bench.now_ns).reason is Reason.JOINTS_IMPLAUSIBLE
    assert bench.tick().state is State.STOPPED
    assert bench.last.counters.refused_joint_states == 1


@pytest.mark.parametrize(
    ("bound_lead", "state", "reason"),
    [(True, State.HOLD, Reason.CONTACT), (False, State.STOPPED, Reason.JOINTS_FROZEN)],
)
def test_an_arm_that_does_not_follow_is_stopped(bound_lead: bool, state: State, reason: Reason) -> None:
    bench = Bench(limits=replace(EASY, bound_lead=bound_lead)).running()
    stuck = bench.pose
    bench.offer(bench.sway(size=0.5, period_s=2.0))
    for _ in range(30):
        bench.tick()
        bench.pose = stuck
    assert bench.last.state is state
    assert bench.last.reason is reason


@pytest.mark.parametrize("jump_ms", [-1, -10_000, 600, 3_600_000])
def test_a_jump_of_the_observation_clock_means_hold_and_a_new_start(jump_ms: int) -> None:
    bench = swaying()
    bench.offset_ns += jump_ms * MS - (PERIOD if jump_ms == -1 else 0)
    decision = bench.tick()
    assert decision.state is State.HOLD
    assert decision.reason is Reason.CLOCK_JUMP
    bench.tick(30)
    bench.offer()
    assert bench.tick(3).state in FOLLOWING
    assert excess(bench.commands, MOTION) < 1e-6


@pytest.mark.parametrize("state", ["DISENGAGED", "ENGAGING", "HOLD", "STOPPED", "ESTOP"])
@pytest.mark.parametrize("jump_s", [-1000, 1000])
def test_after_a_jump_of_the_observation_clock_in_any_state_the_arm_can_be_taken_over(jump_s: int, state: str) -> None:
    """What was stamped before the jump bounds nothing after it: not joint states, not chunks, not the last stop."""
    bench = swaying(LIVE)
    if state in ("DISENGAGED", "ENGAGING"):
        bench.supervisor.release()
        bench.tick(15)
        assert state == "DISENGAGED" or bench.engage().success
    bench.heartbeat = state != "HOLD"
    if state == "ESTOP":
        bench.supervisor.estop()
    elif state == "STOPPED":
        bench.supervisor.stop(Reason.INTERNAL_ERROR)
    assert bench.tick(15).state.name == state
    bench.offset_ns += jump_s * 1000 * MS
    bench.heartbeat = True
    bench.tick(4)
    if bench.supervisor.state.is_latched:
        assert bench.supervisor.reset_stop(bench.now_ns).success
        bench.tick(3)
    assert bench.engage().success
    bench.tick()
    bench.offer()
    assert bench.tick(15).state in FOLLOWING, bench.last.reason_text


def test_other_settings_do_not_make_a_chunk_from_before_the_stop_good() -> None:
    bench = swaying(LIVE)
    made_ns = bench.stamp_ns
    bench.tick()
    bench.supervisor.estop()
    bench.tick(12)
    assert bench.supervisor.reset_stop(bench.now_ns).success
    assert bench.supervisor.configure(LIVE).success
    bench.tick(3)
    assert bench.engage().success
    assert bench.offer(stamp_ns=made_ns).reason is Reason.CHUNK_BEFORE_STOP


def test_a_paused_observation_clock_means_hold_and_it_goes_on_by_itself() -> None:
    """Everybody's stamps stand, so joint states have no newer ones; ours goes on and says so."""
    bench = swaying()
    for _ in range(10):
        bench.offset_ns -= PERIOD
        bench.tick()
    assert bench.last.state is State.HOLD
    assert bench.last.reason is Reason.JOINTS_STALE
    bench.tick(10)
    bench.offer()
    assert bench.tick(3).state in FOLLOWING
    assert excess(bench.commands, MOTION) < 1e-6


def test_the_own_clock_never_goes_back() -> None:
    bench = swaying()
    decision = bench.supervisor.tick(bench.now_ns - 10_000 * MS, bench.stamp_ns + PERIOD)
    assert decision.state is State.RUN
    assert decision.joint_state_age_s >= 0.0


def test_an_overrun_of_its_own_means_hold() -> None:
    bench = swaying()
    bench.now_ns += 150 * MS
    assert bench.tick().reason is Reason.TICK_OVERRUN
    assert bench.last.counters.tick_gap_max_s == pytest.approx(0.17)
    assert excess(bench.commands, MOTION) < 1e-6


def test_a_new_epoch_brings_the_arm_to_rest_before_it_goes_on() -> None:
    bench = swaying()
    bench.epoch = 1
    bench.offer()
    decision = bench.tick()
    assert decision.state is State.ENGAGING
    assert standstill_ticks(bench) <= 20
    bench.offer()
    bench.tick(2)
    assert bench.last.state is State.RUN
    bench.epoch = 0
    assert bench.offer().reason is Reason.CHUNK_OLD_EPOCH
    assert excess(bench.commands, MOTION) < 1e-6


# Emergency stop, stop, reset


def test_the_emergency_stop_latches_and_brakes_within_one_tick() -> None:
    bench = swaying()
    speed = np.abs(np.diff(bench.commands[-2:], axis=0))
    promised = bench.last.stop_rad
    bench.supervisor.on_estop(True, bench.now_ns)
    assert bench.supervisor.state is State.ESTOP
    decision = bench.tick()
    assert decision.reason is Reason.ESTOP_PRESSED
    np.testing.assert_array_equal(decision.command_rad, promised[0])
    ticks = standstill_ticks(bench)
    assert ticks <= 15
    assert (np.abs(np.diff(bench.commands[-ticks:], axis=0)) <= speed + 0.01).all()
    bench.supervisor.on_estop(False, bench.now_ns)
    assert bench.tick(50).state is State.ESTOP


def test_a_silent_emergency_stop_counts_as_pressed_once_it_was_heard() -> None:
    bench = swaying()
    assert bench.tick().state is State.RUN, "never heard, not required"
    bench.supervisor.on_estop(False, bench.now_ns)
    for tick in range(7):
        bench.offer(bench.sway())
        assert bench.tick().state is (State.RUN if tick < 2 else State.HOLD)
        assert tick < 2 or bench.last.reason is Reason.ESTOP_LATE
    bench.offer(bench.sway())
    assert bench.tick().reason is Reason.ESTOP_HEARTBEAT
    assert bench.last.state is State.ESTOP


def test_reset_needs_the_button_released_and_the_arm_at_rest_and_never_engages() -> None:
    bench = swaying()
    bench.supervisor.on_estop(True, bench.now_ns)
    bench.tick()
    assert bench.supervisor.reset_stop(bench.now_ns).reason is Reason.ESTOP_PRESSED
    bench.supervisor.on_estop(False, bench.now_ns)
    assert bench.supervisor.reset_stop(bench.now_ns).reason is Reason.STILL_MOVING
    assert bench.engage().reason is Reason.LATCHED
    assert bench.supervisor.release().success, "commands end at rest, the latch stays"
    bench.tick(20)
    bench.supervisor.on_estop(False, bench.now_ns)
    assert bench.supervisor.reset_stop(bench.now_ns).success
    decision = bench.tick(5)
    assert decision.state is State.DISENGAGED
    assert decision.command_rad is None
    assert bench.supervisor.reset_stop(bench.now_ns).reason is Reason.NOT_LATCHED


def test_a_stop_from_the_shell_latches_and_an_emergency_stop_tops_it() -> None:
    bench = swaying()
    bench.supervisor.stop(Reason.FOREIGN_PUBLISHER, "node x")
    decision = bench.tick()
    assert (decision.state, decision.reason) == (State.STOPPED, Reason.FOREIGN_PUBLISHER)
    assert "node x" in decision.reason_text
    bench.supervisor.estop()
    assert bench.tick().reason is Reason.ESTOP_REQUESTED
    bench.supervisor.stop(Reason.INTERNAL_ERROR)
    assert bench.tick().state is State.ESTOP
    assert bench.last.counters.stops == 2


def test_release_brings_the_arm_to_rest_and_lets_go() -> None:
    bench = swaying()
    assert bench.supervisor.release().success
    assert bench.tick().state is State.HOLD
    assert bench.last.reason is Reason.RELEASED
    bench.offer()
    ticks = next(i for i in range(60) if bench.tick().state is State.DISENGAGED)
    assert 1 <= ticks <= 8, "V/A + 2A/J is 0.1 s"
    assert bench.last.command_rad is None
    assert excess(bench.commands, MOTION) < 1e-6
    assert bench.supervisor.release().success


# Settings


@pytest.mark.parametrize("bad", [math.nan, math.inf, -0.1, 1.0000001, "0.5", None, True])
def test_a_senseless_ceiling_is_refused_and_changes_nothing(bad: Any) -> None:
    bench = Bench().running()
    bench.supervisor.set_ceiling(0.3)
    answer = bench.supervisor.set_ceiling(bad)
    assert (answer.success, answer.reason) == (False, Reason.SETTING_REFUSED)
    assert repr(bad) in answer.text
    assert bench.tick().scale_ceiling == 0.3


def test_tightening_while_running_comes_to_rest_first_and_then_holds_for_what_follows() -> None:
    bench = swaying()
    assert bench.supervisor.tighten(velocity_scale=0.05, position_margin_rad=0.1).success
    assert bench.tick().reason is Reason.LIMITS_CHANGED
    bench.tick(40)
    bench.offer()
    bench.tick(3)
    bench.offer(bench.sway(size=0.4, period_s=1.5))
    slow = bench.commands.shape[0]
    bench.tick(40)
    assert bench.last.state in FOLLOWING
    assert np.abs(np.diff(bench.commands[slow:], axis=0)).max() / 0.02 <= 0.1 + 1e-6
    assert bench.supervisor.limits.velocity_scale == 0.05
    assert excess(bench.commands, MOTION) < 1e-6


def test_loosening_nonsense_and_limits_that_exclude_the_arm_are_refused() -> None:
    bench = Bench(pose=CONTRACT.lower_rad + 0.2)
    bench.tick()
    assert bench.supervisor.tighten(velocity_scale=0.5).success
    for changes in ({"velocity_scale": 0.6}, {"nonsense": 1.0}, {"jerk_scale": math.nan}, {"position_margin_rad": 0.9}):
        answer = bench.supervisor.tighten(**changes)
        assert answer.reason is Reason.SETTING_REFUSED
        assert next(iter(changes)) in answer.text
    bench.engage()
    assert "outside" in bench.supervisor.tighten(position_margin_rad=0.3).text
    assert bench.supervisor.limits.position_margin_rad == 0.0


def test_all_settings_can_be_replaced_while_disengaged_only() -> None:
    bench = Bench()
    bench.tick()
    loose = SupervisorLimits(require_heartbeat=False, velocity_scale=0.3)
    assert bench.supervisor.configure(loose).success
    assert bench.supervisor.limits is loose
    bench.tick()
    bench.engage()
    assert "ENGAGING" in bench.supervisor.configure(EASY).text
    assert not Bench().supervisor.configure(None).success  # type: ignore[arg-type]


# What is said


def test_ages_and_ids_of_the_newest_chunk_are_told() -> None:
    bench = Bench().running()
    bench.offer(observation_age_ns=70 * MS, chunk_id=41)
    decision = bench.tick(2)
    assert decision.chunk_id == 41
    assert decision.chunk_accepted
    assert decision.chunk_age_s == pytest.approx(0.04)
    assert decision.observation_age_s == pytest.approx(0.07)
    assert decision.joint_state_age_s == 0.0
    bench.supervisor.on_chunk(resting_chunk(chunk_id=7, stamp_ns=bench.stamp_ns), bench.now_ns, bench.stamp_ns)
    decision = bench.tick()
    assert (decision.chunk_id, decision.chunk_accepted) == (7, False)
    assert decision.counters.refused_chunks == 1


def test_before_anything_came_ages_are_infinite() -> None:
    decision = Bench(joints=False).tick()
    assert decision.chunk_age_s == decision.joint_state_age_s == decision.observation_age_s == math.inf
    assert (decision.requested_scale, decision.applied_scale, decision.scale_ceiling) == (0.0, 0.0, 1.0)


def test_one_clock_is_enough_in_lockstep() -> None:
    bench = Bench(offset_ns=0)
    supervisor = bench.supervisor
    for number in range(3):
        supervisor.on_joints(bench.now_ns + number, MIDDLE, bench.now_ns)
    supervisor.tick(bench.now_ns)
    assert supervisor.engage(bench.now_ns).success
    assert supervisor.on_chunk(resting_chunk(stamp_ns=bench.now_ns), bench.now_ns).accepted
    supervisor.tick(bench.now_ns + PERIOD)
    assert supervisor.tick(bench.now_ns + 2 * PERIOD).state is State.RUN


def test_a_joint_state_from_the_future_is_refused_and_does_not_outlive_the_good_ones() -> None:
    bench = Bench().running()
    hour_ns = 3_600_000 * MS
    verdict = bench.supervisor.on_joints(bench.stamp_ns + hour_ns, bench.pose, bench.now_ns)
    assert verdict.reason is Reason.JOINTS_FROM_FUTURE
    assert bench.tick().state is State.RUN


def test_a_joint_state_from_the_future_before_the_first_tick_is_forgotten_at_it() -> None:
    supervisor = Supervisor(CONTRACT, EASY)
    assert supervisor.on_joints(3_600_000 * MS, MIDDLE, 0).accepted
    supervisor.tick(PERIOD, PERIOD)
    assert supervisor.on_joints(PERIOD + 1, MIDDLE, PERIOD).accepted


def test_limits_under_which_it_could_not_stop_in_time_are_refused_with_the_reason() -> None:
    slow = replace(CONTRACT, joints=tuple(replace(j, max_acceleration_radps2=3.0) for j in CONTRACT.joints))
    bench = Bench(EASY, contract=slow)
    answer = bench.supervisor.tighten(acceleration_scale=0.01)
    assert not answer.success
    assert "a full stop would take too long" in answer.text
    assert bench.supervisor.limits.acceleration_scale == EASY.acceleration_scale
