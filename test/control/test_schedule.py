# SPDX-License-Identifier: Apache-2.0
"""Which ticks plan and which commit."""

import pytest

from sigma_ros.control.schedule import Schedule


def test_plans_and_commits_fall_on_their_strides_from_tick_zero() -> None:
    schedule = Schedule(replan_ticks=3, memory_stride=4)
    assert [tick for tick in range(9) if schedule.plans(tick)] == [0, 3, 6]
    assert [tick for tick in range(9) if schedule.commits(tick)] == [0, 4, 8]


def test_the_defaults_are_a_plan_every_8_and_a_commit_every_16_ticks() -> None:
    assert Schedule() == Schedule(replan_ticks=8, memory_stride=16)


@pytest.mark.parametrize("field", ["replan_ticks", "memory_stride"])
def test_a_stride_below_one_is_refused(field: str) -> None:
    with pytest.raises(ValueError, match=f"{field} must be at least 1, got 0"):
        Schedule(**{field: 0})
