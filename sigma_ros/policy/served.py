# SPDX-License-Identifier: Apache-2.0
"""The inference process: loads the model, answers calls one after the other, and ends with the node.

A second thread answers what must not wait for an inference: units and saved states.
"""

import itertools
import multiprocessing
import os
import threading
import traceback
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from multiprocessing import parent_process
from multiprocessing.connection import Connection, wait
from multiprocessing.reduction import recv_handle
from typing import Any

from sigma_ros.errors import SigmaError
from sigma_ros.policy.job import Runtime
from sigma_ros.policy.wire import Call, Hello, PictureMemory, Proposal, Raised, Returned, Wire

NICENESS = 5
"""Of inference: where cores are few, the supervisor's and the node's own callbacks go first."""

Load = Callable[[], tuple[Runtime, object]]
"""Gives the model and what the node must know about it; importable by name in a new process."""


def greeting(protocol: int) -> bytes:
    """What the process says first, the same in every version."""
    return b"sigma inference protocol %d" % protocol


def be_nice() -> None:
    """Lowers the calling thread's priority, and that of the threads it will start."""
    with suppress(OSError):
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), NICENESS)


def serve(jobs: Connection, control: Connection, load: Load, protocol: int) -> None:
    """Runs the process until the node lets go of its pipes or ends."""
    threading.Thread(target=_end_with_the_node, daemon=True).start()
    multiprocessing.set_start_method("fork", force=True)  # locks of libraries (tqdm's) keep no name: we may be killed
    be_nice()
    jobs.send_bytes(greeting(protocol))
    loading = Wire(jobs, name=lambda _: None, find=lambda _: None)
    try:
        runtime, about = load()
    except Exception as error:  # whatever it is, the node tells it
        loading.send(_raised(error))
        return
    loading.send(Hello(image_size_px=runtime.image_size_px, about=about))
    desk = Desk(runtime, PictureMemory(runtime.image_size_px, recv_handle(jobs)))
    threading.Thread(target=desk.answer, args=(control,), daemon=True).start()
    desk.answer(jobs)
    os._exit(0)  # the node is gone; torch's own end would take seconds


def _end_with_the_node() -> None:
    node = parent_process()
    assert node is not None
    wait([node.sentinel])
    os._exit(0)


def _raised(error: Exception) -> Raised:
    return Raised(error if isinstance(error, SigmaError) else None, traceback.format_exc())


class Desk:
    """Answers calls; keeps the recurrent states that the node holds tickets for."""

    def __init__(self, runtime: Runtime, pictures: PictureMemory) -> None:
        self._runtime = runtime
        self._pictures = pictures
        self._state_type = type(runtime.initial_state(epoch=0, task=""))
        self._states: dict[int, Any] = {}
        self._numbers = itertools.count()

    def answer(self, connection: Connection) -> None:
        """Answers every call of a pipe; returns when the node has let go of it."""
        wire = Wire(connection, name=self._name, find=self._find)
        with suppress(EOFError, OSError):
            while True:
                call = wire.receive()
                self.drop(call.dropped)
                wire.send(self._done(call))

    def drop(self, numbers: tuple[int, ...]) -> None:
        """Forgets states that nobody holds any more."""
        for number in numbers:
            self._states.pop(number, None)

    def _done(self, call: Call) -> Returned | Raised:
        try:
            value = getattr(self._runtime, call.method)(*call.arguments, **call.options)
            if call.method in ("step", "refresh"):
                inference, state = value
                value = Proposal(inference.chunk, inference.telepathy), state
            return Returned(value)
        except Exception as error:  # whatever it is, the node tells it
            return _raised(error)

    def _name(self, obj: object) -> object | None:
        """A state stays here and travels as a number, with what must outlive this process."""
        if type(obj) is not self._state_type:
            return None
        state: Any = obj
        number = next(self._numbers)
        self._states[number] = state
        return number, state.epoch, state.task, self._runtime.memory(state)

    def _find(self, named: Any) -> object:
        """A picture's place, or a state: one of an earlier process begins with its memory alone."""
        if isinstance(named, int):
            return self._pictures.picture(named)
        number, epoch, task, memory = named
        if number is not None:
            return replace(self._states[number], epoch=epoch)
        return self._runtime.remembering(self._runtime.initial_state(epoch=epoch, task=task), memory)
