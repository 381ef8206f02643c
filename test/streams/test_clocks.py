# SPDX-License-Identifier: Apache-2.0
"""Streams of a recording keep one clock, or what another clock stamped is a counted loss: two moments never mix."""

from collections.abc import Callable
from pathlib import Path
from typing import Literal

import numpy as np
import pytest
from bags import MS, START_NS, pose, small_contract
from hypothesis import given, settings
from hypothesis import strategies as st

from sigma_ros.bags.episode import Episode
from sigma_ros.bags.reader import open_bag
from sigma_ros.bags.writer import BagWriter
from sigma_ros.errors import BagError
from sigma_ros.streams.clocks import APART, StreamClocks
from sigma_ros.streams.images import OWN_SIZE_PX

CONTRACT = small_contract()
CAMERAS = tuple(camera.name for camera in CONTRACT.cameras)
STREAMS = (*CAMERAS, "joints", "commands")
TICKS, HALF = 120, 60
POSES = np.array([pose(tick, CONTRACT.dof) for tick in range(TICKS)])
Shift = Callable[[str, int], int]
"""By how many ns a stream's stamp or time of recording at a tick is off."""


def none(_stream: str, _tick: int) -> int:
    return 0


def recorded(
    path: Path,
    *,
    stamps: Shift = none,
    logs: Shift = none,
    without: Callable[[str, int], bool] = lambda *_: False,
    storage: Literal["mcap", "sqlite3"] = "mcap",
) -> Path:
    """Every message tells its own tick: pictures by their red, poses and commands by their values."""
    with BagWriter(path, storage=storage) as bag:
        for tick in range(TICKS):
            at_ns = START_NS + CONTRACT.tick_offset_ns(tick)
            for stream in (s for s in STREAMS if not without(s, tick)):
                stamp_ns, log_ns = at_ns + stamps(stream, tick), at_ns + logs(stream, tick)
                if stream == "joints":
                    joints = (CONTRACT.joint_state_topic, stamp_ns, CONTRACT.joint_names, POSES[tick])
                    bag.joints(*joints, log_time_ns=log_ns)
                elif stream == "commands":
                    bag.array(CONTRACT.command_topic, log_ns, POSES[tick])
                else:
                    camera = CONTRACT.cameras[CAMERAS.index(stream)]
                    red = np.full((camera.height_px, camera.width_px, 3), (tick, 0, 0), np.uint8)
                    bag.image(camera.topic, stamp_ns, stream, red, log_time_ns=log_ns)
    return path


def number_of(rad: np.ndarray) -> int:
    return int(np.abs(POSES - rad).sum(axis=1).argmin())


def moments(path: Path) -> tuple[list[list[int]], list[int], dict[str, int]]:
    """Of each valid tick: the ticks of joints and pictures, how far the action's is off; and the losses."""
    with open_bag(path) as bag:
        ticks = Episode(bag, CONTRACT, image_size_px=OWN_SIZE_PX)
        seen, off = [], []
        for tick in ticks:
            if tick.window is None or tick.joint_rad is None:
                continue
            seen.append([number_of(tick.joint_rad), *(int(p[0, 0, 0]) for p in tick.window.newest.images.values())])
            if tick.action_rad is not None:
                off.append(abs(number_of(tick.action_rad) - seen[-1][0]))
        return seen, off, ticks.losses


@pytest.mark.parametrize("storage", ["mcap", "sqlite3"])
@pytest.mark.parametrize("by_ms", [-2000, -500, -200, 200, 500, 2000])
@pytest.mark.parametrize("stream", [*STREAMS[:3], "all"])
@pytest.mark.parametrize("also_logs", [False, True])
def test_law_a_clock_that_is_set_for_some_streams_never_mixes_two_moments_and_what_it_costs_is_counted(
    tmp_path: Path, storage: Literal["mcap", "sqlite3"], by_ms: int, stream: str, *, also_logs: bool
) -> None:
    def shift(name: str, tick: int) -> int:
        return by_ms * MS * (tick >= HALF and stream in (name, "all"))

    if also_logs and by_ms > 0 and stream != "all":
        pytest.skip("a stream whose stamps and times of recording go ahead together looks as one that paused")
    seen, off, losses = moments(
        recorded(tmp_path / "bag", stamps=shift, logs=shift if also_logs else none, storage=storage)
    )
    assert len(seen) >= HALF
    oldest_ticks = 6  # a picture may be 200 ms old
    assert all(max(numbers) - min(numbers) <= (1 if by_ms < 0 else oldest_ticks) for numbers in seen)
    assert max(off) <= 4, "an action is no older than 100 ms"
    if stream != "all":
        assert any(APART in reason for reason in losses), losses
    elif not (also_logs and by_ms < 0):
        assert losses, "commands are recorded on the other clock, or ticks are missing"
    else:
        assert (losses, len(seen), len(off)) == ({}, TICKS, TICKS)


@pytest.mark.parametrize("stream", CAMERAS)
def test_a_stream_of_another_clock_is_refused_from_its_start(tmp_path: Path, stream: str) -> None:
    path = recorded(tmp_path / "bag", stamps=lambda name, _: -2000 * MS * (name == stream))
    with open_bag(path) as bag:
        ticks = Episode(bag, CONTRACT, image_size_px=None)
        assert not [tick for tick in ticks if tick.window is not None]
        assert ticks.losses[f"{stream}: {APART}"] >= TICKS - 1


def test_stamps_of_another_clock_than_the_recorder_s_have_no_actions(tmp_path: Path) -> None:
    path = recorded(tmp_path / "bag", stamps=lambda *_: -500 * MS)
    with pytest.raises(BagError, match=r"no command falls on the recording's ticks.*120 refused"):
        moments(path)


def test_a_clock_that_is_set_back_and_ahead_again_costs_only_the_time_between(tmp_path: Path) -> None:
    seen, _, losses = moments(
        recorded(tmp_path / "bag", stamps=lambda name, tick: -900 * MS * (name == CAMERAS[0] and 40 <= tick < 80))
    )
    assert losses[f"{CAMERAS[0]}: {APART}"] <= 42
    assert {39, 85} <= {numbers[0] for numbers in seen}
    assert all(max(numbers) - min(numbers) <= 6 for numbers in seen)


@pytest.mark.parametrize(("start", "end"), [(HALF, TICKS), (HALF, HALF + 45), (20, TICKS)])
@pytest.mark.parametrize("stream", STREAMS[:3])
def test_ticks_without_one_of_the_streams_are_counted_to_the_last(
    tmp_path: Path, stream: str, start: int, end: int
) -> None:
    path = recorded(tmp_path / "bag", without=lambda name, tick: name == stream and start <= tick < end)
    seen, _, losses = moments(path)
    counted = losses.get("invalid_ticks", 0) + losses.get("ticks without one of the streams", 0)
    dropped = max((n for reason, n in losses.items() if "dropped" in reason), default=0)
    assert len(seen) + counted - 2 <= TICKS <= len(seen) + counted + dropped + 2, losses


def test_what_is_late_or_short_is_no_clock(tmp_path: Path) -> None:
    random = np.random.default_rng(3)
    late_ns = {(s, t): int(random.choice([0, 5, 30, 90, 400])) * MS for s in STREAMS for t in range(TICKS)}
    _, _, losses = moments(recorded(tmp_path / "bag", logs=lambda name, tick: late_ns[name, tick]))
    assert not [reason for reason in losses if APART in reason]


@settings(deadline=None)
@given(
    delays_ms=st.lists(st.integers(0, 300), min_size=80, max_size=80),
    set_ms=st.integers(-3000, 3000),
    at=st.integers(5, 60),
)
def test_law_delays_and_clocks_that_are_set_together_let_every_message_pass_in_its_order(
    delays_ms: list[int], set_ms: int, at: int
) -> None:
    clocks: StreamClocks[tuple[str, int]] = StreamClocks("joints", (), 33 * MS)
    events = []
    for tick in range(40):
        stamp_ms = 10_000 + 33 * tick + set_ms * (tick >= at // 2)
        events += [(10_000 + 33 * tick + delays_ms[2 * tick + i], stamp_ms, name, tick) for i, name in enumerate("ab")]
        events.append((10_000 + 33 * tick, stamp_ms, "joints", tick))
    passed = []
    for log_ms, stamp_ms, name, tick in sorted(events, key=lambda event: event[0]):
        passed += list(clocks.take(name, stamp_ms * MS, log_ms * MS, (name, tick)))
    passed += list(clocks.rest())
    assert len(passed) == len(events)
    for name in ("a", "b", "joints"):
        given_in = [tick for _, _, own, tick in sorted(events, key=lambda event: event[0]) if own == name]
        assert [item[1] for item, _ in passed if item[0] == name] == given_in
    if set_ms == 0:
        assert all(keeps for _, keeps in passed)
