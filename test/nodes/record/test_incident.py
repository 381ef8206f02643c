# SPDX-License-Identifier: Apache-2.0
"""The memory of the last seconds is bounded in time and in bytes, and forgets the oldest first."""

from hypothesis import given
from hypothesis import strategies as st

from sigma_ros.nodes.record.incident import Heard, IncidentMemory, own_definitions
from sigma_ros.values import NS_PER_S


def heard(at_s: float, size: int = 10, topic: str = "/a") -> Heard:
    return Heard(round(at_s * NS_PER_S), topic, "std_msgs/msg/String", bytes(size))


@given(st.lists(st.tuples(st.floats(0.0, 1.0), st.integers(0, 400_000)), max_size=60))
def test_it_never_holds_more_than_it_may(steps: list[tuple[float, int]]) -> None:
    memory, now_s = IncidentMemory(seconds=5.0, megabytes=1.0), 0.0
    for step_s, size in steps:
        now_s += step_s
        memory.hear(heard(now_s, size))
        kept = memory.snapshot()
        assert sum(len(said.cdr) for said in kept) == memory.bytes <= 2**20
        assert all(said.at_ns >= kept[-1].at_ns - 5 * NS_PER_S for said in kept)
        assert list(kept) == sorted(kept, key=lambda said: said.at_ns)


def test_what_is_told_once_is_kept_and_told_at_the_beginning() -> None:
    memory = IncidentMemory(seconds=1.0, megabytes=1.0)
    memory.hear(heard(0.0, topic="/task"), latched=True)
    for second in range(10):
        memory.hear(heard(float(second)))
    kept = memory.snapshot()
    assert kept[0].topic in ("/a", "/task")
    assert [said.at_ns for said in kept if said.topic == "/task"] == [8 * NS_PER_S]


def test_the_definitions_of_our_messages_are_complete() -> None:
    definitions = own_definitions()
    assert set(definitions) == {
        f"sigma_ros/msg/{name}" for name in ("ActionChunk", "SupervisorState", "TelepathyState")
    }
    assert all(
        "MSG: std_msgs/Header" in text and "MSG: builtin_interfaces/Time" in text for text in definitions.values()
    )
