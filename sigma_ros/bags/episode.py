# SPDX-License-Identifier: Apache-2.0
"""A bag as ticks: the frame clock fed from a recording, each tick beside what the recorded operator did.

A tick comes out once the next one is complete, so that its recorded action is known whichever source it has.
"""

from collections import Counter, deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial

from jaxtyping import Float64
from numpy import ndarray

from sigma_ros.bags.losses import described
from sigma_ros.bags.reader import Bag, Record
from sigma_ros.bags.topics import (
    action_parts,
    camera_topics,
    check_topics,
    joint_parts,
    nearest,
    recorded_task,
    task_topic,
)
from sigma_ros.contract import COMMAND_TYPES, Camera, Contract
from sigma_ros.errors import BagError, ContractError
from sigma_ros.streams.clocks import APART, StreamClocks
from sigma_ros.streams.frame_clock import FrameClock
from sigma_ros.streams.images import check_image
from sigma_ros.streams.joints import JointMerger, JointReach, JointReader, SkewError
from sigma_ros.streams.samples import JointSample, WaitingSamples
from sigma_ros.streams.stream import JOINTS, StreamCounters
from sigma_ros.values import Gap, Window

FLAG_TYPE = "std_msgs/msg/Bool"
ARRAY_TYPE = COMMAND_TYPES[0]
INTERVENTION = "sigma/intervention"
"""True: an operator acts instead of the policy, until it is false."""
MOST_MISFITS = 64
"""A stream whose first so many messages all do not fit is the wrong contract, not a loss."""

_LEAST_BEYOND = 16
"""So many poses or commands out of reach may show, at the end, that they are in another unit."""

MOST_WITHOUT_ACTION = 0.05
"""A larger share of valid ticks without a recorded action is a loss: the commands do not cover the recording."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Tick:
    """One tick of a recording.

    `action_rad` is the action recorded for it: the newest command at or before the tick (not older than the limit of
    the joint stream), or the next tick's joint positions where the contract says `next_state`; None where there is
    none. `joint_rad` is the measured pose, None in a gap. `joint_samples` are the joint messages stamped after
    the previous tick, up to and including this one, in order of stamp. `corrected`: an operator acted instead of the
    policy.
    """

    item: Window | Gap
    action_rad: Float64[ndarray, " dof"] | None
    joint_rad: Float64[ndarray, " dof"] | None
    joint_samples: tuple[JointSample, ...]
    corrected: bool = False

    @property
    def window(self) -> Window | None:
        """The window of a valid tick."""
        return self.item if isinstance(self.item, Window) else None


class Episode(Iterator[Tick]):
    """Ticks of a bag in order, read as a stream, with the frame clock's counters so far.

    Args:
        bag: An open bag.
        contract: The robot; topics, joints and images are checked against it before the first tick.
        image_size_px: Side of the images in the windows, or `OWN_SIZE_PX`; None leaves images undecoded.
        task: Task text; None takes the recorded one (`recorded_task`) and follows its changes.
        on_record: Is told each record before it is used.
        on_end: Is told that there are no more.

    Raises:
        ContractError: topics are missing, or the messages of a stream do not fit.
        BagError: no tick came out, or no command fell on one (raised at the end of the iteration).
    """

    def __init__(
        self,
        bag: Bag,
        contract: Contract,
        *,
        image_size_px: int | None,
        task: str | None = None,
        on_record: Callable[[Record], None] = lambda _: None,
        on_end: Callable[[], None] = lambda: None,
    ) -> None:
        check_topics(bag, contract)
        self._on_end = on_end
        self._bag = bag
        self._on_record = on_record
        self._contract = contract
        self._clock = FrameClock(contract, image_size_px=image_size_px, recorded=True)
        self._task_topic = None if task is not None else task_topic(bag, contract)
        self.valid_ticks = self.ticks_without_action = self._commands_apart = 0
        self._fitting: set[str] = set()
        self._misfits: dict[str, list[ContractError]] = {}
        self._clock.set_task(task if task is not None else recorded_task(bag, contract))
        self._joint_merger = JointMerger(contract, joint_parts(bag, contract))
        self._command_merger = JointMerger(contract, action_parts(bag, contract))
        self._routes = self._make_routes()
        self._joint_reader = JointReader(contract)
        self._poses, self._acts = JointReach(contract), JointReach(contract)
        self._command_reader = JointReader(contract)
        self._joints, self._commands = WaitingSamples(contract.tick_period_ns), WaitingSamples(contract.tick_period_ns)
        self._command: JointSample | None = None
        self._marks: deque[tuple[int, bool]] = deque()
        self._corrected = self._commanded = False
        self._refusals = self._make_refusals()
        self._clocks = self._make_clocks()
        self._ticks = self._make_ticks()

    @property
    def counters(self) -> StreamCounters:
        """What became of the messages so far."""
        return self._clock.counters

    @property
    def commands_refused(self) -> int:
        """Commands of wrong length, with values that are not finite or out of reach, or of another clock."""
        return self._commands.refused

    @property
    def losses(self) -> dict[str, int]:
        """Everything of the recording that could not be used so far, by reason: the one account of every verb."""
        losses: Counter[str] = Counter(self._bag.info.losses)
        for stream, count in self.counters.streams.items():
            losses.update({f"{stream}: {reason}": n for reason, n in count.refused.items()})
            losses.update({f"{stream}: late": count.late, f"{stream}: dropped": count.dropped})
        losses["commands refused"] = self.commands_refused
        losses["commands too far apart"] = self._commands_apart
        losses["invalid_ticks"] = self.counters.gaps
        losses["ticks without one of the streams"] = self.counters.unmade
        if self.ticks_without_action > MOST_WITHOUT_ACTION * self.valid_ticks:
            losses["valid ticks without a recorded action"] = self.ticks_without_action
        return {reason: n for reason, n in sorted(losses.items()) if n}

    def __next__(self) -> Tick:
        return next(self._ticks)

    def _make_routes(self) -> dict[str, Callable[[Record], None]]:
        contract, bag = self._contract, self._bag
        routes: dict[str, Callable[[Record], None]] = {
            part.topic: partial(self._push_joints, i) for i, part in enumerate(joint_parts(bag, contract))
        }
        for camera in contract.cameras:
            routes[camera_topics(bag, contract)[camera.name].topic] = self._image_route(camera)
        if contract.action_source == "command":
            for i, part in enumerate(action_parts(bag, contract)):
                routes[part.topic] = partial(self._push_command, i, part.own_names)
        if self._task_topic is not None:
            routes[self._task_topic] = self._push_task
        marks = next(iter(nearest(bag, contract, INTERVENTION, FLAG_TYPE)), None)
        if marks is not None:
            routes[marks] = lambda record: self._marks.append((record.stamp_ns, record.message is True))
        return routes

    def _make_refusals(self) -> dict[str, Callable[[], None]]:
        """How a message of another clock is counted, by topic."""
        contract, bag = self._contract, self._bag
        topics = {part.topic: JOINTS for part in joint_parts(bag, contract)}
        topics |= {place.topic: name for name, place in camera_topics(bag, contract).items()}
        refusals: dict[str, Callable[[], None]] = {t: partial(self._clock.refuse, s, APART) for t, s in topics.items()}
        if contract.action_source == "command":
            refusals |= dict.fromkeys((part.topic for part in action_parts(bag, contract)), self._commands.refuse)
        return refusals

    def _make_clocks(self) -> StreamClocks[Record]:
        """The joint states' clock is the one that the others must keep."""
        contract, types = self._contract, self._bag.info.types
        reference, *_ = (part.topic for part in joint_parts(self._bag, contract))
        acting = (part.topic for part in action_parts(self._bag, contract))
        unstamped = [topic for topic in acting if types.get(topic) == ARRAY_TYPE]
        return StreamClocks(reference, unstamped, contract.tick_period_ns)

    def _make_ticks(self) -> Iterator[Tick]:
        held: Window | Gap | None = None
        for following in self._items():
            if held is not None:
                yield self._tick(held, following)
            held = following
        for reach in (self._poses, self._acts):
            reach.refuse_units(_LEAST_BEYOND)
        if held is None:
            for stream in self._misfits.keys() - self._fitting:
                raise self._misfits[stream][0]
            raise self._empty()
        yield self._tick(held, None)
        if self._contract.action_source == "command" and not self._commanded:
            raise self._no_command()

    def _items(self) -> Iterator[Window | Gap]:
        for record in self._bag.records(tuple(self._routes)):
            self._on_record(record)
            if record.topic in self._refusals and record.stamp_ns > 0:
                self._pass_on(self._clocks.take(record.topic, record.stamp_ns, record.log_time_ns, record))
            else:
                self._routes[record.topic](record)
            while self._clock.ready(None) and not self._clocks.waits:
                yield self._clock.next_tick()
        self._pass_on(self._clocks.rest())
        self._on_end()
        self._clock.end()
        while self._clock.ready(None):
            yield self._clock.next_tick()

    def _pass_on(self, due: Iterator[tuple[Record, bool]]) -> None:
        for record, keeps_time in due:
            if keeps_time:
                self._routes[record.topic](record)
            else:
                self._refusals[record.topic]()

    def _image_route(self, camera: Camera) -> Callable[[Record], None]:
        def push(record: Record) -> None:
            self._try(camera.name, lambda: check_image(record.message, camera))
            self._clock.push_image(camera.name, record.stamp_ns, record.message)

        return push

    def _push_joints(self, part: int, record: Record) -> None:
        said = (record.stamp_ns, record.message.names, record.message.positions_rad)
        try:
            whole = self._joint_merger.push(part, *said)
        except ContractError as error:
            self._clock.refuse(JOINTS, error.what)
            self._misfit(JOINTS, error)
            return
        if whole is None:
            return
        self._try(JOINTS, lambda: self._contract.joint_order(whole[1]))
        try:
            rad = self._joint_reader.read(*whole[1:])
            self._poses.check(rad, record.topic)
        except ContractError as error:
            self._clock.refuse(JOINTS, error.what)
            self._poses.refuse_units(MOST_MISFITS)
            return
        self._clock.push_joints(*whole)
        self._joints.push(whole[0], rad)

    def _push_task(self, record: Record) -> None:
        if record.message:
            self._clock.set_task(str(record.message))

    def _try(self, stream: str, check: Callable[[], object]) -> None:
        """One message that does not fit is a loss, which the clock counts; a stream that never fits is an error."""
        if stream in self._fitting:
            return
        try:
            check()
            self._fitting.add(stream)
        except ContractError as error:
            self._misfit(stream, error)

    def _misfit(self, stream: str, error: ContractError) -> None:
        if stream in self._fitting:
            return
        self._misfits.setdefault(stream, []).append(error)
        if len(self._misfits[stream]) >= MOST_MISFITS:
            raise self._misfits[stream][0] from error

    def _push_command(self, part: int, names: tuple[str, ...], record: Record) -> None:
        message = record.message
        if isinstance(message, ndarray):
            said = (record.stamp_ns, names, message)
        else:  # a trajectory stamped zero means: now
            said = (record.stamp_ns or record.log_time_ns, message.names, message.positions_rad)
        try:
            whole = self._command_merger.push(part, *said)
            if whole is not None:
                rad = self._command_reader.read(*whole[1:])
                self._acts.check(rad, record.topic)
                self._commands.push(whole[0], rad)
        except SkewError:
            self._commands_apart += 1
        except ContractError:
            self._commands.refuse()
            self._acts.refuse_units(MOST_MISFITS)

    def _tick(self, item: Window | Gap, following: Window | Gap | None) -> Tick:
        samples = self._joints.until(item.stamp_ns)
        if self._commands.goes_back(item.stamp_ns):
            self._command = None
        commands = self._commands.until(item.stamp_ns)
        if commands:
            self._command, self._commanded = commands[-1], True
        while self._marks and self._marks[0][0] <= item.stamp_ns:
            self._corrected = self._marks.popleft()[1]
        action_rad = self._action(item, following)
        if isinstance(item, Window):
            self.valid_ticks += 1
            last = self._contract.action_source == "next_state" and (following is None or following.epoch != item.epoch)
            self.ticks_without_action += action_rad is None and not last
        return Tick(
            item=item,
            action_rad=action_rad,
            joint_rad=item.newest.positions_rad if isinstance(item, Window) else None,
            joint_samples=samples,
            corrected=self._corrected,
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
                [
                    f"{name}: {count.received} messages, refused {dict(count.refused) or 'none'}"
                    for name, count in counters.streams.items()
                ]
                + [f"lost: {described(losses)}" for losses in [self._bag.info.losses] if losses]
            ),
            remedy="compare the streams' stamps (`sigma inspect` shows them), or read the bag with --stamps log",
        )

    def _no_command(self) -> BagError:
        return BagError(
            "no command falls on the recording's ticks",
            where=f"{self._bag.path}, {self._contract.action_topic}",
            expected="commands on the clock of the header stamps, one per joint",
            got=f"{self._commands.refused} refused; {self._commands.span}",
            remedy="record commands and sensors on one clock, or read the bag with --stamps log",
        )
