# SPDX-License-Identifier: Apache-2.0
"""How late chunks are: a model of latency that is the same for the same seed, and which chunk is in force when."""

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from sigma_ros.errors import UsageError
from sigma_ros.evaluation.replay_log import ReplayLog
from sigma_ros.policy.job import Job, PassGap, Step
from sigma_ros.values import Chunk

_MS = 1_000_000

REMEMBER_SHARE = 0.15
"""What an update of the memory without a chunk takes of an inference (measured on the small model)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Latency:
    """How long an inference takes: a fixed part, uniform jitter up to `jitter_ms` on top, and now and then a spike.

    `remember_share`: the part of it that a job takes which makes no base chunk.
    """

    fixed_ms: float = 0.0
    jitter_ms: float = 0.0
    spike_ms: float = 0.0
    spike_share: float = 0.0
    seed: int = 0
    remember_share: float = REMEMBER_SHARE

    @property
    def name(self) -> str:
        """As it is written on the command line."""
        jitter = f"~{self.jitter_ms:g}" if self.jitter_ms else ""
        spike = f"!{self.spike_ms:g}@{self.spike_share:g}" if self.spike_share else ""
        return f"{self.fixed_ms:g}{jitter}{spike}"

    def of(self, epoch: int, tick: int) -> int:
        """Nanoseconds for a tick's inference: the same for the same seed, epoch and tick."""
        jitter, spike = np.random.default_rng([self.seed, epoch, tick]).random(2)
        extra_ms = self.spike_ms if spike < self.spike_share else 0.0
        return round((self.fixed_ms + jitter * self.jitter_ms + extra_ms) * _MS)

    def of_job(self, job: Job) -> int:
        """Nanoseconds for a job of the policy loop; a gap takes no time."""
        if isinstance(job, PassGap):
            return 0
        whole_ns = self.of(job.request.item.epoch, job.request.item.tick)
        return whole_ns if isinstance(job, Step) else round(self.remember_share * whole_ns)


@dataclass(frozen=True, slots=True, kw_only=True)
class Arrival:
    """A chunk and when it is there; `took_ns` is its inference alone, without waiting."""

    chunk: Chunk
    stamp_ns: int
    took_ns: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Delivery:
    """What came of the planning ticks: arrivals in order; planning ticks that found the one before still waiting.

    `overruns`: how often the worker was so far behind that its queue was dropped, and the memory with it. `late_ticks`:
    ticks that were worked on more than one tick late (only on the wall clock).
    """

    arrivals: tuple[Arrival, ...]
    skipped: int
    overruns: int = 0
    late_ticks: int = 0


def parse_latencies(text: str, *, seed: int = 0) -> tuple[Latency, ...]:
    """`0,30,100~20,100!500@0.05`: milliseconds, `~` jitter, `!` height and `@` share of spikes.

    Raises:
        UsageError: a part cannot be read, or is below 0.
    """
    return tuple(_parse(part.strip(), seed) for part in text.split(","))


def _parse(part: str, seed: int) -> Latency:
    rest, _, spikes = part.partition("!")
    fixed, _, jitter = rest.partition("~")
    height, _, share = spikes.partition("@")
    try:
        numbers = [float(number or 0.0) for number in (fixed, jitter, height, share)]
    except ValueError:
        numbers = [np.nan]
    if not fixed or not np.isfinite(numbers).all() or min(numbers) < 0.0 or numbers[3] > 1.0:
        raise UsageError(
            "this is no latency",
            where="--latency",
            expected="such as 0,30,100~20,100!500@0.05 (milliseconds)",
            got=part,
        )
    return Latency(fixed_ms=numbers[0], jitter_ms=numbers[1], spike_ms=numbers[2], spike_share=numbers[3], seed=seed)


def in_force(log: ReplayLog, arrivals: Sequence[Arrival]) -> list[Arrival | None]:
    """For each tick the newest chunk that is there at the tick's stamp, of the tick's epoch, and reaches that far."""
    ticks = log.ticks
    waiting = deque(arrivals)
    newest: Arrival | None = None
    chosen: list[Arrival | None] = []
    for epoch, tick, stamp_ns in zip(ticks.epoch.tolist(), ticks.tick.tolist(), ticks.stamp_ns.tolist(), strict=True):
        while waiting and (waiting[0].chunk.epoch, waiting[0].stamp_ns) <= (epoch, stamp_ns):
            newest = waiting.popleft()
        usable = (
            newest is not None and newest.chunk.epoch == epoch and 0 <= tick - newest.chunk.tick < newest.chunk.horizon
        )
        chosen.append(newest if usable else None)
    return chosen
