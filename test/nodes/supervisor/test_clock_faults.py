# SPDX-License-Identifier: Apache-2.0
"""Time that jumps or stands: the memory begins anew where it must, and no picture is made up or shown twice.

The laws hold for a session without ROS; one test lets a node follow a `/clock`, for rclpy tells of jumps itself.
"""

import threading
from dataclasses import dataclass, field

import numpy as np
import pytest
from live_robot import FaultyRobot, stands, until_well
from node_fakes import FakeRuntime, fake_model, picture, small_contract, spin_until
from rclpy.parameter import Parameter
from rosgraph_msgs.msg import Clock

from sigma_ros.nodes.policy.options import PolicyOptions
from sigma_ros.nodes.policy.session import PolicySession
from sigma_ros.nodes.policy_node import PolicyNode
from sigma_ros.nodes.shared.diagnostics import Level
from sigma_ros.nodes.shared.qos import ClockWatch
from sigma_ros.nodes.shared.sensor_messages import to_time
from sigma_ros.policy.job import Outcome, Proposed
from sigma_ros.streams.images import ImageMessage
from sigma_ros.values import Gap, Window

pytestmark = pytest.mark.ros
CONTRACT = small_contract()
MS = 1_000_000
S = 1_000 * MS
START_NS = 1_700_000_000 * S


@dataclass
class Drive:
    """A session fed tick by tick; each camera's picture and the joints say which step they belong to."""

    ticks: list[Window | Gap] = field(default_factory=list)
    steps: int = 0

    def __post_init__(self) -> None:
        self.runtime = FakeRuntime(CONTRACT)
        self.woken = threading.Semaphore(0)
        self.shown: dict[int, int] = {}
        self.outcomes: list[Outcome] = []
        self.session = PolicySession(
            CONTRACT,
            self.runtime,
            image_size_px=32,
            memory_stride=16,
            options=PolicyOptions(),
            on_tick=self.ticks.append,
            wake=self.woken.release,
        )

    def idle(self) -> bool:
        thread = self.session.thread
        with thread._changed:
            return thread.loop._busy is None and not thread.loop._waiting

    def feed(self, stamps_ns: list[int], *, now_ns: int | None = None) -> None:
        """All streams at these stamps, and time at each of them (or where it is said to be)."""
        for stamp_ns in stamps_ns:
            self.steps += 1
            self.shown[stamp_ns] = self.steps
            for camera in CONTRACT.cameras:
                rgb = picture(camera, self.steps % 200 + 1)
                height, width = rgb.shape[:2]
                message = ImageMessage(
                    encoding="rgb8", height=height, width=width, step=3 * width, data=rgb.tobytes(), is_compressed=False
                )
                self.session.push_image(camera.name, stamp_ns, message)
            self.session.clock.push_joints(stamp_ns, CONTRACT.joint_names, np.full(6, 1e-3 * self.steps))
            self.advance(stamp_ns if now_ns is None else now_ns)

    def advance(self, now_ns: int) -> None:
        self.session.advance(now_ns)
        while not self.idle():
            assert self.woken.acquire(timeout=20.0)
        self.outcomes += self.session.thread.outcomes()

    def windows(self, epoch: int) -> list[Window]:
        return [item for item in self.ticks if isinstance(item, Window) and item.epoch == epoch]

    def commits(self, epoch: int) -> list[int]:
        """How many updates the memory had at each chunk of an epoch: the fake's residual is 0.01 rad for each."""
        chunks = [o.chunk for o in self.outcomes if isinstance(o, Proposed) and o.chunk.epoch == epoch]
        return [round(100 * chunk.residual_rad[0, 0]) for chunk in chunks]


def ramp(start_ns: int, seconds: float) -> list[int]:
    return [start_ns + CONTRACT.tick_offset_ns(k) for k in range(round(30 * seconds))]


@pytest.fixture
def drive():
    made = Drive()
    yield made
    made.session.thread.close(5.0)


def check_what_windows_hold(drive: Drive) -> None:
    """Each frame has its own pictures and joints, of its own epoch; none is dark, none is there twice."""
    for epoch in {item.epoch for item in drive.ticks}:
        for window in drive.windows(epoch):
            kept = [frame for frame, valid in zip(window.frames, window.mask, strict=True) if valid]
            assert all(frame.epoch == epoch for frame in kept)
            stamps = [frame.stamp_ns for frame in kept]
            assert stamps == sorted(set(stamps))
            for frame in kept:
                step = drive.shown[frame.stamp_ns - frame.joint_age_ns]
                np.testing.assert_allclose(frame.positions_rad, 1e-3 * step)
                for camera, image in frame.images.items():
                    step = drive.shown[frame.stamp_ns - frame.image_age_ns[camera]]
                    assert image.max() == step % 200 + 1


@pytest.mark.parametrize("jump_s", [3600.0, 5.0, -5.0, -3600.0])
def test_a_jump_of_all_stamps_begins_a_new_epoch_with_an_empty_memory(drive: Drive, jump_s: float) -> None:
    drive.feed(ramp(START_NS, 2.0))
    before = drive.session.clock.epoch
    assert drive.commits(before)[-1] >= 3
    drive.feed(ramp(START_NS + 2 * S + round(jump_s * S), 2.0))
    assert drive.session.clock.epoch == before + 1
    assert drive.windows(before + 1)[0].tick == 0
    assert drive.windows(before + 1)[0].mask.sum() == 1, "the window is empty but for its own tick"
    assert drive.commits(before + 1)[0] == 1, "the first chunk knows its own tick alone"
    check_what_windows_hold(drive)


@pytest.mark.parametrize("jump_ms", [150, 400])
def test_a_small_step_forward_leaves_gaps_and_the_memory(drive: Drive, jump_ms: int) -> None:
    drive.feed(ramp(START_NS, 2.0))
    drive.feed(ramp(START_NS + 2 * S + jump_ms * MS, 1.0))
    assert drive.session.clock.epoch == 0
    assert any(isinstance(item, Gap) for item in drive.ticks)
    assert drive.commits(0) == sorted(drive.commits(0))
    check_what_windows_hold(drive)


def test_time_that_jumps_ahead_of_all_streams_makes_gaps_not_chunks(drive: Drive) -> None:
    """The node's clock is set forward, the cameras' is not: what they send is too old to act on."""
    drive.feed(ramp(START_NS, 1.0))
    chunks = len(drive.outcomes)
    later = ramp(START_NS + S, 1.0)
    for stamp_ns in later:
        drive.feed([stamp_ns], now_ns=stamp_ns + 60 * S)
    assert not drive.session.healthy
    fresh = [outcome for outcome in drive.outcomes[chunks:] if isinstance(outcome, Proposed)]
    assert all(outcome.chunk.observation_age_ns <= CONTRACT.joint_state_max_age_ns for outcome in fresh)
    check_what_windows_hold(drive)


def test_time_that_stands_gives_no_tick_and_no_chunk_and_goes_on_where_it_was(drive: Drive) -> None:
    drive.feed(ramp(START_NS, 1.0))
    ticks, outcomes = len(drive.ticks), len(drive.outcomes)
    for _ in range(100):
        drive.advance(START_NS + S)
    assert (len(drive.ticks), len(drive.outcomes)) == (ticks, outcomes)
    drive.feed(ramp(START_NS + S, 1.0))
    assert drive.session.clock.epoch == 0
    assert [item.tick for item in drive.ticks] == list(range(len(drive.ticks)))
    check_what_windows_hold(drive)


def test_a_clock_stands_when_it_has_not_moved_for_half_a_second() -> None:
    watch = ClockWatch()
    for at_ms in range(0, 2000, 10):
        watch.note(7_000 * MS + at_ms * MS, at_ms * MS)
        assert not watch.stands
    for at_ms in range(2000, 3000, 10):
        watch.note(9_000 * MS, at_ms * MS)
        assert watch.stands is (at_ms >= 2500)
    watch.note(9_001 * MS, 3000 * MS)
    assert not watch.stands
    never = ClockWatch()
    never.note(0, 100 * MS)
    never.note(0, 700 * MS)
    assert never.stands, "nobody publishes /clock"


class ClockedRobot(FaultyRobot):
    """A robot whose stamps and the `/clock` it publishes come from a clock that the test turns."""

    def __init__(self, contract) -> None:
        self.at_ns = START_NS
        self.runs = True
        super().__init__(contract)
        self.clock = self.create_publisher(Clock, "/clock", 10)

    def now_ns(self) -> int:
        return self.at_ns

    def _publish(self) -> None:
        if self.runs:
            self.at_ns += self.contract.tick_period_ns
        self.clock.publish(Clock(clock=to_time(self.at_ns)))
        if self.runs:
            super()._publish()


def test_a_node_that_follows_a_clock_lives_through_pause_and_jumps(executor) -> None:
    policy = PolicyNode(
        [Parameter("use_sim_time", value=True)],
        load=lambda _options, _logger: fake_model(CONTRACT, FakeRuntime(CONTRACT)),
    )
    executor.add_node(policy)
    spin_until(executor, lambda: policy._diagnostics is not None, what="activation")
    spin_until(executor, lambda: policy._session.clock_stands, what="a clock that nobody publishes to be noticed")
    assert stands(policy, "policy/inference").text.startswith("the clock stands")
    robot = ClockedRobot(CONTRACT)
    executor.add_node(robot)
    spin_until(executor, lambda: robot.chunks and robot.heartbeats[-1], what="the first chunk")
    epoch = policy._session.clock.epoch
    robot.runs = False
    spin_until(executor, lambda: robot.heartbeats[-1] is False, what="an unhealthy heartbeat of a paused clock")
    assert stands(policy, "policy/inference").level is Level.ERROR
    chunks = len(robot.chunks)
    robot.runs = True
    spin_until(executor, lambda: len(robot.chunks) > chunks, what="chunks after the pause")
    assert policy._session.clock.epoch == epoch, "a pause ends no epoch: no tick is missing"
    for jump_ns in (3600 * S, -7200 * S):
        epoch = policy._session.clock.epoch
        robot.at_ns += jump_ns
        spin_until(executor, lambda epoch=epoch: policy._session.clock.epoch > epoch, what="a new epoch")
        until_well(robot, executor)
        assert robot.chunks[-1][1].epoch > epoch
