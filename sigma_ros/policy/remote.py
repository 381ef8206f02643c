# SPDX-License-Identifier: Apache-2.0
"""A `Runtime` whose model lives in a process of its own: the node's callbacks never wait for torch, nor torch for them.

The process that dies, is stopped, hangs or fails again and again is a named `problem`; `restart` starts another, in
which every ticket goes on with its committed memory.
"""

import math
import multiprocessing
import signal
import threading
import time
import weakref
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from multiprocessing import resource_tracker
from multiprocessing.connection import Connection
from multiprocessing.connection import wait as wait_for
from multiprocessing.reduction import send_handle
from pathlib import Path
from typing import Any, cast

from jaxtyping import Float64, UInt8
from numpy import ndarray

from sigma_ros.errors import SigmaError
from sigma_ros.policy.served import Load, greeting, serve
from sigma_ros.policy.wire import (
    PROTOCOL,
    Call,
    Hello,
    Method,
    PictureMemory,
    Proposal,
    Raised,
    Ticket,
    TicketKey,
    Wire,
)
from sigma_ros.values import Certificate, Chunk, Memory, Telepathy, Window

WATCH_S = 0.05
"""How often a waiting thread looks whether the process is still there."""

HANG_S, HANG_FACTOR = 10.0, 10.0
"""An inference hangs when it takes longer than this and than ten times the longest so far."""

FIRST_S = 120.0
"""Before one is known (a GPU's kernels are compiled, files are read)."""

ANSWER_S = 5.0
"""What does not wait for an inference hangs when it takes longer."""

MOST_FAILURES = 3
"""Failures in a row after which the process counts as broken: a lost GPU fails for ever."""

MOST_RESTARTS = 3
"""Restarts without one inference between them after which nobody tries again."""


class InferenceLostError(SigmaError):
    """The inference process is gone; `what` says how."""


class InferenceFailedError(Exception):
    """The model raised something; the text is its traceback there."""


class RemoteRuntime:
    """Starts the process and waits until the model is loaded.

    One thread calls the model's methods; `save`, `restore`, `check_units` and `initial_state` may be called beside.

    Raises:
        SigmaError: the model cannot be loaded; the process speaks another protocol; no memory for pictures.
    """

    def __init__(self, load: Load, *, hang_s: float = HANG_S) -> None:
        self._load = load
        self._hang_s = hang_s
        self._guard = threading.Lock()
        self._dropped: deque[int] = deque()
        self._pictures: PictureMemory | None = None
        self._problem = "the inference process has not been started"
        self._is_up = False
        self._ending: list[Any] = []
        self._longest_s = math.nan
        self._failures = self._fruitless = self._generation = 0
        self.about: Any = None
        self._start()
        weakref.finalize(self, _end, self._ending)

    @property
    def restarts(self) -> int:
        """How often the process was started again."""
        return self._generation - 1

    @property
    def pid(self) -> int:
        """Of the process."""
        return self._process.pid or 0

    @property
    def gives_up(self) -> bool:
        """Whether a restart would be the next of too many."""
        return self._fruitless >= MOST_RESTARTS

    def problem(self) -> str:
        """Why nothing can be inferred now; empty while all is well. Never waits."""
        if not self._problem:
            with suppress(InferenceLostError):
                self._watch()
        return self._problem

    def square(self, size_px: int) -> UInt8[ndarray, "size size 3"]:
        """Memory for a picture that the process can see; see `PictureMemory.square`."""
        assert self._pictures is not None
        return self._pictures.square(size_px)

    def restart(self) -> None:
        """Starts another process and waits until the model is loaded.

        Raises:
            SigmaError: as the constructor; or it was tried in vain too often.
        """
        if self.gives_up:
            raise SigmaError(
                f"the inference process ended {MOST_RESTARTS} times in a row without one inference",
                got=self._problem,
                remedy="mend the cause and start the node again",
            )
        self._fruitless += 1
        self._start()

    def close(self, reason: str = "the inference process was ended by the node") -> None:
        """Ends the process, also in the middle of an inference or of loading."""
        self._lost(reason)

    def initial_state(self, *, epoch: int, task: str) -> Any:
        """As `SigmaRuntime`'s."""
        return self._ask(self._control, "initial_state", epoch=epoch, task=task)

    def step(self, window: Window, state: Any, **options: Any) -> tuple[Proposal, Any]:
        """As `SigmaRuntime`'s."""
        return cast("tuple[Proposal, Any]", self._infer("step", window, state, **options))

    def observe(self, window: Window, state: Any) -> Any:
        """As `SigmaRuntime`'s; no inference, so it says nothing of how long one takes or whether it comes off."""
        return self._ask(self._jobs, "observe", window, state)

    def remember(self, window: Window, state: Any) -> tuple[Telepathy, Any]:
        """As `SigmaRuntime`'s."""
        return cast("tuple[Telepathy, Any]", self._infer("remember", window, state))

    def refresh(self, window: Window, state: Any, previous: Chunk, **options: Any) -> tuple[Proposal, Any]:
        """As `SigmaRuntime`'s."""
        return cast("tuple[Proposal, Any]", self._infer("refresh", window, state, previous, **options))

    def certify(self, window: Window) -> Certificate:
        """As `SigmaRuntime`'s."""
        return cast("Certificate", self._infer("certify", window))

    def save(self, state: Any, path: Path) -> None:
        """As `SigmaRuntime`'s."""
        self._ask(self._control, "save", state, path)

    def restore(self, path: Path, fresh: Any) -> Any:
        """As `SigmaRuntime`'s."""
        return self._ask(self._control, "restore", path, fresh)

    def check_units(self, positions_rad: Float64[ndarray, " dof"]) -> tuple[str, ...]:
        """As `SigmaRuntime`'s; a process that cannot be asked is a reason, too: unknown means hold."""
        try:
            return cast("tuple[str, ...]", self._ask(self._control, "check_units", positions_rad))
        except InferenceLostError as error:
            return (error.what,)

    def memory(self, state: Any) -> Memory:
        """As `SigmaRuntime`'s."""
        return cast("Memory", state.memory)

    def remembering(self, fresh: Any, memory: Memory) -> Any:
        """As `SigmaRuntime`'s; no process is asked before the next inference."""
        return Ticket(fresh.epoch, fresh.task, memory, TicketKey(-1, 0))

    def _infer(self, method: Method, *arguments: Any, **options: Any) -> Any:
        began_s = time.monotonic()
        try:
            value = self._ask(self._jobs, method, *arguments, **options)
        except InferenceFailedError as error:
            self._failures += 1
            if self._failures >= MOST_FAILURES:
                raise self._lost(f"the model failed {MOST_FAILURES} times in a row: {_last_line(error)}") from error
            raise
        took_s = time.monotonic() - began_s
        self._longest_s = took_s if math.isnan(self._longest_s) else max(took_s, self._longest_s)
        self._failures = self._fruitless = 0
        return value

    def _ask(self, wire: "_Line", method: Method, *arguments: Any, **options: Any) -> Any:
        limit_s = self._limit_s() if wire is self._jobs else ANSWER_S
        with wire.lock:
            if self._problem:
                raise InferenceLostError(self._problem)
            call = Call(method, arguments, options, self._drain())
            answer = self._exchange(wire, call, limit_s)
        if not isinstance(answer, Raised):
            return answer.value
        raise answer.error or InferenceFailedError(answer.traceback.rstrip())

    def _exchange(self, wire: "_Line", call: Call | None, limit_s: float) -> Any:
        """Sends, and waits for the answer while the process is well."""
        until_s = time.monotonic() + limit_s
        try:
            if call is not None:
                wire.send(call)
            while not wire.connection.poll(WATCH_S):
                self._watch(until_s, limit_s)
            return wire.receive()
        except (EOFError, OSError) as error:
            self._process.join(1.0)
            self._watch(until_s, limit_s)
            raise self._lost("the inference process has closed its pipe") from error

    def _watch(self, until_s: float = math.inf, limit_s: float = math.inf) -> None:
        """Raises `InferenceLostError` when the process has ended, is stopped, or should have answered."""
        process = self._process
        if wait_for([process.sentinel], 0.0):
            process.join(1.0)
            raise self._lost(f"the inference process {_how_it_ended(process.exitcode)}")
        if _is_stopped(self.pid):
            raise self._lost("the inference process was stopped by a signal")
        if time.monotonic() > until_s:
            raise self._lost(f"the inference process hangs: no answer within {limit_s:.1f} s")

    def _limit_s(self) -> float:
        own_s = FIRST_S if math.isnan(self._longest_s) else HANG_FACTOR * self._longest_s
        return max(self._hang_s, own_s)

    def _lost(self, reason: str) -> InferenceLostError:
        """The process is given up; the first reason stands."""
        with self._guard:
            if self._is_up:
                self._is_up, self._problem = False, reason
            _end(self._ending)  # under the guard: a pipe is closed once
        return InferenceLostError(self._problem)

    def _start(self) -> None:
        self._generation += 1
        self._problem += "; another is being started" if self.restarts else ""
        self._dropped.clear()
        self._longest_s, self._failures = math.nan, 0
        context = multiprocessing.get_context("spawn")
        pipes = [context.Pipe() for _ in range(2)]
        theirs = [their for _, their in pipes]
        self._jobs, self._control = (_Line(self, own) for own, _ in pipes)
        arguments = (*theirs, self._load, PROTOCOL)
        self._process = context.Process(target=serve, args=arguments, name="inference", daemon=True)
        with _ctrl_c_waits():
            self._process.start()
        for their in theirs:
            their.close()
        self._ending[:] = [self._process, *(own for own, _ in pipes)]
        self._is_up = True
        try:
            self._greet()
        except Exception as error:
            self._lost(f"the model could not be loaded: {_last_line(error)}")
            raise
        self._problem = self._problem if not self._is_up else ""

    def _greet(self) -> None:
        own = self._jobs.connection
        while not own.poll(WATCH_S):
            self._watch()
        with suppress(EOFError):
            said = own.recv_bytes()
            if said != greeting(PROTOCOL):
                raise SigmaError(
                    "the inference process speaks another protocol",
                    expected=greeting(PROTOCOL).decode(),
                    got=said[:80].decode(errors="replace"),
                    remedy="sigma_ros was installed anew while the node ran: start the node again",
                )
        hello = self._exchange(self._jobs, None, math.inf)
        if isinstance(hello, Raised):
            raise hello.error or InferenceFailedError(hello.traceback.rstrip())
        assert isinstance(hello, Hello)
        self.about, self.image_size_px = hello.about, hello.image_size_px
        if self._pictures is None:
            self._pictures = _picture_memory(hello.image_size_px)
        send_handle(own, self._pictures.fd, self.pid)

    def _drain(self) -> tuple[int, ...]:
        return tuple(self._dropped.popleft() for _ in range(len(self._dropped)))

    def name(self, obj: object) -> object | None:
        """What travels as a name: pictures that lie in common memory, and states."""
        if isinstance(obj, ndarray):
            return self._pictures.place_of(obj) if self._pictures is not None else None
        if isinstance(obj, Ticket):
            number = obj.key.number if obj.key.generation == self._generation else None
            return number, obj.epoch, obj.task, obj.memory
        return None

    def ticket(self, named: Any) -> Ticket:
        """A state that the process keeps from now on, until nobody has its ticket any more."""
        number, epoch, task, memory = named
        key = TicketKey(number, self._generation)
        weakref.finalize(key, _drop, self._dropped, number, weakref.ref(self), self._generation).atexit = False
        return Ticket(epoch, task, memory, key)


class _Line(Wire):
    """A pipe to the process, for one caller at a time."""

    def __init__(self, runtime: RemoteRuntime, connection: Connection) -> None:
        super().__init__(connection, name=runtime.name, find=runtime.ticket)
        self.lock = threading.Lock()


def _drop(dropped: "deque[int]", number: int, runtime: "weakref.ref[RemoteRuntime]", generation: int) -> None:
    owner = runtime()
    if owner is not None and owner.restarts + 1 == generation:
        dropped.append(number)


def _end(ending: list[Any]) -> None:
    """Ends the process at once: nothing in it has to be said or saved."""
    if not ending:
        return
    process, *pipes = ending
    process.kill()
    process.join(1.0)
    for pipe in pipes:
        pipe.close()


@contextmanager
def _ctrl_c_waits() -> Iterator[None]:
    """What is started meanwhile never hears a Ctrl-C: the node ends it."""
    resource_tracker.ensure_running()  # or starting the first process would, and let the signal through again
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _picture_memory(size_px: int) -> PictureMemory:
    try:
        return PictureMemory(size_px)
    except (AttributeError, OSError) as error:
        raise SigmaError(
            "no memory for the pictures of two processes",
            got=error,
            remedy="free memory, or start the node with inference:=inside",
        ) from error


def _is_stopped(pid: int) -> bool:
    """Whether a signal or a debugger has stopped it; the kernel says so at once."""
    with suppress(OSError):
        text = Path(f"/proc/{pid}/stat").read_text(encoding="ascii", errors="replace")
        return text.rpartition(")")[2].split()[0] in "Tt"
    return False


def _how_it_ended(code: int | None) -> str:
    if code is not None and code < 0:
        name = signal.Signals(-code).name
        hint = "; the kernel does that where memory is short" if -code == signal.SIGKILL else ""
        return f"was ended by {name}{hint}"
    return f"ended by itself with code {code}"


def _last_line(error: Exception) -> str:
    return str(error).strip().splitlines()[-1]
