# SPDX-License-Identifier: Apache-2.0
"""A replay in which inference takes time: in bag time with a given latency, or on this machine's clock."""

from collections import Counter
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from sigma_ros.bags.episode import Episode
from sigma_ros.bags.reader import open_bag
from sigma_ros.contract import Contract
from sigma_ros.evaluation.drive import ReplayDrive
from sigma_ros.evaluation.latency import Delivery, Latency
from sigma_ros.evaluation.log import ReplayLog
from sigma_ros.evaluation.recorder import ReplayRecorder
from sigma_ros.evaluation.replay import (
    Hooks,
    ReplayOptions,
    bag_facts,
    local_supervisor,
    nothing_inferred,
    policy_facts,
    policy_loop,
    run_facts,
    share_done,
)
from sigma_ros.policy.job import execute
from sigma_ros.policy.worker import TimedWorker, Worker

if TYPE_CHECKING:
    from sigma_ros.model.runtime import SigmaRuntime


def bag_time_worker(runtime: "SigmaRuntime", options: ReplayOptions, latency: Latency) -> TimedWorker:
    """The live rules in bag time: an inference takes what `latency` says, whatever the machine needs."""
    loop = policy_loop(runtime.contract, runtime, options, lockstep=False)
    return TimedWorker(loop, partial(execute, runtime=runtime), latency.of_job)


def replay_late(
    bag_path: Path,
    *,
    contract: Contract,
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
        contract: The robot.
        runtime: For facts and units; the worker infers.
        options: As for `replay`; the supervisor sees each chunk when it arrives.
        worker: `bag_time_worker`, or the inference thread on this machine's clock.
        pace: Waits until it is time for a stamp; returns by how many nanoseconds that is late.
        hooks: A wish to stop, an ear for progress.
    """
    hooks = hooks or Hooks()
    late_ticks, complete = 0, True
    with open_bag(bag_path, strict=options.strict, recover=options.recover, stamps=options.stamps) as bag:
        ticks = Episode(bag, contract, image_size_px=runtime.image_size_px, task=options.task)
        recorder = ReplayRecorder(contract, policy_facts(runtime), run_facts(bag, contract, runtime, options))
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
