# SPDX-License-Identifier: Apache-2.0
"""One policy from engage to release: whatever others publish never moves the arm and never stands for its life."""

from typing import Any

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from supervision import QUICK_LAW, Bench, chunk_of

from sigma_ros.supervisor.identity import Author, Source
from sigma_ros.supervisor.limits import SupervisorLimits
from sigma_ros.supervisor.reasons import Reason, State

FOLLOWING = (State.RUN, State.BASE_ONLY)


def policy(process: str, instance: str = "", robot: str = "so101") -> tuple[Source, Source]:
    """The sources of a process's heartbeats and chunks."""
    author = Author(robot=robot, instance=instance or process)
    beats = Source(publisher=f"{process}-beat", process=process, name=f"/{process}")
    return beats, Source(publisher=f"{process}-chunk", process=process, name=f"/{process}", author=author)


FIRST, SECOND = policy("first"), policy("second")


class Room:
    """A bench into which several policies speak."""

    def __init__(self, **changes: Any) -> None:
        self.bench = Bench(SupervisorLimits(**changes), heartbeat=False)
        self.ids: dict[str, int] = {}

    def speak(self, who: tuple[Source, Source], offset_rad: float = 0.0, **changes: Any) -> Any:
        bench = self.bench
        self.beat(who)
        number = self.ids[who[1].publisher] = self.ids.get(who[1].publisher, 0) + 1
        base = np.repeat(np.array(bench.pose)[None] + offset_rad, 50, axis=0)
        chunk = chunk_of(base, **({"chunk_id": number, "stamp_ns": bench.stamp_ns} | changes))
        return bench.supervisor.on_chunk(chunk, bench.now_ns, bench.stamp_ns, source=who[1])

    def beat(self, who: tuple[Source, Source], *, healthy: bool = True) -> None:
        self.bench.supervisor.on_policy_heartbeat(self.bench.now_ns, healthy=healthy, source=who[0])

    def running(self) -> "Room":
        for _ in range(3):
            self.speak(FIRST)
            self.bench.tick()
        assert self.bench.engage().success
        for _ in range(20):
            self.speak(FIRST)
            self.bench.tick()
        assert self.bench.last.state in FOLLOWING
        return self


@QUICK_LAW
@given(st.lists(st.sampled_from(["chunk", "beat", "sick", "quiet"]), min_size=1, max_size=30))
def test_another_policy_changes_no_command_whatever_it_says(acts: list[str]) -> None:
    alone, beset = Room().running(), Room().running()
    for act in acts:
        if act == "chunk":
            assert beset.speak(SECOND, 0.5, chunk_id=10**6).reason is Reason.POLICY_OTHER
        elif act in ("beat", "sick"):
            beset.beat(SECOND, healthy=act == "beat")
        for room in (alone, beset):
            room.speak(FIRST, 0.01)
            room.bench.tick()
        np.testing.assert_array_equal(beset.bench.last.command_rad, alone.bench.last.command_rad)
        assert beset.bench.last.state is alone.bench.last.state
        if act != "quiet":
            assert any("second" in name for name in beset.bench.last.other_policies), "named at the next tick"
    assert beset.bench.last.followed_policy == "first"


def test_another_heartbeat_does_not_mask_the_death_of_the_first() -> None:
    room = Room().running()
    for _ in range(7):
        room.speak(SECOND)
        room.bench.tick()
    assert room.bench.last.reason is Reason.HEARTBEAT_LOST
    for _ in range(200):
        room.speak(SECOND)
        room.bench.tick()
    assert (room.bench.last.state, room.bench.last.reason) == (State.DISENGAGED, Reason.AUTHORITY_AGED)


def test_two_live_policies_at_engage_are_refused_by_name() -> None:
    room = Room()
    for _ in range(3):
        room.speak(FIRST)
        room.speak(SECOND)
        room.bench.tick()
    answer = room.bench.engage()
    assert answer.reason is Reason.POLICY_SEVERAL
    assert "/first" in answer.text
    assert "/second" in answer.text
    assert room.bench.tick().state is State.DISENGAGED


def test_the_heartbeat_of_one_process_and_the_chunks_of_another_are_two_policies() -> None:
    room = Room()
    mixed = (FIRST[0], SECOND[1])
    for _ in range(3):
        room.speak(mixed)
        room.bench.tick()
    assert room.bench.engage().reason is Reason.POLICY_SEVERAL


def test_a_policy_started_again_is_followed_after_another_engage_and_not_before() -> None:
    room = Room(authority_ages=False).running()
    again = policy("first_again", "new")
    for _ in range(100):
        room.speak(again)
        room.bench.tick()
    assert room.bench.last.reason is Reason.HEARTBEAT_LOST, "however long"
    assert room.bench.engage().success
    for _ in range(10):
        room.speak(again)
        room.bench.tick()
    assert room.bench.last.state in FOLLOWING
    assert room.bench.last.followed_policy == "new"


def test_a_refused_engage_leaves_the_policy_in_force_as_it_was() -> None:
    room = Room(authority_ages=False).running()
    for _ in range(8):
        room.bench.tick()
    room.bench.joints = False
    for _ in range(8):
        room.speak(SECOND)
        room.bench.tick()
    assert not room.bench.engage().success
    room.bench.joints = True
    for _ in range(40):
        room.speak(SECOND)
        room.bench.tick()
    assert room.bench.last.state is State.HOLD


def test_a_refused_engage_binds_nobody() -> None:
    room = Room()
    room.bench.joints = False
    for _ in range(8):
        room.speak(FIRST)
        room.bench.tick()
    assert not room.bench.engage().success
    assert room.bench.tick().followed_policy == ""
    assert room.speak(SECOND).reason is not Reason.POLICY_OTHER


def test_engaging_another_policy_does_not_make_its_chunk_from_before_the_stop_good() -> None:
    room = Room().running()
    room.bench.tick(60)
    for _ in range(3):
        room.speak(SECOND)
        room.bench.tick()
    made_ns = room.bench.stamp_ns - 1
    room.bench.supervisor.estop()
    for _ in range(12):
        room.beat(SECOND)
        room.bench.tick()
    assert room.bench.supervisor.reset_stop(room.bench.now_ns).success
    for _ in range(3):
        room.beat(SECOND)
        room.bench.tick()
    room.beat(SECOND)
    assert room.bench.engage().success
    assert room.speak(SECOND, stamp_ns=made_ns).reason is Reason.CHUNK_BEFORE_STOP
    assert room.speak(SECOND).accepted


def test_another_instance_on_the_same_publisher_and_another_checkpoint_are_refused() -> None:
    room = Room().running()
    assert room.speak(policy("first", "another")).reason is Reason.POLICY_OTHER
    assert room.speak(FIRST, checkpoint_hash="another").reason is Reason.CHUNK_CHECKPOINT
    assert room.speak(FIRST).accepted


def test_a_chunk_for_another_robot_is_refused_before_and_after_engage() -> None:
    room = Room()
    other = policy("first", robot="another_arm")
    assert room.speak(other).reason is Reason.CHUNK_ROBOT
    room = Room().running()
    verdict = room.speak(other)
    assert verdict.reason is Reason.CHUNK_ROBOT
    assert "another_arm" in verdict.text


def test_a_crowd_of_publishers_is_kept_in_bounded_memory_and_the_first_stays_known() -> None:
    room = Room().running()
    for number in range(200):
        room.speak(policy(f"crowd{number}"))
    room.speak(FIRST)
    assert room.bench.tick().state in FOLLOWING
    assert len(room.bench.last.other_policies) <= 64


def test_hostile_names_are_told_in_few_words() -> None:
    room, long = Room(), "x" * 1_000_000
    assert len(room.speak(policy(long, robot=long)).text) < 1000
    wrong = room.speak(policy("first", robot="so101"), joint_names=(long,) * 1000)
    assert wrong.reason is Reason.CHUNK_NAMES
    assert len(wrong.text) < 1000
