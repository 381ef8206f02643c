# SPDX-License-Identifier: Apache-2.0
"""`sigma_record`: writes a bag with exactly what replay needs, and checks it while it is written.

Cameras, joint states, commands and the task, as they come, without decoding anything. Rates, gaps and free disk are
told every few seconds and in /diagnostics; a disk that runs full ends the recording while it can still be closed.
Exit codes: 0 complete, 3 complete with losses, 1 not usable, 2 wrong usage.
"""

import shutil
import struct
import sys
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path

from rclpy.node import Node
from rclpy.parameter import Parameter
from rclpy.qos import HistoryPolicy, QoSProfile, ReliabilityPolicy
from std_msgs.msg import String

from sigma_ros.bags.writer import BagWriter
from sigma_ros.contract_file import load_contract
from sigma_ros.nodes import qos, topics
from sigma_ros.nodes.clocks import steady_clock
from sigma_ros.nodes.diagnostics import Diagnostics, Level, Standing
from sigma_ros.nodes.node_options import RecordOptions
from sigma_ros.nodes.parameters import BoundParameters
from sigma_ros.nodes.process import run_node
from sigma_ros.nodes.record_streams import RecordingThread, StreamTally, judge
from sigma_ros.nodes.stream_watch import MESSAGE_TYPES

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
        self._contract = load_contract(topics.contract_name(self, self._options.contract))
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
        tasks = {f"record/{name}": partial(self._standing, tally) for name, tally in self.tallies.items()}
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
        trajectory = contract.command_type.startswith("trajectory_msgs")
        self._record("commands", contract.command_topic, contract.command_type, None, stamped=trajectory)
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

    def _standing(self, tally: StreamTally) -> Standing:
        values = {"received": tally.received, "gaps": tally.gaps, "lost": tally.lost}
        told = f"{tally.rate_hz():.1f} Hz"
        if not tally.received:
            return Standing(Level.STALE, "nothing came yet", values)
        if tally.lost or tally.gaps:
            return Standing(Level.WARN, f"{told}, {tally.gaps} gaps, {tally.lost} lost", values)
        return Standing(Level.OK, told, values)

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
