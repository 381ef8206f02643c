# SPDX-License-Identifier: Apache-2.0
"""Joint values of several messages: one whole, never of two moments further apart than the slower part."""

from contextlib import nullcontext

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sigma_ros.contract_file import load_contract
from sigma_ros.errors import ContractError
from sigma_ros.streams.joints import JointMerger, JointReach, JointReader, unreal

BIMANUAL = load_contract("so101_bimanual")
LEFT, RIGHT = BIMANUAL.states
OWN = LEFT.own_names


def merger() -> JointMerger:
    return JointMerger(BIMANUAL, BIMANUAL.states)


@given(st.lists(st.tuples(st.booleans(), st.floats(-1.0, 1.0)), max_size=60))
def test_law_each_whole_has_the_newest_of_every_part_and_no_part_is_used_twice(said: list[tuple[bool, float]]) -> None:
    merging, newest, fresh = merger(), {}, set()
    for at_ns, (is_right, value) in enumerate(said):
        part = int(is_right)
        newest[part] = (at_ns, value)
        fresh.add(part)
        whole = merging.push(part, at_ns, OWN, np.full(6, value))
        assert (whole is not None) == (fresh == {0, 1})
        if whole is not None:
            stamp_ns, names, values = whole
            assert stamp_ns == min(stamp for stamp, _ in newest.values())
            assert names == BIMANUAL.joint_names
            assert values.tolist() == [newest[0][1]] * 6 + [newest[1][1]] * 6
            fresh.clear()


SKEWS_MS = st.lists(st.tuples(st.booleans(), st.integers(-120, 120)), max_size=60)


@given(SKEWS_MS)
def test_law_what_is_joined_lies_within_the_tolerance_and_what_is_too_old_is_refused_by_name(
    said: list[tuple[bool, int]],
) -> None:
    """Each part ticks every 20 ms, its stamps off by so much: two arms' clocks, a burst, a message held up."""
    merging, waiting, limit_ns = merger(), {}, BIMANUAL.max_skew_ns
    for i, (is_right, off_ms) in enumerate(said):
        part, stamp_ns = int(is_right), 1_000_000_000 + i * 20_000_000 + off_ms * 1_000_000
        waiting[part] = stamp_ns
        apart_ns = max(waiting.values()) - min(waiting.values())
        if apart_ns > limit_ns:
            old = min(waiting, key=lambda p: waiting[p])
            with pytest.raises(ContractError, match=f"{BIMANUAL.states[old].topic}.*within 50 ms"):
                merging.push(part, stamp_ns, OWN, np.zeros(6))
            del waiting[old]
            continue
        whole = merging.push(part, stamp_ns, OWN, np.zeros(6))
        assert (whole is not None) == (len(waiting) == 2)
        if whole is not None:
            assert whole[0] == min(waiting.values())
            waiting.clear()


def test_both_arms_say_the_same_names_in_any_order_and_by_any_alias() -> None:
    merging = merger()
    assert merging.push(0, 1, OWN[::-1], np.arange(6.0)) is None
    aliased = ("shoulder_pan_joint", *OWN[1:])
    whole = merging.push(1, 2, aliased, np.arange(6.0))
    assert whole is not None
    assert whole[2].tolist() == [5, 4, 3, 2, 1, 0, 0, 1, 2, 3, 4, 5]


@pytest.mark.parametrize("bad", [np.full(6, np.nan), np.zeros(5)])
def test_a_bad_message_of_one_arm_is_refused_and_the_whole_waits(bad: np.ndarray) -> None:
    merging = merger()
    merging.push(0, 1, OWN, np.zeros(6))
    with pytest.raises(ContractError):
        merging.push(1, 2, OWN, bad)
    assert merging.push(1, 3, OWN, np.ones(6)) is not None


def test_a_robot_in_one_part_passes_every_message_as_it_is() -> None:
    contract = load_contract("so101")
    merging = JointMerger(contract, contract.states)
    said = (7, ("anything",), np.full(1, np.nan))
    assert merging.push(0, *said) == said


def test_a_reader_orders_by_name_and_refuses_what_is_not_finite() -> None:
    reader = JointReader(load_contract("so101"))
    assert reader.read(OWN[::-1], np.arange(6.0)).tolist() == [5, 4, 3, 2, 1, 0]
    with pytest.raises(ContractError, match="not finite"):
        reader.read(OWN, np.full(6, np.inf))


def test_what_no_joint_can_reach_is_named_with_its_frame() -> None:
    arm, rad = load_contract("so101"), np.zeros((9, 6))
    assert unreal(arm, rad) is None
    rad[4, 2] = arm.to_rad(np.full(6, 1e4))[2]
    assert unreal(arm, rad) == "frame 4: elbow_flex 10000 (1 such frames)"


@given(st.integers(0, 60), st.integers(1, 20))
def test_law_many_poses_out_of_reach_are_another_unit_and_few_are_wild(beyond: int, least: int) -> None:
    reach, said = JointReach(load_contract("so101")), 0
    for number in range(100):
        try:
            reach.check(np.full(6, 50.0 if number < beyond else 0.5), "/joint_states")
        except ContractError:
            said += 1
    assert said == beyond
    with pytest.raises(ContractError, match="in radians") if beyond >= max(least, 20) else nullcontext():
        reach.refuse_units(least)


@pytest.mark.parametrize(
    ("names", "said"),
    [
        (tuple(f"joint {number}" for number in range(100_000)), "too many names"),
        (tuple(f"{number}" * 1_000_000 for number in range(6)), "missing"),
        (("x" * 1_000_000,) * 6, "repeat"),
    ],
    ids=["many", "long", "the same"],
)
def test_hostile_names_are_refused_in_few_words(names: tuple[str, ...], said: str) -> None:
    with pytest.raises(ContractError, match=said) as error:
        JointReader(load_contract("so101")).read(names, np.zeros(len(names)))
    assert len(str(error.value)) < 3000
