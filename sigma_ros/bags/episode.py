# SPDX-License-Identifier: Apache-2.0
"""A bag as ticks: the frame clock fed from a recording, each tick beside what the recorded operator did.

A tick comes out once the next one is complete, so that its recorded action is known whichever source it has.
"""

from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from posixpath import commonpath
from typing import NamedTuple

import numpy as np
from jaxtyping import Float64
from numpy import ndarray

from sigma_ros.bags.reader import Bag, Record
from sigma_ros.contract import Camera, Contract
from sigma_ros.control.images import check_image
from sigma_ros.control.joints import JointReader
from sigma_ros.control.observation import FrameClock, StreamCounters
from sigma_ros.errors import BagError, ContractError
from sigma_ros.values import Gap, Window

TEXT_TYPE = "std_msgs/msg/String"


class JointSample(NamedTuple):
    """A recorded joint message in contract order."""

    stamp_ns: int
    positions_rad: Float64[ndarray, " dof"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Tick:
    """One tick of a recording.

    `action_rad` is the action recorded for it: the newest command at or before the tick (not older than the limit of
    the joint stream), or the next tick's joint positions where the contract says `next_state`; None where there is
    none. `joint_rad` is the measured pose, None in a gap. `joint_samples` are the joint messages stamped after
    the previous tick, up to and including this one, in order of stamp.
    """

    item: Window | Gap
    action_rad: Float64[ndarray, " dof"] | None
    joint_rad: Float64[ndarray, " dof"] | None
    joint_samples: tuple[JointSample, ...]

    @property
    def window(self) -> Window | None:
        """The window of a valid tick."""
        return self.item if isinstance(self.item, Window) else None


class Episode(Iterator[Tick]):
    """Ticks of a bag, with the frame clock's counters so far. See `episode`; `on_record` is told each record first."""

    def __init__(
        self,
        bag: Bag,
        contract: Contract,
        *,
        image_size_px: int | None,
        task: str | None = None,
        on_record: Callable[[Record], None] = lambda _: None,
    ) -> None:
        bag.check_against(contract)
        self._bag = bag
        self._on_record = on_record
        self._contract = contract
        self._clock = FrameClock(contract, image_size_px=image_size_px)
        self._task_topic = None if task is not None else task_topic(bag, contract)
        self._clock.set_task(task if task is not None else recorded_task(bag, contract))
        self._routes = self._make_routes()
        self._joint_reader = JointReader(contract)
        self._joints = _Samples(self._joint_reader)
        self._commands = _Samples(JointReader(contract))
        self._command: JointSample | None = None
        self._checked: set[str] = set()
        self._ticks = self._make_ticks()

    @property
    def counters(self) -> StreamCounters:
        """What became of the messages so far."""
        return self._clock.counters

    @property
    def commands_refused(self) -> int:
        """Commands of wrong length or with values that are not finite."""
        return self._commands.refused

    def __next__(self) -> Tick:
        return next(self._ticks)

    def _make_routes(self) -> dict[str, Callable[[Record], None]]:
        routes: dict[str, Callable[[Record], None]] = {self._contract.joint_state_topic: self._push_joints}
        for camera in self._contract.cameras:
            place = self._bag.camera_topics(self._contract)[camera.name]
            routes[place.topic] = self._image_route(camera)
        if self._contract.action_source == "command":
            routes[self._contract.command_topic] = self._push_command
        if self._task_topic is not None:
            routes[self._task_topic] = lambda record: self._clock.set_task(_text(record))
        return routes

    def _make_ticks(self) -> Iterator[Tick]:
        held: Window | Gap | None = None
        for record in self._bag.records(tuple(self._routes)):
            self._on_record(record)
            self._routes[record.topic](record)
            while self._clock.ready(None):
                following = self._clock.next_tick()
                if held is not None:
                    yield self._tick(held, following)
                held = following
        if held is None:
            raise self._empty()
        yield self._tick(held, None)
        if self._contract.action_source == "command" and self._command is None:
            raise self._no_command()

    def _image_route(self, camera: Camera) -> Callable[[Record], None]:
        def push(record: Record) -> None:
            message = record.message
            if camera.name not in self._checked:  # a camera that never fits is the wrong contract, not a loss
                check_image(message, camera)
                self._checked.add(camera.name)
            self._clock.push_image(camera.name, record.stamp_ns, message)

        return push

    def _push_joints(self, record: Record) -> None:
        message = record.message
        if "joints" not in self._checked:  # joints that never fit are the wrong contract, not a loss
            self._joint_reader.read(message.names, np.zeros(len(message.names)))
            self._checked.add("joints")
        self._clock.push_joints(record.stamp_ns, message.names, message.positions_rad)
        self._joints.push(record.stamp_ns, message.names, message.positions_rad)

    def _push_command(self, record: Record) -> None:
        message = record.message
        if isinstance(message, ndarray):
            self._commands.push(record.stamp_ns, self._contract.joint_names, message)
        else:  # a trajectory stamped zero means: now
            self._commands.push(record.stamp_ns or record.log_time_ns, message.names, message.positions_rad)

    def _tick(self, item: Window | Gap, following: Window | Gap | None) -> Tick:
        samples = self._joints.until(item.stamp_ns)
        commands = self._commands.until(item.stamp_ns)
        if commands:
            self._command = commands[-1]
        return Tick(
            item=item,
            action_rad=self._action(item, following),
            joint_rad=item.newest.positions_rad if isinstance(item, Window) else None,
            joint_samples=samples,
        )

    def _action(self, item: Window | Gap, following: Window | Gap | None) -> Float64[ndarray, " dof"] | None:
        if self._contract.action_source == "next_state":
            if isinstance(following, Window) and following.epoch == item.epoch:
                return following.newest.positions_rad
            return None
        command = self._command
        if command is None or not 0 <= item.stamp_ns - command.stamp_ns <= self._contract.joint_state_max_age_ns:
            return None
        return command.positions_rad

    def _empty(self) -> BagError:
        counters = self.counters
        return BagError(
            "the bag gave no tick",
            where=self._bag.path,
            expected="every stream at the same time",
            got="; ".join(
                f"{name}: {count.received} messages, refused {dict(count.refused) or 'none'}"
                for name, count in counters.streams.items()
            ),
            remedy="compare the streams' header stamps",
        )

    def _no_command(self) -> BagError:
        return BagError(
            "no command falls on the recording's ticks",
            where=f"{self._bag.path}, {self._contract.command_topic}",
            expected="commands on the clock of the header stamps, one per joint",
            got=f"{self._commands.refused} refused; {self._commands.span}",
            remedy="record commands and sensors on one clock, or take the action source next_state",
        )


class _Samples:
    """Joint messages or commands that wait for their tick; bounded, in contract order."""

    def __init__(self, reader: JointReader) -> None:
        self._reader = reader
        self._waiting: deque[JointSample] = deque(maxlen=4096)
        self._last_ns = 0
        self.refused = 0

    @property
    def span(self) -> str:
        """Where the waiting samples lie relative to the last tick."""
        if not self._waiting:
            return "none after the last tick"
        return f"the others begin {(self._waiting[0].stamp_ns - self._last_ns) / 1e9:.3f} s after the last tick"

    def push(self, stamp_ns: int, names: tuple[str, ...], values: ndarray) -> None:
        try:
            self._waiting.append(JointSample(stamp_ns, self._reader.read(names, values)))
        except ContractError:
            self.refused += 1

    def until(self, tick_ns: int) -> tuple[JointSample, ...]:
        """Samples after the last call's tick up to this one; a tick that goes back starts afresh."""
        if tick_ns < self._last_ns:
            self._last_ns = 0
        due = sorted((s for s in self._waiting if self._last_ns < s.stamp_ns <= tick_ns), key=lambda s: s.stamp_ns)
        later = [s for s in self._waiting if s.stamp_ns > tick_ns]
        self._waiting.clear()
        self._waiting.extend(later)
        self._last_ns = tick_ns
        return tuple(due)


def episode(bag: Bag, contract: Contract, *, image_size_px: int | None, task: str | None = None) -> Episode:
    """Ticks of a bag in order, read as a stream.

    Args:
        bag: An open bag.
        contract: The robot; topics, joints and images are checked against it before the first tick.
        image_size_px: Side of the images in the windows; None leaves images undecoded.
        task: Task text; None takes the recorded one (`recorded_task`) and follows its changes.

    Raises:
        ContractError: topics are missing, or the first message of a stream does not fit.
        BagError: no tick came out, or no command fell on one (raised at the end of the iteration).
    """
    return Episode(bag, contract, image_size_px=image_size_px, task=task)


def task_topic(bag: Bag, contract: Contract) -> str | None:
    """The recorded topic with the task text: a String whose name ends in `task`.

    Of several, as in a recording of two arms, the one nearest to the contract's joint states by name.
    """
    info = bag.info
    found = [topic for topic in info.topics if info.types[topic] == TEXT_TYPE and topic.split("/")[-1] == "task"]
    found.sort(key=lambda topic: len(commonpath([topic, contract.joint_state_topic])), reverse=True)
    return found[0] if found and info.counts[found[0]] else None


def recorded_task(bag: Bag, contract: Contract) -> str:
    """The task of a recording: its first task message, else its note `sigma.task`, else the contract's first task."""
    topic = task_topic(bag, contract)
    record = bag.first(topic) if topic is not None else None
    if record is not None:
        return _text(record)
    return bag.info.metadata.get("sigma.task", contract.tasks[0])


def _text(record: Record) -> str:
    return str(record.message)
