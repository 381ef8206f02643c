# SPDX-License-Identifier: Apache-2.0
"""A model that writes down what it is asked, a loop around it, and a clock that only the test turns."""

import threading
from collections.abc import Callable
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
from bags import small_contract
from stub_runtime import StubRuntime, StubState

from sigma_ros.evaluation.latency import Latency
from sigma_ros.policy.job import Encode, Job, Outcome, Proposed, execute
from sigma_ros.policy.loop import PolicyLoop, PolicySettings
from sigma_ros.policy.schedule import Schedule
from sigma_ros.policy.worker import NEVER_NS, InferenceThread
from sigma_ros.values import WINDOW_TICKS, AdapterSettings, Chunk, Frame, Gap, LeftOver, Telepathy, Window

CONTRACT = small_contract()
TIMEOUT_S = 60.0
START_NS = 1_000_000_000


def stamp_of(tick: int) -> int:
    return START_NS + CONTRACT.tick_offset_ns(tick)


def window(tick: int, *, epoch: int = 0, task: str = "t") -> Window:
    frame = Frame(
        epoch=epoch,
        tick=tick,
        stamp_ns=stamp_of(tick),
        images={},
        positions_rad=np.zeros(6),
        image_age_ns={},
        joint_age_ns=0,
    )
    return Window(epoch=epoch, task=task, frames=(frame,) * WINDOW_TICKS, mask=np.ones(WINDOW_TICKS, dtype=bool))


def gap(tick: int, *, epoch: int = 0) -> Gap:
    return Gap(epoch=epoch, tick=tick, stamp_ns=stamp_of(tick), reasons=("dark",))


class Model(StubRuntime):
    """The stand-in, with refreshes, failures and saved states."""

    def __init__(self) -> None:
        super().__init__(CONTRACT)
        self.left_overs: list[LeftOver | None] = []
        self.fail_at: int | None = None

    def step(self, window: Window, state: StubState, *, left_over: LeftOver | None = None, **options):
        self.left_overs.append(left_over)
        if window.tick == self.fail_at:
            raise RuntimeError("CUDA out of memory")
        return super().step(window, state, **options)

    def refresh(self, window: Window, state: StubState, previous: Chunk, *, settings: AdapterSettings, chunk_id: int):
        base = previous.base_rad[window.tick - previous.tick :]
        inference, _ = super().step(window, state, commit=False, settings=settings, chunk_id=chunk_id)
        chunk = replace(inference.chunk, base_rad=base, residual_rad=np.full(base.shape, 0.02))
        return SimpleNamespace(chunk=chunk, telepathy=inference.telepathy), state


def policy_loop(*, lockstep: bool = False, schedule: Schedule | None = None, **settings: object) -> PolicyLoop:
    given = PolicySettings(schedule=schedule or Schedule(8, 16), adapter=AdapterSettings(), **settings)
    return PolicyLoop(CONTRACT, given, check_units=lambda _: (), lockstep=lockstep)


def finish(loop: PolicyLoop, model: Model) -> list[Outcome]:
    """Executes all that waits, and gives what has come of it."""
    while (job := loop.begin(0)) is not None:
        loop.on_result(execute(job, model))
    return loop.outcomes()


def memory_of(outcome: Outcome) -> int:
    """How many updates entered the memory by then: the stand-in's base grows with each."""
    assert isinstance(outcome, Proposed)
    return round(outcome.chunk.tau_l2)


Traced = tuple[str, int, int, bool, bool, int]


def traced(loop: PolicyLoop) -> list[Traced]:
    """The jobs that a loop begins from now on: kind, epoch, tick, plans, commits, and how long it waited.

    Looks are left out: nothing hangs on them.
    """
    jobs: list[Traced] = []
    begin = loop.begin

    def watched(now_ns: int) -> Job | None:
        job = begin(now_ns)
        if job is not None and not isinstance(job, Encode):
            asked = job.request
            name = type(job).__name__
            jobs.append((name, asked.item.epoch, asked.item.tick, asked.plans, asked.commits, asked.waited_ns))
        return job

    loop.begin = watched  # type: ignore[method-assign]
    return jobs


class TurnedClock:
    """A clock for one thread: work takes until the test has turned the clock to its end."""

    def __init__(self) -> None:
        self.now_ns = 0
        self.work_ends_ns: int | None = None
        self.changed = threading.Condition()

    def read(self) -> int:
        return self.now_ns

    def work(self, took_ns: int) -> None:
        """Called by the thread: is over when the clock stands at its end."""
        with self.changed:
            ends_ns = self.work_ends_ns = self.now_ns + took_ns
            self.changed.notify_all()
            assert self.changed.wait_for(lambda: self.work_ends_ns is None, TIMEOUT_S), "the clock was not turned"
            assert self.now_ns == ends_ns

    def turn(self, to_ns: int, is_idle: Callable[[], bool]) -> None:
        """Turns on, stopping wherever work ends; waits until the thread has begun the next or has nothing to do."""
        with self.changed:
            while True:
                settled = self.changed.wait_for(lambda: self.work_ends_ns is not None or is_idle(), TIMEOUT_S)
                assert settled, "the thread neither works nor waits"
                if self.work_ends_ns is None or self.work_ends_ns > to_ns:
                    break
                self.now_ns, self.work_ends_ns = self.work_ends_ns, None
                self.changed.notify_all()
            self.now_ns = max(self.now_ns, to_ns)

    def wake(self) -> None:
        with self.changed:
            self.changed.notify_all()


class ClockedModel(Model):
    """A model whose work takes what a latency says, on a turned clock."""

    def __init__(self, clock: TurnedClock, latency: Latency) -> None:
        super().__init__()
        self._clock = clock
        self._latency = latency

    def step(self, window: Window, state: StubState, **options):
        self._clock.work(self._latency.of(window.epoch, window.tick))
        return super().step(window, state, **options)

    def remember(self, window: Window, state: StubState) -> tuple[Telepathy, StubState]:
        whole_ns = self._latency.of(window.epoch, window.tick)
        self._clock.work(round(self._latency.remember_share * whole_ns))
        inference, advanced = super().step(window, state, commit=True, settings=AdapterSettings(), chunk_id=-1)
        return inference.telepathy, advanced


class TurnedThread(InferenceThread):
    """The live thread on a turned clock: real threads, but no machine is fast or slow."""

    def __init__(self, loop: PolicyLoop, latency: Latency) -> None:
        self.clock = TurnedClock()
        model = ClockedModel(self.clock, latency)
        super().__init__(loop, model, wake=self.clock.wake, clock_ns=self.clock.read)

    def on_item(self, item: Window | Gap, *, task: str = "", late_ns: int = 0) -> bool:
        self.clock.turn(item.stamp_ns - 1, self._is_idle)
        self.clock.now_ns = item.stamp_ns
        return super().on_item(item, task=task, late_ns=late_ns)

    def outcomes(self, until_ns: int = 0) -> list[Outcome]:
        self.clock.turn(until_ns, self._is_idle)
        return super().outcomes()

    def finish(self) -> list[Outcome]:
        """To the end of what is being worked on, as in given time."""
        if self.loop.busy_since_ns is not None:
            with self._changed:
                self.loop._waiting.clear()
            self.clock.turn(NEVER_NS, self._is_idle)
        return super().outcomes()

    def let_go(self) -> None:
        """Ends the thread."""
        with self._changed:
            self.loop._waiting.clear()
        self.clock.turn(NEVER_NS, self._is_idle)
        assert self.close(TIMEOUT_S)

    def _is_idle(self) -> bool:
        with self._changed:
            return self.loop._busy is None and not self.loop._waiting
