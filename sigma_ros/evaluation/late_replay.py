# SPDX-License-Identifier: Apache-2.0
"""A replay in which inference takes time: in bag time with a given latency, or on this machine's clock."""

import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from sigma_ros.bags.episode import Episode
from sigma_ros.bags.reader import open_bag
from sigma_ros.evaluation.drive import ReplayDrive
from sigma_ros.evaluation.latency import Delivery, Latency, latency_row
from sigma_ros.evaluation.log import ReplayLog
from sigma_ros.evaluation.replay import (
    Hooks,
    ReplayOptions,
    bag_facts,
    local_supervisor,
    nothing_inferred,
    policy_loop,
    recorder_of,
    share_done,
)
from sigma_ros.evaluation.report.document import plain
from sigma_ros.evaluation.supervised import LONGEST_PAUSE_NS
from sigma_ros.policy.job import execute
from sigma_ros.policy.worker import InferenceThread, TimedWorker, Worker
from sigma_ros.values import NS_PER_S

if TYPE_CHECKING:
    from sigma_ros.model.runtime import SigmaRuntime

Told = Callable[[str, int, float], None]
"""Hears a row's name, the recording's number and the share of it that is done."""


def bag_time_worker(runtime: "SigmaRuntime", options: ReplayOptions, latency: Latency) -> TimedWorker:
    """The live rules in bag time: an inference takes what `latency` says, whatever the machine needs."""
    loop = policy_loop(runtime.contract, runtime, options, lockstep=False)
    return TimedWorker(loop, partial(execute, runtime=runtime), latency.of_job)


def replay_late(
    bag_path: Path,
    *,
    runtime: "SigmaRuntime",
    options: ReplayOptions,
    worker: Worker,
    pace: Callable[[int], int] = lambda _stamp_ns: 0,
    hooks: Hooks | None = None,
) -> tuple[ReplayLog, Delivery]:
    """Replays a recording with inference by `worker`.

    A recording's epochs cannot begin anew where the worker falls behind, as the live frame clock's do: there the
    memory alone begins anew.

    Args:
        bag_path: The recording.
        runtime: For the robot, facts and units; the worker infers.
        options: As for `replay`; the supervisor sees each chunk when it arrives.
        worker: `bag_time_worker`, or the inference thread on this machine's clock.
        pace: Waits until it is time for a stamp; returns by how many nanoseconds that is late.
        hooks: A wish to stop, an ear for progress.
    """
    contract, hooks = runtime.contract, hooks or Hooks()
    late_ticks, complete = 0, True
    with open_bag(bag_path, strict=options.strict, recover=options.recover, stamps=options.stamps) as bag:
        ticks = Episode(bag, contract, image_size_px=runtime.image_size_px, task=options.task)
        recorder = recorder_of(bag, contract, runtime, options)
        drive = ReplayDrive(worker, recorder, local_supervisor(contract, options, recorder, lambda: 0))
        for tick in ticks:
            if hooks.stopped():
                complete = False
                break
            late_ns = pace(tick.item.stamp_ns)
            late_ticks += late_ns > contract.tick_period_ns
            drive.tick(tick, late_ns=late_ns)
            hooks.progress(share_done(bag.info, tick))
        skipped = worker.loop.skipped + worker.loop.awaits_plan
        drive.end()
        log = recorder.finish(bag_facts(bag, ticks), complete=complete, wall_ns=0)
        if complete and not drive.arrivals and not worker.loop.overruns:
            raise nothing_inferred(bag.info.path, Counter(log.ticks.reasons))
        delivery = Delivery(
            arrivals=tuple(drive.arrivals), skipped=skipped, overruns=worker.loop.overruns, late_ticks=late_ticks
        )
        return log, delivery


# The rows of a report: the same recordings once more, with chunks that come late.


def rows_in_bag_time(
    bags: Sequence[Path],
    latencies: Sequence[Latency],
    runtime: "SigmaRuntime",
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
            hooks = Hooks(stopped=stopped, progress=partial(told, f"{latency.name} ms", number))
            worker = bag_time_worker(runtime, options, latency)
            runs.append(replay_late(bag, runtime=runtime, options=options, worker=worker, hooks=hooks))
        rows.append(asdict(latency_row(latency.name, runs)))
    return plain({"clock": "bag", "rows": rows})


def row_on_the_clock(
    bags: Sequence[Path], runtime: "SigmaRuntime", options: ReplayOptions, *, told: Told, stopped: Callable[[], bool]
) -> object:
    """One row: the live worker on this machine, the recordings played at their own speed."""
    runs: list[tuple[ReplayLog, Delivery]] = []
    for number, bag in enumerate(bags):
        hooks = Hooks(stopped=stopped, progress=partial(told, "real time", number))
        pace = BagClock().wait_for
        thread = InferenceThread(policy_loop(runtime.contract, runtime, options, lockstep=False), runtime)
        try:
            runs.append(replay_late(bag, runtime=runtime, options=options, worker=thread, pace=pace, hooks=hooks))
        finally:
            thread.close(timeout_s=10.0)
    return plain({"clock": "wall", "rows": [asdict(latency_row("measured", runs))]})


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
        """Waits until bag time has come to a stamp; returns by how much it is past it then."""
        jump_ns = stamp_ns - self._last_ns
        if self._offset_ns is None or not 0 <= jump_ns <= LONGEST_PAUSE_NS:
            self._offset_ns = stamp_ns - self._wall_ns()
        self._last_ns = stamp_ns
        ahead_ns = stamp_ns - self.now_ns()
        if ahead_ns > 0:
            self._sleep(ahead_ns / NS_PER_S)
        return max(0, self.now_ns() - stamp_ns)
