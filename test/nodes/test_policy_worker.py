# SPDX-License-Identifier: Apache-2.0
"""The inference thread: commits are never skipped, plans give way or move on, nothing of a dropped epoch comes back."""

import threading
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
from node_fakes import TIMEOUT_S, FakeRuntime, small_contract

from sigma_ros.nodes.policy_job import Job
from sigma_ros.nodes.policy_worker import InferenceWorker
from sigma_ros.values import WINDOW_TICKS, AdapterSettings, Frame, Gap, Window

pytestmark = pytest.mark.ros
CONTRACT = small_contract()
MASK = np.ones(WINDOW_TICKS, dtype=bool)


def window(tick: int, *, epoch: int = 0) -> Window:
    frame = Frame(
        epoch=epoch,
        tick=tick,
        stamp_ns=1 + CONTRACT.tick_offset_ns(tick),
        images={c.name: np.zeros((32, 32, 3), dtype=np.uint8) for c in CONTRACT.cameras},
        positions_rad=np.zeros(6),
        image_age_ns={c.name: 0 for c in CONTRACT.cameras},
        joint_age_ns=0,
    )
    return Window(epoch=epoch, task="t", frames=(frame,) * WINDOW_TICKS, mask=MASK)


def job(tick: int, *, epoch: int = 0, plans: bool = True, commits: bool | None = None) -> Job:
    return Job(
        item=window(tick, epoch=epoch),
        task="t",
        settings=AdapterSettings(),
        plans=plans,
        commits=tick % 16 == 0 if commits is None else commits,
    )


class Bench:
    """A worker whose model waits behind a gate, and the outcomes so far."""

    def __init__(self, *, lockstep: bool = False) -> None:
        self.runtime = FakeRuntime(CONTRACT)
        self.woken = threading.Semaphore(0)
        self.worker = InferenceWorker(self.runtime, lockstep=lockstep, wake=self.woken.release)

    def started(self) -> None:
        """Waits until the thread has taken the first job."""
        assert self.runtime.entered.wait(TIMEOUT_S)

    def results(self, count: int) -> list:
        for _ in range(count):
            assert self.woken.acquire(timeout=TIMEOUT_S)
        return self.worker.outcomes()


@pytest.fixture
def bench():
    made = []

    def make(**options):
        made.append(Bench(**options))
        return made[-1]

    yield make
    for one in made:
        one.runtime.gate.set()
        assert one.worker.close(TIMEOUT_S)


def test_a_waiting_plan_gives_way_to_a_newer_one_but_a_commit_does_not(bench):
    one = bench()
    one.runtime.gate.clear()
    one.worker.submit(job(0))
    one.started()
    for tick in (8, 16, 24, 32, 40):
        one.worker.submit(job(tick))
    one.runtime.gate.set()
    one.results(4)
    assert one.runtime.calls == [(0, 0, True), (0, 32, True), (0, 40, False)]
    assert one.runtime.remembered == [16], "its chunk would come too late, its memory would not"


def test_a_plan_that_waits_can_be_moved_to_a_newer_tick(bench):
    one = bench()
    one.runtime.gate.clear()
    one.worker.submit(job(0))
    one.started()
    assert not one.worker.awaits_plan
    for tick in (8, 9, 10, 11):
        one.worker.submit(job(tick))
        assert one.worker.awaits_plan
    one.runtime.gate.set()
    one.results(2)
    assert one.runtime.calls == [(0, 0, True), (0, 11, False)]
    assert not one.worker.awaits_plan


def test_the_memory_is_the_same_on_a_slow_machine(bench):
    """Commits happen in order at the stride's ticks, whether their chunks were made or not."""
    slow = bench()
    slow.runtime.gate.clear()
    slow.worker.submit(job(0))
    slow.started()
    for tick in (16, 32, 37):
        slow.worker.submit(job(tick))
    slow.runtime.gate.set()
    outcomes = slow.results(4)
    assert [o.telepathy.committed for o in outcomes] == [True, True, True, False]
    assert outcomes[-1].chunk.residual_rad[0, 0] == pytest.approx(0.03), "three commits"


def test_commits_alone_never_keep_a_plan_from_being_made(bench):
    """A machine on which a commit takes as long as the stride: every second commit plans from its own tick."""
    one = bench()
    one.runtime.gate.clear()
    one.worker.submit(job(0))
    one.started()
    for tick in (16, 17, 32, 33):
        one.worker.submit(job(tick))
    one.runtime.gate.set()
    outcomes = one.results(4)
    made = [(outcome.job.item.tick, outcome.chunk is not None) for outcome in outcomes]
    assert made == [(0, True), (16, False), (32, True), (33, True)]
    assert outcomes[-1].chunk.residual_rad[0, 0] == pytest.approx(0.03), "three commits, in order"


def test_a_residual_is_refreshed_only_while_the_thread_is_free_and_a_chunk_is_in_execution(bench):
    one = bench()
    refresh = partial(replace, plans=False, refreshes=True)
    one.worker.submit(refresh(job(0, commits=False)))
    assert one.results(1)[0].telepathy is None, "no chunk yet"
    one.worker.submit(job(1))
    one.results(1)
    one.worker.submit(refresh(job(2, commits=False)))
    [outcome] = one.results(1)
    assert outcome.chunk.horizon == 49
    one.runtime.gate.clear()
    one.runtime.entered.clear()
    one.worker.submit(job(3))
    one.started()
    one.worker.submit(refresh(job(4, commits=False)))
    one.runtime.gate.set()
    one.results(1)
    assert one.runtime.refreshed == [2]


def test_guided_the_base_is_led_on_from_what_will_be_left_on_arrival(bench):
    one = bench()
    one.worker.submit(job(0))
    one.results(1)
    one.worker.submit(replace(job(8), guided=True, late_ns=0))
    one.results(1)
    [first, second] = one.runtime.left_overs
    assert first is None
    assert len(second.base_rad) == 42


def test_in_lockstep_every_tick_is_worked_on(bench):
    one = bench(lockstep=True)
    one.runtime.gate.clear()
    for tick in range(0, 200, 8):
        assert one.worker.submit(job(tick))
    one.runtime.gate.set()
    outcomes = one.results(25)
    assert [o.job.item.tick for o in outcomes] == list(range(0, 200, 8))


def test_a_thread_that_cannot_catch_up_drops_everything_and_says_so(bench):
    one = bench()
    one.runtime.gate.clear()
    one.worker.submit(job(0))
    one.started()
    accepted = [one.worker.submit(job(tick)) for tick in (16, 32, 48, 64)]
    assert accepted == [True, True, True, False]
    one.runtime.gate.set()
    one.results(1)
    assert one.runtime.calls == [(0, 0, True)]


def test_a_gap_keeps_its_place_in_the_order(bench):
    one = bench(lockstep=True)
    gap = Gap(epoch=0, tick=8, stamp_ns=1, reasons=("dark",))
    for item in (job(0), Job(item=gap, task="t", settings=AdapterSettings(), plans=True, commits=False), job(16)):
        one.worker.submit(item)
    outcomes = one.results(3)
    assert [o.job.item.tick for o in outcomes] == [0, 8, 16]
    assert outcomes[1].chunk is None
    assert outcomes[1].error is None


def test_after_a_restart_nothing_of_before_comes_back(bench):
    one = bench(lockstep=True)
    one.runtime.gate.clear()
    one.worker.submit(job(0))
    one.started()
    one.worker.restart()
    one.worker.submit(job(0))
    one.runtime.gate.set()
    [outcome] = one.results(2)
    assert outcome.chunk.residual_rad[0, 0] == 0.01, "one commit: the state began anew"


def test_a_failure_is_an_outcome_and_the_memory_is_not_trusted_afterwards(bench):
    one = bench(lockstep=True)
    one.runtime.fail_at = 8
    for tick in (0, 8, 16):
        one.worker.submit(job(tick))
    outcomes = one.results(3)
    assert "CUDA out of memory" in outcomes[1].error
    assert outcomes[2].chunk.residual_rad[0, 0] == 0.01


def test_a_tick_that_is_only_scored_leaves_the_state_alone(bench):
    one = bench(lockstep=True)
    for item in (job(0), job(5, plans=False, commits=False), job(16)):
        one.worker.submit(item)
    outcomes = one.results(3)
    assert outcomes[2].telepathy.tau_l2 == 2.0, "two steps entered the state"


def test_a_hung_inference_does_not_hold_the_closing_back(bench):
    one = bench()
    one.runtime.gate.clear()
    one.worker.submit(job(0))
    one.started()
    assert not one.worker.close(0.01)
    assert one.worker.busy_ns() > 0
