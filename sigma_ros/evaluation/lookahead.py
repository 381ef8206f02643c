# SPDX-License-Identifier: Apache-2.0
"""Ticks of a recording with their heavy work done ahead: read and seen on one thread, planned on another.

The recurrent memory must go through the ticks in order; decoding, vision and the base's chunks need not. Blocks of
ticks go through bounded queues, so memory does not grow with the recording. Ticks come out in order and unchanged.
"""

import threading
import time
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from dataclasses import dataclass, field
from itertools import islice
from queue import Empty, Full, Queue
from typing import TYPE_CHECKING, cast

from sigma_ros.evaluation.episode import Tick
from sigma_ros.values import WINDOW_TICKS, Window

if TYPE_CHECKING:
    from torch import Tensor

    from sigma_ros.model.runtime import SigmaRuntime
    from sigma_ros.model.step import Prepared
    from sigma_ros.model.tokens import EncodedTick

BLOCK_TICKS = 32
_BLOCKS_WAITING = 2
_PATIENCE_S = 0.1


@dataclass(frozen=True, slots=True)
class Ready:
    """What was worked out ahead for a tick, and this machine's time for it: vision since the last chunk, base."""

    prepared: "Prepared | None" = None
    took_ns: int = 0


NOTHING = Ready()


@dataclass(slots=True)
class _Block:
    """Some ticks in a row; `encoded` and `bases` are filled on the way, by place in the block; times are of one."""

    ticks: list[Tick]
    encoded: "dict[int, EncodedTick]" = field(default_factory=dict)
    bases: "dict[int, Tensor]" = field(default_factory=dict)
    encode_ns: int = 0
    base_ns: int = 0


def ticks_ahead(
    ticks: Iterable[Tick], runtime: "SigmaRuntime", due: Callable[[Window], bool], *, threads: bool
) -> Generator[tuple[Tick, Ready]]:
    """Each tick with what was worked out ahead for it; nothing for gaps, and a base chunk only where one is `due`.

    An error on a thread is raised here, at the tick where it happened.
    """
    from sigma_ros.model.ahead import Ahead, Planned  # noqa: PLC0415 - torch, only where a model is

    ahead = Ahead(runtime)

    def see(block: _Block) -> _Block:
        started_ns = time.perf_counter_ns()
        windows = {i: tick.item for i, tick in enumerate(block.ticks) if isinstance(tick.item, Window)}
        if windows:
            block.encoded = dict(zip(windows, ahead.encode(list(windows.values())), strict=True))
            block.encode_ns = (time.perf_counter_ns() - started_ns) // len(windows)
        return block

    def plan(block: _Block) -> _Block:
        wanted = {
            i: Planned(window=tick.item, encoded=block.encoded[i])
            for i, tick in enumerate(block.ticks)
            if isinstance(tick.item, Window) and due(tick.item)
        }
        started_ns = time.perf_counter_ns()
        block.bases = dict(zip(wanted, ahead.base_chunks(list(wanted.values())), strict=True))
        block.base_ns = (time.perf_counter_ns() - started_ns) // max(1, len(wanted))
        return block

    stages: list[_Stage[_Block]] = []

    def staged(blocks: Iterator[_Block]) -> Iterator[_Block]:
        if not threads:
            return blocks
        stages.append(_Stage(blocks, single_threaded_torch))
        return stages[-1]

    try:
        seen = staged(see(block) for block in _blocks(ticks))
        yield from _prepared(staged(plan(block) for block in seen))
    finally:
        for stage in stages:
            stage.close()


def single_threaded_torch() -> None:
    """One core for each of our threads: they are as many as the cores, and small products gain nothing from more."""
    import torch  # noqa: PLC0415

    torch.set_num_threads(1)


def _blocks(ticks: Iterable[Tick]) -> Iterator[_Block]:
    source = iter(ticks)
    while block := list(islice(source, BLOCK_TICKS)):
        yield _Block(block)


def _prepared(blocks: Iterator[_Block]) -> Iterator[tuple[Tick, Ready]]:
    from sigma_ros.model.step import Prepared  # noqa: PLC0415

    recent: deque[tuple[int, int, EncodedTick]] = deque(maxlen=WINDOW_TICKS)
    spent_ns = 0
    for block in blocks:
        for i, tick in enumerate(block.ticks):
            if i not in block.encoded:
                yield tick, NOTHING
                continue
            recent.append((tick.item.epoch, tick.item.tick, block.encoded[i]))
            known = {number: encoded for epoch, number, encoded in recent if epoch == tick.item.epoch}
            base = block.bases.get(i)
            spent_ns += block.encode_ns
            took_ns = 0 if base is None else spent_ns + block.base_ns
            spent_ns = spent_ns if base is None else 0
            yield tick, Ready(prepared=Prepared(encoded=known, base=base), took_ns=took_ns)


class _Stage[T]:
    """Runs an iterator on a thread of its own, a few items ahead; `close` ends the thread wherever it waits."""

    def __init__(self, source: Iterator[T], begin: Callable[[], None]) -> None:
        self._queue: Queue[tuple[str, T | BaseException | None]] = Queue(maxsize=_BLOCKS_WAITING)
        self._closing = threading.Event()
        self._source = source
        self._begin = begin
        self._thread = threading.Thread(target=self._work, name="lookahead", daemon=True)
        self._thread.start()

    def __iter__(self) -> Iterator[T]:
        return self

    def __next__(self) -> T:
        while not self._closing.is_set():
            try:
                kind, value = self._queue.get(timeout=_PATIENCE_S)
            except Empty:
                continue
            if kind == "item":
                return cast(T, value)
            if isinstance(value, BaseException):
                raise value
            break
        raise StopIteration

    def close(self) -> None:
        """Lets the thread end; items that nobody took are dropped."""
        self._closing.set()
        self._thread.join()

    def _work(self) -> None:
        try:
            self._begin()
            for item in self._source:
                self._put("item", item)
                if self._closing.is_set():
                    return
            self._put("end", None)
        except BaseException as error:  # raised again where the items are taken
            self._put("error", error)

    def _put(self, kind: str, value: T | BaseException | None) -> None:
        while not self._closing.is_set():
            try:
                self._queue.put((kind, value), timeout=_PATIENCE_S)
            except Full:
                continue
            return
