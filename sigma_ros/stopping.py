# SPDX-License-Identifier: Apache-2.0
"""SIGINT and SIGTERM ask, and what runs ends at its own next good moment: nodes, verbs and training.

Work that can be repeated (`stop_on_signal`) finishes its tick or step and saves; a second Ctrl-C gives it up with
`KeyboardInterrupt`. A process that holds an arm (`end_on_signal`) says its last words; a signal a second or more after
the first ends it at once; sooner it is the same Ctrl-C once more, which a terminal sends to all processes and
`ros2 launch` to its own.
"""

import atexit
import os
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from types import FrameType

INTERRUPTED = 130
"""The exit code of a command that Ctrl-C ended, as shells have it."""
_NUMBERS = (signal.SIGINT, signal.SIGTERM)
_SAME_REQUEST_S = 1.0
Handler = Callable[[int, FrameType | None], None]


class StopRequest:
    """Becomes true with the first signal. `number` is that signal, 0 before. Calling it asks the same."""

    def __init__(self) -> None:
        self.number = 0
        self._first_s = 0.0
        self._wake: list[Callable[[], None]] = []

    def __bool__(self) -> bool:
        return self.number != 0

    def __call__(self) -> bool:
        """Whether to stop."""
        return bool(self)

    def wakes(self, wake: Callable[[], None]) -> None:
        """Registers what to call when the signal comes; from another thread under `end_on_signal`."""
        self._wake.append(wake)

    def ask(self, number: int, _frame: FrameType | None = None) -> None:
        """Records a signal; a Ctrl-C after another signal raises `KeyboardInterrupt`."""
        if self and number == signal.SIGINT:
            raise KeyboardInterrupt
        self._record(number)

    def end(self, number: int, _frame: FrameType | None = None) -> None:
        """Records a signal; one that does not belong to the first ends the process with 128 + its number."""
        if self and time.monotonic() - self._first_s >= _SAME_REQUEST_S:
            os._exit(128 + number)
        self._record(number)

    def _record(self, number: int) -> None:
        if not self:
            self._first_s, self.number = time.monotonic(), number
            for wake in self._wake:
                wake()


@contextmanager
def stop_on_signal() -> Iterator[StopRequest]:
    """While open, SIGINT and SIGTERM ask the work to stop. Outside the main thread nothing is caught."""
    request = StopRequest()
    with _handled(_NUMBERS, request.ask):
        yield request


@contextmanager
def end_on_signal() -> Iterator[StopRequest]:
    """Turns SIGINT and SIGTERM into a request within a millisecond, even while C code waits.

    After a request the process goes: the handlers from before, which would kill it, do not come back.
    """
    request = StopRequest()
    with _listened(request.end):
        before = {number: signal.signal(number, _nothing) for number in _NUMBERS}
        try:
            yield request
        finally:
            for number, old in before.items():
                signal.signal(number, request.end if request else old)
            if request:
                atexit.register(_ignore_signals)  # Python's own end would take the handlers away


@contextmanager
def sigterm_interrupts() -> Iterator[None]:
    """While open, SIGTERM raises `KeyboardInterrupt` as Ctrl-C does, so that `finally` blocks run."""
    with _handled((signal.SIGTERM,), signal.default_int_handler):
        yield


def ctrl_c_ends_at_once() -> None:
    """Until a node listens, Ctrl-C ends its process by the signal itself, without a traceback of its imports."""
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, signal.SIG_DFL)


@contextmanager
def _handled(numbers: Sequence[int], handler: Handler) -> Iterator[None]:
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.signal(number, handler) for number in numbers}
    try:
        yield
    finally:
        for number, old in before.items():
            signal.signal(number, old)


@contextmanager
def _listened(hear: Callable[[int], None]) -> Iterator[None]:
    """A thread calls `hear`: Python's own handlers wait until C code returns to the main thread."""
    reader, writer = socket.socketpair()
    writer.settimeout(0.0)

    def listen() -> None:
        while data := reader.recv(1):
            if data[0] in _NUMBERS:
                hear(data[0])

    thread = threading.Thread(target=listen, name="signals", daemon=True)
    thread.start()
    old_fd = signal.set_wakeup_fd(writer.fileno(), warn_on_full_buffer=False)
    try:
        yield
    finally:
        signal.set_wakeup_fd(old_fd)
        writer.close()
        thread.join()
        reader.close()


def _nothing(_number: int, _frame: FrameType | None) -> None:
    """A handler for signals that the listening thread hears."""


def _ignore_signals() -> None:
    for number in _NUMBERS:
        signal.signal(number, signal.SIG_IGN)
