# SPDX-License-Identifier: Apache-2.0
"""Who executes the loop's jobs: a thread that never blocks its owner, or given time that comes out exactly."""

import threading
from functools import partial

import pytest
from model_stand_in import CONTRACT, TIMEOUT_S, Model, memory_of, policy_loop, stamp_of, traced, window

from sigma_ros.evaluation.latency import Latency
from sigma_ros.policy.job import Failed, Proposed, Unused, execute
from sigma_ros.policy.schedule import Schedule
from sigma_ros.policy.worker import InferenceThread, TimedWorker

MS = 1_000_000


class GatedModel(Model):
    """A model whose step waits behind a gate."""

    def __init__(self) -> None:
        super().__init__()
        self.entered = threading.Event()
        self.gate = threading.Event()

    def step(self, window, state, **options):
        self.entered.set()
        assert self.gate.wait(TIMEOUT_S)
        return super().step(window, state, **options)


class Bench:
    """A thread whose model waits behind a gate, and what it has finished."""

    def __init__(self, *, lockstep: bool = False, **options: bool) -> None:
        self.model = GatedModel()
        self.woken = threading.Semaphore(0)
        self.thread = InferenceThread(policy_loop(lockstep=lockstep), self.model, wake=self.woken.release, **options)

    def begun(self, tick: int) -> None:
        """A tick comes in, and its inference hangs."""
        assert self.thread.on_item(window(tick))
        assert self.model.entered.wait(TIMEOUT_S)

    def results(self, count: int) -> list:
        self.model.gate.set()
        for _ in range(count):
            assert self.woken.acquire(timeout=TIMEOUT_S)
        return self.thread.outcomes()


@pytest.fixture
def bench():
    made = []

    def make(**options):
        made.append(Bench(**options))
        return made[-1]

    yield make
    for one in made:
        one.model.gate.set()
        assert one.thread.close(TIMEOUT_S)


def test_a_thread_executes_what_the_loop_gives_in_order(bench) -> None:
    one = bench()
    one.begun(0)
    for tick in (8, 16, 24, 32, 40):
        one.thread.on_item(window(tick))
    outcomes = one.results(4)
    assert [outcome.request.item.tick for outcome in outcomes] == [0, 16, 32, 40]
    assert memory_of(outcomes[-1]) == 4
    assert all(outcome.took_ns >= 0 for outcome in outcomes)


def test_a_failure_is_an_outcome_and_the_thread_goes_on(bench) -> None:
    one = bench(lockstep=True)
    one.model.fail_at = 8
    for tick in (0, 8, 16):
        one.thread.on_item(window(tick))
    outcomes = one.results(3)
    assert isinstance(outcomes[1], Failed)
    assert "CUDA out of memory" in outcomes[1].error
    assert memory_of(outcomes[2]) == 1


def test_after_a_restart_the_thread_brings_nothing_of_before(bench) -> None:
    one = bench()
    one.begun(0)
    one.thread.restart()
    one.thread.on_item(window(16))
    [outcome] = one.results(2)
    assert outcome.request.item.tick == 16


def test_a_model_that_is_not_what_was_trained_never_gives_a_chunk(bench) -> None:
    one = bench(certifies=True)
    one.model.base_difference = 1e-6
    one.model.gate.set()
    one.thread.on_item(window(0))
    [outcome] = one.results(1)
    assert isinstance(outcome, Unused)
    assert "REFUSED: scale 0 is 1.0e-06 off LeRobot" in outcome.gap.reasons[0]
    assert one.thread.problem == outcome.gap.reasons[0]


def test_a_model_is_certified_once_before_its_first_chunk(bench) -> None:
    one = bench(certifies=True)
    one.begun(0)
    certificate = one.thread.certificate
    assert certificate is not None
    assert "bit for bit at epoch 0, tick 0" in certificate.line
    one.thread.on_item(window(8))
    one.results(2)
    assert one.thread.certificate is certificate


def test_a_hung_inference_does_not_hold_the_closing_back(bench) -> None:
    one = bench()
    assert one.thread.busy_ns == 0
    one.begun(0)
    assert not one.thread.close(0.01)
    assert one.thread.busy_ns > 0


def timed(latency: Latency, **options) -> TimedWorker:
    return TimedWorker(policy_loop(**options), partial(execute, runtime=Model()), latency.of_job)


def test_a_result_is_there_when_its_time_has_passed_and_not_before() -> None:
    worker = timed(Latency(fixed_ms=100))
    worker.on_item(window(0))
    assert worker.outcomes(stamp_of(0) + 100 * MS - 1) == []
    [outcome] = worker.outcomes(stamp_of(0) + 100 * MS)
    assert isinstance(outcome, Proposed)
    assert outcome.arrival_ns == stamp_of(0) + 100 * MS


def test_an_update_without_a_chunk_takes_its_share_of_an_inference() -> None:
    """What waits behind it begins that much later, 15 % unless said otherwise."""
    for share, expected_ms in ((None, 60), (0.0, 0), (0.5, 200)):
        latency = Latency(fixed_ms=400) if share is None else Latency(fixed_ms=400, remember_share=share)
        worker = timed(latency, schedule=Schedule(50, 16))
        jobs = traced(worker.loop)
        for tick in (16, 50):
            worker.on_item(window(tick))
            [outcome] = worker.outcomes(stamp_of(tick) + 400 * MS)
            assert outcome.took_ns == (expected_ms if tick == 16 else 400) * MS
        assert [kind for kind, *_ in jobs] == ["Remember", "Step"]


def test_a_model_that_comes_free_at_a_tick_works_on_that_tick() -> None:
    worker = timed(Latency(fixed_ms=300))
    jobs = traced(worker.loop)
    for tick in range(19):
        worker.on_item(window(tick))
    worker.outcomes(stamp_of(18))
    assert [tick for _, _, tick, *_ in jobs][:2] == [0, 9], "300 ms are nine ticks"


def test_where_time_goes_back_nothing_of_before_comes_late() -> None:
    worker = timed(Latency(fixed_ms=10_000))
    worker.on_item(window(100))
    worker.loop.restart()
    worker.on_item(window(0, epoch=1))
    worker.outcomes(stamp_of(1))
    [outcome] = worker.outcomes(stamp_of(0) + 10_000 * MS)
    assert outcome.request.item.epoch == 1
    assert outcome.request.waited_ns == 0


def test_at_the_end_what_is_being_worked_on_is_finished_and_what_waits_is_not_begun() -> None:
    worker = timed(Latency(fixed_ms=300))
    jobs = traced(worker.loop)
    for tick in (0, 8):
        worker.on_item(window(tick))
        assert worker.outcomes(stamp_of(tick)) == []
    assert [outcome.request.item.tick for outcome in worker.finish()] == [0]
    assert len(jobs) == 1
    assert worker.loop.awaits_plan


def test_the_tick_of_the_contract_is_thirty_hertz() -> None:
    assert CONTRACT.fps == 30, "the numbers above are ticks of 33 ms"
