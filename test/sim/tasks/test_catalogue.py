# SPDX-License-Identifier: Apache-2.0
"""The bed's law: two histories end in the same scene, joints and window, and only the cue told what to do."""

from dataclasses import replace

import numpy as np
import pytest

from sigma_ros.errors import SigmaError, UsageError
from sigma_ros.sim.tasks.catalogue import TASKS, chosen_option, draw, succeeded, task_named, told, twin
from sigma_ros.sim.tasks.demonstration import (
    Lead,
    Leader,
    Led,
    TaskDemonstration,
    VerbExpert,
    demonstrate_task,
    nearest_option,
    remaining,
)
from sigma_ros.sim.tasks.task import GO, Flash, Home, PlaceIn, Tap, TaskEpisode, TaskEvent, Wait
from sigma_ros.sim.tasks.world import FEATURES, TOKENS, TaskArm
from sigma_ros.values import WINDOW_TICKS

SEED = 61
PASSIVE = ("M1", "M2", "M3", "O1")
"""Memory tasks whose cue is only seen; in V1 the arm's own movement is the cue."""


@pytest.fixture(scope="module")
def arm() -> TaskArm:
    return TaskArm()


def parting_tick(one: TaskDemonstration, other: TaskDemonstration) -> int:
    """The first tick at which the expert does something else in the other episode."""
    ticks = min(one.ticks, other.ticks)
    differs = np.any(one.commands_rad[:ticks] != other.commands_rad[:ticks], axis=1)
    return int(np.flatnonzero(differs)[0])


@pytest.mark.parametrize("name", PASSIVE)
def test_two_histories_end_in_the_same_window_and_only_the_cue_differs(arm, name):
    episode = draw(TASKS[name], SEED)
    one, other = (demonstrate_task(arm, each) for each in (episode, twin(episode)))
    assert one.episode.text == other.episode.text
    choice = parting_tick(one, other)
    assert choice >= np.ceil(episode.choice_s * 30)
    window = slice(choice - WINDOW_TICKS + 1, choice + 1)
    np.testing.assert_array_equal(one.tokens[window], other.tokens[window])
    np.testing.assert_array_equal(one.positions_rad[window], other.positions_rad[window])
    early = slice(0, 30)
    assert np.any(one.tokens[early] != other.tokens[early])
    np.testing.assert_array_equal(one.positions_rad[early], other.positions_rad[early])


def test_after_a_visit_the_window_tells_no_more_than_an_encoder_count_of_where_the_arm_was(arm):
    episode = draw(TASKS["V1"], SEED)
    one, other = (demonstrate_task(arm, each) for each in (episode, twin(episode)))
    choice = int(np.floor(episode.choice_s * 30))
    window = slice(choice - WINDOW_TICKS + 1, choice + 1)
    count_rad = 2 * np.pi / 4096
    assert np.abs(one.positions_rad[window] - other.positions_rad[window]).max() <= 1.01 * count_rad
    np.testing.assert_allclose(one.tokens[window], other.tokens[window], atol=0.01)


@pytest.mark.parametrize("name", ["L1", "L2"])
def test_language_tasks_differ_in_nothing_but_the_text(arm, name):
    episode = draw(TASKS[name], SEED)
    other = draw(TASKS[name], SEED, goal=(episode.goal + 1) % 4)
    assert episode.text != other.text
    assert replace(other, goal=episode.goal, text=episode.text, oracle=episode.oracle, verbs=episode.verbs) == episode


@pytest.mark.parametrize("name", list(TASKS))
def test_the_expert_does_every_option_of_every_task(arm, name):
    task = TASKS[name]
    for goal in sorted({*task.trained_on, *task.tested_on})[:4]:
        done = demonstrate_task(arm, draw(task, SEED + goal, goal=goal), disturbance_rad=0.05)
        assert done.success, (goal, done.events)
        assert chosen_option(task, done.events) == goal
        assert done.ticks / 30 <= task.limit_s
        assert done.tokens.shape[1:] == (TOKENS, FEATURES)


@pytest.mark.parametrize("name", list(TASKS))
def test_a_seed_is_an_episode_and_its_goals_are_spread(name):
    task = TASKS[name]
    assert draw(task, 5) == draw(task, 5)
    goals = [draw(task, seed).goal for seed in range(60)]
    assert set(goals) == set(task.trained_on)
    assert {draw(task, seed, test=True).goal for seed in range(60)} == set(task.tested_on)


def test_a_composition_that_is_tested_was_never_shown():
    assert not set(TASKS["L2"].trained_on) & set(TASKS["L2"].tested_on)


@pytest.mark.parametrize("name", [*PASSIVE, "V1"])
def test_only_the_oracle_is_told_the_goal(name):
    episode = draw(TASKS[name], SEED)
    assert episode.text == twin(episode).text
    assert told(episode).text != told(twin(episode)).text


def test_lamps_are_bodies_that_come_and_go_and_touch_nothing(arm):
    lit = replace(draw(TASKS["M3"], SEED), flashes=(Flash(1, 0.0, 0.1), Flash(GO, 0.2)))
    dark = replace(lit, flashes=())
    positions = []
    for episode in (lit, dark):
        arm.begin(episode)
        rows = []
        for _ in range(10):
            arm.look_around()
            rows.append(arm.tokens())
            arm.step(arm.command_rad, 1 / 30)
        positions.append(arm.positions_rad())
        shown = np.array(rows)[:, 4:8, 0]
        assert shown.any() == bool(episode.flashes)
        if episode.flashes:
            assert shown[0].tolist() == [0.0, 1.0, 0.0, 0.0]
            assert shown[-1].tolist() == [0.0, 0.0, 0.0, 1.0]
    np.testing.assert_array_equal(*positions)


def test_choice_and_success_are_told_apart():
    episode = draw(TASKS["M1"], SEED, goal=0)
    assert chosen_option(episode.task, ()) is None
    wrong = (TaskEvent("placed", 0, 1, 5.0),)
    assert chosen_option(episode.task, wrong) == 1
    assert not succeeded(episode, wrong)
    once = (TaskEvent("tapped", 0, 0, 3.0),)
    ordered = draw(TASKS["O1"], SEED)
    assert chosen_option(ordered.task, once) is None
    counted = draw(TASKS["C1"], SEED, goal=2)
    taps = tuple(TaskEvent("tapped", 1, 1, float(t)) for t in range(4))
    assert [chosen_option(counted.task, taps[:n]) for n in (0, 1, 3, 4)] == [None, 0, 2, 3]
    assert [succeeded(counted, taps[:n]) for n in (2, 3, 4)] == [False, True, False]


def test_verbs_become_phases_and_a_tap_is_an_event(arm):
    verbs = (Wait(0.5), Tap(2), Home())
    episode = replace(draw(TASKS["M3"], SEED), verbs=verbs, flashes=())
    arm.begin(episode)
    path = VerbExpert(arm).plan(episode)
    assert [w.phase for w in path.waypoints] == ["rest", "wait", "reach", "tap", "release", "return"]
    assert path.leave_s[1] == pytest.approx(0.5, abs=0.002)
    events = [(event.kind, event.place) for event in demonstrate_task(arm, episode).events]
    assert events == [("tapped", 2)]


def replayed(shown: TaskDemonstration) -> Leader:
    """A leader that does what was shown, tick after tick; behind its end it stays."""
    rows = np.pad(shown.commands_rad, ((0, 400), (0, 0)), mode="edge").astype(np.float64)

    def begin(_episode: TaskEpisode) -> Led:
        commands = iter(rows)
        return lambda _tokens, _positions: next(commands)

    return begin


@pytest.mark.parametrize("name", ["L1", "M1", "O1", "C1", "V1"])
@pytest.mark.parametrize("share", [0.3, 0.5, 0.7, 0.9])
def test_the_expert_goes_on_from_wherever_it_is_led(arm, name, share):
    episode = draw(TASKS[name], SEED)
    shown = demonstrate_task(arm, episode)
    lead = Lead(leader=replayed(shown), lasts_s=share * shown.ticks / 30)
    done = demonstrate_task(arm, episode, lead=lead)
    assert done.success, done.events
    taken = int(done.led.sum())
    assert 0 <= taken - share * shown.ticks <= 1.0
    assert done.led[:taken].all()
    np.testing.assert_allclose(done.positions_rad[:taken], shown.positions_rad[:taken], atol=0.01)
    np.testing.assert_allclose(done.commands_rad[taken], done.commands_rad[taken - 1], atol=1e-6)


def test_led_by_nobody_the_expert_does_what_it_does_alone(arm):
    episode = draw(TASKS["L1"], SEED)
    alone = demonstrate_task(arm, episode, disturbance_rad=0.05)
    done = demonstrate_task(arm, episode, disturbance_rad=0.05, lead=Lead(leader=replayed(alone), lasts_s=0.0))
    assert not done.led.any()
    np.testing.assert_array_equal(done.commands_rad, alone.commands_rad)
    np.testing.assert_array_equal(done.positions_rad, alone.positions_rad)


def test_with_any_option_the_expert_ends_what_the_leader_has_begun(arm):
    """Led to the other brick, it goes on with that one; its own episode it cannot do once the other is placed."""
    episode = draw(TASKS["L1"], SEED, goal=0)
    other = demonstrate_task(arm, draw(TASKS["L1"], SEED, goal=3))
    lead = Lead(leader=replayed(other), lasts_s=0.6 * other.ticks / 30)
    done = demonstrate_task(arm, episode, lead=lead, any_option=True)
    assert done.success
    assert done.episode.goal // 2 == 1
    with pytest.raises(SigmaError, match="cannot be gone on with"):
        demonstrate_task(arm, episode, lead=replace(lead, lasts_s=9.0))
    assert [event.kind for event in arm.events] == ["placed"]
    assert nearest_option(episode, arm).goal == 3
    assert not any(isinstance(verb, PlaceIn) for verb in remaining(nearest_option(episode, arm), arm))


def test_an_unknown_task_is_refused():
    with pytest.raises(UsageError, match="no such task"):
        task_named("M9")
