# SPDX-License-Identifier: Apache-2.0
"""`sigma replay --latency` and `--realtime`: the same recordings once more, with chunks that come late."""

import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path

from sigma_ros.evaluation.late_replay import bag_time_worker, replay_late
from sigma_ros.evaluation.latency import Delivery, Latency, latency_row
from sigma_ros.evaluation.log import ReplayLog
from sigma_ros.evaluation.replay import Hooks, ReplayOptions, policy_loop
from sigma_ros.evaluation.report.document import plain
from sigma_ros.evaluation.supervised import LONGEST_PAUSE_NS
from sigma_ros.model.runtime import SigmaRuntime
from sigma_ros.policy.worker import InferenceThread
from sigma_ros.values import NS_PER_S

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
            worker = bag_time_worker(runtime, options, latency)
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
        thread = InferenceThread(policy_loop(runtime.contract, runtime, options, lockstep=False), runtime)
        try:
            runs.append(
                replay_late(
                    bag,
                    contract=runtime.contract,
                    runtime=runtime,
                    options=options,
                    worker=thread,
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
        """Waits until bag time has come to a stamp; returns by how much it is past it then."""
        jump_ns = stamp_ns - self._last_ns
        if self._offset_ns is None or not 0 <= jump_ns <= LONGEST_PAUSE_NS:
            self._offset_ns = stamp_ns - self._wall_ns()
        self._last_ns = stamp_ns
        ahead_ns = stamp_ns - self.now_ns()
        if ahead_ns > 0:
            self._sleep(ahead_ns / NS_PER_S)
        return max(0, self.now_ns() - stamp_ns)
