# SPDX-License-Identifier: Apache-2.0
"""Laws of the frame clock, then its manners with bad input."""

import weakref
from collections import deque
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from recordings import (
    HEIGHT,
    MS,
    SIZE,
    START_NS,
    WIDTH,
    Arrival,
    contents,
    drain,
    image_message,
    push,
    run,
    small_contract,
    steady,
)

from sigma_ros.streams.frame_clock import IMAGES_BEYOND_LOOKAHEAD, LOOKAHEAD_TICKS, FrameClock
from sigma_ros.streams.images import ImageMessage
from sigma_ros.streams.stream import Grid
from sigma_ros.values import WINDOW_TICKS, Gap, Window

CONTRACT = small_contract()
STREAMS = (*(camera.name for camera in CONTRACT.cameras), "joints")
UP, SIDE = (camera.name for camera in CONTRACT.cameras)
SETTLE_NS = CONTRACT.settle_ns
PERIOD_NS = CONTRACT.tick_period_ns
IMAGES_WAITING = LOOKAHEAD_TICKS + IMAGES_BEYOND_LOOKAHEAD
NOT_FINITE = (np.nan, np.inf, -np.inf)

steps_ms = st.lists(st.integers(1, 120), min_size=4, max_size=60)
stream_steps = st.tuples(*[steps_ms for _ in STREAMS])


def stamps_of(steps: tuple[list[int], ...]) -> dict[str, list[int]]:
    return {
        stream: (START_NS + MS * np.cumsum(stream_steps)).tolist()
        for stream, stream_steps in zip(STREAMS, steps, strict=True)
    }


def arrivals_of(stamps: dict[str, list[int]], latencies_ms: list[int]) -> list[Arrival]:
    """Every message arrives up to the largest latency after its stamp; a stream keeps its own order."""
    arrivals = []
    for offset, (stream, values) in enumerate(stamps.items()):
        arrived_ns = 0
        for index, stamp_ns in enumerate(values):
            latency_ms = latencies_ms[(index * 7 + offset * 3) % len(latencies_ms)]
            arrived_ns = max(arrived_ns, stamp_ns + latency_ms * MS)
            arrivals.append(Arrival(arrived_ns, stamp_ns, stream))
    return sorted(arrivals, key=lambda arrival: arrival.arrival_ns)


def expected_ages(stamps: dict[str, list[int]]) -> list[tuple[int, dict[str, int]]]:
    """(tick stamp, age of each stream) by the definition, for the ticks that every stream reaches."""
    grid = Grid(max(values[0] for values in stamps.values()), CONTRACT.fps)
    end_ns = min(values[-1] for values in stamps.values())
    ticks = []
    for tick in range(grid.interval(end_ns) + 1):
        tick_ns = grid.stamp_ns(tick)
        if tick_ns <= end_ns:
            newest = {name: max(s for s in values if s <= tick_ns) for name, values in stamps.items()}
            ticks.append((tick_ns, {name: tick_ns - stamp_ns for name, stamp_ns in newest.items()}))
    return ticks


@given(stream_steps)
@settings(deadline=None, max_examples=60)
def test_each_tick_holds_the_newest_message_at_or_before_it(steps: tuple[list[int], ...]) -> None:
    stamps = stamps_of(steps)
    limits = {camera.name: camera.max_age_ns for camera in CONTRACT.cameras}
    limits["joints"] = CONTRACT.joint_state_max_age_ns
    # One epoch only: the definition does not know of epochs.
    clock = FrameClock(CONTRACT, image_size_px=SIZE, max_gap_ticks=10_000)
    items = run(CONTRACT, arrivals_of(stamps, [0]), clock=clock)
    expected = expected_ages(stamps)
    assert [item.stamp_ns for item in items] == [stamp_ns for stamp_ns, _ in expected]
    for item, (tick_ns, ages_ns) in zip(items, expected, strict=True):
        stale = {name for name, age_ns in ages_ns.items() if age_ns > limits[name]}
        if isinstance(item, Gap):
            assert {reason.split(":")[0] for reason in item.reasons} == stale
        else:
            assert not stale
            frame = item.newest
            assert {**frame.image_age_ns, "joints": frame.joint_age_ns} == ages_ns
            assert frame.positions_rad[0] == (tick_ns - frame.joint_age_ns) / 1e12


@given(stream_steps, st.lists(st.integers(0, 300), min_size=1, max_size=9))
@settings(deadline=None, max_examples=60)
def test_any_interleaving_of_the_streams_gives_the_same_windows(
    steps: tuple[list[int], ...], latencies_ms: list[int]
) -> None:
    stamps = stamps_of(steps)
    prompt = run(CONTRACT, arrivals_of(stamps, [0]))
    delayed = run(CONTRACT, arrivals_of(stamps, latencies_ms))
    assert contents(prompt) == contents(delayed)


@given(st.lists(st.integers(0, PERIOD_NS // MS), min_size=1, max_size=9), st.integers(66, 100))
@settings(deadline=None, max_examples=20)
def test_while_a_camera_is_dark_any_interleaving_of_the_others_gives_the_same_ticks(
    latencies_ms: list[int], dark_ticks: int
) -> None:
    dark = range(START_NS + 20 * PERIOD_NS - MS, START_NS + (20 + dark_ticks) * PERIOD_NS - MS)
    ticks = [START_NS + CONTRACT.tick_offset_ns(tick) for tick in range(130)]
    stamps = {UP: [s for s in ticks if s not in dark], SIDE: ticks, "joints": ticks}
    reference = contents(run(CONTRACT, arrivals_of(stamps, [0])))
    assert contents(run(CONTRACT, arrivals_of(stamps, latencies_ms))) == reference


@given(stream_steps, st.lists(st.integers(0, SETTLE_NS // MS - 1), min_size=1, max_size=9))
@settings(deadline=None, max_examples=60)
def test_live_and_bag_give_the_same_windows_while_messages_settle_in_time(
    steps: tuple[list[int], ...], latencies_ms: list[int]
) -> None:
    arrivals = arrivals_of(stamps_of(steps), latencies_ms)
    from_bag = run(CONTRACT, arrivals)
    live = run(CONTRACT, arrivals, live=True)
    # Live time goes on where a bag ends, so live may have more ticks, never other ones.
    assert contents(live)[: len(from_bag)] == contents(from_bag)


PROMISED = replace(
    CONTRACT, cameras=tuple(replace(c, rate_hz=30.0) for c in CONTRACT.cameras), joint_state_rate_hz=50.0
)


@given(stream_steps, st.lists(st.integers(0, SETTLE_NS // MS - 1), min_size=1, max_size=9))
@settings(deadline=None, max_examples=60)
def test_promised_rates_leave_live_and_bag_the_same_whatever_breaks_them(
    steps: tuple[list[int], ...], latencies_ms: list[int]
) -> None:
    arrivals = arrivals_of(stamps_of(steps), latencies_ms)
    from_bag = run(PROMISED, arrivals)
    assert contents(run(PROMISED, arrivals, live=True))[: len(from_bag)] == contents(from_bag)


@given(st.integers(-15, 10), st.integers(0, 5))
@settings(deadline=None, max_examples=30)
def test_with_promised_rates_a_tick_waits_for_nothing_that_cannot_change_it(phase_ms: int, latency_ms: int) -> None:
    """Cameras a little before or after the ticks: theirs is the newest picture, or the next one is due at once."""
    ticks = [START_NS + CONTRACT.tick_offset_ns(tick) for tick in range(30)]
    stamps = {
        UP: [START_NS, *(s + phase_ms * MS for s in ticks[1:])],
        SIDE: ticks,
        "joints": [s + i * MS for s in ticks for i in (0, 17)],
    }
    for contract, most_ms in ((PROMISED, max(phase_ms, 0) + latency_ms + 2), (CONTRACT, 41)):
        clock, waits_ms = FrameClock(contract, image_size_px=SIZE), []
        coming = deque(arrivals_of(stamps, [latency_ms]))
        for now_ns in range(START_NS, ticks[-1], MS // 2):
            while coming and coming[0].arrival_ns <= now_ns:
                push(clock, contract, coming.popleft())
            waits_ms += [(now_ns - item.stamp_ns) / MS for item in drain(clock, now_ns)]
        assert len(waits_ms) > 20
        assert max(waits_ms[3:]) <= most_ms
    assert phase_ms >= 0 or max(waits_ms) >= 15, "without a promise the next picture is waited for"


def test_a_stream_that_is_faster_than_it_promised_is_used_at_the_rate_it_promised() -> None:
    clock = FrameClock(PROMISED, image_size_px=SIZE)
    arrivals = [Arrival(s, s, name) for s in range(START_NS, START_NS + 600 * MS, 10 * MS) for name in STREAMS]
    items = run(PROMISED, arrivals, clock=clock)
    assert max(item.newest.image_age_ns[UP] for item in items if isinstance(item, Window)) <= 30 * MS
    count = clock.counters.streams[UP]
    assert (count.received, clock.counters.refused) == (60, 0)
    assert 40 <= count.superseded <= 43
    assert count.used <= 20


chaos = st.lists(
    st.tuples(
        st.sampled_from([*STREAMS, *STREAMS, *STREAMS, "reset", "task"]),
        st.one_of(st.integers(-60, 150), st.sampled_from([-(10**7), 10**7, 2**43, -(2**43), 3_000, -3_000])),
        st.booleans(),
    ),
    max_size=250,
)


@given(chaos, st.booleans())
@settings(deadline=None, max_examples=150)
def test_whatever_comes_ticks_are_consecutive_fresh_and_bounded(
    events: list[tuple[str, int, bool]], live: bool
) -> None:
    clock = FrameClock(CONTRACT, image_size_px=SIZE)
    clocks_ms = dict.fromkeys(STREAMS, START_NS // MS)
    items: list[Window | Gap] = []
    for what, step_ms, broken in events:
        if what == "reset":
            clock.reset()
        elif what == "task":
            clock.set_task(f"task {step_ms % 3}")
        else:
            clocks_ms[what] = min(max(clocks_ms[what] + step_ms, -(2**43)), 2**43)
            stamp_ns = clocks_ms[what] * MS
            if what == "joints":
                clock.push_joints(stamp_ns, CONTRACT.joint_names, np.full(6, np.nan if broken else 0.5))
            else:
                clock.push_image(what, stamp_ns, image_message(1, "mono8" if broken else "rgb8"))
        items += drain(clock, max(clocks_ms.values()) * MS if live else None)
    limits = {camera.name: camera.max_age_ns for camera in CONTRACT.cameras}
    limits["joints"] = CONTRACT.joint_state_max_age_ns
    for before, after in pairwise(items):
        same_epoch = after.epoch == before.epoch
        assert same_epoch or after.epoch == before.epoch + 1
        assert after.tick == (before.tick + 1 if same_epoch else 0)
        assert after.stamp_ns > before.stamp_ns or not same_epoch
    for item in items:
        if isinstance(item, Window):
            frame = item.newest
            ages_ns = {**frame.image_age_ns, "joints": frame.joint_age_ns}
            assert all(0 <= ages_ns[name] <= limits[name] for name in STREAMS)
            assert frame.positions_rad.tolist() == [0.5] * 6
            assert all(entry.epoch == item.epoch for entry in item.frames)
            stamps_ns = [entry.stamp_ns for entry, valid in zip(item.frames, item.mask, strict=True) if valid]
            assert stamps_ns == sorted(set(stamps_ns))
    for name, stream in clock._streams.items():
        assert len(stream.pending) <= (1024 if name == "joints" else IMAGES_WAITING)
    counters = clock.counters
    assert counters.windows + counters.gaps == len(items)


def test_the_grid_does_not_drift_from_the_contracts() -> None:
    grid = Grid(START_NS, CONTRACT.fps)
    for tick in (0, 1, 2, 3, 1_000_000):
        assert grid.stamp_ns(tick) == START_NS + CONTRACT.tick_offset_ns(tick)
        assert grid.interval(grid.stamp_ns(tick)) == tick
        assert grid.interval(grid.stamp_ns(tick) + 1) == tick + 1


def test_a_window_is_padded_with_its_first_tick_and_masked() -> None:
    items = run(CONTRACT, steady(CONTRACT, seconds=1.0))
    third = items[2]
    assert isinstance(third, Window)
    assert third.mask.tolist() == [False] * 13 + [True] * 3
    assert [frame.tick for frame in third.frames] == [0] * 14 + [1, 2]
    full = items[20]
    assert isinstance(full, Window)
    assert full.mask.all()
    assert [frame.tick for frame in full.frames] == list(range(5, 21))


def test_a_stream_that_pauses_makes_gaps_that_later_windows_mask() -> None:
    paused = range(START_NS + 500 * MS, START_NS + 900 * MS)
    arrivals = [a for a in steady(CONTRACT, seconds=2.0) if not (a.stream == UP and a.stamp_ns in paused)]
    items = run(CONTRACT, arrivals)
    gaps = [item for item in items if isinstance(item, Gap)]
    assert gaps
    assert all(gap.reasons[0].startswith(f"{UP}: ") and "limit 200.0 ms" in gap.reasons[0] for gap in gaps)
    after = items[gaps[-1].tick + 1]
    assert isinstance(after, Window)
    assert after.mask.tolist()[-1 - len(gaps) : -1] == [False] * len(gaps)
    before = gaps[0].tick - 1
    assert {frame.tick for frame, valid in zip(after.frames, after.mask, strict=True) if not valid} == {before}
    assert {item.epoch for item in items} == {0}


def test_as_many_gaps_as_allowed_end_the_epoch_and_all_streams_begin_the_next() -> None:
    arrivals = [
        a for a in steady(CONTRACT, seconds=3.0) if not (a.stream == SIDE and a.stamp_ns < START_NS + 2 * 10**9)
    ]
    first = Arrival(START_NS, START_NS, SIDE)
    clock = FrameClock(CONTRACT, image_size_px=SIZE)
    items = run(CONTRACT, [first, *arrivals], clock=clock)
    gaps = [item for item in items if isinstance(item, Gap)]
    assert len(gaps) == 16
    second = [item for item in items if item.epoch == 1]
    assert isinstance(second[0], Window)
    assert second[0].tick == 0
    assert second[0].stamp_ns == START_NS + 2 * 10**9
    assert second[0].mask.sum() == 1
    assert clock.counters.epochs == 2


def test_a_dead_camera_in_a_bag_neither_blocks_nor_fills_memory() -> None:
    dead_ns = START_NS + 500 * MS
    clock = FrameClock(CONTRACT, image_size_px=SIZE)
    alive: list[weakref.ref] = []
    for message in steady(CONTRACT, seconds=60.0):
        if message.stream == UP and message.stamp_ns > dead_ns:
            continue
        if message.stream == "joints":
            push(clock, CONTRACT, message)
        else:
            image = image_message(message.stamp_ns // MS)
            alive.append(weakref.ref(image.data))
            clock.push_image(message.stream, message.stamp_ns, image)
            del image
        drain(clock, None)
        assert sum(ref() is not None for ref in alive[-400:]) <= IMAGES_WAITING + 1
    assert clock.counters.gaps == 16
    assert clock.missing == (UP,)


def test_ticks_that_nobody_consumes_keep_a_bounded_number_of_images_and_become_gaps() -> None:
    clock = FrameClock(CONTRACT, image_size_px=SIZE)
    arrivals = steady(CONTRACT, seconds=10.0)
    for message in arrivals:
        push(clock, CONTRACT, message)
    stored = [stream.pending for stream in clock._streams.values()]
    assert max(len(pending) for pending in stored) <= 1024
    assert len(clock._streams[UP].pending) == IMAGES_WAITING
    items = drain(clock, None)
    lost = clock.counters.streams[UP].dropped
    assert lost > 0
    assert isinstance(items[0], Gap)
    assert "not consumed in time" in items[0].reasons[0]
    assert clock.counters.gaps == 16


def test_a_burst_of_a_million_messages_per_second_keeps_one_per_interval() -> None:
    clock = FrameClock(CONTRACT, image_size_px=SIZE)
    for message in steady(CONTRACT, seconds=0.1):
        push(clock, CONTRACT, message)
    newest_ns = START_NS + 100 * MS
    for index in range(50_000):
        clock.push_joints(newest_ns + 1_000 * index, CONTRACT.joint_names, np.zeros(6))
    assert len(clock._streams["joints"].pending) < 16


def test_a_late_message_is_counted_and_changes_no_consumed_tick() -> None:
    clock = FrameClock(CONTRACT, image_size_px=SIZE)
    arrivals = steady(CONTRACT, seconds=0.5)
    late = next(a for a in arrivals if a.stream == UP and a.stamp_ns > START_NS + 300 * MS)
    on_time = [a for a in arrivals if a != late and a.stamp_ns <= late.stamp_ns]
    items = run(CONTRACT, on_time, live=True, clock=clock)
    items += drain(clock, late.stamp_ns + SETTLE_NS)
    assert items[-1].stamp_ns == late.stamp_ns
    assert isinstance(items[-1], Window)
    assert items[-1].newest.image_age_ns[UP] == PERIOD_NS
    push(clock, CONTRACT, late)
    assert clock.counters.streams[UP].late == 1
    assert items[-1].newest.image_age_ns[UP] == PERIOD_NS


def test_a_camera_that_is_always_slower_than_the_settling_time_still_serves_later_ticks() -> None:
    latency_ns = SETTLE_NS + 30 * MS
    arrivals = [
        Arrival(a.arrival_ns + (latency_ns if a.stream == UP else 0), a.stamp_ns, a.stream)
        for a in steady(CONTRACT, seconds=2.0)
    ]
    clock = FrameClock(CONTRACT, image_size_px=SIZE)
    items = run(CONTRACT, sorted(arrivals), live=True, clock=clock)
    assert not any(isinstance(item, Gap) for item in items)
    assert clock.counters.streams[UP].late > 40
    ages_ns = {item.newest.image_age_ns[UP] for item in items if isinstance(item, Window)}
    assert max(ages_ns) <= latency_ns


def test_one_wild_stamp_neither_moves_the_clock_nor_ends_the_epoch() -> None:
    arrivals = steady(CONTRACT, seconds=1.0)
    for wild_ns in (START_NS + 3600 * 10**9, START_NS - 10**9 // 2, 2**62, 1):
        disturbed = [*arrivals]
        disturbed.insert(len(arrivals) // 2, Arrival(arrivals[len(arrivals) // 2].arrival_ns, wild_ns, "joints"))
        clock = FrameClock(CONTRACT, image_size_px=SIZE)
        assert contents(run(CONTRACT, disturbed, clock=clock)) == contents(run(CONTRACT, arrivals))
        assert clock.counters.streams["joints"].refused == {"stamp jumped for one message": 1}


def test_a_clock_that_jumps_back_begins_a_new_epoch() -> None:
    first = steady(CONTRACT, seconds=1.0, start_ns=START_NS + 10 * 10**9)
    again = steady(CONTRACT, seconds=1.0)
    clock = FrameClock(CONTRACT, image_size_px=SIZE)
    items = run(CONTRACT, [*first, *again], clock=clock)
    assert [item.epoch for item in items][::29] == [0, 0, 1]
    second = [item for item in items if item.epoch == 1]
    assert second[0].tick == 0
    assert second[0].stamp_ns < items[0].stamp_ns
    assert isinstance(second[0], Window)
    assert clock.counters.epochs == 2


def test_a_recording_that_was_paused_goes_on_in_a_new_epoch() -> None:
    first = steady(CONTRACT, seconds=1.0)
    later = steady(CONTRACT, seconds=1.0, start_ns=START_NS + 60 * 10**9)
    items = run(CONTRACT, [*first, *later])
    gaps = [item for item in items if isinstance(item, Gap)]
    assert len(gaps) == 16
    second = [item for item in items if item.epoch == 1]
    assert len(second) == 30
    assert second[0].stamp_ns == START_NS + 60 * 10**9


def test_zero_and_repeated_stamps_are_refused_and_counted() -> None:
    clock = FrameClock(CONTRACT, image_size_px=SIZE)
    for stamp_ns in (0, -5, START_NS, START_NS):
        clock.push_joints(stamp_ns, CONTRACT.joint_names, np.zeros(6))
    assert clock.counters.streams["joints"].refused == {"stamp is zero": 2, "stamp repeats": 1}


def test_messages_slightly_out_of_order_are_put_in_place() -> None:
    arrivals = steady(CONTRACT, seconds=1.0)
    joints = [index for index, a in enumerate(arrivals) if a.stream == "joints"]
    swapped = [*arrivals]
    a, b = joints[31], joints[32]
    swapped[a], swapped[b] = swapped[b], swapped[a]
    assert contents(run(CONTRACT, swapped)) == contents(run(CONTRACT, arrivals))


def test_joints_are_matched_by_name_whatever_their_order_and_company() -> None:
    clock = FrameClock(CONTRACT, image_size_px=SIZE)
    names = ("extra_joint", *reversed(CONTRACT.joint_names))
    clock.push_joints(START_NS, names, np.array([np.nan, 6.0, 5.0, 4.0, 3.0, 2.0, 1.0]))
    for camera in (UP, SIDE):
        clock.push_image(camera, START_NS, image_message(1))
    window = clock.next_tick()
    assert isinstance(window, Window)
    assert window.newest.positions_rad.tolist() == [1.0, 2.0, 3.0, 4.0, 5.0, 6.0]


@pytest.mark.parametrize(
    ("names", "positions", "reason"),
    [
        (CONTRACT.joint_names[:5], np.zeros(5), "joints are missing: gripper"),
        ((*CONTRACT.joint_names[:5], "shoulder_pan"), np.zeros(6), "joint names repeat"),
        ((*CONTRACT.joint_names, "Rotation"), np.zeros(7), "two names mean the joint shoulder_pan"),
        ((), np.zeros(0), "joints are missing"),
        (CONTRACT.joint_names, np.zeros(5), "names and positions differ in number"),
        *((CONTRACT.joint_names, np.array([0, 0, 0, bad, 0, 0]), "position is not finite") for bad in NOT_FINITE),
    ],
)
def test_joints_that_do_not_fit_are_refused_with_their_reason(
    names: tuple[str, ...], positions: np.ndarray, reason: str
) -> None:
    clock = FrameClock(CONTRACT, image_size_px=SIZE)
    clock.push_joints(START_NS, names, positions)
    ((found, count),) = clock.counters.streams["joints"].refused.items()
    assert found.startswith(reason)
    assert count == 1


def test_an_image_of_wrong_encoding_is_refused_when_it_comes() -> None:
    clock = FrameClock(CONTRACT, image_size_px=SIZE)
    clock.push_image(UP, START_NS, image_message(1, "mono16"))
    assert clock.counters.streams[UP].refused == {"image encoding not supported": 1}
    assert clock.counters.refused == 1
    assert UP in clock.missing


def test_a_compressed_image_that_cannot_be_decoded_makes_a_gap_with_the_reason() -> None:
    clock = FrameClock(CONTRACT, image_size_px=SIZE)
    size = np.array([WIDTH, HEIGHT], dtype=">u4").tobytes()
    broken = b"\x89PNG\r\n\x1a\n" + b"\0" * 8 + size + b"\x08\x02" + b"\0" * 40 + b"IEND"
    message = ImageMessage(encoding="png", height=0, width=0, step=0, data=broken, is_compressed=True)
    clock.push_image(UP, START_NS, message)
    clock.push_image(SIDE, START_NS, image_message(1))
    clock.push_joints(START_NS, CONTRACT.joint_names, np.zeros(6))
    gap = clock.next_tick()
    assert isinstance(gap, Gap)
    assert gap.reasons == (f"{UP}: compressed image cannot be decoded",)
    assert clock.counters.streams[UP].refused == {"compressed image cannot be decoded": 1}


def test_a_new_task_begins_a_new_epoch_and_the_same_task_does_not() -> None:
    clock = FrameClock(CONTRACT, image_size_px=SIZE)
    arrivals = steady(CONTRACT, seconds=2.0)
    clock.set_task("first")
    items = run(CONTRACT, arrivals[: len(arrivals) // 2], clock=clock)
    clock.set_task("first")
    assert clock.epoch == 0
    clock.set_task("second")
    items += run(CONTRACT, arrivals[len(arrivals) // 2 :], clock=clock)
    assert [(item.epoch, item.task) for item in items if isinstance(item, Window)][::29] == [
        (0, "first"),
        (0, "first"),
        (1, "second"),
    ]
    stamps_ns = [item.stamp_ns for item in items]
    assert stamps_ns == sorted(set(stamps_ns))


def test_reset_clears_the_window_and_never_repeats_a_tick() -> None:
    clock = FrameClock(CONTRACT, image_size_px=SIZE)
    arrivals = steady(CONTRACT, seconds=2.0)
    half = len(arrivals) // 2
    before = run(CONTRACT, arrivals[:half], clock=clock)
    clock.reset()
    after = run(CONTRACT, arrivals[half:], clock=clock)
    assert after[0].tick == 0
    assert after[0].epoch == 1
    assert after[0].stamp_ns > before[-1].stamp_ns
    assert isinstance(after[0], Window)
    assert after[0].mask.sum() == 1


def test_reset_before_the_first_tick_does_not_count_as_an_epoch() -> None:
    clock = FrameClock(CONTRACT, image_size_px=SIZE)
    clock.reset()
    clock.set_task("a")
    clock.set_task("b")
    items = run(CONTRACT, steady(CONTRACT, seconds=0.2), clock=clock)
    assert {item.epoch for item in items} == {0}


def test_no_tick_before_every_stream_has_delivered() -> None:
    clock = FrameClock(CONTRACT, image_size_px=SIZE)
    for message in steady(CONTRACT, seconds=1.0):
        if message.stream != SIDE:
            push(clock, CONTRACT, message)
    assert not clock.ready(2**62)
    assert clock.missing == (SIDE,)
    with pytest.raises(RuntimeError, match="waiting for side"):
        clock.next_tick()


def test_time_alone_completes_a_tick_only_after_the_settling_time() -> None:
    clock = FrameClock(CONTRACT, image_size_px=SIZE)
    for message in steady(CONTRACT, seconds=0.04):
        push(clock, CONTRACT, message)
    assert len(drain(clock, None)) == 1
    tick_ns = START_NS + PERIOD_NS
    assert not clock.ready(None)
    assert not clock.ready(tick_ns + SETTLE_NS - 1)
    assert clock.ready(tick_ns + SETTLE_NS)


def test_an_image_used_at_two_ticks_is_decoded_once_and_shared() -> None:
    slow = replace(CONTRACT, fps=60.0)
    items = run(slow, steady(CONTRACT, seconds=0.5), clock=FrameClock(slow, image_size_px=SIZE))
    first, second = items[0], items[1]
    assert isinstance(first, Window)
    assert isinstance(second, Window)
    assert first.newest.images[UP] is second.newest.images[UP]
    assert second.newest.image_age_ns[UP] > 0


def test_without_an_image_size_the_ticks_are_the_same_and_hold_no_images() -> None:
    arrivals = steady(CONTRACT, seconds=1.0)
    with_images = run(CONTRACT, arrivals)
    without = run(CONTRACT, arrivals, clock=FrameClock(CONTRACT, image_size_px=None))
    assert [item.stamp_ns for item in without] == [item.stamp_ns for item in with_images]
    assert all(isinstance(item, Window) and not item.newest.images for item in without)


def test_frames_are_read_only() -> None:
    window = run(CONTRACT, steady(CONTRACT, seconds=0.1))[0]
    assert isinstance(window, Window)
    for array in (window.newest.positions_rad, window.newest.images[UP], window.mask):
        with pytest.raises(ValueError, match="read-only"):
            array[0] = 1


def test_every_message_is_accounted_for() -> None:
    clock = FrameClock(CONTRACT, image_size_px=SIZE)
    arrivals = steady(CONTRACT, seconds=3.0)
    run(CONTRACT, arrivals, clock=clock)
    for name, count in clock.counters.streams.items():
        assert count.received == sum(a.stream == name for a in arrivals)
        waiting = len(clock._streams[name].pending)
        assert count.received == count.used + count.superseded + sum(count.refused.values()) + waiting
    assert clock.counters.windows == 90
    assert WINDOW_TICKS == 16
