# SPDX-License-Identifier: Apache-2.0
"""What the supervisor knows of the outside: ages to the nanosecond, two clocks, and who was heard."""

import numpy as np
import pytest
from supervision import CONTRACT, EASY, MIDDLE, MS, PERIOD

from sigma_ros.supervisor.inputs import InputMonitor
from sigma_ros.supervisor.limits import SupervisorLimits
from sigma_ros.supervisor.reasons import Reason

LIVE = SupervisorLimits()
NOW, STAMP = 7_000 * MS, 1_700_000_000_000 * MS
LEAD = 50 * MS


def monitor(limits: SupervisorLimits = LIVE) -> InputMonitor:
    """At a tick, with a joint state of this moment and a heartbeat."""
    known = InputMonitor(CONTRACT, limits)
    known.tick(NOW, STAMP)
    assert known.push_joints(STAMP, MIDDLE, NOW).accepted
    known.hear_heartbeat(NOW, healthy=True)
    return known


def test_all_is_well_just_after_everything_was_heard() -> None:
    assert monitor().fault(NOW) is None
    assert monitor().stop_fault(NOW) is None
    assert monitor().estop_fault(NOW) is None


def test_a_policy_that_never_spoke_is_taken_as_healthy_where_no_heartbeat_is_asked_for() -> None:
    known = InputMonitor(CONTRACT, EASY)
    known.tick(NOW, STAMP)
    known.push_joints(STAMP, MIDDLE, NOW)
    assert known.fault(NOW) is None
    assert known.heartbeat_age_s(NOW + 10**12) == 0.0


def test_joint_states_age_from_their_arrival_or_their_stamp_whichever_is_longer() -> None:
    known = monitor()
    assert known.joint_age_s(NOW) == 0.0
    assert known.joint_age_s(NOW + 30 * MS) == pytest.approx(0.03)
    known.push_joints(STAMP + LEAD, MIDDLE, NOW)
    assert known.joint_age_s(NOW) == 0.0, "a stamp ahead of now is no negative age"
    assert known.joint_age_s(NOW - MS) == 0.0, "nor is an arrival after now"
    late = InputMonitor(CONTRACT, LIVE)
    late.tick(NOW, STAMP)
    late.push_joints(STAMP - 40 * MS, MIDDLE, NOW)
    assert late.joint_age_s(NOW) == pytest.approx(0.04)
    assert late.joint_age_s(NOW + 30 * MS) == pytest.approx(0.07), "the observation clock is carried on between ticks"
    assert InputMonitor(CONTRACT, LIVE).joint_age_s(NOW) == float("inf")


@pytest.mark.parametrize(("age_ms", "reason"), [(100, None), (101, Reason.JOINTS_STALE)])
def test_joint_states_are_stale_after_the_contracts_limit(age_ms: int, reason: Reason | None) -> None:
    known = monitor()
    known.hear_heartbeat(NOW + age_ms * MS, healthy=True)
    fault = known.fault(NOW + age_ms * MS)
    assert (None if fault is None else fault.reason) is reason


@pytest.mark.parametrize(("age_ms", "lost"), [(1000, False), (1001, True)])
def test_joint_states_are_lost_a_second_after_the_last_one_or_after_they_were_awaited(age_ms: int, lost: bool) -> None:
    known = monitor()
    assert (known.stop_fault(NOW + age_ms * MS) is not None) is lost
    known.forget_streams()
    assert known.joints.sample is None
    assert (known.stop_fault(NOW + age_ms * MS) is not None) is lost


@pytest.mark.parametrize(("lead_ns", "accepted"), [(LEAD, True), (LEAD + 1, False)])
@pytest.mark.parametrize("now_ns", [NOW, NOW - 5 * MS])
def test_a_joint_state_may_be_ahead_by_the_lead_and_not_a_nanosecond_more(
    lead_ns: int, accepted: bool, now_ns: int
) -> None:
    known = monitor()
    verdict = known.push_joints(STAMP + lead_ns, MIDDLE, now_ns)
    assert verdict.accepted is accepted
    assert accepted or verdict.reason is Reason.JOINTS_FROM_FUTURE


def test_between_ticks_the_observation_clock_is_carried_on() -> None:
    assert monitor().push_joints(STAMP + LEAD + 15 * MS, MIDDLE, NOW + 15 * MS).accepted
    assert not monitor().push_joints(STAMP + LEAD + 15 * MS + 1, MIDDLE, NOW + 15 * MS).accepted


@pytest.mark.parametrize(("age_ms", "reason"), [(100, None), (101, Reason.HEARTBEAT_LOST)])
def test_a_heartbeat_is_lost_after_a_tenth_of_a_second(age_ms: int, reason: Reason | None) -> None:
    known = monitor()
    later = NOW + age_ms * MS
    known.push_joints(STAMP + age_ms * MS, MIDDLE, later)
    known.observation_now_ns, known.now_ns = STAMP + age_ms * MS, later
    assert known.heartbeat_age_s(later) == pytest.approx(age_ms / 1e3)
    fault = known.fault(later)
    assert (None if fault is None else fault.reason) is reason
    assert known.heartbeat_age_s(NOW - 1) == 0.0


def test_who_was_never_heard_and_who_says_no_is_told_apart() -> None:
    silent = InputMonitor(CONTRACT, LIVE)
    silent.tick(NOW, STAMP)
    assert silent.fault(NOW).reason is Reason.JOINTS_MISSING  # type: ignore[union-attr]
    silent.push_joints(STAMP, np.full(CONTRACT.dof, 48.0), NOW)  # degrees
    assert silent.fault(NOW).reason is Reason.JOINTS_UNITS  # type: ignore[union-attr]
    silent.push_joints(STAMP, MIDDLE, NOW)
    assert silent.fault(NOW).reason is Reason.HEARTBEAT_MISSING  # type: ignore[union-attr]
    silent.hear_heartbeat(NOW, healthy=False)
    assert silent.fault(NOW).reason is Reason.POLICY_UNHEALTHY  # type: ignore[union-attr]


@pytest.mark.parametrize(("age_ms", "fault"), [(150, False), (151, True)])
def test_an_emergency_stop_that_was_heard_must_go_on(age_ms: int, fault: bool) -> None:
    known = monitor()
    assert not known.estop_heard
    known.hear_estop(NOW, pressed=False)
    assert known.estop_heard
    assert (known.estop_fault(NOW + age_ms * MS) is not None) is fault
    known.hear_estop(NOW, pressed=True)
    assert known.estop_fault(NOW).reason is Reason.ESTOP_PRESSED  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("own_ms", "other_ms", "reason"),
    [
        (20, 20, None),
        (20, 0, None),
        (20, -1, Reason.CLOCK_JUMP),
        (20, 520, None),
        (20, 521, Reason.CLOCK_JUMP),
        (100, 100, None),
        (101, 101, Reason.TICK_OVERRUN),
        (101, 601, Reason.TICK_OVERRUN),
        (101, 602, Reason.CLOCK_JUMP),
    ],
)
def test_clocks_may_jump_by_half_a_second_and_ticks_be_a_tenth_apart(
    own_ms: int, other_ms: int, reason: Reason | None
) -> None:
    known = monitor()
    known.tick(NOW + own_ms * MS, STAMP + other_ms * MS)
    assert (None if known.clock_fault is None else known.clock_fault.reason) is reason
    assert known.tick_gap_max_s == pytest.approx(own_ms / 1e3)


def test_a_tick_is_late_after_two_periods_and_the_longest_gap_is_kept() -> None:
    known = monitor()
    moment = NOW
    for gap in (PERIOD, 2 * PERIOD, 2 * PERIOD + 1, 3 * PERIOD, PERIOD):
        moment += gap
        known.tick(moment, STAMP + moment - NOW)
    assert known.late_ticks == 2
    assert known.tick_gap_max_s == pytest.approx(0.06)
    known.tick(moment - 10 * PERIOD, STAMP + moment - NOW)
    assert known.now_ns == moment, "the own clock never goes back"


def test_new_settings_await_joint_states_anew_and_remember_who_was_heard() -> None:
    known = monitor()
    known.hear_estop(NOW, pressed=False)
    known.configure(SupervisorLimits(heartbeat_timeout_s=0.05))
    assert known.joints.sample is None
    assert known.estop_heard
    known.push_joints(STAMP + PERIOD, MIDDLE + np.zeros(6), NOW + PERIOD)
    assert known.fault(NOW + 50 * MS) is None
    assert known.fault(NOW + 51 * MS).reason is Reason.HEARTBEAT_LOST  # type: ignore[union-attr]
