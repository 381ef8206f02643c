# SPDX-License-Identifier: Apache-2.0
"""`sigma_record`: writes a bag with exactly what replay needs, and checks it while it is written.

Cameras, joint states, commands and the task, as they come, without decoding anything. Rates, gaps and free disk are
told every few seconds and in /diagnostics; a disk that runs full ends the recording while it can still be closed.
Exit codes: 0 complete, 3 complete with losses, 1 not usable, 2 wrong usage.
"""

import shutil
import struct
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from queue import Full, Queue

from rclpy.node import Node
from rclpy.parameter import Parameter
from rclpy.qos import HistoryPolicy, QoSProfile, ReliabilityPolicy
from std_msgs.msg import String

from sigma_ros.bags.writer import BagWriter
from sigma_ros.contract import whole_state
from sigma_ros.contract_file import load_contract
from sigma_ros.errors import SigmaError
from sigma_ros.nodes.shared import qos, topics
from sigma_ros.nodes.shared.diagnostics import Diagnostics, Level, TaskStatus
from sigma_ros.nodes.shared.listen import MESSAGE_TYPES
from sigma_ros.nodes.shared.node_options import RecordOptions
from sigma_ros.nodes.shared.parameters import BoundParameters
from sigma_ros.nodes.shared.process import run_node
from sigma_ros.nodes.shared.qos import steady_clock

# A recording while it is made: messages go to a bag on a thread of their own, each stream is checked as it comes.


WAITING = 120
"""Messages that may wait for the disk: two seconds of two cameras."""

_SECOND_NS = 1_000_000_000


@dataclass(slots=True)
class StreamTally:
    """One stream so far. `gaps`: times without a message longer than allowed. `lost`: not written in time."""

    period_ns: int | None
    received: int = 0
    gaps: int = 0
    longest_gap_ns: int = 0
    lost: int = 0
    last_ns: int = 0
    recent_ns: list[int] = field(default_factory=list)

    def note(self, stamp_ns: int) -> None:
        """A message with this stamp has come."""
        self.received += 1
        if self.last_ns:
            gap_ns = stamp_ns - self.last_ns
            self.longest_gap_ns = max(self.longest_gap_ns, gap_ns)
            self.gaps += self.period_ns is not None and gap_ns > 2.5 * self.period_ns
        self.last_ns = stamp_ns
        self.recent_ns.append(stamp_ns)
        del self.recent_ns[:-60]

    def rate_hz(self) -> float:
        """Over the last messages, by their stamps."""
        if len(self.recent_ns) < 2 or self.recent_ns[-1] <= self.recent_ns[0]:
            return 0.0
        return (len(self.recent_ns) - 1) * _SECOND_NS / (self.recent_ns[-1] - self.recent_ns[0])


class RecordingThread:
    """Writes serialised messages behind the caller's back, in order.

    Args:
        bag: Open; used by this thread alone until `close`.
    """

    def __init__(self, bag: BagWriter) -> None:
        self._bag = bag
        self._queue: Queue[tuple[str, str, int, bytes] | None] = Queue(WAITING)
        self.written_bytes = 0
        self.error: SigmaError | None = None
        self._thread = threading.Thread(target=self._write, name="recording", daemon=True)
        self._thread.start()

    def put(self, topic: str, msgtype: str, log_time_ns: int, cdr: bytes) -> bool:
        """Queues a message; False when the disk is too slow for it, or has failed."""
        if self.error is not None:
            return False
        try:
            self._queue.put_nowait((topic, msgtype, log_time_ns, cdr))
        except Full:
            return False
        return True

    def close(self) -> None:
        """Writes what waits, then ends."""
        self._queue.put(None)
        self._thread.join()

    def _write(self) -> None:
        while (entry := self._queue.get()) is not None:
            if self.error is not None:
                continue
            try:
                self._bag.raw(*entry)
            except SigmaError as error:
                self.error = error
            else:
                self.written_bytes += len(entry[3])


def judge(tallies: Mapping[str, StreamTally], fps: float) -> tuple[list[str], list[str]]:
    """What makes a recording useless, and what it has lost: two lists of sentences, both empty when all is well."""
    useless = [f"{name}: nothing came" for name, tally in tallies.items() if tally.period_ns and not tally.received]
    losses = []
    for name, tally in tallies.items():
        if tally.lost:
            losses.append(f"{name}: {tally.lost} messages came faster than the disk")
        if tally.gaps:
            losses.append(f"{name}: {tally.gaps} gaps, the longest {tally.longest_gap_ns / 1e6:.0f} ms")
        if tally.received > fps and tally.rate_hz() < 0.9 * fps and tally.period_ns:
            losses.append(f"{name}: {tally.rate_hz():.1f} Hz, {fps:g} are needed")
    return useless, losses


LISTEN = QoSProfile(history=HistoryPolicy.KEEP_LAST, depth=30, reliability=ReliabilityPolicy.BEST_EFFORT)
"""Also hears reliable publishers; deep enough for a disk that stops for a moment."""

TELL_S, CHECK_S = 5.0, 0.5
COMPLETE_WITH_LOSSES = 3
_STAMP = struct.Struct("<iI")


class RecordNode(Node):
    """See the module."""

    def __init__(self, parameter_overrides: Sequence[Parameter] = ()) -> None:
        super().__init__(topics.RECORD_NODE, parameter_overrides=list(parameter_overrides))
        self._options = BoundParameters(self, RecordOptions(), state=lambda: "recording").value
        self._contract = whole_state(load_contract(topics.contract_name(self, self._options.contract)))
        self._out = Path(self._options.out).expanduser()
        self.exit_code = 0
        self.finished = False
        self._stack = ExitStack()
        metadata = {"sigma.source": "live", "sigma.contract": self._contract.name, "sigma.task": self._task()}
        self._bag = self._stack.enter_context(BagWriter(self._out, storage=self._options.storage, metadata=metadata))  # type: ignore[arg-type]
        self._thread = RecordingThread(self._bag)
        self._started_ns = self._now_ns()
        self._bag_has_task = False
        self.tallies: dict[str, StreamTally] = {}
        self._subscribe()
        self.create_timer(CHECK_S, self._check, clock=steady_clock())
        self.create_timer(TELL_S, self._tell, clock=steady_clock())
        tasks = {f"record/{name}": partial(self._task_status, tally) for name, tally in self.tallies.items()}
        self._diagnostics = Diagnostics(self, hardware_id=self._contract.name, tasks=tasks)
        self.get_logger().info(f"recording to {self._out}, task {self._task()!r}; Ctrl-C ends it")

    def stop(self) -> bool:
        """Closes the bag and judges it."""
        self._thread.close()
        useless, losses = judge(self.tallies, self._contract.fps)
        if self._thread.error is not None:
            losses.append(str(self._thread.error))
        self._stack.close()
        told = self.get_logger()
        for line in useless:
            told.error(line)
        for line in losses:
            told.warning(line)
        self.exit_code = self.exit_code or (1 if useless else COMPLETE_WITH_LOSSES if losses else 0)
        told.info(f"{self._summary()} in {self._out}")
        return True

    def _task(self) -> str:
        return self._options.task or self._contract.tasks[0]

    def _subscribe(self) -> None:
        contract, tick_ns = self._contract, self._contract.tick_period_ns
        for camera in contract.cameras:
            self._record(camera.name, camera.topic, camera.message_type, tick_ns, stamped=True)
        self._record("joints", contract.joint_state_topic, "sensor_msgs/msg/JointState", tick_ns, stamped=True)
        stamped = hasattr(MESSAGE_TYPES[contract.command_type], "header")
        self._record("commands", contract.command_topic, contract.command_type, None, stamped=stamped)
        self.create_subscription(String, topics.TASK, self._on_task, qos.LATCHED)

    def _record(self, name: str, topic: str, msgtype: str, period_ns: int | None, *, stamped: bool) -> None:
        tally = StreamTally(period_ns)
        self.tallies[name] = tally
        store: Callable[[bytes], None] = partial(self._store, tally, topic, msgtype, stamped)
        self.create_subscription(MESSAGE_TYPES[msgtype], topic, store, LISTEN, raw=True)

    def _store(self, tally: StreamTally, topic: str, msgtype: str, stamped: bool, cdr: bytes) -> None:  # noqa: FBT001
        now_ns = self._now_ns()
        self._write_task(now_ns)
        seconds, nanoseconds = _STAMP.unpack_from(cdr, 4) if stamped else (0, 0)
        tally.note(seconds * 1_000_000_000 + nanoseconds or now_ns)
        tally.lost += not self._thread.put(topic, msgtype, now_ns, cdr)

    def _write_task(self, now_ns: int) -> None:
        """Before the first message: the task this recording was started with."""
        if not self._bag_has_task:
            self._bag_has_task = True
            self._put_task(self._task(), now_ns)

    def _on_task(self, message: String) -> None:
        self._bag_has_task = True
        self._put_task(message.data, self._now_ns())

    def _put_task(self, text: str, now_ns: int) -> None:
        data = text.encode() + b"\0"
        cdr = b"\x00\x01\x00\x00" + struct.pack("<I", len(data)) + data
        self._thread.put(topics.full_name(self, topics.TASK), "std_msgs/msg/String", now_ns, cdr)

    def _check(self) -> None:
        free_gb = self._free_gb()
        if free_gb < self._options.least_free_gb:
            self.get_logger().error(f"{free_gb:.1f} GB are free: the recording ends here")
            self.exit_code, self.finished = COMPLETE_WITH_LOSSES, True
        elif self._thread.error is not None:
            self.get_logger().error(str(self._thread.error))
            self.exit_code, self.finished = COMPLETE_WITH_LOSSES, True
        elif 0.0 < self._options.seconds <= (self._now_ns() - self._started_ns) * 1e-9:
            self.finished = True

    def _tell(self) -> None:
        self.get_logger().info(self._summary())
        useless, losses = judge(self.tallies, self._contract.fps)
        for line in (*useless, *losses):
            self.get_logger().warning(line)

    def _summary(self) -> str:
        rates = ", ".join(f"{name} {tally.rate_hz():.1f} Hz" for name, tally in self.tallies.items())
        seconds = (self._now_ns() - self._started_ns) * 1e-9
        return f"{seconds:.0f} s, {rates}; {self._thread.written_bytes / 1e6:.0f} MB, {self._free_gb():.0f} GB free"

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


def main(args: Sequence[str] | None = None) -> int:
    """Starts the node; returns the exit code."""
    return run_node(RecordNode, RecordOptions, args, __doc__)


if __name__ == "__main__":
    sys.exit(main())
