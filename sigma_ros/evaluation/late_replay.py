# SPDX-License-Identifier: Apache-2.0
"""A replay in which inference takes time: the live worker's rules, in bag time with a given latency or on a clock.

As on the robot one worker works on one tick at a time. A tick that commits the memory is never skipped; where a newer
plan waits behind it only the memory is updated. A plan that waits moves on to the newest tick.
"""

from collections import Counter, deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from sigma_ros.bags.episode import Episode, Tick
from sigma_ros.bags.reader import open_bag
from sigma_ros.contract import Contract
from sigma_ros.control.units import units_gap
from sigma_ros.evaluation.latency import Arrival, Delivery, Latency
from sigma_ros.evaluation.recorder import ReplayRecorder
from sigma_ros.evaluation.replay import Hooks, ReplayOptions, bag_facts, nothing_inferred, policy_facts, run_facts
from sigma_ros.evaluation.replay_log import BagFacts, ReplayLog
from sigma_ros.evaluation.supervised import BagTimeSupervisor
from sigma_ros.values import Chunk, Gap, Telepathy, Window

if TYPE_CHECKING:
    from sigma_ros.model.runtime import SigmaRuntime
    from sigma_ros.model.state import RecurrentState

MAX_WAITING = 3
"""As in the live worker: with more jobs waiting it cannot catch up; they are dropped."""

REMEMBER_SHARE = 0.15
"""What a bare update of the memory takes of an inference (measured on the small model)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LateJob:
    """A tick for the worker."""

    window: Window
    plans: bool
    commits: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class LateOutcome:
    """A finished job: `stamp_ns` in bag time, `took_ns` without waiting. A bare update of the memory has no chunk."""

    job: LateJob
    chunk: Chunk | None
    telepathy: Telepathy
    stamp_ns: int
    took_ns: int


class LateWorker(Protocol):
    """Works on ticks, in bag time or on the wall clock."""

    @property
    def awaits_plan(self) -> bool:
        """Whether a planning tick still waits to be begun."""
        ...

    def submit(self, job: LateJob) -> bool:
        """Adds a tick; False when everything that waited was dropped."""
        ...

    def until(self, stamp_ns: int) -> Iterator[LateOutcome]:
        """Lets bag time come to this stamp; gives what has been finished up to it, in order."""
        ...

    def finish(self) -> Iterator[LateOutcome]:
        """What was still being worked on."""
        ...


class BagTimeWorker:
    """The live worker's rules in bag time: an inference takes what `latency` says, whatever the machine needs."""

    def __init__(self, runtime: "SigmaRuntime", options: ReplayOptions, latency: Latency) -> None:
        self._runtime = runtime
        self._options = options
        self._latency = latency
        self._waiting: deque[LateJob] = deque()
        self._outcomes: deque[LateOutcome] = deque()
        self._state: RecurrentState | None = None
        self._newest = (0, 0)
        self._free_ns = 0
        self._chunks = 0

    @property
    def awaits_plan(self) -> bool:
        """Whether a planning tick still waits to be begun."""
        return any(job.plans for job in self._waiting)

    def submit(self, job: LateJob) -> bool:
        """Adds a tick; False when everything that waited was dropped."""
        epoch, newest_ns = self._newest
        self._newest = job.window.epoch, job.window.stamp_ns
        if epoch != job.window.epoch:
            self._waiting.clear()
            if job.window.stamp_ns < newest_ns:  # bag time has gone back
                self._free_ns = 0
        if job.plans:
            self._waiting = deque(replace(waiting, plans=False) for waiting in self._waiting if waiting.commits)
        if len(self._waiting) >= MAX_WAITING:
            self._waiting.clear()
            self._state = None
            return False
        self._waiting.append(job)
        self._work(job.window.stamp_ns, including=True)
        return True

    def until(self, stamp_ns: int) -> Iterator[LateOutcome]:
        """What has been finished up to this stamp, in order, and at once what belongs to an ended epoch."""
        self._work(stamp_ns, including=False)
        while self._outcomes and (
            self._outcomes[0].stamp_ns <= stamp_ns or self._outcomes[0].job.window.epoch != self._newest[0]
        ):
            yield self._outcomes.popleft()

    def finish(self) -> Iterator[LateOutcome]:
        """What was still being worked on."""
        while self._outcomes:
            yield self._outcomes.popleft()

    def _work(self, stamp_ns: int, *, including: bool) -> None:
        """Begins the jobs whose turn comes before this stamp (or at it)."""
        while self._waiting:
            begin_ns = max(self._free_ns, self._waiting[0].window.stamp_ns)
            if begin_ns > stamp_ns or (begin_ns == stamp_ns and not including):
                return
            self._begin(self._waiting.popleft(), begin_ns)

    def _begin(self, job: LateJob, begin_ns: int) -> None:
        window, state = job.window, self._state
        if state is None or (state.epoch, state.task) != (window.epoch, window.task):
            state = self._runtime.initial_state(epoch=window.epoch, task=window.task)
        took_ns = self._latency.of(window.epoch, window.tick)
        chunk: Chunk | None = None
        if job.plans:
            inference, self._state = self._runtime.step(
                window, state, commit=job.commits, settings=self._options.settings, chunk_id=self._chunks
            )
            chunk, telepathy = inference.chunk, inference.telepathy
            self._chunks += 1
        else:
            telepathy, self._state = self._runtime.remember(window, state)
            took_ns = round(REMEMBER_SHARE * took_ns)
        self._free_ns = begin_ns + took_ns
        self._outcomes.append(
            LateOutcome(job=job, chunk=chunk, telepathy=telepathy, stamp_ns=self._free_ns, took_ns=took_ns)
        )


def replay_late(
    bag_path: Path,
    *,
    contract: Contract,
    runtime: "SigmaRuntime",
    options: ReplayOptions,
    worker: LateWorker,
    pace: Callable[[int], int] = lambda _stamp_ns: 0,
    hooks: Hooks | None = None,
) -> tuple[ReplayLog, Delivery]:
    """Replays a recording with inference by `worker`.

    Args:
        bag_path: The recording.
        contract: The robot.
        runtime: For facts and units; the worker infers.
        options: As for `replay`; the supervisor sees each chunk when it arrives.
        worker: `BagTimeWorker`, or one on the wall clock.
        pace: Waits until it is time for a stamp; returns by how many nanoseconds that is late.
        hooks: A wish to stop, an ear for progress.
    """
    hooks = hooks or Hooks()
    with open_bag(bag_path, strict=options.strict, recover=options.recover) as bag:
        ticks = Episode(bag, contract, image_size_px=runtime.image_size_px, task=options.task)
        run = run_facts(bag, contract, runtime, options)
        loop = _LateLoop(contract, runtime, options, ReplayRecorder(contract, policy_facts(runtime), run), worker)
        info = bag.info
        span_ns = max(1, info.end_ns - info.start_ns)
        complete = True
        for tick in ticks:
            if hooks.stopped():
                complete = False
                break
            loop.tick(tick, late_ns=pace(tick.item.stamp_ns))
            hooks.progress(min(1.0, max(0.0, (tick.item.stamp_ns - info.start_ns) / span_ns)))
        return loop.end(bag_facts(bag, ticks), complete=complete, path=info.path)


class _LateLoop:
    """Frame clock, worker and supervisor, advanced tick by tick."""

    def __init__(
        self,
        contract: Contract,
        runtime: "SigmaRuntime",
        options: ReplayOptions,
        recorder: ReplayRecorder,
        worker: LateWorker,
    ) -> None:
        self._contract = contract
        self._runtime = runtime
        self._schedule = options.schedule
        self._recorder = recorder
        self._worker = worker
        self._supervisor = None
        if options.supervisor_limits is not None:
            self._supervisor = BagTimeSupervisor(contract, options.supervisor_limits, recorder, lambda: 0)
        self._arrivals: list[Arrival] = []
        self._skipped = self._overruns = self._late_ticks = 0
        self._judged_epoch = -1
        self._problems: tuple[str, ...] = ()
        self._now_ns = 0

    def tick(self, tick: Tick, *, late_ns: int) -> None:
        """One tick: what arrived since the last one, then the tick's own job."""
        self._late_ticks += late_ns > self._contract.tick_period_ns
        item = self._judged(tick.item)
        self._recorder.tick(item, tick.action_rad)
        if self._supervisor is not None:
            back = item.stamp_ns < self._now_ns or not self._now_ns
            self._supervisor.advance(item.stamp_ns if back else self._now_ns, tick.joint_samples)
        before_ns, self._now_ns = self._now_ns, item.stamp_ns
        self._take(self._worker.until(item.stamp_ns), since_ns=before_ns)
        job = self._job(item)
        if job is not None:
            self._overruns += not self._worker.submit(job)
            self._take(self._worker.until(item.stamp_ns), since_ns=before_ns)
        if self._supervisor is not None:
            self._supervisor.advance(item.stamp_ns, ())

    def end(self, facts: BagFacts, *, complete: bool, path: Path) -> tuple[ReplayLog, Delivery]:
        """The last chunks and supervisor ticks."""
        self._skipped += self._worker.awaits_plan
        for outcome in self._worker.finish():
            self._note(outcome)
        if self._supervisor is not None:
            self._supervisor.end()
        log = self._recorder.finish(facts, complete=complete, wall_ns=0)
        if not self._arrivals and complete:
            raise nothing_inferred(path, Counter(log.ticks.reasons))
        return log, Delivery(
            arrivals=tuple(self._arrivals),
            skipped=self._skipped,
            overruns=self._overruns,
            late_ticks=self._late_ticks,
        )

    def _job(self, item: Window | Gap) -> LateJob | None:
        """What the tick asks of the worker; a plan that still waits moves to this tick."""
        if isinstance(item, Gap):
            return None
        waits = self._worker.awaits_plan
        plans = self._schedule.plans(item.tick)
        self._skipped += plans and waits
        plans, commits = plans or waits, self._schedule.commits(item.tick)
        return LateJob(window=item, plans=plans, commits=commits) if plans or commits else None

    def _take(self, outcomes: Iterator[LateOutcome], *, since_ns: int) -> None:
        for outcome in outcomes:
            self._note(outcome)
            if outcome.chunk is not None and self._supervisor is not None:
                self._supervisor.advance(min(max(outcome.stamp_ns, since_ns), self._now_ns), ())
                self._supervisor.on_chunk(outcome.chunk)

    def _note(self, outcome: LateOutcome) -> None:
        if outcome.chunk is None:
            return
        self._arrivals.append(Arrival(chunk=outcome.chunk, stamp_ns=outcome.stamp_ns, took_ns=outcome.took_ns))
        self._recorder.inference(outcome.chunk, outcome.telepathy, published=outcome.job.plans, host_ns=outcome.took_ns)

    def _judged(self, item: Window | Gap) -> Window | Gap:
        if isinstance(item, Gap):
            return item
        if item.epoch != self._judged_epoch:
            self._judged_epoch = item.epoch
            self._problems = self._runtime.check_units(item.newest.positions_rad)
        return units_gap(item, self._problems, self._contract) if self._problems else item
