# SPDX-License-Identifier: Apache-2.0
"""States, what leads from one to another, and reasons: enumerated, explained, the same as in message and page."""

import re
import runpy
from pathlib import Path

import pytest

from sigma_ros.supervisor.reasons import TRANSITIONS, Event, Reason, State, diagram

MESSAGE = Path(__file__).resolve().parents[2] / "msg" / "SupervisorState.msg"
PAGE = MESSAGE.parents[1] / "docs" / "safety.md"
MOTION = (State.RUN, State.BASE_ONLY)


def test_states_have_the_messages_numbers() -> None:
    constants = dict(re.findall(r"^uint8 (\w+)=(\d+)$", MESSAGE.read_text(encoding="utf-8"), flags=re.MULTILINE))
    assert {state.name: int(state) for state in State} == {name: int(value) for name, value in constants.items()}


def test_new_targets_are_taken_in_three_states_and_two_are_latched() -> None:
    assert [s.name for s in State if s.may_move] == ["ENGAGING", "RUN", "BASE_ONLY"]
    assert [s.name for s in State if s.is_latched] == ["STOPPED", "ESTOP"]


@pytest.mark.parametrize("reason", Reason, ids=lambda reason: reason.name)
def test_every_reason_says_what_happened_without_jargon(reason: Reason) -> None:
    assert reason.sentence
    assert not reason.sentence.endswith(".")
    assert reason.text("7 ms").startswith(f"{reason.sentence} (7 ms)")
    assert reason.remedy in reason.text()
    assert reason.text() == (f"{reason.sentence}; {reason.remedy}" if reason.remedy else reason.sentence)


@pytest.mark.ros  # the script makes the page of parameters, too
def test_the_sites_page_lists_every_reason_as_it_is() -> None:
    page = runpy.run_path(str(PAGE.parents[1] / "scripts" / "docs_pages.py"))["reasons_page"]()
    listed = re.findall(r"^\| `([A-Z_]+)` \| (.*) \| (.*) \|$", page, flags=re.MULTILINE)
    assert listed == [(reason.name, reason.sentence, reason.remedy) for reason in Reason]


def test_motion_is_entered_by_setting_off_alone_and_never_from_rest_states() -> None:
    for (state, event), target in TRANSITIONS.items():
        if target in MOTION:
            assert event in (Event.SET_OFF, Event.SET_OFF_ON_BASE)
            assert state.may_move


def test_a_latched_stop_is_left_by_reset_alone_and_reset_never_engages() -> None:
    for (state, event), target in TRANSITIONS.items():
        if state.is_latched and not target.is_latched:
            assert (event, target) == (Event.RESET, State.DISENGAGED)
        if event is Event.RESET:
            assert state.is_latched


def test_only_an_operator_leads_out_of_disengaged_into_what_may_move() -> None:
    ways = {event for (state, event), target in TRANSITIONS.items() if not state.may_move and target.may_move}
    assert ways == {Event.ENGAGE, Event.WELL}
    assert (State.DISENGAGED, Event.WELL) not in TRANSITIONS


@pytest.mark.parametrize("state", [state for state in State if state is not State.ESTOP])
def test_the_emergency_stop_is_heeded_in_every_state(state: State) -> None:
    assert TRANSITIONS[state, Event.ESTOP] is State.ESTOP


@pytest.mark.parametrize("state", [State.ENGAGING, State.RUN, State.BASE_ONLY, State.HOLD])
def test_release_and_faults_are_heeded_in_every_engaged_state(state: State) -> None:
    assert TRANSITIONS[state, Event.RELEASE] is TRANSITIONS[state, Event.FAULT] is State.HOLD


def test_the_table_cannot_be_changed() -> None:
    with pytest.raises(TypeError):
        TRANSITIONS[State.HOLD, Event.SET_OFF] = State.RUN  # type: ignore[index]


def test_the_page_shows_the_table() -> None:
    assert diagram() in PAGE.read_text(encoding="utf-8"), f"put this into docs/safety.md:\n{diagram()}"
