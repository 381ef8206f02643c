# SPDX-License-Identifier: Apache-2.0
"""`sigma replay --latency` and `--realtime`: the same recordings once more, with chunks that come late."""

import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Protocol

from sigma_ros.errors import SigmaError
from sigma_ros.evaluation.late_replay import BagTimeWorker, LateJob, LateOutcome, LateWorker, replay_late
from sigma_ros.evaluation.latency import Delivery, Latency
from sigma_ros.evaluation.latency_cost import latency_row
from sigma_ros.evaluation.replay import Hooks, ReplayOptions
from sigma_ros.evaluation.replay_log import ReplayLog
from sigma_ros.evaluation.report_json import plain
from sigma_ros.model.runtime import SigmaRuntime
from sigma_ros.nodes.policy_job import Job, Outcome
from sigma_ros.nodes.policy_worker import InferenceWorker
from sigma_ros.values import NS_PER_S, AdapterSettings, Window

LONGEST_PAUSE_NS = 2 * NS_PER_S
"""A jump of bag time beyond this is not waited out."""

NEVER_NS = 2**63 - 1

Told = Callable[[str, int, float], None]


def in_bag_time(
    bags: Sequence[Path],
    latencies: Sequence[Latency],
    runtime: SigmaRuntime,
    options: ReplayOptions,
    *,
    told: Told,
    stopped: Callable[[], bool],
) -> object:
    """One row per latency: exact, whatever the machine's speed."""
    rows = []
    for latency in latencies:
        runs = []
        for number, bag in enumerate(bags):
            worker = BagTimeWorker(runtime, options, latency)
            hooks = Hooks(stopped=stopped, progress=_teller(told, f"{latency.name} ms", number))
            runs.append(
                replay_late(
                    bag, contract=runtime.contract, runtime=runtime, options=options, worker=worker, hooks=hooks
                )
            )
        rows.append(asdict(latency_row(latency.name, runs)))
    return plain({"clock": "bag", "rows": rows})


def on_the_wall_clock(
    bags: Sequence[Path],
    runtime: SigmaRuntime,
    options: ReplayOptions,
    *,
    told: Told,
    stopped: Callable[[], bool],
) -> object:
    """One row: the live worker on this machine, the recordings played at their own speed."""
    runs: list[tuple[ReplayLog, Delivery]] = []
    for number, bag in enumerate(bags):
        clock = BagClock()
        thread = InferenceWorker(runtime, lockstep=False, wake=lambda: None)
        try:
            runs.append(
                replay_late(
                    bag,
                    contract=runtime.contract,
                    runtime=runtime,
                    options=options,
                    worker=LiveWorker(thread, options.settings, clock),
                    pace=clock.wait_for,
                    hooks=Hooks(stopped=stopped, progress=_teller(told, "real time", number)),
                )
            )
        finally:
            thread.close(timeout_s=10.0)
    return plain({"clock": "wall", "rows": [asdict(latency_row("measured", runs))]})


def _teller(told: Told, name: str, number: int) -> Callable[[float], None]:
    return lambda share: told(name, number, share)


class BagClock:
    """Bag time that goes on with the wall clock; it begins with the first stamp, and again after a long jump.

    Args:
        now_ns: A clock that never goes back.
        sleep: Waits for seconds of that clock.
    """

    def __init__(
        self, now_ns: Callable[[], int] = time.monotonic_ns, sleep: Callable[[float], None] = time.sleep
    ) -> None:
        self._wall_ns = now_ns
        self._sleep = sleep
        self._offset_ns: int | None = None
        self._last_ns = 0

    def now_ns(self) -> int:
        """Bag time now."""
        return self._wall_ns() + (self._offset_ns or 0)

    def wait_for(self, stamp_ns: int) -> int:
        """Waits until bag time has come to a stamp; returns by how much it was already past it."""
        jump_ns = stamp_ns - self._last_ns
        if self._offset_ns is None or not 0 <= jump_ns <= LONGEST_PAUSE_NS:
            self._offset_ns = stamp_ns - self._wall_ns()
        self._last_ns = stamp_ns
        ahead_ns = stamp_ns - self.now_ns()
        if ahead_ns > 0:
            self._sleep(ahead_ns / NS_PER_S)
        return max(0, -ahead_ns)


class Thread(Protocol):
    """What is needed of the policy node's `InferenceWorker`."""

    @property
    def awaits_plan(self) -> bool:
        """Whether a planning tick still waits to be begun."""
        ...

    def submit(self, job: Job) -> bool:
        """Adds a tick; False when everything that waited was dropped."""
        ...

    def restart(self) -> None:
        """Forgets the recurrent state."""
        ...

    def outcomes(self) -> list[Outcome]:
        """What was finished since the last call."""
        ...


class LiveWorker(LateWorker):
    """The policy node's own inference thread; outcomes carry the bag time at which they were finished."""

    def __init__(self, thread: Thread, settings: AdapterSettings, clock: BagClock) -> None:
        self._thread = thread
        self._settings = settings
        self._clock = clock
        self._epoch = 0
        self._finished: deque[LateOutcome] = deque()

    @property
    def awaits_plan(self) -> bool:
        """Whether a planning tick still waits to be begun."""
        return self._thread.awaits_plan

    def submit(self, job: LateJob) -> bool:
        """Adds a tick; False when everything that waited was dropped, and the memory with it."""
        self._epoch = job.window.epoch
        taken = self._thread.submit(
            Job(
                item=job.window,
                task=job.window.task,
                settings=self._settings,
                plans=job.plans,
                commits=job.commits,
                late_ns=self._clock.now_ns() - job.window.stamp_ns,
            )
        )
        if not taken:
            self._thread.restart()
        return taken

    def until(self, stamp_ns: int) -> Iterator[LateOutcome]:
        """What was finished up to a stamp (`pace` has waited for it), and at once what belongs to an ended epoch."""
        self._finished.extend(late for outcome in self._thread.outcomes() if (late := _late_outcome(outcome)))
        while self._finished and (
            self._finished[0].stamp_ns <= stamp_ns or self._finished[0].job.window.epoch != self._epoch
        ):
            yield self._finished.popleft()

    def finish(self) -> Iterator[LateOutcome]:
        """What was finished after the last tick; what is still being worked on is given up."""
        yield from self.until(NEVER_NS)


def _late_outcome(outcome: Outcome) -> LateOutcome | None:
    if outcome.error is not None:
        raise SigmaError("the model failed", got=outcome.error.strip().splitlines()[-1])
    window = outcome.job.item
    if outcome.telepathy is None or not isinstance(window, Window):
        return None
    return LateOutcome(
        job=LateJob(window=window, plans=outcome.job.plans, commits=outcome.job.commits),
        chunk=outcome.chunk,
        telepathy=outcome.telepathy,
        stamp_ns=window.stamp_ns + outcome.delay_ns,
        took_ns=outcome.took_ns,
    )
