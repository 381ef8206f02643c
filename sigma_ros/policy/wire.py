# SPDX-License-Identifier: Apache-2.0
"""What the node and its inference process say to each other: typed messages of one version, over a pipe.

Pictures lie in memory that both processes map: the receiving process writes each once, messages name its place. The
memory has no name in the file system, so that nothing of it outlives the processes, however they end. The model's
recurrent state stays in the process that computes; the node holds a `Ticket` for it.
"""

import io
import mmap
import os
import pickle
import weakref
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from typing import Any, Literal

import numpy as np
from jaxtyping import UInt8
from numpy import ndarray

from sigma_ros.errors import SigmaError
from sigma_ros.values import Chunk, Memory, Telepathy

PROTOCOL = 2
"""Changes whenever a message, or anything that travels in one, changes its meaning."""

PLACES = 512
"""Pictures that find room at once: ticks that wait and the window, of four cameras. Untouched ones take no memory."""

Method = Literal["initial_state", "observe", "step", "remember", "refresh", "save", "restore", "check_units", "certify"]


@dataclass(frozen=True, slots=True)
class Hello:
    """The first message: the model is loaded. `about` is what `load` gave beside it."""

    image_size_px: int
    about: object


@dataclass(frozen=True, slots=True)
class Call:
    """A method of `Runtime` and its arguments; states numbered `dropped` are not needed any more."""

    method: Method
    arguments: tuple[Any, ...]
    options: Mapping[str, Any]
    dropped: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class Returned:
    """What the method gave."""

    value: Any


@dataclass(frozen=True, slots=True)
class Raised:
    """What the method raised: an error that a user can act on, or another one's traceback."""

    error: SigmaError | None
    traceback: str


@dataclass(frozen=True, slots=True)
class Proposal:
    """What of an inference travels."""

    chunk: Chunk
    telepathy: Telepathy


class TicketKey:
    """Names a state of one inference process; when the last ticket with it is gone, the state is."""

    def __init__(self, number: int, generation: int) -> None:
        self.number = number
        self.generation = generation


@dataclass(frozen=True, slots=True)
class Ticket:
    """A recurrent state that another process holds. Its `memory` outlives that process."""

    epoch: int
    task: str
    memory: Memory
    key: TicketKey = field(repr=False, compare=False)

    @property
    def commits(self) -> int:
        """Updates committed since the epoch began."""
        return self.memory.commits


class PictureMemory:
    """Square pictures in memory that two processes map; the writer's garbage collection frees their places.

    Args:
        fd: Of the memory that the other process made; None makes it.

    Raises:
        OSError: the system has no room for it.
    """

    def __init__(self, size_px: int, fd: int | None = None) -> None:
        self._shape = (size_px, size_px, 3)
        self._bytes = size_px * size_px * 3
        self.fd = os.memfd_create("sigma_pictures") if fd is None else fd
        if fd is None:
            os.ftruncate(self.fd, PLACES * self._bytes)
        access = mmap.PROT_READ | (mmap.PROT_WRITE if fd is None else 0)
        self._map = mmap.mmap(self.fd, PLACES * self._bytes, prot=access)
        weakref.finalize(self, os.close, self.fd)
        self._start = _address(np.frombuffer(self._map, dtype=np.uint8))
        self._free = list(range(PLACES))

    @property
    def free(self) -> int:
        """How many places nobody uses."""
        return len(self._free)

    def square(self, size_px: int) -> UInt8[ndarray, "size size 3"]:
        """A black picture to be written; its place is free again when no array refers to it.

        Where no place is free, or for another size, an ordinary array, which then travels as a copy.
        """
        if not self._free or size_px != self._shape[0]:
            return np.zeros((size_px, size_px, 3), dtype=np.uint8)
        place = self._free.pop()
        flat = self._flat(place)
        weakref.finalize(flat, self._free.append, place).atexit = False
        flat.fill(0)
        return flat.reshape(self._shape)

    def place_of(self, array: ndarray) -> int | None:
        """Where a picture lies; None: elsewhere."""
        if array.shape != self._shape or array.dtype != np.uint8:
            return None
        place, rest = divmod(_address(array) - self._start, self._bytes)
        return place if rest == 0 and 0 <= place < PLACES else None

    def picture(self, place: int) -> UInt8[ndarray, "size size 3"]:
        """The picture at a place; without a copy."""
        return self._flat(place).reshape(self._shape)

    def _flat(self, place: int) -> UInt8[ndarray, " bytes"]:
        return np.frombuffer(self._map, dtype=np.uint8, count=self._bytes, offset=place * self._bytes)


def _address(array: ndarray) -> int:
    return int(array.__array_interface__["data"][0])


class Wire:
    """One end of the pipe. Objects that do not travel themselves are named by `name` and found by `find`."""

    def __init__(
        self,
        connection: Connection,
        *,
        name: Callable[[object], object | None],
        find: Callable[[Any], object],
    ) -> None:
        self.connection = connection
        self._name = name
        self._find = find

    def send(self, message: object) -> None:
        """Raises OSError where nobody listens."""
        buffer = io.BytesIO()
        pickler = _Pickler(buffer, self._name)
        pickler.dump(message)
        self.connection.send_bytes(buffer.getbuffer())

    def receive(self) -> Any:
        """Waits; EOFError or OSError where nobody will send."""
        return _Unpickler(io.BytesIO(self.connection.recv_bytes()), self._find).load()


class _Pickler(pickle.Pickler):
    def __init__(self, file: io.BytesIO, name: Callable[[object], object | None]) -> None:
        super().__init__(file, protocol=pickle.HIGHEST_PROTOCOL)
        self._name = name

    def persistent_id(self, obj: Any) -> Any:
        return self._name(obj)


class _Unpickler(pickle.Unpickler):
    def __init__(self, file: io.BytesIO, find: Callable[[Any], object]) -> None:
        super().__init__(file)
        self._find = find

    def persistent_load(self, pid: Any) -> Any:
        return self._find(pid)
