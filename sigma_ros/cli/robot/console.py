# SPDX-License-Identifier: Apache-2.0
"""What `sigma run` has of a terminal: single keys, and a line that says how the arm stands."""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from queue import SimpleQueue
from typing import Protocol

from rich.text import Text

from sigma_ros.nodes.record.keyboard import Keyboard

KEYS = {"\n": "engage", "\r": "engage", " ": "stop", "r": "reset", "q": "quit"}
"""Key -> order. Nothing moves before ENTER."""
HELP = "ENTER engages, SPACE stops, r resets a stop, q releases and ends"
COLOURS = {"RUN": "green", "BASE_ONLY": "yellow", "HOLD": "yellow", "STOPPED": "red", "ESTOP": "bold red"}
"""How a supervisor's state is shown in a terminal."""


class SupervisorFacts(Protocol):
    """What the line tells: a `SupervisorState` message, or the supervisor's own `Decision`."""

    @property
    def reason_text(self) -> str:
        """One sentence."""

    @property
    def requested_scale(self) -> float:
        """By the adapter."""

    @property
    def scale_ceiling(self) -> float:
        """The lower of the user's and the supervisor's own."""

    @property
    def applied_scale(self) -> float:
        """What went into the command."""


@contextmanager
def keys(*, needed: bool) -> Iterator[Callable[[], list[str]]]:
    """Gives a function for the orders typed since it was called last; it never waits.

    Args:
        needed: False where another way to operate the arm is there: without a terminal there are no keys then.

    Raises:
        UsageError: standard input is no terminal, and keys are needed.
    """
    if not needed and not sys.stdin.isatty():
        yield list
        return
    typed: SimpleQueue[str] = SimpleQueue()
    keyboard = Keyboard(sys.stdin.fileno(), lambda key, _: typed.put(key), asks="")  # SPACE stops at any moment
    try:
        yield lambda: [KEYS[key] for _ in range(typed.qsize()) if (key := typed.get()) in KEYS]
    finally:
        keyboard.close()


def line(state: str, facts: SupervisorFacts, said: str = "") -> Text:
    """One line, the last parts of which a narrow terminal cuts: state, what the last order was answered, scale, reason.

    A refused order says itself why the arm does not move.
    """
    text = Text(overflow="ellipsis", no_wrap=True)
    text.append(f"{state:<10}", COLOURS.get(state, "bold"))
    if said:
        text.append(f" {said} |", "bold")
    text.append(
        f" scale {facts.applied_scale:.2f} of {facts.requested_scale:.2f} asked, "
        f"ceiling {facts.scale_ceiling:.2f}; {facts.reason_text}"
    )
    return text
