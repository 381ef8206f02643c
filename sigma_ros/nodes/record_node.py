# SPDX-License-Identifier: Apache-2.0
"""`sigma_record`: writes bags with what replay needs, or with everything, and checks them while they are written.

One bag, from the start to Ctrl-C; or with `episodes` one bag each from `~/start` to `~/save`, or to `~/discard`, which
leaves nothing (`keyboard`: r, s, d; n asks for the next prompt, i marks an intervention, q quits). Messages are written
as they come, without decoding them. Rates, gaps and free disk are told every few seconds and in /diagnostics; a disk
that runs full ends the recording while it can still be closed.
Exit codes: 0 complete, 3 complete with losses, 1 not usable, 2 wrong usage.
"""

import json
import os
import shutil
import struct
import sys
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from queue import SimpleQueue

from rclpy.node import Node
from rclpy.parameter import Parameter
from rclpy.qos import HistoryPolicy, QoSProfile, ReliabilityPolicy
from std_msgs.msg import Bool, String
from std_srvs.srv import Trigger

from sigma_ros.contract import Part
from sigma_ros.contract_file import load_contract
from sigma_ros.contract_text import contract_yaml
from sigma_ros.errors import SigmaError, UsageError
from sigma_ros.nodes.record.keyboard import Keyboard
from sigma_ros.nodes.record.tape import StreamTally, Tape, can_be_recorded, definition, judge, message_class
from sigma_ros.nodes.shared import qos, topics
from sigma_ros.nodes.shared.diagnostics import Diagnostics, Level, TaskStatus
from sigma_ros.nodes.shared.node_options import RecordOptions
from sigma_ros.nodes.shared.parameters import BoundParameters
from sigma_ros.nodes.shared.process import run_node
from sigma_ros.nodes.shared.qos import steady_clock

LISTEN = QoSProfile(history=HistoryPolicy.KEEP_LAST, depth=30, reliability=ReliabilityPolicy.BEST_EFFORT)
"""Also hears reliable publishers; deep enough for a disk that stops for a moment."""

TELL_S, CHECK_S, LOOK_S = 5.0, 0.5, 1.0
COMPLETE_WITH_LOSSES = 3
TEXT, FLAG = "std_msgs/msg/String", "std_msgs/msg/Bool"
_STAMP = struct.Struct("<iI")
_LITTLE_ENDIAN = b"\x00\x01\x00\x00"


class RecordNode(Node):
    """See the module. `saved`: the bags so far; `tallies`: the streams of the recording at work, or of the last one."""

    def __init__(self, parameter_overrides: Sequence[Parameter] = ()) -> None:
        super().__init__(topics.RECORD_NODE, parameter_overrides=list(parameter_overrides))
        self._bound = BoundParameters(self, RecordOptions(), state=self._state, applied=self._apply)
        self._options = self._bound.value
        name = topics.contract_name(self, self._options.contract)
        self._contract = load_contract(name)
        self._out = Path(self._options.out).expanduser()
        self.exit_code = 0
        self.finished = False
        self.saved: list[Path] = []
        self._notes = {"sigma.source": "live", "sigma.contract": self._contract.name}
        self._notes |= {"sigma.contract_text": contract_yaml(name), "sigma.namespace": self.get_namespace()}
        self._task = self._options.task or self._contract.tasks[0]
        self._policy = ""
        self._mark: bool | None = None
        self._tape: Tape | None = None
        self._started_ns = self._now_ns()
        self.tallies: dict[str, StreamTally] = {}
        self._streams: dict[str, tuple[int | None, str]] = {}
        self._heard: set[str] = set()
        self._subscribe()
        self._diagnostics = Diagnostics(self, hardware_id=self._contract.name, tasks=self._tasks())
        for service, act in (("start", self.start), ("save", self.save), ("discard", self.discard)):
            self.create_service(Trigger, f"~/{service}", partial(self._answer, act))
        self.create_timer(CHECK_S, self._check, clock=steady_clock())
        self.create_timer(TELL_S, self._tell, clock=steady_clock())
        self._keys: SimpleQueue[tuple[str, str]] = SimpleQueue()
        self._key_guard = self.create_guard_condition(self._on_keys)
        self._keyboard = Keyboard(sys.stdin.fileno(), self._on_key) if self._options.keyboard else None
        if self._options.episodes:
            self.get_logger().info(f"ready; episodes go to {self._out}, next: {self._task!r}")
        else:
            self.start()

    def start(self) -> str:
        """Begins a bag; says what it is.

        Raises:
            SigmaError: one is being written, or the disk refuses.
        """
        if self._tape is not None:
            raise UsageError("an episode is being recorded", where=self._tape.path, remedy="save or discard it")
        path = self._next_episode() if self._options.episodes else self._out
        self.tallies = {name: StreamTally(*stream) for name, stream in self._streams.items()}
        notes = self._notes | {"sigma.task": self._task}
        self._tape = Tape(path, storage=self._options.storage, notes=notes)  # type: ignore[arg-type]
        self._started_ns = self._now_ns()
        self._put_text(topics.TASK, self._task)
        if self._policy:
            self._put_text(topics.POLICY_INFO, self._policy)
        if self._mark is not None:
            self._put_mark()
        ends = "save or discard ends it" if self._options.episodes else "Ctrl-C ends it"
        return self._said(f"recording to {path}, task {self._task!r}; {ends}")

    def save(self) -> str:
        """Ends the bag and judges it; says what it came to.

        Raises:
            SigmaError: there is none, or the disk refuses.
        """
        tape = self._taken()
        tape.save(self._policy_notes())
        useless, losses = judge(self.tallies, self._contract.fps)
        losses += [] if tape.error is None else [str(tape.error)]
        for line in useless:
            self.get_logger().error(line)
        if useless:
            domain = os.environ.get("ROS_DOMAIN_ID", "0")
            self.get_logger().error(
                f"heard in ROS_DOMAIN_ID {domain}; `sigma doctor` says who publishes, and what to do"
            )
        for line in losses:
            self.get_logger().warning(line)
        self.exit_code = self.exit_code or (1 if useless else COMPLETE_WITH_LOSSES if losses else 0)
        self.saved.append(tape.path)
        return self._said("; ".join((f"{self._summary(tape)} in {tape.path}", *useless, *losses)))

    def discard(self) -> str:
        """Ends the bag and leaves nothing of it.

        Raises:
            UsageError: there is none.
        """
        tape = self._taken()
        tape.discard()
        return self._said(f"discarded; nothing is left of {tape.path}")

    def stop(self) -> bool:
        """Last words: what is being recorded is saved."""
        if self._keyboard is not None:
            self._keyboard.close()
        if self._tape is not None:
            self.save()
        return True

    def _taken(self) -> Tape:
        if self._tape is None:
            raise UsageError("nothing is being recorded", remedy="call start first")
        tape, self._tape = self._tape, None
        return tape

    def _state(self) -> str:
        return "idle" if self._tape is None else "recording"

    def _said(self, text: str) -> str:
        self.get_logger().info(text)
        return text

    def _next_episode(self) -> Path:
        count = 0
        while (path := self._out / f"episode_{count:06d}").exists():
            count += 1
        return path

    def _policy_notes(self) -> dict[str, str]:
        """Which policy acted: its checkpoint's hash, and all that it says of itself."""
        if not self._policy:
            return {}
        try:
            checkpoint = str(json.loads(self._policy).get("checkpoint_hash", ""))
        except (ValueError, AttributeError):
            checkpoint = ""
        return {"sigma.policy": self._policy} | ({"sigma.checkpoint": checkpoint} if checkpoint else {})

    def _answer(
        self, act: Callable[[], str], _request: Trigger.Request, response: Trigger.Response
    ) -> Trigger.Response:
        try:
            response.message, response.success = act(), True
        except SigmaError as error:
            response.message = str(error)
        return response

    def _on_key(self, key: str, line: str) -> None:
        """On the keyboard's thread."""
        self._keys.put((key, line))
        self._key_guard.trigger()

    def _on_keys(self) -> None:
        while not self._keys.empty():
            self._press(*self._keys.get())

    def _press(self, key: str, line: str) -> None:
        acts: dict[str, Callable[[], object]] = {
            "r": self.start,
            "s": self.save,
            "d": self.discard,
            "n": lambda: self._set_task(line),
            "i": lambda: self._marks.publish(Bool(data=not self._mark)),
            "q": lambda: setattr(self, "finished", True),
        }
        try:
            acts.get(
                key, lambda: self._said("keys: r record, s save, d discard, n next prompt, i intervention, q quit")
            )()
        except SigmaError as error:
            self.get_logger().error(str(error))

    # What is heard.

    def _subscribe(self) -> None:
        contract, tick_ns = self._contract, self._contract.tick_period_ns
        for camera in contract.cameras:
            self._record(camera.name, camera.topic, camera.message_type, tick_ns)
        for name, part in _named("joints", contract.states):
            self._record(name, part.topic, "sensor_msgs/msg/JointState", tick_ns)
        for name, part in _named("commands", contract.commands):
            self._record(name, part.topic, part.message_type or contract.command_type, None)
        self._marks = self.create_publisher(Bool, topics.INTERVENTION, qos.LATCHED)
        self.create_subscription(String, topics.TASK, lambda m: self._set_task(m.data), qos.LATCHED)
        self.create_subscription(String, topics.POLICY_INFO, self._on_policy, qos.LATCHED)
        self.create_subscription(Bool, topics.INTERVENTION, self._on_mark, qos.LATCHED)
        self.create_subscription(String, "~/prompt", lambda m: self._set_task(m.data), qos.EVENT)
        own = (topics.TASK, topics.POLICY_INFO, topics.INTERVENTION)
        self._heard |= {topics.full_name(self, topic) for topic in own}
        if self._options.everything:
            self._look()
            self.create_timer(LOOK_S, self._look, clock=steady_clock())

    def _look(self) -> None:
        """With `everything`: topics that were not there before."""
        for topic, types in self.get_topic_names_and_types():
            if topic in self._heard or "/_" in topic or not self.count_publishers(topic):
                continue
            self._heard.add(topic)
            if can_be_recorded(types[0]):
                self._record(topic, topic, types[0], None)
            else:
                self.get_logger().warning(f"{topic} is not recorded: {types[0]} is in no installed package")

    def _record(self, name: str, topic: str, msgtype: str, period_ns: int | None) -> None:
        kind, text = message_class(msgtype), definition(msgtype)
        stamped = hasattr(kind, "header")
        self._heard.add(topic)
        self._streams[name] = period_ns, topic
        self.tallies[name] = StreamTally(period_ns, topic)

        def store(cdr: bytes) -> None:
            if self._tape is None:
                return
            now_ns, tally = self._now_ns(), self.tallies[name]
            seconds, nanoseconds = _STAMP.unpack_from(cdr, 4) if stamped else (0, 0)
            tally.note(seconds * 1_000_000_000 + nanoseconds or now_ns)
            tally.lost += not self._tape.put(topic, msgtype, now_ns, cdr, text)

        self.create_subscription(kind, topic, store, LISTEN, raw=True)

    def _set_task(self, text: str) -> None:
        """The prompt of the next bag, and of this one from now on; an empty one means the contract's first."""
        self._task = text.strip() or self._contract.tasks[0]
        self._put_text(topics.TASK, self._task)
        self.get_logger().info(f"task: {self._task}")

    def _apply(self, old: RecordOptions, new: RecordOptions) -> None:
        self._options = new
        if new.task != old.task:
            self._set_task(new.task)

    def _on_policy(self, message: String) -> None:
        self._policy = message.data
        self._put_text(topics.POLICY_INFO, message.data)

    def _on_mark(self, message: Bool) -> None:
        self._mark = message.data
        self._put_mark()
        self.get_logger().info("an operator intervenes" if self._mark else "the policy acts")

    def _put_mark(self) -> None:
        self._put(topics.INTERVENTION, FLAG, bytes([bool(self._mark)]))

    def _put_text(self, topic: str, text: str) -> None:
        data = text.encode() + b"\0"
        self._put(topic, TEXT, struct.pack("<I", len(data)) + data)

    def _put(self, topic: str, msgtype: str, data: bytes) -> None:
        if self._tape is not None:
            self._tape.put(topics.full_name(self, topic), msgtype, self._now_ns(), _LITTLE_ENDIAN + data)

    # What is told.

    def _check(self) -> None:
        tape = self._tape
        if tape is None:
            return
        free_gb = self._free_gb()
        if free_gb < self._options.least_free_gb or tape.error is not None:
            said = f"{free_gb:.1f} GB are free: the recording ends here" if tape.error is None else str(tape.error)
            self.get_logger().error(said)
            self.exit_code, self.finished = COMPLETE_WITH_LOSSES, True
        elif 0.0 < self._options.seconds <= (self._now_ns() - self._started_ns) * 1e-9:
            if self._options.episodes:
                self.save()
            else:
                self.finished = True

    def _tell(self) -> None:
        if self._tape is None:
            return
        self.get_logger().info(self._summary(self._tape))
        useless, losses = judge(self.tallies, self._contract.fps)
        for line in (*useless, *losses):
            self.get_logger().warning(line)

    def _summary(self, tape: Tape) -> str:
        rates = ", ".join(f"{name} {tally.rate_hz():.1f} Hz" for name, tally in self.tallies.items() if tally.received)
        seconds = (self._now_ns() - self._started_ns) * 1e-9
        return f"{seconds:.0f} s, {rates}; {tape.written_bytes / 1e6:.0f} MB, {self._free_gb():.0f} GB free"

    def _tasks(self) -> dict[str, Callable[[], TaskStatus]]:
        return {f"record/{name}": lambda name=name: self._task_status(self.tallies[name]) for name in self.tallies}  # type: ignore[misc]

    def _task_status(self, tally: StreamTally) -> TaskStatus:
        values = {"received": tally.received, "gaps": tally.gaps, "lost": tally.lost}
        told = f"{tally.rate_hz():.1f} Hz"
        if not tally.received:
            return TaskStatus(Level.STALE, "nothing came yet", values)
        if tally.lost or tally.gaps:
            return TaskStatus(Level.WARN, f"{told}, {tally.gaps} gaps, {tally.lost} lost", values)
        return TaskStatus(Level.OK, told, values)

    def _free_gb(self) -> float:
        folder = next(parent for parent in self._out.absolute().parents if parent.exists())
        return shutil.disk_usage(folder).free / 1e9

    def _now_ns(self) -> int:
        return int(self.get_clock().now().nanoseconds)


def _named(stream: str, parts: tuple[Part, ...]) -> list[tuple[str, Part]]:
    """Names for reports: `joints`, or `joints /left/joint_states` and so on."""
    return [(stream if len(parts) == 1 else f"{stream} {part.topic}", part) for part in parts]


def main(args: Sequence[str] | None = None) -> int:
    """Starts the node; returns the exit code."""
    return run_node(RecordNode, RecordOptions, args, __doc__)


if __name__ == "__main__":
    sys.exit(main())
