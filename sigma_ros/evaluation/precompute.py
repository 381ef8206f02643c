# SPDX-License-Identifier: Apache-2.0
"""Ticks of a recording with their heavy work done ahead, block by block.

The recurrent memory must go through the ticks one by one; vision and the base's chunks need not. One block is there at
a time, so memory does not grow with the recording. Ticks come out in order and unchanged.
"""

import time
from collections import deque
from collections.abc import Callable, Generator, Iterable, Sequence
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

BLOCK_TICKS = 64
"""With a chunk every 16 ticks, as many as go through the base together."""


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
    for block in batched(ticks, BLOCK_TICKS):
        worked = _work(ahead, block, due, certify)
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
