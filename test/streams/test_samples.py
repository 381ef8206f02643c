# SPDX-License-Identifier: Apache-2.0
"""Every sample comes out with the first tick at or after it, once, in order of stamp; a clock set back starts anew."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from sigma_ros.streams.samples import WaitingSamples


@given(st.lists(st.integers(1, 1000), min_size=1, unique=True), st.lists(st.integers(0, 1000), min_size=1))
def test_each_sample_comes_once_with_the_first_tick_at_or_after_it(stamps: list[int], ticks: list[int]) -> None:
    waiting = WaitingSamples(back_ns=1000)
    for stamp in stamps:
        waiting.push(stamp, np.array([float(stamp)]))
    last = 0
    for tick in sorted(ticks):
        due = waiting.until(tick)
        assert [sample.stamp_ns for sample in due] == sorted(s for s in stamps if last < s <= tick)
        assert [float(sample.positions_rad[0]) for sample in due] == [sample.stamp_ns for sample in due]
        last = tick


def test_after_a_clock_was_set_back_only_what_came_since_counts() -> None:
    waiting = WaitingSamples(back_ns=10)
    for stamp in (100, 110, 50, 60):
        waiting.push(stamp, np.zeros(1))
    assert [sample.stamp_ns for sample in waiting.until(105)] == [100]
    assert waiting.goes_back(55)
    assert [sample.stamp_ns for sample in waiting.until(55)] == [50]
    assert [sample.stamp_ns for sample in waiting.until(200)] == [60], "what waited before the jump is gone"
