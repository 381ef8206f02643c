# SPDX-License-Identifier: Apache-2.0
"""Keys of a terminal, one at a time and without Enter; the terminal is as it was once it is closed."""

import os
import select
import termios
import threading
import tty
from collections.abc import Callable

from sigma_ros.errors import UsageError

ASKS_FOR_A_LINE = "n"
POLL_S = 0.1


class Keyboard:
    """Calls `on_key(key, line)` on a thread of its own; `line` is what was typed after a key of `asks`, up to Enter.

    Raises:
        UsageError: the descriptor is no terminal.
    """

    def __init__(self, descriptor: int, on_key: Callable[[str, str], None], *, asks: str = ASKS_FOR_A_LINE) -> None:
        if not os.isatty(descriptor):
            raise UsageError("keys need a terminal", remedy="start it in one, or use services or sigma panel")
        self._descriptor = descriptor
        self._on_key = on_key
        self._asks = asks
        self._before = termios.tcgetattr(descriptor)
        self._is_open = True
        tty.setcbreak(descriptor, termios.TCSADRAIN)  # what was typed meanwhile counts
        self._thread = threading.Thread(target=self._listen, name="keyboard", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Puts the terminal back."""
        if self._is_open:
            self._is_open = False
            self._thread.join()
            termios.tcsetattr(self._descriptor, termios.TCSADRAIN, self._before)

    def _listen(self) -> None:
        while self._is_open:
            if not self._is_ready():
                continue
            key = os.read(self._descriptor, 1).decode("ascii", "ignore").lower()
            self._on_key(key, self._line() if key and key in self._asks else "")

    def _is_ready(self) -> bool:
        return bool(select.select([self._descriptor], [], [], POLL_S)[0])

    def _line(self) -> str:
        """A line, typed as in any shell."""
        termios.tcsetattr(self._descriptor, termios.TCSADRAIN, self._before)
        try:
            while self._is_open and not self._is_ready():
                pass
            return os.read(self._descriptor, 4096).decode("utf-8", "replace").strip() if self._is_open else ""
        finally:
            tty.setcbreak(self._descriptor, termios.TCSADRAIN)
