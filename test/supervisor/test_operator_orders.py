# SPDX-License-Identifier: Apache-2.0
"""What an operator orders happens whatever else is wrong: limits, release, leave to move, stations, resets."""

from typing import Any

import numpy as np
import pytest
from supervision import Bench

from sigma_ros.supervisor.identity import Source
from sigma_ros.supervisor.limits import SupervisorLimits
from sigma_ros.supervisor.reasons import Reason, State

LIVE = SupervisorLimits()
LEFT, RIGHT = Source(publisher="a", name="/left"), Source(publisher="b", name="/right")
FOLLOWING = (State.RUN, State.BASE_ONLY)


def feed(bench: Bench, ticks: int, **sway: Any) -> None:
    for tick in range(ticks):
        if tick % 5 == 0 and bench.heartbeat:
            bench.offer(bench.sway(**sway))
        bench.tick()


def moving(limits: SupervisorLimits = LIVE) -> Bench:
    bench = Bench(limits).running()
    feed(bench, 20)
    return bench


def beat(bench: Bench, *stations: Source, pressed: tuple[Source, ...] = ()) -> None:
    for station in stations:
        bench.supervisor.on_estop(station in pressed, bench.now_ns, source=station)


# Limits


def test_a_limit_accepted_in_motion_is_in_force_although_engage_is_called_at_once() -> None:
    bench = moving()
    assert bench.supervisor.tighten(velocity_scale=0.05).success
    assert bench.engage().success
    bench.tick(20)
    slow = len(bench.commands)
    feed(bench, 60, size=1.0, period_s=1.0)
    assert bench.last.state in FOLLOWING
    assert np.abs(np.diff(bench.commands[slow:], axis=0)).max() / 0.02 <= 0.1 + 1e-9


def test_a_large_residual_is_bounded_at_once_and_not_only_as_the_scale_falls() -> None:
    bench = Bench(SupervisorLimits(require_heartbeat=False, max_residual_rad=0.1)).running()
    home = np.array(bench.pose)
    for number in range(90):
        base = np.repeat(home[None], 50, axis=0)
        bench.offer(base, residual_rad=np.full_like(base, 0.05 if number < 60 else 1.0), scale=1.0)
        for _ in range(5):
            bench.tick()
            assert number < 60 or bench.last.applied_scale * 1.0 <= 0.1, "what is asked for"
    assert bench.last.scale_ceiling <= 0.1
    assert np.abs(bench.commands - home).max() <= 0.11, "the guard's approach included"


def test_a_limit_can_be_tightened_while_an_arm_just_outside_its_range_is_led_inside() -> None:
    bench = Bench(LIVE)
    bench.pose[0] = bench.contract.upper_rad[0] + 0.03
    bench.tick(3)
    assert bench.engage().success
    bench.tick(5)
    assert bench.supervisor.tighten(velocity_scale=0.05).success
    slow = len(bench.commands)
    bench.tick(200)
    feed(bench, 60, size=-1.0, period_s=1.0)
    assert bench.last.state in FOLLOWING
    assert bench.commands[-1][0] < bench.contract.upper_rad[0] < bench.commands[slow][0]
    assert np.abs(np.diff(bench.commands[slow + 20 :], axis=0)).max() / 0.02 <= 0.1 + 1e-9
    assert bench.last.counters.violations == 0


# Leave to move


@pytest.mark.parametrize(
    ("dies", "ticks", "said"), [(True, 120, "HOLD"), (False, 580, "ENGAGING")], ids=["dead", "no chunks"]
)
def test_after_a_long_stand_nothing_moves_without_another_engage(dies: bool, ticks: int, said: str) -> None:
    bench = moving()
    bench.heartbeat = not dies
    bench.tick(ticks)
    assert (bench.last.state, bench.last.reason) == (State.DISENGAGED, Reason.AUTHORITY_AGED)
    assert said in bench.last.reason_text
    bench.heartbeat = True
    pose = np.array(bench.pose)
    feed(bench, 100)
    np.testing.assert_array_equal(bench.pose, pose)
    assert bench.engage().success
    feed(bench, 20)
    assert bench.last.state in FOLLOWING


def test_a_fault_that_comes_and_goes_does_not_keep_the_leave_alive() -> None:
    bench = Bench(LIVE)
    bench.tick(3)
    assert bench.engage().success
    for _ in range(12):
        bench.heartbeat = False
        bench.tick(20)
        bench.heartbeat = True
        bench.tick(12)
    assert bench.last.reason is Reason.AUTHORITY_AGED


def test_waiting_for_a_chunk_ends_after_a_while() -> None:
    bench = Bench(LIVE)
    bench.tick(3)
    assert bench.engage().success
    assert bench.tick(490).state is State.ENGAGING
    assert bench.tick(20).reason is Reason.AUTHORITY_AGED
    feed(bench, 50)
    assert bench.last.state is State.DISENGAGED


def test_where_leave_does_not_age_the_arm_goes_on_by_itself() -> None:
    bench = moving(SupervisorLimits(authority_ages=False))
    bench.heartbeat = False
    bench.tick(500)
    bench.heartbeat = True
    feed(bench, 40)
    assert bench.last.state in FOLLOWING


# Release


@pytest.mark.parametrize("fault", ["heartbeat", "joints", "stop", "estop", "foreign"])
def test_release_ends_the_commands_whatever_is_wrong(fault: str) -> None:
    bench = moving()
    if fault in ("heartbeat", "joints"):
        setattr(bench, fault, False)
        bench.tick(10)
    elif fault == "stop":
        bench.supervisor.stop(Reason.INTERNAL_ERROR)
    elif fault == "estop":
        bench.supervisor.estop()
    else:
        bench.supervisor.on_graph(foreign=("/other",), estop_publishers=())
    assert bench.supervisor.release().success
    bench.tick(15)
    latched = fault in ("stop", "estop")
    assert bench.last.command_rad is None
    assert bench.last.state.is_latched if latched else bench.last.state is State.DISENGAGED
    assert bench.tick(100).command_rad is None


# Emergency stops by station


def test_not_pressed_of_one_station_never_clears_another() -> None:
    bench = moving()
    beat(bench, LEFT, RIGHT)
    bench.supervisor.on_estop(True, bench.now_ns, source=LEFT)
    bench.tick(20)
    beat(bench, RIGHT)
    answer = bench.supervisor.reset_stop(bench.now_ns)
    assert answer.reason is Reason.ESTOP_PRESSED
    assert "/left" in answer.text
    beat(bench, LEFT, RIGHT)
    assert bench.supervisor.reset_stop(bench.now_ns).success


def test_the_silence_of_one_station_is_noticed_while_another_beats() -> None:
    bench = moving()
    beat(bench, LEFT)
    for _ in range(8):
        beat(bench, RIGHT)
        bench.offer(bench.sway())
        bench.tick()
    assert bench.last.reason is Reason.ESTOP_HEARTBEAT
    assert "/left" in bench.last.reason_text
    bench.tick(20)
    beat(bench, RIGHT)
    assert "/left" in bench.supervisor.reset_stop(bench.now_ns).text


def test_a_station_started_again_takes_its_own_place_and_nobody_elses() -> None:
    bench = moving()
    beat(bench, LEFT, RIGHT, pressed=(LEFT,))
    bench.tick(20)
    beat(bench, RIGHT, Source(publisher="c", name="/right"))
    assert "/left" in bench.supervisor.reset_stop(bench.now_ns).text
    again = Source(publisher="d", name="/left")
    beat(bench, RIGHT, Source(publisher="c", name="/right"), again)
    assert "/left" in bench.supervisor.reset_stop(bench.now_ns).text, "the first one is still there, only silent"
    bench.supervisor.on_graph(foreign=(), estop_publishers=("b", "c", "d"))
    beat(bench, RIGHT, Source(publisher="c", name="/right"), again)
    assert bench.supervisor.reset_stop(bench.now_ns).success


def test_a_namesake_that_beat_before_is_not_the_station_started_again() -> None:
    bench = moving()
    twin = Source(publisher="c", name="/left")
    beat(bench, LEFT, twin)
    beat(bench, LEFT, pressed=(LEFT,))
    for _ in range(20):
        beat(bench, twin)
        bench.tick()
    beat(bench, twin)
    assert bench.supervisor.reset_stop(bench.now_ns).reason is Reason.ESTOP_PRESSED


def test_a_station_that_left_unpressed_is_forgotten_by_a_reset_and_one_that_left_pressed_is_not() -> None:
    bench = moving()
    beat(bench, LEFT, RIGHT, pressed=(LEFT,))
    bench.tick(20)
    bench.supervisor.on_graph(foreign=(), estop_publishers=())
    assert "/left" in bench.supervisor.reset_stop(bench.now_ns).text
    beat(bench, LEFT)
    bench.tick(20)
    bench.supervisor.on_graph(foreign=(), estop_publishers=())
    assert bench.supervisor.reset_stop(bench.now_ns).success


@pytest.mark.parametrize("beats", range(20, 30))
def test_a_station_that_falls_silent_at_1_radps_means_at_most_0_1_rad_of_travel(beats: int) -> None:
    bench = Bench(SupervisorLimits(require_estop_heartbeat=False))
    bench.pose[0] = -1.0
    bench.running()
    steps_s = np.arange(50) * bench.contract.tick_period_ns / 1e9
    began_ns, home = bench.now_ns, np.array(bench.pose)
    for tick in range(beats + 20):
        if tick % 5 == 0:
            base = np.repeat(home[None], 50, axis=0)
            base[:, 0] += np.maximum(0.0, (bench.now_ns - began_ns) / 1e9 + steps_s)
            bench.offer(base)
        if tick <= beats:
            beat(bench, LEFT)
        bench.tick()
        if tick == beats:
            at_the_last_beat = np.array(bench.commands[-2])
            speed = (bench.commands[-1] - bench.commands[-2])[0] / 0.02
    assert speed == pytest.approx(1.0, abs=0.01)
    assert bench.last.state is State.ESTOP
    assert np.abs(bench.commands[-1] - at_the_last_beat).max() <= 0.1


# Resets


def test_a_stop_is_published_before_it_can_be_reset() -> None:
    bench = Bench(LIVE)
    bench.tick(3)
    beat(bench, LEFT, pressed=(LEFT,))
    beat(bench, LEFT)
    assert not bench.supervisor.reset_stop(bench.now_ns).success
    assert bench.tick().state is State.ESTOP
    assert bench.supervisor.reset_stop(bench.now_ns).success


def test_a_stop_for_lost_joint_states_is_not_reset_while_they_are_lost() -> None:
    bench = moving()
    bench.joints = False
    bench.tick(60)
    assert bench.last.reason is Reason.JOINTS_LOST
    assert bench.supervisor.reset_stop(bench.now_ns).reason is Reason.JOINTS_STALE
    bench.joints = True
    bench.tick(2)
    assert bench.supervisor.reset_stop(bench.now_ns).success


def test_an_emergency_stop_does_not_hide_that_joint_states_are_lost() -> None:
    bench = moving()
    bench.joints = False
    bench.tick(60)
    assert bench.supervisor.estop().success
    assert bench.tick().state is State.ESTOP
    assert bench.supervisor.reset_stop(bench.now_ns).reason is Reason.JOINTS_STALE
    bench.joints = True
    bench.tick(2)
    assert bench.supervisor.reset_stop(bench.now_ns).success
    bench.joints = False
    bench.tick(12)
    assert bench.supervisor.estop().success
    bench.tick()
    assert bench.supervisor.reset_stop(bench.now_ns).success, "the next stop has causes of its own"


def test_a_stop_for_a_foreign_publisher_is_not_reset_while_it_publishes() -> None:
    bench = moving()
    bench.supervisor.on_graph(foreign=("/other",), estop_publishers=())
    assert bench.tick().reason is Reason.FOREIGN_PUBLISHER
    bench.tick(20)
    assert "/other" in bench.supervisor.reset_stop(bench.now_ns).text
    bench.supervisor.on_graph(foreign=(), estop_publishers=())
    assert bench.supervisor.reset_stop(bench.now_ns).success
    bench.tick()
    assert bench.engage().success


def test_more_stations_than_can_be_watched_are_an_emergency_stop() -> None:
    bench = moving()
    for number in range(17):
        bench.supervisor.on_estop(False, bench.now_ns, source=Source(publisher=str(number)))
    assert bench.tick().state is State.ESTOP


# The enabling device


HELD = SupervisorLimits(require_enabling=True)
DEVICE = Source(publisher="c", name="/device")


def held(bench: Bench, ticks: int, *, every: int = 1, devices: tuple[Source, ...] = (DEVICE,)) -> None:
    for tick in range(ticks):
        if tick % every == 0:
            for device in devices:
                bench.supervisor.on_enabling(True, bench.now_ns, source=device)
        feed_one(bench, tick)


def feed_one(bench: Bench, tick: int) -> None:
    if tick % 5 == 0:
        bench.offer(bench.sway(size=1.0, period_s=2.0))
    bench.tick()


def enabled() -> Bench:
    bench = Bench(HELD)
    bench.tick(3)
    bench.supervisor.on_enabling(True, bench.now_ns, source=DEVICE)
    assert bench.engage().success
    held(bench, 60)
    assert bench.last.state in FOLLOWING
    return bench


def test_without_a_held_enabling_device_there_is_no_engage() -> None:
    bench = Bench(HELD)
    bench.tick(3)
    assert bench.engage().reason is Reason.NOT_ENABLED
    bench.supervisor.on_enabling(False, bench.now_ns, source=DEVICE)
    assert bench.engage().reason is Reason.NOT_ENABLED
    bench.supervisor.on_enabling(True, bench.now_ns, source=DEVICE)
    assert bench.engage().success


@pytest.mark.parametrize("released", [True, False], ids=["false", "silence"])
def test_who_lets_go_brings_the_arm_to_rest_in_a_fifth_of_a_second_and_only_engage_leads_on(released: bool) -> None:
    bench = enabled()
    lost = len(bench.decisions)
    if released:
        bench.supervisor.on_enabling(False, bench.now_ns, source=DEVICE)
    for tick in range(10):
        feed_one(bench, tick)
    after = bench.commands[-10:]
    assert len(bench.decisions) == lost + 10
    assert (after[-1] == after[-2]).all()
    assert bench.last.state is State.HOLD
    held(bench, 60)
    assert (bench.last.state, bench.last.reason) == (State.HOLD, Reason.NOT_ENABLED)
    assert bench.engage().success
    held(bench, 60)
    assert bench.last.state in FOLLOWING


@pytest.mark.parametrize("hidden_by", ["nothing", "joints", "clock", "pause"])
def test_a_device_let_go_for_a_moment_asks_for_engage_whatever_else_is_wrong_then(hidden_by: str) -> None:
    bench = enabled()
    bench.joints = hidden_by != "joints"
    held(bench, 8 if hidden_by == "joints" else 0)
    bench.offset_ns += 2_000_000_000 if hidden_by == "clock" else 0
    bench.now_ns += 150_000_000 if hidden_by == "pause" else 0
    bench.supervisor.on_enabling(False, bench.now_ns, source=DEVICE)
    if hidden_by != "nothing":
        bench.tick()
    bench.joints = True
    held(bench, 80)
    assert (bench.last.state, bench.last.reason) == (State.HOLD, Reason.NOT_ENABLED)
    assert bench.engage().success


def test_a_fault_that_ends_by_itself_does_not_take_the_place_of_a_reason_that_asks_for_engage() -> None:
    bench = enabled()
    bench.supervisor.on_enabling(False, bench.now_ns, source=DEVICE)
    bench.tick(2)
    bench.joints = False
    held(bench, 10)
    bench.joints = True
    held(bench, 60)
    assert (bench.last.state, bench.last.reason) == (State.HOLD, Reason.NOT_ENABLED)


def test_where_no_device_is_asked_for_one_that_is_let_go_means_nothing() -> None:
    bench = moving()
    for tick in range(20):
        bench.supervisor.on_enabling(False, bench.now_ns, source=DEVICE)
        bench.supervisor.on_estop(False, bench.now_ns, source=LEFT)
        feed_one(bench, tick)
    assert bench.last.state in FOLLOWING


def test_a_second_device_does_not_speak_for_the_first() -> None:
    bench = enabled()
    held(bench, 5, devices=(DEVICE, Source(publisher="d", name="/other")))
    assert bench.last.reason is Reason.NOT_ENABLED
    assert "/device, /other" in bench.last.reason_text


# A slow emergency stop


@pytest.mark.parametrize("every", [3, 5, 7])
def test_a_station_that_beats_too_slowly_is_told_its_rate_and_the_one_that_is_needed(every: int) -> None:
    bench = moving()
    for tick in range(40):
        if tick % every == 0:
            beat(bench, LEFT)
        bench.tick()
    late = [d for d in bench.decisions if d.reason is Reason.ESTOP_LATE]
    assert late, f"{50 / every:.0f} Hz"
    assert f"it beat at {50 / every:.0f} Hz, 25 Hz are needed" in late[-1].reason_text


def test_from_five_hertz_on_a_station_is_accepted_by_who_allows_for_the_way_that_costs() -> None:
    """0.25 s at the speed limit of 2 rad/s and one stop: 0.6 rad at most between the last beat and rest."""
    bench = moving(SupervisorLimits(estop_hold_s=0.25, estop_timeout_s=0.4))
    for tick in range(100):
        if tick % 10 == 0:
            beat(bench, LEFT)
        feed_one(bench, tick)
    assert Reason.ESTOP_LATE not in {d.reason for d in bench.decisions}
    assert bench.last.state in FOLLOWING
