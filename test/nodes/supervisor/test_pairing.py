# SPDX-License-Identifier: Apache-2.0
"""Pairing: only the token that was shown at the start is taken, and it cannot be tried out."""

from hypothesis import given
from hypothesis import strategies as st

from sigma_ros.nodes.supervisor.pairing import GUESS_PAUSE_NS, Pairing


def paired() -> tuple[Pairing, str]:
    shown: list[str] = []
    pairing = Pairing(shown.append)
    assert len(shown) == 1
    return pairing, shown[0].split()[-1]


def test_the_token_that_was_shown_is_taken_as_often_as_it_is_given() -> None:
    pairing, token = paired()
    assert [pairing.judge(token, now) for now in (0, 1, 2)] == [None] * 3


def test_each_start_has_another_token() -> None:
    assert len({paired()[1] for _ in range(20)}) == 20


@given(guess=st.text(max_size=40))
def test_no_other_text_is_taken_and_after_it_nothing_for_a_while(guess: str) -> None:
    pairing, token = paired()
    if guess == token:
        return
    assert pairing.judge(guess, 0) is not None
    assert pairing.judge(token, GUESS_PAUSE_NS - 1) is not None
    assert pairing.judge(token, GUESS_PAUSE_NS) is None
