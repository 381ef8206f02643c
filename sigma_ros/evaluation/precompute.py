# SPDX-License-Identifier: Apache-2.0
"""Ticks of a recording with their heavy work done ahead, block by block.

The recurrent memory must go through the ticks one by one; vision and the base's chunks need not. Two blocks are there
at a time, so memory does not grow with the recording: where torch leaves a core, the next one is worked out while
ticks of the one before go through memory and supervisor. Ticks come out in order and unchanged.
"""

import os
import time
from collections import deque
from collections.abc import Callable, Generator, Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import batched
from typing import TYPE_CHECKING

from sigma_ros.bags.episode import Tick
from sigma_ros.values import WINDOW_TICKS, Window

if TYPE_CHECKING:
    from torch import Tensor

    from sigma_ros.model.precompute import Ahead
    from sigma_ros.model.runtime import SigmaRuntime
    from sigma_ros.model.step import Prepared
    from sigma_ros.model.tokens import EncodedTick

BLOCK_TICKS = 32


@dataclass(frozen=True, slots=True)
class Ready:
    """What was worked out ahead for a tick, and this machine's time for it: vision since the last chunk, base."""

    prepared: "Prepared | None" = None
    took_ns: int = 0


NOTHING = Ready()


@dataclass(frozen=True, slots=True)
class _Worked:
    """What was worked out for a block, by place in it; the times are of one tick and of one chunk."""

    encoded: "dict[int, EncodedTick]" = field(default_factory=dict)
    bases: "dict[int, Tensor]" = field(default_factory=dict)
    encode_ns: int = 0
    base_ns: int = 0


def ticks_ahead(
    ticks: Iterable[Tick],
    runtime: "SigmaRuntime",
    due: Callable[[Window], bool],
    certify: Callable[[Window], None],
) -> Generator[tuple[Tick, Ready]]:
    """Each tick with what was worked out ahead for it; nothing for gaps, and a base chunk only where one is `due`.

    `certify` hears each window that is due before the model works for it: nothing comes of an engine that is refused.
    """
    from sigma_ros.model.precompute import Ahead  # noqa: PLC0415
    from sigma_ros.model.step import Prepared  # noqa: PLC0415

    ahead = Ahead(runtime)
    recent: deque[tuple[int, int, EncodedTick]] = deque(maxlen=WINDOW_TICKS)
    spent_ns = 0
    for block, worked in _worked(batched(ticks, BLOCK_TICKS), lambda block: _work(ahead, block, due, certify)):
        for i, tick in enumerate(block):
            if i not in worked.encoded:
                yield tick, NOTHING
                continue
            recent.append((tick.item.epoch, tick.item.tick, worked.encoded[i]))
            known = {number: encoded for epoch, number, encoded in recent if epoch == tick.item.epoch}
            base = worked.bases.get(i)
            spent_ns += worked.encode_ns
            took_ns = 0 if base is None else spent_ns + worked.base_ns
            spent_ns = spent_ns if base is None else 0
            yield tick, Ready(prepared=Prepared(encoded=known, base=base), took_ns=took_ns)


def _worked(
    blocks: Iterable[tuple[Tick, ...]], work: Callable[[Sequence[Tick]], _Worked]
) -> Generator[tuple[tuple[Tick, ...], _Worked]]:
    """Each block with what was worked out for it, by a thread of its own if torch leaves a core for that.

    The recording is read by the caller's thread: a database may be read by the one alone that opened it.
    """
    import torch  # noqa: PLC0415 - there already, with the model

    if torch.get_num_threads() >= len(os.sched_getaffinity(0)):
        yield from ((block, work(block)) for block in blocks)
        return
    with ThreadPoolExecutor(max_workers=1) as beside:
        begun: deque[tuple[tuple[Tick, ...], Future[_Worked]]] = deque()
        for block in blocks:
            begun.append((block, beside.submit(work, block)))
            if len(begun) > 1:
                first, coming = begun.popleft()
                yield first, coming.result()
        yield from ((block, coming.result()) for block, coming in begun)


def _work(
    ahead: "Ahead", block: Sequence[Tick], due: Callable[[Window], bool], certify: Callable[[Window], None]
) -> _Worked:
    from sigma_ros.model.precompute import Planned  # noqa: PLC0415

    windows = {i: tick.item for i, tick in enumerate(block) if isinstance(tick.item, Window)}
    if not windows:
        return _Worked()
    for window in filter(due, windows.values()):
        certify(window)
    started_ns = time.perf_counter_ns()
    encoded = dict(zip(windows, ahead.encode(list(windows.values())), strict=True))
    seen_ns = time.perf_counter_ns()
    wanted = {i: Planned(window=window, encoded=encoded[i]) for i, window in windows.items() if due(window)}
    bases = dict(zip(wanted, ahead.base_chunks(list(wanted.values())), strict=True))
    return _Worked(
        encoded=encoded,
        bases=bases,
        encode_ns=(seen_ns - started_ns) // len(windows),
        base_ns=(time.perf_counter_ns() - seen_ns) // max(1, len(wanted)),
    )
