# SPDX-License-Identifier: Apache-2.0
"""States and reasons: what is published is enumerated, explained, and the same as in the message."""

import re
from pathlib import Path

import pytest

from sigma_ros.supervisor.reasons import Reason, State

MESSAGE = Path(__file__).resolve().parents[2] / "msg" / "SupervisorState.msg"


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


def test_the_safety_page_lists_every_reason_as_it_is() -> None:
    page = (MESSAGE.parents[1] / "docs" / "safety.md").read_text(encoding="utf-8")
    listed = re.findall(r"^\| `([A-Z_]+)` \| (.*) \| (.*) \|$", page, flags=re.MULTILINE)
    assert listed == [(reason.name, reason.sentence, reason.remedy) for reason in Reason]
