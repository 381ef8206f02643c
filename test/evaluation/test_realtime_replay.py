# SPDX-License-Identifier: Apache-2.0
"""Laws of `sigma replay --realtime` on a clock that the tests turn: no machine is fast or slow here."""

from collections.abc import Callable
from functools import partial

import numpy as np
import pytest
from bags import small_contract, write_recording
from stub_runtime import StubRuntime

from sigma_ros.errors import SigmaError
from sigma_ros.evaluation.late_replay import BagClock, bag_time_worker, replay_late
from sigma_ros.evaluation.latency import Latency, latency_row
from sigma_ros.evaluation.replay import ReplayOptions, policy_loop
from sigma_ros.policy.job import Failed, Job, Outcome, Result, execute
from sigma_ros.policy.schedule import Schedule
from sigma_ros.policy.worker import TimedWorker
from sigma_ros.supervisor.limits import SupervisorLimits
from sigma_ros.values import NS_PER_S, AdapterSettings, Gap, Window

CONTRACT = small_contract()
OPTIONS = ReplayOptions(
    settings=AdapterSettings(), schedule=Schedule(8, 16), supervisor_limits=SupervisorLimits.for_replay()
)
MS = 1_000_000


class FakeTime:
    """A clock that only sleeping moves on, by `slip_ns` more than was asked for."""

    def __init__(self, slip_ns: int = 0) -> None:
        self.now_ns = 5 * NS_PER_S
        self.slip_ns = slip_ns
        self.slept_ns = 0

    def sleep(self, seconds: float) -> None:
        self.slept_ns += round(seconds * NS_PER_S)
        self.now_ns += round(seconds * NS_PER_S) + self.slip_ns

    def clock(self) -> BagClock:
        return BagClock(lambda: self.now_ns, self.sleep)


class FakeThread(TimedWorker):
    """Stands for the inference thread: an inference takes `took_ns` of the fake clock, whatever the stamps say."""

    def __init__(self, time: FakeTime, took_ns: int, run: Callable[[Job], Result] | None = None) -> None:
        loop = policy_loop(CONTRACT, StubRuntime(CONTRACT), OPTIONS, lockstep=False)
        super().__init__(loop, run or partial(execute, runtime=StubRuntime(CONTRACT)), lambda _: took_ns)
        self._time = time

    def on_item(self, item: Window | Gap, *, late_ns: int = 0) -> bool:
        self._work_until(self._time.now_ns)
        self._now_ns = self._time.now_ns
        return self.loop.on_item(item, self._now_ns, late_ns=late_ns)

    def outcomes(self, until_ns: int) -> list[Outcome]:
        return super().outcomes(self._time.now_ns)


@pytest.fixture(scope="module")
def bag(tmp_path_factory):
    return write_recording(tmp_path_factory.mktemp("bags") / "recording", CONTRACT, ticks=160)


def played(bag, time: FakeTime, thread: FakeThread):
    return replay_late(
        bag,
        runtime=StubRuntime(CONTRACT),
        options=OPTIONS,
        worker=thread,
        pace=time.clock().wait_for,
    )


def test_a_machine_that_takes_100_ms_gives_what_bag_time_gives_for_100_ms(bag):
    time = FakeTime()
    row = latency_row("same", [played(bag, time, FakeThread(time, 100 * MS))])
    worker = bag_time_worker(StubRuntime(CONTRACT), OPTIONS, Latency(fixed_ms=100))
    in_bag_time = replay_late(bag, runtime=StubRuntime(CONTRACT), options=OPTIONS, worker=worker)
    assert row == latency_row("same", [in_bag_time])
    assert row.late_ticks == row.overruns == 0
    assert time.slept_ns == pytest.approx(159 * NS_PER_S / 30, abs=MS), "the recording's own length"


def test_a_machine_that_falls_behind_is_counted_and_its_supervisor_never_goes_back(bag):
    """A slip of 80 ms is more than two ticks: two of three ticks are not waited for."""
    time = FakeTime(slip_ns=80 * MS)
    log, delivery = played(bag, time, FakeThread(time, 100 * MS))
    assert delivery.late_ticks > 0
    stamps_ns = log.decisions.stamp_ns
    assert (np.diff(stamps_ns) == CONTRACT.command_period_ns).all()
    for arrival in delivery.arrivals:
        assert arrival.stamp_ns - arrival.chunk.stamp_ns >= 100 * MS
        assert arrival.took_ns == 100 * MS


def test_a_full_queue_is_counted_and_the_memory_begins_anew(bag):
    """The stand-in's base tells how many updates entered its memory: two at tick 16, but one after an overrun."""
    time = FakeTime()
    _, delivery = played(bag, time, FakeThread(time, 1200 * MS))
    assert delivery.overruns == 2
    assert [arrival.chunk.tau_l2 for arrival in delivery.arrivals] == [1.0] * 3


def test_the_models_failure_ends_the_replay(bag):
    time, error = FakeTime(), "Traceback\nValueError: out of memory"
    thread = FakeThread(time, 0, lambda job: (Failed(request=job.request, error=error), None))
    with pytest.raises(SigmaError, match="out of memory"):
        played(bag, time, thread)


def test_bag_time_is_waited_for_and_a_jump_is_not():
    time = FakeTime()
    clock = time.clock()
    start_ns = 1_700_000_000 * NS_PER_S
    assert clock.wait_for(start_ns) == 0
    assert clock.wait_for(start_ns + 100 * MS) == 0
    assert time.slept_ns == 100 * MS
    time.now_ns += 30 * MS
    assert clock.wait_for(start_ns + 110 * MS) == 20 * MS, "late, so no waiting"
    assert time.slept_ns == 100 * MS
    for jump_ns in (3600 * NS_PER_S, -7200 * NS_PER_S):
        assert clock.wait_for(start_ns + jump_ns) == 0
    assert time.slept_ns == 100 * MS
    assert clock.wait_for(start_ns - 7200 * NS_PER_S + 5 * MS) == 0
    assert time.slept_ns == 105 * MS
