# SPDX-License-Identifier: Apache-2.0
"""Faults at the policy node's inputs (numbers of the fault list): each has a name, nothing is made up, it recovers.

F01 dropout and F33 storms are in test_policy_live and test_live_tuning, F25-F31 in the supervisor's tests.
"""

import os
import signal
from collections.abc import Callable
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
from live_robot import FaultyRobot, policy_of, stands, until_well
from node_fakes import FakeRuntime, fake_model, small_contract, spin_until
from rclpy.parameter import Parameter
from sensor_msgs.msg import Image
from stub_runtime import RemoteModel, load

from sigma_ros.nodes.policy_node import PolicyNode
from sigma_ros.nodes.shared.diagnostics import Level
from sigma_ros.nodes.shared.image_messages import image_message
from sigma_ros.nodes.shared.qos import HEARTBEAT_PERIOD_NS
from sigma_ros.policy.remote import RemoteRuntime
from sigma_ros.streams.images import ImageMessage
from sigma_ros.streams.quality import FROZEN_PICTURES, FreezeWatch

pytestmark = pytest.mark.ros
SHIFT = 3_600_000_000_000


@pytest.fixture
def rig(executor):
    return policy_of(executor, FaultyRobot)


def until_gap(robot, executor, stream: str) -> str:
    spin_until(executor, lambda: robot.telepathy and not robot.telepathy[-1].valid, what="a gap")
    spin_until(executor, lambda: robot.heartbeats[-1] is False, what="an unhealthy heartbeat")
    [reason] = [reason for reason in robot.telepathy[-1].reasons if reason.startswith(stream)]
    return reason


def _short(message: Image) -> Image:
    message.data = message.data[:100]
    return message


def _bad_step(message: Image) -> Image:
    message.step = 1
    return message


def _encoded(name: str) -> Callable[[Image], Image]:
    def spoil(message: Image) -> Image:
        message.encoding = name
        return message

    return spoil


def _sized(message: Image) -> Image:
    return image_message(at_ns=1, frame_id="side", rgb=np.zeros((10, 10, 3), dtype=np.uint8))


def _empty(message: Image) -> Image:
    return Image(header=message.header)


MALFORMED = {
    "mono8": _encoded("mono8"),
    "bayer": _encoded("bayer_rggb8"),
    "16UC1": _encoded("16UC1"),
    "nonsense": _encoded("\x00"),
    "short": _short,
    "step": _bad_step,
    "size": _sized,
    "empty": _empty,
}


@pytest.mark.parametrize("fault", MALFORMED)
def test_f04_a_malformed_picture_is_refused_by_name_and_the_arm_is_told_to_hold(rig, executor, fault: str) -> None:
    robot, policy, runtime = rig
    robot.spoil_image = MALFORMED[fault]
    until_gap(robot, executor, "side")
    assert stands(policy, "io/camera_side").level in (Level.ERROR, Level.STALE)
    assert policy._session.clock.counters.streams["side"].refused
    calls = len(runtime.calls)
    spin_until(executor, lambda: len(robot.heartbeats) % 10 == 0, what="some time")
    assert len(runtime.calls) <= calls + 1, "nothing is inferred without a picture"
    robot.spoil_image = lambda message: message
    until_well(robot, executor)


def test_f02_a_camera_that_repeats_its_picture_is_told_and_holds_the_arm_where_asked(rig, executor) -> None:
    robot, policy, _ = rig
    robot.noise = False
    spin_until(executor, lambda: policy._session.frozen == ("up", "side"), what="the freeze")
    spin_until(executor, lambda: stands(policy, "io/camera_up").level is Level.WARN, what="a warning")
    assert robot.heartbeats[-1] is True
    policy.set_parameters_atomically([Parameter("frozen_camera", value="hold")])
    spin_until(executor, lambda: robot.heartbeats[-1] is False, what="an unhealthy heartbeat")
    robot.noise = True
    until_well(robot, executor)


def test_f02_only_equal_bytes_count_as_frozen() -> None:
    def image(value: int) -> ImageMessage:
        data = np.full(300, value, dtype=np.uint8).tobytes()
        return ImageMessage(encoding="rgb8", height=10, width=10, step=30, data=data, is_compressed=False)

    watch = FreezeWatch()
    for i in range(FROZEN_PICTURES):
        assert not watch.is_frozen
        watch.note(image(7).data)
        assert i < FROZEN_PICTURES
    watch.note(image(7).data)
    assert watch.is_frozen
    watch.note(image(8).data)
    assert not watch.is_frozen


def test_f03_f39_stamps_that_are_old_or_far_ahead_make_gaps_and_never_chunks(rig, executor) -> None:
    robot, _, _ = rig

    def old(message: Image) -> Image:
        message.header.stamp.sec -= 1
        return message

    robot.spoil_image = old
    assert "ms old" in until_gap(robot, executor, "side")
    robot.spoil_image = lambda message: message
    until_well(robot, executor)


def test_f10_missing_and_repeated_joints_are_refused_by_name(rig, executor) -> None:
    robot, policy, _ = rig
    for wrong in ([0, 1, 2, 3, 4], [0, 0, 1, 2, 3, 4]):
        robot.order = wrong
        until_gap(robot, executor, "joints")
        robot.order = list(range(6))
        until_well(robot, executor)
    assert len(policy._session.clock.counters.streams["joints"].refused) >= 1


def test_f35_f36_a_clock_that_is_set_begins_a_new_epoch(rig, executor) -> None:
    """All stamps an hour back, as after a clock was set on the robot's computer: the memory begins anew."""
    robot, policy, _ = rig
    epoch = policy._session.clock.epoch
    robot.shift_ns = -SHIFT
    spin_until(executor, lambda: policy._session.clock.epoch > epoch, what="a new epoch")
    robot.shift_ns = 0
    until_well(robot, executor)


def test_f28_an_inference_that_never_returns_is_told_and_parameters_still_answer(rig, executor, monkeypatch) -> None:
    _, policy, runtime = rig
    monkeypatch.setattr("sigma_ros.nodes.policy.health.HANG_NS", 1)
    runtime.gate.clear()
    spin_until(executor, lambda: policy._session.thread.busy_ns > 0, what="an inference to hang")
    assert "has been running" in stands(policy, "policy/inference").text
    assert policy.set_parameters_atomically([Parameter("adapter.max_scale", value=0.5)]).successful
    runtime.gate.set()


def test_f27_a_failed_inference_is_told_and_a_new_epoch_begins(rig, executor, monkeypatch) -> None:
    robot, policy, runtime = rig
    epoch = policy._session.clock.epoch

    def broken(*_args: object, **_options: object) -> None:
        raise RuntimeError("CUDA out of memory")

    with monkeypatch.context() as patched:
        patched.setattr(runtime, "step", broken)
        spin_until(executor, lambda: policy._session.clock.epoch > epoch, what="a new epoch")
    told = "CUDA out of memory"
    spin_until(executor, lambda: any(told in " ".join(m.reasons) for m in robot.telepathy), what="the reason")
    assert stands(policy, "policy/inference").level is Level.ERROR
    until_well(robot, executor)


@pytest.fixture
def remote_rig(executor):
    contract = small_contract()
    runtime = RemoteRuntime(partial(load, contract))
    policy = PolicyNode(load=lambda _options, _logger: fake_model(contract, runtime, RemoteModel(contract)))
    robot = FaultyRobot(contract)
    executor.add_node(policy)
    executor.add_node(robot)
    yield robot, policy, runtime
    runtime.close()


@pytest.mark.parametrize("fault", [signal.SIGKILL, signal.SIGSTOP], ids=["killed", "stopped"])
def test_f28_a_lost_inference_process_is_told_at_once_and_another_goes_on_with_the_memory(
    remote_rig, executor, fault: signal.Signals
) -> None:
    """The heartbeat says so within 0.15 s, five beats: then the supervisor holds."""
    robot, policy, runtime = remote_rig
    spin_until(executor, lambda: robot.chunks and robot.chunks[-1][1].tau_l2 >= 3, what="three commits")
    commits = policy._session.thread.loop.state.commits
    told = robot.chunks[-1][1].epoch
    os.kill(runtime.pid, fault)
    beats = len(robot.heartbeats)
    spin_until(executor, lambda: False in robot.heartbeats[beats:], what="an unhealthy heartbeat")
    assert robot.heartbeats[beats:].index(False) <= 0.15 / (HEARTBEAT_PERIOD_NS * 1e-9)
    status = stands(policy, "policy/inference")
    assert status.level is Level.ERROR
    assert ("SIGKILL" if fault is signal.SIGKILL else "stopped by a signal") in status.text
    until_well(robot, executor)
    chunk = robot.chunks[-1][1]
    assert chunk.epoch > told
    assert chunk.tau_l2 > commits, "the memory of before, and the update of this tick"


def test_f45_a_robot_that_starts_later_than_the_policy_is_waited_for(executor) -> None:
    contract = small_contract()
    policy = PolicyNode(load=lambda _options, _logger: fake_model(contract, FakeRuntime(contract)))
    executor.add_node(policy)
    spin_until(executor, lambda: policy._diagnostics is not None, what="activation")
    assert "waiting for" in stands(policy, "policy/inference").text
    assert not policy._session.healthy
    robot = FaultyRobot(replace(contract))
    executor.add_node(robot)
    spin_until(executor, lambda: robot.chunks, what="chunks")
