# SPDX-License-Identifier: Apache-2.0
"""Keys of a real (pseudo) terminal: without Enter, a line after `n`, and the terminal is put back."""

import os
import pty
import termios
from collections.abc import Iterator
from queue import Queue

import pytest

from sigma_ros.errors import UsageError
from sigma_ros.nodes.record.keyboard import Keyboard

WAIT_S = 20.0


@pytest.fixture
def terminal() -> Iterator[tuple[int, int]]:
    ours, theirs = pty.openpty()
    yield ours, theirs
    os.close(ours)
    os.close(theirs)


def test_keys_come_one_by_one_and_the_terminal_is_put_back(terminal: tuple[int, int]) -> None:
    ours, theirs = terminal
    before = termios.tcgetattr(theirs)
    pressed: Queue[tuple[str, str]] = Queue()
    keyboard = Keyboard(theirs, lambda key, line: pressed.put((key, line)))
    os.write(ours, b"rS")
    assert [pressed.get(timeout=WAIT_S) for _ in range(2)] == [("r", ""), ("s", "")]
    os.write(ours, b"n")
    while not termios.tcgetattr(theirs)[3] & termios.ICANON:
        pass
    os.write(ours, "fold the blue tüte\n".encode())
    assert pressed.get(timeout=WAIT_S) == ("n", "fold the blue tüte")
    os.write(ours, b"q")
    assert pressed.get(timeout=WAIT_S) == ("q", "")
    keyboard.close()
    keyboard.close()
    assert termios.tcgetattr(theirs) == before


def test_keys_need_a_terminal() -> None:
    reading, writing = os.pipe()
    try:
        with pytest.raises(UsageError, match="keys need a terminal"):
            Keyboard(reading, lambda _key, _line: None)
    finally:
        os.close(reading)
        os.close(writing)
