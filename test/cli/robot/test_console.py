# SPDX-License-Identifier: Apache-2.0
"""The keys of a terminal become orders and nothing else; the line says how the arm stands; the terminal comes back."""

import io
import os
import pty
import sys
import termios
from collections.abc import Iterator
from types import SimpleNamespace

import pytest
from rich.console import Console

from sigma_ros.cli.robot.console import KEYS, keys, line
from sigma_ros.errors import UsageError


@pytest.fixture
def keyboard(monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[int, int]]:
    """The user's end of a terminal that standard input is, and the other one."""
    user, terminal = pty.openpty()
    with os.fdopen(terminal, closefd=False) as stdin:
        monkeypatch.setattr(sys, "stdin", stdin)
        yield user, terminal
    os.close(user)
    os.close(terminal)


def test_each_key_is_one_order_and_other_keys_are_none(keyboard: tuple[int, int]) -> None:
    user, _ = keyboard
    with keys(needed=True) as typed:
        assert typed() == []
        os.write(user, b"xn\n r?q")
        orders: list[str] = []
        while len(orders) < 4:
            orders += typed()
        assert orders == ["engage", "stop", "reset", "quit"]
        assert typed() == []


def test_only_enter_lets_the_arm_move() -> None:
    assert {key for key, order in KEYS.items() if order == "engage"} == {"\n", "\r"}


def test_the_terminal_is_as_before_also_after_a_failure(keyboard: tuple[int, int]) -> None:
    _, terminal = keyboard
    before = termios.tcgetattr(terminal)

    def fails() -> None:
        with keys(needed=True):
            assert termios.tcgetattr(terminal) != before
            raise UsageError("a failure")

    with pytest.raises(UsageError, match="a failure"):
        fails()
    assert termios.tcgetattr(terminal) == before


def test_without_a_terminal_there_are_no_keys_and_an_error_where_they_are_needed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with open(os.devnull, encoding="utf-8") as nothing:
        monkeypatch.setattr(sys, "stdin", nothing)
        with keys(needed=False) as typed:
            assert typed() == []
        with pytest.raises(UsageError, match="keys need a terminal"), keys(needed=True):
            pass


def test_the_line_has_state_reason_and_scales() -> None:
    told = SimpleNamespace(reason_text="nothing is wrong", requested_scale=1.0, scale_ceiling=0.8, applied_scale=0.63)
    assert "RUN" in line("RUN", told).plain
    shown = line("HOLD", told, "refused: a stop is latched").plain
    for part in ("HOLD", "nothing is wrong", "0.63 of 1.00 asked", "ceiling 0.80", "refused: a stop is latched"):
        assert part in shown


def test_a_terminal_of_80_columns_shows_why_an_order_was_refused() -> None:
    why = "the supervisor is not engaged; call engage"
    told = SimpleNamespace(reason_text=why, requested_scale=0.0, scale_ceiling=0.5, applied_scale=0.0)
    console, refused = Console(file=io.StringIO(), width=80), "refused: the policy's heartbeat has not been heard"
    console.print(line("DISENGAGED", told, refused))
    assert refused in console.file.getvalue()
