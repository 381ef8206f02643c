# SPDX-License-Identifier: Apache-2.0
"""What is in a bag: one pass over all its messages, whatever they are."""

from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
from jaxtyping import Float64, UInt8
from numpy import ndarray

from sigma_ros.bags.episode import INTERVENTION
from sigma_ros.bags.files import DISORDER_NS
from sigma_ros.bags.reader import Record, Stamps, open_bag
from sigma_ros.bags.topics import TEXT_TYPE, camera_topics, joint_parts
from sigma_ros.border import one_line
from sigma_ros.contract import Camera, Contract
from sigma_ros.conventions import guessed_units
from sigma_ros.errors import SigmaError
from sigma_ros.inspection.facts import THUMBNAILS, Contents, TopicFacts, account, small
from sigma_ros.streams.images import ImageMessage, coded_picture, decode_full
from sigma_ros.streams.quality import FreezeWatch, motion_findings, rhythm
from sigma_ros.values import NS_PER_S

JOINT_TYPE = "sensor_msgs/msg/JointState"
_APART_S = 0.1
_SLOW = 0.9
_MOST_ROWS = 500_000
"""Joint rows of a topic that are kept; a recording of an hour at 100 Hz has fewer."""


class _Topic:
    """Collects what is told of a topic."""

    def __init__(self, span: tuple[int, int]) -> None:
        self.stamps: list[int] = []
        self.delays_ns: list[int] = []
        self.names: tuple[str, ...] = ()
        self.rows: list[ndarray] = []
        self.row_stamps: list[int] = []
        self.image: ImageMessage | None = None
        self.pictures: list[ndarray] = []
        self.frozen_at: int | None = None
        self._watch = FreezeWatch()
        self._start, self._step = span[0], max(1, (span[1] - span[0]) // THUMBNAILS)

    def note(self, record: Record) -> None:
        message = record.message
        self.stamps.append(record.stamp_ns)
        self.delays_ns.append(record.log_time_ns - record.stamp_ns)
        if isinstance(message, ImageMessage):
            self._picture(record, message)
            return
        values = getattr(message, "positions_rad", message)
        if isinstance(values, ndarray) and values.dtype == np.float64 and len(self.rows) < _MOST_ROWS:
            names = tuple(getattr(message, "names", ()))
            if not self.rows and len(values):
                self.names = names
            if names != self.names and sorted(names) == sorted(self.names) and len(names) == len(values):
                names, values = self.names, values[[names.index(name) for name in self.names]]
            if len(values) and names == self.names and (not self.rows or len(values) == len(self.rows[0])):
                self.rows.append(values)
                self.row_stamps.append(record.log_time_ns)

    def _picture(self, record: Record, message: ImageMessage) -> None:
        self.image = self.image or message
        self._watch.note(message.data)
        if self._watch.is_frozen and self.frozen_at is None:
            self.frozen_at = record.stamp_ns
        due = self._start + (2 * len(self.pictures) + 1) * self._step // 2
        if len(self.pictures) < THUMBNAILS and record.log_time_ns >= due:
            small = _thumbnail_of(message)
            if small is not None:
                self.pictures.append(small)

    def facts(self, name: str, kind: str, messages: int) -> TopicFacts:
        rows = np.array(self.rows) if self.rows else np.zeros((0, len(self.names)))
        rows = rows[np.isfinite(rows).all(axis=1)]
        image = self.image
        return TopicFacts(
            name=name,
            kind=kind,
            messages=messages,
            rhythm=rhythm(np.array(self.stamps, dtype=np.int64)),
            size_px=None if image is None else _size_of(image),
            encoding="" if image is None else one_line(image.encoding, 40),
            joints=self.names,
            low=tuple(rows.min(axis=0).tolist()) if len(rows) else (),
            high=tuple(rows.max(axis=0).tolist()) if len(rows) else (),
            pictures=tuple(self.pictures),
        )


def _interventions(marks: list[tuple[int, bool]], end_ns: int) -> dict[str, str]:
    """How often, and how long, an operator acted instead of the policy; empty where nobody said."""
    if not marks:
        return {}
    ends = [at_ns for at_ns, _ in marks[1:]] + [end_ns]
    spans_ns = [end - at_ns for (at_ns, by_operator), end in zip(marks, ends, strict=True) if by_operator]
    taken = sum(is_on and (i == 0 or not marks[i - 1][1]) for i, (_, is_on) in enumerate(marks))
    return {"interventions": f"{taken}, {sum(spans_ns) / NS_PER_S:.1f} s"}


def bag_contents(path: Path, contract: Contract | None, *, recover: bool, stamps: Stamps) -> Contents:
    """See `places.look_into`."""
    with open_bag(path, recover=recover, stamps=stamps) as bag:
        info = bag.info
        topics = {topic: _Topic((info.start_ns, info.end_ns)) for topic in info.topics}
        tasks: Counter[str] = Counter()
        marks: list[tuple[int, bool]] = []
        for record in bag.records():
            topics[record.topic].note(record)
            if record.msgtype == TEXT_TYPE and record.topic.endswith("task") and record.message:
                tasks[one_line(record.message)] += 1
            elif isinstance(record.message, bool) and record.topic.endswith(INTERVENTION):
                marks.append((record.log_time_ns, record.message))
        streams = tuple(topics[name].facts(name, info.types[name], info.counts[name]) for name in info.topics)
        losses = bag.info.losses
        size_bytes = sum(file.stat().st_size for file in info.files)
    state = state_topic(streams)
    units = guessed_units(state.joints, np.array(topics[state.name].rows)) if state else ()
    findings = list(_findings(topics, streams, state))
    if contract is not None:
        with open_bag(path, recover=recover, stamps=stamps) as bag:
            losses = account(bag, contract)
            used = {place.topic for place in camera_topics(bag, contract).values()}
            used |= {part.topic for part in joint_parts(bag, contract)}
        findings += _slow(streams, used, contract.fps)
    facts = {
        "storage": info.storage,
        "files": len(info.files),
        "bytes": size_bytes,
        "seconds": round(info.duration_s, 3),
        "messages": info.messages,
        **_interventions(marks, info.end_ns),
        "checksums": "verified" if info.checksummed else "absent",
        **{f"note {key}": one_line(value) for key, value in sorted(info.metadata.items())},
    }
    return Contents(
        path=str(path),
        kind="bag",
        facts=facts,
        streams=streams,
        units=units,
        tasks=dict(tasks),
        episodes=1,
        losses=losses,
        findings=tuple(findings),
    )


def state_topic(streams: tuple[TopicFacts, ...]) -> TopicFacts | None:
    """The joint states that are probably the robot's: those named so, else the most frequent ones."""
    found = [stream for stream in streams if stream.kind == JOINT_TYPE and stream.low]
    return max(found, key=lambda s: (s.name.strip("/").endswith("joint_states"), s.messages), default=None)


def action_topic(streams: tuple[TopicFacts, ...], state: TopicFacts) -> TopicFacts | None:
    """The commands that are probably the robot's: of as many joints as its states."""
    found = [s for s in streams if s.low and s is not state and len(s.low) == len(state.low)]
    return max(found, key=lambda s: ("command" in s.name, s.kind != JOINT_TYPE, s.messages), default=None)


def _findings(topics: Mapping[str, _Topic], streams: tuple[TopicFacts, ...], state: TopicFacts | None) -> Iterator[str]:
    for stream in streams:
        if (at_ns := topics[stream.name].frozen_at) is not None:
            start_s = (at_ns - topics[stream.name].stamps[0]) / 1e9
            yield f"{stream.name} repeats one picture, up to {start_s:.1f} s and on"
        steps_ns = np.diff(np.array(topics[stream.name].stamps, dtype=np.int64))
        if (back := steps_ns[steps_ns < -DISORDER_NS]).size:
            yield f"{stream.name} goes back in time {back.size} times, by {-back.min() / 1e9:.3g} s: a clock was set"
        regular = stream.is_camera or stream.kind == JOINT_TYPE
        if regular and stream.rhythm is not None and stream.rhythm.dropped:
            r = stream.rhythm
            yield f"{stream.name} lacks {r.dropped} messages of its {r.rate_hz:.3g} Hz, {r.longest_gap_s:.3g} s at most"
    if state is None or state.rhythm is None:
        return
    yield from _delayed(topics, streams, state)
    action = action_topic(streams, state)
    stamps = np.array(topics[state.name].row_stamps)
    actions = None if action is None else _held(topics[action.name], stamps)
    yield from motion_findings(state.joints, np.array(topics[state.name].rows), actions, rate_hz=state.rhythm.rate_hz)


def _delayed(topics: Mapping[str, _Topic], streams: tuple[TopicFacts, ...], state: TopicFacts) -> Iterator[str]:
    """Streams whose messages are stamped so long before they are recorded, or after, that it is not the arm's time."""
    own_s = float(np.median(topics[state.name].delays_ns)) / NS_PER_S
    for stream in streams:
        delay_s = float(np.median(topics[stream.name].delays_ns or [0])) / NS_PER_S
        if (stream.is_camera or stream.kind == JOINT_TYPE) and abs(delay_s - own_s) >= _APART_S:
            yield (
                f"{stream.name} is recorded {delay_s:.3g} s after its stamp, {state.name} {own_s:.3g} s: "
                "a delay, or clocks that differ"
            )


def _slow(streams: tuple[TopicFacts, ...], used: set[str], fps: float) -> Iterator[str]:
    """Streams of the contract whose messages serve more than one of its ticks."""
    for stream in streams:
        rate_hz = fps if stream.rhythm is None or stream.name not in used else stream.rhythm.rate_hz
        if rate_hz < _SLOW * fps:
            yield f"{stream.name} has {rate_hz:.3g} Hz, the contract's ticks {fps:g}: its messages repeat"


def _held(topic: _Topic, stamps: ndarray) -> Float64[ndarray, "rows dof"]:
    """The newest values at or before each stamp; not a number before the first."""
    places = np.searchsorted(np.array(topic.row_stamps), stamps, side="right") - 1
    values = np.array(topic.rows)[np.maximum(places, 0)]
    values[places < 0] = np.nan
    return values


def _size_of(image: ImageMessage) -> tuple[int, int] | None:
    if not image.is_compressed:
        return image.width, image.height
    picture = coded_picture(memoryview(image.data).cast("B"))
    return None if picture is None else picture.size_px


def _thumbnail_of(image: ImageMessage) -> UInt8[ndarray, "h w 3"] | None:
    """A small RGB picture; None for what is no colour picture that is read."""
    size = _size_of(image)
    if size is None:
        return None
    camera = Camera(
        name="",
        topic="",
        message_type="sensor_msgs/msg/Image",
        width_px=size[0],
        height_px=size[1],
        dataset_key="",
        max_age_ns=0,
    )
    try:
        return small(decode_full(image, camera))
    except SigmaError:
        return None
