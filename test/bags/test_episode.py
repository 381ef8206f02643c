# SPDX-License-Identifier: Apache-2.0
"""A recording as ticks: the same windows as live, and the recorded action beside each."""

from collections.abc import Iterator
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from bags import HEIGHT, MS, SIZE, START_NS, TASK, TASK_TOPIC, WIDTH, picture, pose, small_contract, write_recording
from numpy import ndarray

from sigma_ros.bags.episode import Episode, Tick
from sigma_ros.bags.messages import ROS_TYPES, header
from sigma_ros.bags.reader import Bag, open_bag
from sigma_ros.bags.topics import camera_topics, recorded_task
from sigma_ros.bags.writer import BagWriter
from sigma_ros.contract import Contract
from sigma_ros.errors import BagError, ContractError
from sigma_ros.streams.frame_clock import FrameClock
from sigma_ros.values import Gap, Window

CONTRACT = small_contract()


def ticks_of(path: Path, contract: Contract = CONTRACT, *, task: str | None = None) -> list[Tick]:
    with open_bag(path) as bag:
        return list(Episode(bag, contract, image_size_px=SIZE, task=task))


def live_items(bag: Bag, contract: Contract) -> Iterator[Window | Gap]:
    """What a node does: push in the order of arrival, take ticks as time goes by."""
    clock = FrameClock(contract, image_size_px=SIZE)
    cameras = {place.topic: name for name, place in camera_topics(bag, contract).items()}
    for record in bag.records():
        if record.topic in cameras:
            clock.push_image(cameras[record.topic], record.stamp_ns, record.message)
        elif record.topic == contract.joint_state_topic:
            clock.push_joints(record.stamp_ns, record.message.names, record.message.positions_rad)
        elif record.topic == TASK_TOPIC:
            clock.set_task(record.message)
        while clock.ready(record.log_time_ns):
            yield clock.next_tick()
    while clock.ready(record.log_time_ns + contract.tick_period_ns + contract.settle_ns):  # time goes on
        yield clock.next_tick()


def equal(one: ndarray | None, other: ndarray | None) -> bool:
    return one is not None and other is not None and np.array_equal(one, other)


def same(one: Window | Gap, other: Window | Gap) -> bool:
    if isinstance(one, Gap) or isinstance(other, Gap):
        return one == other
    if (one.epoch, one.task, one.mask.tolist()) != (other.epoch, other.task, other.mask.tolist()):
        return False
    return all(
        a.stamp_ns == b.stamp_ns
        and a.positions_rad.tobytes() == b.positions_rad.tobytes()
        and (a.joint_age_ns, a.image_age_ns) == (b.joint_age_ns, b.image_age_ns)
        and a.images.keys() == b.images.keys()
        and all(a.images[name].tobytes() == b.images[name].tobytes() for name in a.images)
        for a, b in zip(one.frames, other.frames, strict=True)
    )


def write_as_recorded(path: Path, contract: Contract, *, storage: str, jpeg_quality: int | None) -> Path:
    """SYNTHETIC: jittered stamps, latencies within the settling time, lost frames, a camera that stalls."""
    random = np.random.default_rng(7)
    messages: list[tuple[int, int, str, int]] = []
    for index, camera in enumerate(contract.cameras):
        period_ns = contract.tick_period_ns
        for number in range(180):
            stalled = index == 1 and 60 <= number < 70
            if stalled or random.random() < 0.05:
                continue
            stamp_ns = START_NS + number * period_ns + int(random.normal(0, 2e6))
            messages.append((stamp_ns + int(random.uniform(1, 30) * MS), stamp_ns, camera.topic, number))
    for number in range(600):
        stamp_ns = START_NS + number * 10 * MS
        messages.append((stamp_ns + int(random.uniform(0, 5) * MS), stamp_ns, contract.joint_state_topic, number))
    with BagWriter(path, storage=storage) as bag:  # type: ignore[arg-type]
        bag.text(TASK_TOPIC, START_NS - 10 * MS, TASK)
        for arrival_ns, stamp_ns, topic, number in sorted(messages):
            if topic == contract.joint_state_topic:
                bag.joints(topic, stamp_ns, contract.joint_names, pose(number, 6), log_time_ns=arrival_ns)
            else:
                image = picture(number)
                bag.image(topic, stamp_ns, "camera", image, jpeg_quality=jpeg_quality, log_time_ns=arrival_ns)
    return path


@pytest.mark.parametrize("storage", ["mcap", "sqlite3"])
@pytest.mark.parametrize("jpeg_quality", [None, 90])
def test_the_same_bag_gives_the_same_windows_live_and_offline_bit_for_bit(
    tmp_path: Path, storage: str, jpeg_quality: int | None
) -> None:
    contract = replace(CONTRACT, action_source="next_state")
    path = write_as_recorded(tmp_path / "bag", contract, storage=storage, jpeg_quality=jpeg_quality)
    offline = [tick.item for tick in ticks_of(path, contract)]
    with open_bag(path) as bag:
        live = list(live_items(bag, contract))
    assert len(offline) > 170
    assert any(isinstance(item, Gap) for item in offline)
    assert len(live) >= len(offline)
    for one, other in zip(offline, live, strict=False):
        assert same(one, other)


def test_replaying_twice_gives_the_same_ticks(tmp_path: Path) -> None:
    path = write_recording(tmp_path / "bag", CONTRACT)
    for one, other in zip(ticks_of(path), ticks_of(path), strict=True):
        assert same(one.item, other.item)
        assert equal(one.action_rad, other.action_rad)


def test_the_action_of_a_tick_is_the_newest_command_at_or_before_it(tmp_path: Path) -> None:
    ticks = ticks_of(write_recording(tmp_path / "bag", CONTRACT))
    assert len(ticks) == 60
    for index, tick in enumerate(ticks):
        assert equal(tick.action_rad, pose(index, 6) + 0.01)
        assert equal(tick.joint_rad, pose(index, 6))


def test_a_command_older_than_the_limit_of_the_joints_is_no_action(tmp_path: Path) -> None:
    path = tmp_path / "bag"
    write_recording(tmp_path / "whole", CONTRACT, ticks=20)
    with open_bag(tmp_path / "whole") as whole, BagWriter(path) as bag:
        for record in whole.records():
            if record.topic == CONTRACT.command_topic and record.stamp_ns > START_NS + 200 * MS:
                continue
            copy(record, bag)
    ticks = ticks_of(path)
    known = [tick.action_rad is not None for tick in ticks]
    limit = START_NS + CONTRACT.tick_offset_ns(6) + CONTRACT.joint_state_max_age_ns
    assert known == [tick.item.stamp_ns <= limit for tick in ticks]


def copy(record: object, bag: BagWriter) -> None:
    """A message of `write_recording` into another bag, stamps kept."""
    topic, message, stamp_ns = record.topic, record.message, record.stamp_ns  # type: ignore[attr-defined]
    if topic == CONTRACT.command_topic:
        bag.array(topic, stamp_ns, message)
    elif topic == CONTRACT.joint_state_topic:
        bag.joints(topic, stamp_ns, message.names, message.positions_rad)
    elif topic == TASK_TOPIC:
        bag.text(topic, stamp_ns, message)
    else:
        pixels = np.frombuffer(message.data, dtype=np.uint8).reshape(HEIGHT, WIDTH, 3)
        bag.image(topic, stamp_ns, "camera", pixels)


def test_without_commands_the_action_is_the_next_ticks_pose(tmp_path: Path) -> None:
    contract = replace(CONTRACT, action_source="next_state")
    ticks = ticks_of(write_recording(tmp_path / "bag", contract, commands=False), contract)
    for index, tick in enumerate(ticks[:-1]):
        assert equal(tick.action_rad, pose(index + 1, 6))
    assert ticks[-1].action_rad is None


def test_commands_that_are_wrong_are_counted_and_never_an_action(tmp_path: Path) -> None:
    path = tmp_path / "bag"
    write_recording(tmp_path / "whole", CONTRACT, ticks=10)
    with open_bag(tmp_path / "whole") as whole, BagWriter(path) as bag:
        for record in whole.records():
            if record.topic != CONTRACT.command_topic:
                copy(record, bag)
            elif record.stamp_ns < START_NS + 100 * MS:
                bag.array(record.topic, record.stamp_ns, [np.full(6, np.nan), np.zeros(5)][record.stamp_ns % 2])
            else:
                copy(record, bag)
    with open_bag(path) as bag:
        run = Episode(bag, CONTRACT, image_size_px=SIZE)
        ticks = list(run)
        assert run.commands_refused == 3
    assert [tick.action_rad is None for tick in ticks] == [True] * 3 + [False] * 7


def test_joint_messages_between_ticks_come_with_the_later_tick(tmp_path: Path) -> None:
    ticks = ticks_of(write_recording(tmp_path / "bag", CONTRACT, ticks=5))
    assert [len(tick.joint_samples) for tick in ticks] == [1, 2, 2, 2, 2]
    for previous, tick in pairwise(ticks):
        for sample in tick.joint_samples:
            assert previous.item.stamp_ns < sample.stamp_ns <= tick.item.stamp_ns
    assert np.array_equal(ticks[3].joint_samples[-1].positions_rad, pose(3, 6))


def test_the_task_is_the_given_the_recorded_the_noted_or_the_contracts(tmp_path: Path) -> None:
    recorded = write_recording(tmp_path / "recorded", CONTRACT, ticks=3)
    silent = write_recording(tmp_path / "silent", CONTRACT, ticks=3, task=None)
    assert {tick.item.task for tick in ticks_of(recorded)} == {TASK}  # type: ignore[union-attr]
    assert {tick.item.task for tick in ticks_of(recorded, task="other")} == {"other"}  # type: ignore[union-attr]
    assert {tick.item.task for tick in ticks_of(silent)} == {CONTRACT.tasks[0]}  # type: ignore[union-attr]
    with BagWriter(tmp_path / "noted", metadata={"sigma.task": "noted"}) as bag:
        bag.array("/x", START_NS, np.zeros(1))
    with open_bag(tmp_path / "noted") as bag:
        assert recorded_task(bag, CONTRACT) == "noted"


def test_a_task_that_changes_in_the_recording_begins_a_new_epoch(tmp_path: Path) -> None:
    write_recording(tmp_path / "whole", CONTRACT, ticks=20)
    path = tmp_path / "bag"
    with open_bag(tmp_path / "whole") as whole, BagWriter(path) as bag:
        for index, record in enumerate(whole.records()):
            if index == 50:
                bag.text(TASK_TOPIC, record.log_time_ns, "another task")
            copy(record, bag)
    tasks = [(tick.item.epoch, tick.item.task) for tick in ticks_of(path)]  # type: ignore[union-attr]
    assert sorted(set(tasks)) == [(0, TASK), (1, "another task")]
    assert tasks == sorted(tasks)


def test_the_first_message_that_does_not_fit_stops_the_episode_before_any_tick(tmp_path: Path) -> None:
    path = write_recording(tmp_path / "bag", CONTRACT, ticks=2)
    wide = replace(CONTRACT, cameras=tuple(replace(camera, width_px=64) for camera in CONTRACT.cameras))
    with pytest.raises(ContractError, match=r"image size is not the contract's.*expected: 64x24; got: 32x24"):
        ticks_of(path, wide)
    renamed = replace(CONTRACT, joints=tuple(replace(j, name=f"other_{j.name}", aliases=()) for j in CONTRACT.joints))
    with pytest.raises(ContractError, match="joints are missing: other_shoulder_pan"):
        ticks_of(path, renamed)


def test_a_bag_whose_streams_never_meet_is_an_error_and_not_an_empty_episode(tmp_path: Path) -> None:
    with BagWriter(tmp_path / "bag") as bag:
        for index, camera in enumerate(CONTRACT.cameras):
            for number in range(3):
                stamp_ns = START_NS + (1000 * index + number) * 33 * MS
                bag.image(camera.topic, stamp_ns, "c", picture(0))
        bag.joints(CONTRACT.joint_state_topic, START_NS, CONTRACT.joint_names, np.full(6, np.nan))
        bag.array(CONTRACT.command_topic, START_NS, np.zeros(6))
    with pytest.raises(BagError, match=r"the bag gave no tick.*joints: 1 messages, refused .*not finite"):
        ticks_of(tmp_path / "bag")


def test_commands_on_another_clock_are_an_error_and_not_an_episode_without_actions(tmp_path: Path) -> None:
    write_recording(tmp_path / "whole", CONTRACT, ticks=10)
    with open_bag(tmp_path / "whole") as whole, BagWriter(tmp_path / "bag") as bag:
        for record in whole.records():
            if record.topic == CONTRACT.command_topic:
                bag.array(record.topic, record.stamp_ns + 100 * 10**9, record.message)
            else:
                copy(record, bag)
    with pytest.raises(BagError, match=r"no command falls on.*the others begin 99\.700 s after.*on one clock"):
        ticks_of(tmp_path / "bag")


def test_trajectories_stamped_zero_count_from_their_arrival(tmp_path: Path) -> None:
    contract = replace(CONTRACT, command_type="trajectory_msgs/msg/JointTrajectory")
    write_recording(tmp_path / "whole", CONTRACT, ticks=10)
    with open_bag(tmp_path / "whole") as whole, BagWriter(tmp_path / "bag") as bag:
        for record in whole.records():
            if record.topic == CONTRACT.command_topic:
                cdr = trajectory(contract.joint_names, record.message)
                bag.raw(record.topic, contract.command_type, record.stamp_ns, cdr)
            else:
                copy(record, bag)
    for index, tick in enumerate(ticks_of(tmp_path / "bag", contract)):
        assert equal(tick.action_rad, pose(index, 6) + 0.01)


def trajectory(names: tuple[str, ...], positions: ndarray) -> bytes | memoryview:
    """A JointTrajectory of two points, names in reverse order."""
    types = ROS_TYPES.types
    none = np.zeros(0)
    points = [
        types["trajectory_msgs/msg/JointTrajectoryPoint"](
            positions=np.ascontiguousarray(values[::-1]),
            velocities=none,
            accelerations=none,
            effort=none,
            time_from_start=types["builtin_interfaces/msg/Duration"](sec=0, nanosec=20_000_000),
        )
        for values in (positions, positions + 1.0)
    ]
    message = types["trajectory_msgs/msg/JointTrajectory"](
        header=header(0, ""), joint_names=list(reversed(names)), points=points
    )
    return ROS_TYPES.serialize_cdr(message, "trajectory_msgs/msg/JointTrajectory")


def test_counters_tell_what_became_of_the_messages(tmp_path: Path) -> None:
    with open_bag(write_recording(tmp_path / "bag", CONTRACT, ticks=10)) as bag:
        run = Episode(bag, CONTRACT, image_size_px=SIZE)
        assert run.counters.windows == 0
        list(run)
        assert run.counters.windows == 10
        assert run.counters.streams["joints"].received == 20
