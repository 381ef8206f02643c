# SPDX-License-Identifier: Apache-2.0
"""The law of one policy loop: the same ticks and the same latency give the same jobs and chunks from every driver.

Drivers: replay in bag time, the live thread, the policy node's session, the simulator; without latency also the
graph-free replay. Two more are held to that one: the replay through nodes (test_replay_node),
shards (test_training_run).
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from bags import START_NS, TASK, picture, pose
from model_stand_in import CONTRACT, Model, Traced, TurnedThread, traced

from sigma_ros.bags.reader import open_bag
from sigma_ros.bags.writer import BagWriter
from sigma_ros.evaluation.late_replay import bag_time_worker, replay_late
from sigma_ros.evaluation.latency import REMEMBER_SHARE, Arrival, Delivery, Latency
from sigma_ros.evaluation.replay import ReplayOptions, policy_loop, replay
from sigma_ros.nodes.policy.options import PolicyOptions
from sigma_ros.nodes.policy.session import PolicySession
from sigma_ros.policy.schedule import Schedule
from sigma_ros.policy.worker import Worker
from sigma_ros.values import AdapterSettings

LATENCIES_MS = (0, 100, 300, 500, 700, 900, 1200)
TICKS = 240
DARK = (range(70, 78), range(143, 149), range(200, 222))
"""Gaps over a planning tick and over a stride, and one that ends the epoch."""
OPTIONS = ReplayOptions(settings=AdapterSettings(), schedule=Schedule(), supervisor_limits=None)


@pytest.fixture(scope="module", params=[(), DARK], ids=["whole", "with gaps"])
def bag(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    dark: Sequence[range] = request.param
    path = tmp_path_factory.mktemp("bags") / "recording"
    with BagWriter(path) as writer:
        for tick in range(TICKS):
            at_ns = START_NS + CONTRACT.tick_offset_ns(tick)
            for i, camera in enumerate(CONTRACT.cameras):
                if i == 0 or not any(tick in gap for gap in dark):
                    writer.image(camera.topic, at_ns, camera.name, picture(tick + i))
            writer.joints(CONTRACT.joint_state_topic, at_ns, CONTRACT.joint_names, pose(tick, CONTRACT.dof))
            writer.array(CONTRACT.command_topic, at_ns, pose(tick, CONTRACT.dof))
    return path


@dataclass(frozen=True)
class Driven:
    """What a driver did: the jobs that began, and the chunks that arrived."""

    jobs: list[Traced]
    delivery: Delivery


def driven(bag: Path, worker: Worker) -> Driven:
    jobs = traced(worker.loop)
    options = replace(OPTIONS, task=TASK)
    _, delivery = replay_late(bag, runtime=Model(), options=options, worker=worker)
    return Driven(jobs, delivery)


def in_bag_time(bag: Path, latency: Latency, options: ReplayOptions = OPTIONS) -> Driven:
    return driven(bag, bag_time_worker(Model(), options, latency))


@contextmanager
def live_thread(latency: Latency) -> Iterator[TurnedThread]:
    thread = TurnedThread(policy_loop(CONTRACT, Model(), OPTIONS, lockstep=False), latency)
    try:
        yield thread
    finally:
        thread.let_go()


def by_value(arrivals: Sequence[Arrival]) -> list[tuple]:
    return [(a.stamp_ns, a.took_ns, a.chunk.chunk_id, a.chunk.epoch, a.chunk.tick) for a in arrivals]


@pytest.mark.parametrize("ms", LATENCIES_MS)
def test_the_live_thread_and_the_replay_in_bag_time_do_the_same(bag: Path, ms: int) -> None:
    latency = Latency(fixed_ms=ms)
    ours = in_bag_time(bag, latency)
    with live_thread(latency) as thread:
        theirs = driven(bag, thread)
    assert ours.jobs == theirs.jobs
    assert by_value(ours.delivery.arrivals) == by_value(theirs.delivery.arrivals)
    for one, other in zip(ours.delivery.arrivals, theirs.delivery.arrivals, strict=True):
        np.testing.assert_array_equal(one.chunk.base_rad, other.chunk.base_rad)
    assert replace(ours.delivery, arrivals=()) == replace(theirs.delivery, arrivals=())
    assert ours.delivery.arrivals


@pytest.mark.parametrize("ms", LATENCIES_MS)
def test_the_policy_nodes_session_begins_the_same_jobs(bag: Path, ms: int) -> None:
    """Up to where it cannot catch up: there its frame clock begins a new epoch, which a recording's cannot."""
    latency = Latency(fixed_ms=ms)
    ours, overrun_at, jobs = in_bag_time(bag, latency), None, []
    session = PolicySession(
        CONTRACT,
        Model(),
        image_size_px=16,
        memory_stride=16,
        options=PolicyOptions(task=TASK),
        on_tick=lambda _: None,
        wake=lambda: None,
    )
    session.thread.close(5.0)
    thread = session.thread = TurnedThread(session.thread.loop, latency)
    jobs = traced(thread.loop)
    names = {camera.topic: camera.name for camera in CONTRACT.cameras}
    with open_bag(bag) as opened:
        for record in opened.records([*names, CONTRACT.joint_state_topic]):
            message = record.message
            if record.topic in names:
                session.push_image(names[record.topic], record.stamp_ns, message)
            else:
                session.clock.push_joints(record.stamp_ns, message.names, message.positions_rad)
            session.advance(None)
            if overrun_at is None and thread.loop.overruns:
                overrun_at = len(jobs)
    thread.let_go()
    assert (overrun_at is not None) is (ours.delivery.overruns > 0) is (ms == 1200)
    compared = len(ours.jobs) if overrun_at is None else overrun_at
    assert compared >= 3
    assert jobs[:compared] == ours.jobs[:compared]


class Watched(Model):
    """Writes down what it is asked, and needs no pictures."""

    image_size_px = None

    def __init__(self) -> None:
        super().__init__()
        self.asked: list[tuple[str, int]] = []

    def step(self, window, state, **options):
        self.asked.append(("Step", window.tick))
        return super().step(window, state, **options)

    def refresh(self, window, state, previous, **options):
        self.asked.append(("Refresh", window.tick))
        return super().refresh(window, state, previous, **options)

    def remember(self, window, state):
        asked = len(self.asked)
        result = super().remember(window, state)
        self.asked[asked:] = [("Remember", window.tick)]
        return result


@pytest.mark.parametrize(("ms", "every_tick"), [*((ms, False) for ms in LATENCIES_MS), (0, True), (300, True)])
def test_the_simulator_begins_the_same_jobs(tmp_path: Path, ms: int, every_tick: bool) -> None:
    """There what makes no base chunk takes no time, unless residuals are renewed; the same latency says so here."""
    pytest.importorskip("mujoco", reason="mujoco is not installed")
    from sigma_ros.contract_file import load_contract  # noqa: PLC0415
    from sigma_ros.sim.closed_loop import Loop, run_episode, sim_limits  # noqa: PLC0415
    from sigma_ros.sim.environment import SimArm  # noqa: PLC0415
    from sigma_ros.sim.setups import TARGET  # noqa: PLC0415

    simulated = Watched()
    options, share = replace(OPTIONS, residual_every_tick=every_tick), REMEMBER_SHARE if every_tick else 0.0
    loop = Loop(
        settings=AdapterSettings(),
        limits=sim_limits(),
        latency_ms=ms,
        residual_every_tick=every_tick,
        time_limit_s=(TICKS - 1) / 30,
    )
    with SimArm(TARGET, contract=load_contract("so101")) as arm:
        run_episode(arm, simulated, 1, loop, clock_ns=lambda: 0)
    path = tmp_path / "recording"
    with BagWriter(path) as writer:
        for tick in range(TICKS):
            at_ns = START_NS + CONTRACT.tick_offset_ns(tick)
            for i, camera in enumerate(CONTRACT.cameras):
                writer.image(camera.topic, at_ns, camera.name, picture(i))
            writer.joints(CONTRACT.joint_state_topic, at_ns, CONTRACT.joint_names, pose(tick, CONTRACT.dof))
            writer.array(CONTRACT.command_topic, at_ns, pose(tick, CONTRACT.dof))
    recorded = in_bag_time(path, Latency(fixed_ms=ms, remember_share=share), options)
    assert simulated.asked == [(kind, tick) for kind, _, tick, *_ in recorded.jobs if tick < TICKS - 1]
    assert any(kind == "Refresh" for kind, _ in simulated.asked) is every_tick


def test_without_latency_the_graph_free_replay_publishes_the_same_chunks(bag: Path) -> None:
    ours = in_bag_time(bag, Latency()).delivery.arrivals
    theirs = replay(bag, contract=CONTRACT, runtime=Model(), options=replace(OPTIONS, task=TASK)).inferences
    published = [entry.chunk for entry in theirs if entry.published]
    assert [(a.chunk.epoch, a.chunk.tick) for a in ours] == [(chunk.epoch, chunk.tick) for chunk in published]
    for arrival, chunk in zip(ours, published, strict=True):
        assert arrival.stamp_ns == chunk.stamp_ns
        np.testing.assert_array_equal(arrival.chunk.base_rad, chunk.base_rad)


def test_a_slow_model_still_plans_at_every_second_stride(bag: Path) -> None:
    """At 1200 ms commits alone would fill the time; a plan comes all the same, from a commit's own tick."""
    jobs = in_bag_time(bag, Latency(fixed_ms=1200)).jobs
    kinds = [kind for kind, *_ in jobs if kind in ("Step", "Remember")]
    assert "Remember" in kinds
    assert not any(pair == ("Remember", "Remember") for pair in pairwise(kinds))
