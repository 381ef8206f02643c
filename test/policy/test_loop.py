# SPDX-License-Identifier: Apache-2.0
"""Laws of the policy loop, without threads: commits are never skipped, plans give way or move on, epochs stay apart."""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from model_stand_in import CONTRACT, Model, finish, gap, memory_of, policy_loop, traced, window
from stub_runtime import StubState

from sigma_ros.errors import UsageError
from sigma_ros.policy.alarm import ALARM_ACTIONS, AlarmAction, AlarmSettings
from sigma_ros.policy.job import (
    Encode,
    Failed,
    PassGap,
    Proposed,
    Refresh,
    Remember,
    Remembered,
    Rescaled,
    Step,
    Unused,
    execute,
)
from sigma_ros.policy.loop import MAX_WAITING, PolicyLoop, PolicySettings
from sigma_ros.policy.schedule import Schedule
from sigma_ros.values import AdapterSettings, Window


def busy_with(loop: PolicyLoop, tick: int):
    """A tick comes in and its job has begun."""
    assert loop.on_item(window(tick), 0)
    job = loop.begin(0)
    assert job is not None
    return job


def test_a_waiting_plan_gives_way_to_a_newer_one_but_a_commit_does_not() -> None:
    loop, model = policy_loop(), Model()
    jobs = traced(loop)
    job = busy_with(loop, 0)
    for tick in (8, 16, 24, 32, 40):
        loop.on_item(window(tick), 0)
    loop.on_result(execute(job, model))
    finish(loop, model)
    kinds = [(kind, tick, commits) for kind, _, tick, _, commits, _ in jobs]
    assert kinds == [("Step", 0, True), ("Remember", 16, True), ("Step", 32, True), ("Step", 40, False)]


def test_a_free_model_looks_at_ticks_that_ask_for_nothing_and_nobody_is_told() -> None:
    loop, model = (
        PolicyLoop(CONTRACT, policy_loop()._settings, check_units=lambda _: (), lockstep=False, encodes_ahead=True),
        Model(),
    )
    job = busy_with(loop, 0)
    loop.on_item(window(1), 0)
    loop.on_item(window(2), 0)
    loop.on_result(execute(job, model))
    loop.outcomes()
    look = loop.begin(0)
    assert isinstance(look, Encode), "a model that comes free"
    assert look.window.tick == 2, "the newest, whose window has the others"
    assert loop.begin(0) is None, "one job at a time"
    seen = StubState(0, "seen")
    loop.on_result((execute(look, model)[0], seen))
    assert (loop.outcomes(), loop.state) == ([], seen), "the state has the pictures, nobody is told"
    loop.on_item(window(3), 0)
    loop.on_item(gap(4), 0)
    assert loop.begin(0) is None, "a gap has no pictures"
    loop.on_item(window(7), 0)
    assert isinstance(busy_with(loop, 8), Step), "a plan goes first, and sees the whole window"


def test_a_look_of_before_a_restart_is_forgotten() -> None:
    loop, model = (
        PolicyLoop(CONTRACT, policy_loop()._settings, check_units=lambda _: (), lockstep=True, encodes_ahead=True),
        Model(),
    )
    look = busy_with(loop, 1)
    loop.on_item(window(2), 0)
    loop.restart()
    loop.on_result(execute(look, model))
    assert (loop.state, loop.begin(0)) == (None, None)


def test_a_plan_that_waits_moves_to_the_newest_tick_and_is_counted_as_skipped_once() -> None:
    loop, model = policy_loop(), Model()
    job = busy_with(loop, 0)
    assert not loop.awaits_plan
    for tick in range(1, 16):
        loop.on_item(window(tick), 0)
        assert loop.awaits_plan is (tick >= 8)
    loop.on_result(execute(job, model))
    finish(loop, model)
    assert [call[1] for call in model.calls] == [0, 15]
    assert loop.skipped == 0
    assert not loop.awaits_plan


@given(st.lists(st.integers(0, 12), min_size=1, max_size=40))
def test_the_memory_is_the_same_however_slow_the_model_is(done_after: list[int]) -> None:
    """Commits happen in order at the stride's ticks, whether their chunks were made or not."""
    loop, model = policy_loop(), Model()
    job, waits, expected = None, 0, 0
    for tick in range(200):
        assert loop.on_item(window(tick), tick)
        job = job or loop.begin(tick)
        if job is not None and waits <= 0:
            loop.on_result(execute(job, model))
            job, waits = loop.begin(tick), done_after[tick % len(done_after)]
        waits -= 1
        for outcome in loop.outcomes():
            if outcome.request.commits:
                expected += 1
                assert outcome.request.item.tick == 16 * (expected - 1)
                assert outcome.telepathy.tau_l2 == expected
            else:
                assert memory_of(outcome) == expected + 1


def test_commits_alone_never_keep_a_plan_from_being_made() -> None:
    """A machine on which a commit takes as long as the stride: every second commit plans from its own tick."""
    loop, model = policy_loop(), Model()
    job = busy_with(loop, 0)
    for tick in (16, 17, 32, 33):
        loop.on_item(window(tick), 0)
    loop.on_result(execute(job, model))
    outcomes = finish(loop, model)
    made = [(outcome.request.item.tick, isinstance(outcome, Proposed)) for outcome in outcomes]
    assert made == [(0, True), (16, False), (32, True), (33, True)]
    assert memory_of(outcomes[-1]) == 4, "three commits, in order, and its own update"


def test_a_residual_is_renewed_only_while_the_model_is_free_and_a_chunk_is_in_execution() -> None:
    loop, model = policy_loop(schedule=Schedule(50, 100), residual_every_tick=True), Model()
    job = busy_with(loop, 0)
    loop.on_item(window(1), 0)
    loop.on_result(execute(job, model))
    finish(loop, model)
    loop.on_item(window(2), 0)
    job = loop.begin(0)
    assert isinstance(job, Refresh), "the tick before came while the model was busy"
    loop.on_item(window(3), 0)
    loop.on_result(execute(job, model))
    [outcome] = finish(loop, model)
    assert isinstance(outcome, Proposed)
    assert outcome.published
    assert outcome.chunk.horizon == 48


def test_a_renewed_residual_goes_on_with_the_fade_of_the_chunk_it_renews() -> None:
    """A fade that began anew at every tick would never end."""
    loop, model = policy_loop(schedule=Schedule(50, 100), residual_every_tick=True, crossfade_steps=6), Model()
    fades = []
    for tick in range(12):
        loop.on_item(window(tick), 0)
        outcome, state = execute(loop.begin(0), model)
        loop.on_result((replace(outcome, took_ns=0 if tick else 2 * CONTRACT.tick_period_ns), state))
        fades += [outcome.chunk.crossfade_steps for outcome in loop.outcomes()]
    assert fades == [6, 6, 6, 5, 4, 3, 2, 1, 0, 0, 0, 0], "it was there two ticks late"


def test_a_residual_is_renewed_on_no_chunk_of_another_epoch_and_on_none_that_has_ended() -> None:
    loop, model = policy_loop(schedule=Schedule(50, 16), residual_every_tick=True), Model()
    loop.on_item(window(0), 0)
    finish(loop, model)
    loop.on_item(gap(50), 0)
    finish(loop, model)
    for item in (window(51), window(16, epoch=1), window(17, epoch=1)):
        loop.on_item(item, 0)
        assert not any(isinstance(outcome, Proposed) for outcome in finish(loop, model))


def test_guided_the_base_is_led_on_from_what_will_be_left_on_arrival() -> None:
    loop, model = policy_loop(stitching="rtc"), Model()
    for tick in (0, 8):
        loop.on_item(window(tick), 0, late_ns=2 * CONTRACT.tick_period_ns)
        outcome, state = execute(loop.begin(0), model)
        loop.on_result((replace(outcome, took_ns=CONTRACT.tick_period_ns + 5), state))
    [first, second] = model.left_overs
    assert first is None
    assert len(second.base_rad) == 42
    assert second.delay_steps == 3


def test_in_lockstep_every_tick_that_asks_is_worked_on_and_windows_are_scored() -> None:
    loop, model = policy_loop(lockstep=True, schedule=Schedule(5, 8)), Model()
    for tick in range(100):
        assert loop.on_item(window(tick), 0)
    outcomes = finish(loop, model)
    asked = [tick for tick in range(100) if tick % 5 == 0 or tick % 8 == 0 or tick % 16 == 0]
    assert [outcome.request.item.tick for outcome in outcomes] == asked
    assert all(outcome.published is (outcome.request.item.tick % 5 == 0) for outcome in outcomes)
    assert [outcome.chunk.chunk_id for outcome in outcomes] == list(range(len(asked)))
    assert [outcome.request.baseline for outcome in outcomes] == [tick % 16 == 0 for tick in asked]


def test_a_tick_that_is_only_scored_leaves_the_state_alone() -> None:
    loop, model = policy_loop(lockstep=True, schedule=Schedule(100, 32)), Model()
    for tick in (0, 16, 32):
        loop.on_item(window(tick), 0)
    loop.on_result(execute(loop.begin(0), model))
    kept = loop.state
    scored, _ = execute(loop.begin(0), model)
    loop.on_result((scored, "another"))
    assert loop.state is kept


def test_a_model_that_cannot_catch_up_loses_all_that_waits_and_its_memory() -> None:
    loop, model = policy_loop(), Model()
    job = busy_with(loop, 0)
    accepted = [loop.on_item(window(tick), 0) for tick in (16, 32, 48, 64)]
    assert accepted == [True] * MAX_WAITING + [False]
    assert loop.overruns == 1
    loop.on_result(execute(job, model))
    assert finish(loop, model) == []
    assert loop.state is None


def test_a_gap_takes_its_turn_and_a_plan_that_waits_gives_way_to_it() -> None:
    loop, model = policy_loop(), Model()
    job = busy_with(loop, 0)
    loop.on_item(window(8), 0)
    loop.on_item(gap(9), 0, task="t")
    loop.on_result(execute(job, model))
    passing = loop.begin(0)
    assert isinstance(passing, PassGap)
    loop.on_result(execute(passing, model))
    planned, unused = loop.outcomes()
    assert isinstance(planned, Proposed)
    assert isinstance(unused, Unused)
    assert (unused.gap.tick, unused.request.task) == (9, "t")
    assert loop.begin(0) is None


def test_of_an_epoch_that_ended_nothing_waits_any_more() -> None:
    loop, model = policy_loop(), Model()
    job = busy_with(loop, 0)
    loop.on_item(window(16), 0)
    loop.on_item(window(0, epoch=1), 0)
    loop.on_result(execute(job, model))
    outcomes = finish(loop, model)
    assert [(o.request.item.epoch, o.request.item.tick) for o in outcomes] == [(0, 0), (1, 0)]
    assert [memory_of(outcome) for outcome in outcomes] == [1, 1], "each epoch begins with an empty memory"


def test_after_a_restart_nothing_of_before_comes_back() -> None:
    loop, model = policy_loop(), Model()
    job = busy_with(loop, 0)
    loop.on_item(window(8), 0)
    loop.restart()
    loop.on_item(window(16), 0)
    assert loop.begin(0) is None, "the model is still at work"
    loop.on_result(execute(job, model))
    [outcome] = finish(loop, model)
    assert outcome.request.item.tick == 16
    assert memory_of(outcome) == 1


@pytest.mark.parametrize(("lockstep", "first"), [(False, 1), (True, 0)])
def test_chunk_ids_go_on_after_a_restart_but_in_lockstep(lockstep: bool, first: int) -> None:
    loop, model = policy_loop(lockstep=lockstep), Model()
    for epoch in range(2):
        loop.on_item(window(0, epoch=epoch), 0)
        [outcome] = finish(loop, model)
        assert outcome.chunk.chunk_id == epoch * first
        loop.restart()


def test_a_failure_is_an_outcome_and_the_memory_is_not_trusted_afterwards() -> None:
    loop, model = policy_loop(lockstep=True), Model()
    for tick in (0, 8, 16):
        loop.on_item(window(tick), 0)
    loop.on_result(execute(loop.begin(0), model))
    loop.on_result((Failed(request=loop.begin(0).request, error="Traceback\nCUDA out of memory"), None))
    _, failed, after = finish(loop, model)
    assert isinstance(failed, Failed)
    assert failed.last_line == "CUDA out of memory"
    assert memory_of(after) == 1


def test_an_epoch_inherits_a_memory_of_its_own_task_once() -> None:
    for task, expected in (("t", 41), ("another", 1)):
        loop, model = policy_loop(), Model()
        loop.restart(replace(model.initial_state(epoch=7, task=task), memory=40))
        loop.on_item(window(0), 0)
        [outcome] = finish(loop, model)
        assert memory_of(outcome) == expected
        loop.on_item(window(0, epoch=1), 0)
        assert memory_of(finish(loop, model)[0]) == 1


def test_new_settings_send_the_chunk_in_execution_again_and_hold_for_the_one_in_the_making() -> None:
    loop, model = policy_loop(), Model()
    loop.on_item(window(0), 0)
    [before] = finish(loop, model)
    job = busy_with(loop, 8)
    calm = AdapterSettings(max_scale=0.25)
    loop.configure(PolicySettings(schedule=Schedule(8, 16), adapter=calm))
    loop.on_result(execute(job, model))
    again, later = loop.outcomes()
    assert isinstance(again, Rescaled)
    assert again.chunk.base_rad is before.chunk.base_rad
    for outcome in (again, later):
        assert outcome.chunk.settings == calm
        assert outcome.chunk.scale <= 0.25
    assert [before.chunk.chunk_id, again.chunk.chunk_id, later.chunk.chunk_id] == [0, 1, 2]


def test_the_units_are_judged_once_an_epoch_and_make_gaps_of_all_its_windows() -> None:
    asked = []

    def check(positions_rad) -> tuple[str, ...]:
        asked.append(positions_rad)
        return ("elbow_flex",) if len(asked) == 1 else ()

    settings = PolicySettings(schedule=Schedule(8, 16), adapter=AdapterSettings())
    loop, model = PolicyLoop(CONTRACT, settings, check_units=check, lockstep=False), Model()
    for tick in range(9):
        loop.on_item(window(tick), 0)
    outcomes = finish(loop, model)
    assert [(type(outcome), outcome.request.item.tick) for outcome in outcomes] == [(Unused, 8)]
    assert "elbow_flex" in outcomes[0].gap.reasons[0]
    assert loop.blocked == ("elbow_flex",)
    loop.on_item(window(0, epoch=1), 0)
    assert isinstance(finish(loop, model)[0], Proposed)
    assert len(asked) == 2


def test_who_refuses_a_tick_for_its_units_refuses_its_epoch() -> None:
    loop = policy_loop(lockstep=True)
    job = busy_with(loop, 0)
    refused = replace(gap(0), reasons=("units: of another arm",))
    loop.on_result((Unused(request=job.request, gap=refused), None))
    assert loop.judge(window(1)).reasons == ("units: of another arm",)
    following = window(0, epoch=1)
    assert loop.judge(following) is following


def test_a_commit_without_a_plan_makes_no_chunk_live_and_one_for_the_score_in_lockstep() -> None:
    for lockstep, kind, outcome_kind in ((False, Remember, Remembered), (True, Step, Proposed)):
        loop, model = policy_loop(lockstep=lockstep, schedule=Schedule(50, 16)), Model()
        loop.on_item(window(16), 0)
        job = loop.begin(0)
        assert isinstance(job, kind)
        loop.on_result(execute(job, model))
        [outcome] = loop.outcomes()
        assert isinstance(outcome, outcome_kind)
        assert loop.state.memory == 1


class Doubtful(Model):
    """Proposes one pose, and from a tick on another one at every other plan."""

    def __init__(self, changes_at: int) -> None:
        super().__init__()
        self.changes_at, self.planned = changes_at, 0

    def step(self, window: Window, state: StubState, **options):
        inference, after = super().step(window, state, **options)
        self.planned += 1
        pose = 0.4 * (self.planned % 2) if window.tick >= self.changes_at else 0.0
        base = np.full(inference.chunk.base_rad.shape, pose)
        chunk = replace(inference.chunk, base_rad=base, residual_rad=np.zeros_like(base))
        return SimpleNamespace(chunk=chunk, telepathy=inference.telepathy), after


def planned_with(alarm: AlarmSettings, *, changes_at: int = 24, ticks: int = 64, **settings: object) -> list[Proposed]:
    loop, model = policy_loop(alarm=alarm, **settings), Doubtful(changes_at)
    found = []
    for tick in range(ticks):
        loop.on_item(window(tick), 0)
        found += [outcome for outcome in finish(loop, model) if isinstance(outcome, Proposed)]
    return found


def test_a_chunk_tells_how_far_it_is_from_what_the_one_before_had_planned() -> None:
    told = [(o.chunk.tick, o.chunk.disagreement_rad, o.chunk.alarmed) for o in planned_with(AlarmSettings())]
    assert [tick for tick, *_ in told] == list(range(0, 64, 8))
    assert [apart for _, apart, _ in told] == pytest.approx([0.0] * 4 + [0.4] * 4)
    assert not any(alarmed for *_, alarmed in told)


@pytest.mark.parametrize("action", ALARM_ACTIONS)
def test_no_action_changes_anything_while_there_is_no_alarm(action: AlarmAction) -> None:
    calm = planned_with(AlarmSettings(threshold_rad=0.2, action=action), changes_at=1000)
    assert [outcome.chunk.tick for outcome in calm] == list(range(0, 64, 8))


def test_on_an_alarm_the_policy_plans_sooner_or_stops_as_it_was_told() -> None:
    ticks = {
        action: [o.chunk.tick for o in planned_with(AlarmSettings(threshold_rad=0.2, action=action))]
        for action in ALARM_ACTIONS
    }
    assert ticks["none"] == list(range(0, 64, 8))
    assert ticks["replan"] == [0, 8, 16, 24, *range(32, 64, 4)]
    assert ticks["stop"] == [0, 8, 16, 24, 32]


def test_after_a_stop_a_reset_of_the_memory_lets_it_plan_again() -> None:
    loop, model = policy_loop(alarm=AlarmSettings(threshold_rad=0.2, action="stop")), Doubtful(0)
    for tick in (0, 8, 16):
        loop.on_item(window(tick), 0)
        finish(loop, model)
    loop.restart()
    loop.on_item(window(0, epoch=1), 0)
    assert [type(outcome) for outcome in finish(loop, model)] == [Proposed]


def test_a_joint_that_stands_where_no_success_was_is_an_alarm() -> None:
    calm = planned_with(AlarmSettings(joint="gripper", below_rad=-0.01), changes_at=1000)
    assert not any(outcome.chunk.alarmed for outcome in calm)
    low = planned_with(AlarmSettings(joint="gripper", below_rad=0.01, action="stop"), changes_at=1000)
    assert [(o.chunk.tick, o.chunk.alarmed) for o in low] == [(0, True)], "the stand-in's arm is at 0"
    with pytest.raises(UsageError, match="no such joint"):
        policy_loop(alarm=AlarmSettings(joint="tail"))


def test_a_renewed_residual_keeps_the_alarm_of_its_plan() -> None:
    told = planned_with(AlarmSettings(threshold_rad=0.2), residual_every_tick=True, ticks=40)
    assert {o.chunk.alarmed for o in told if 32 <= o.chunk.tick < 40} == {True}
    assert {o.chunk.alarmed for o in told if o.chunk.tick < 32} == {False}
