# SPDX-License-Identifier: Apache-2.0
"""`sigma_incidents`: keeps the last half minute in memory and writes it as a bag when the supervisor stops the arm.

A process of its own, so that neither memory nor disk ever delays the supervisor. It hears everything as bytes; raw
camera images are kept as JPEG. `sigma replay` opens what it writes; its notes tell the reason. What a full disk refused
stays in memory and is tried again.
"""

import sys
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from rclpy.node import Node
from rclpy.parameter import Parameter
from rclpy.qos import DurabilityPolicy, HistoryPolicy, QoSProfile, ReliabilityPolicy
from rclpy.serialization import serialize_message
from sensor_msgs.msg import CompressedImage, Image, JointState
from std_msgs.msg import Bool, String
from std_srvs.srv import Trigger

from sigma_ros.contract import Camera
from sigma_ros.contract_file import load_contract
from sigma_ros.errors import SigmaError
from sigma_ros.msg import ActionChunk, SupervisorState, TelepathyState
from sigma_ros.nodes.record.incident import Heard, IncidentMemory, make_room, write_incident
from sigma_ros.nodes.shared import qos, topics
from sigma_ros.nodes.shared.diagnostics import Diagnostics, Level, TaskStatus
from sigma_ros.nodes.shared.image_messages import image_view, jpeg_message
from sigma_ros.nodes.shared.node_options import IncidentOptions
from sigma_ros.nodes.shared.parameters import BoundParameters
from sigma_ros.nodes.shared.process import run_node
from sigma_ros.nodes.shared.qos import steady_clock
from sigma_ros.nodes.shared.sensor_messages import COMMAND_KINDS
from sigma_ros.streams.images import decode_full
from sigma_ros.supervisor.reasons import State

NODE = "sigma_incidents"
AFTER_S = 1.0
"""A stop is written this long after it, so that the bag shows what came of it."""

RETRY_S = 5.0
"""What the disk refused is tried again this often."""

_ANYTHING = QoSProfile(
    history=HistoryPolicy.KEEP_LAST,
    depth=100,
    reliability=ReliabilityPolicy.BEST_EFFORT,
    durability=DurabilityPolicy.VOLATILE,
)
_STOPS = (int(State.STOPPED), int(State.ESTOP))


@dataclass(frozen=True, slots=True, kw_only=True)
class _Incident:
    name: str
    messages: tuple[Heard, ...]
    facts: dict[str, str]


class IncidentRecorder(Node):
    """See the module."""

    def __init__(self, parameter_overrides: Sequence[Parameter] = ()) -> None:
        super().__init__(NODE, parameter_overrides=list(parameter_overrides))
        self._options = BoundParameters(self, IncidentOptions(), state=lambda: "listening").value
        self._contract = load_contract(topics.contract_name(self, self._options.contract))
        self._memory = IncidentMemory(seconds=self._options.seconds, megabytes=self._options.megabytes)
        self._last_state = int(State.DISENGAGED)
        self._due: tuple[float, dict[str, str]] | None = None
        self._writing: threading.Thread | None = None
        self._refused: tuple[_Incident, str] | None = None
        self._retry_s = 0.0
        self.written: list[Path] = []
        self._listen()
        self.create_service(Trigger, "~/save", self._on_save)
        self.create_timer(0.1, self._write_if_due, clock=steady_clock())
        Diagnostics(self, hardware_id=self._contract.name, tasks={"incidents/written": self._task_status})
        self.get_logger().info(f"keeps {self._options.seconds:g} s; incidents go to {self._options.folder}")

    def _listen(self) -> None:
        contract = self._contract
        plain = (
            *((JointState, part.topic) for part in contract.states),
            *(
                (COMMAND_KINDS[part.message_type or contract.command_type].message, part.topic)
                for part in contract.commands
            ),
            (ActionChunk, topics.ACTION_CHUNK),
            (TelepathyState, topics.TELEPATHY),
            (Bool, topics.E_STOP),
            (Bool, topics.ENABLE),
            (Bool, topics.POLICY_HEARTBEAT),
        )
        for kind, topic in plain:
            self.create_subscription(kind, topic, self._keeper(topic, kind), _ANYTHING, raw=True)
        for topic in (topics.TASK, topics.POLICY_INFO):
            self.create_subscription(String, topic, self._keeper(topic, String, latched=True), qos.LATCHED, raw=True)
        for camera in contract.cameras:
            if camera.message_type == "sensor_msgs/msg/CompressedImage" or self._options.jpeg_quality == 0:
                kind = Image if camera.message_type == "sensor_msgs/msg/Image" else CompressedImage
                self.create_subscription(kind, camera.topic, self._keeper(camera.topic, kind), qos.SENSOR, raw=True)
            else:
                self.create_subscription(Image, camera.topic, self._image_keeper(camera), qos.SENSOR)
        self.create_subscription(SupervisorState, topics.SUPERVISOR_STATE, self._on_state, _ANYTHING)

    def _keeper(self, topic: str, kind: type, *, latched: bool = False) -> Callable[[bytes], None]:
        name, topic = _type_name(kind), topics.full_name(self, topic)
        return lambda cdr: self._memory.hear(Heard(time.time_ns(), topic, name, bytes(cdr)), latched=latched)

    def _image_keeper(self, camera: Camera) -> Callable[[Image], None]:
        topic = f"{camera.topic}/compressed"

        def keep(message: Image) -> None:
            image = self._jpeg(message, camera)
            if image is not None:
                cdr = serialize_message(image)
                self._memory.hear(Heard(time.time_ns(), topic, _type_name(CompressedImage), cdr))

        return keep

    def _jpeg(self, message: Image, camera: Camera) -> CompressedImage | None:
        try:
            rgb = decode_full(image_view(message), camera)
            return jpeg_message(header=message.header, rgb=rgb, quality=self._options.jpeg_quality)
        except SigmaError:
            return None  # what cannot be decoded cannot be replayed either; the policy counts it

    def _on_state(self, message: SupervisorState) -> None:
        cdr, topic = serialize_message(message), topics.full_name(self, topics.SUPERVISOR_STATE)
        self._memory.hear(Heard(time.time_ns(), topic, _type_name(SupervisorState), cdr))
        if message.state in _STOPS and self._last_state not in _STOPS:
            facts = {"state": State(message.state).name, "reason": message.reason, "text": message.reason_text}
            self._due = (time.monotonic() + AFTER_S, facts)
        self._last_state = message.state

    def _write_if_due(self) -> None:
        if self._due is not None and time.monotonic() >= self._due[0]:
            facts, self._due = self._due[1], None
            self._start_writing(facts)
        elif self._refused is not None and time.monotonic() >= self._retry_s and not self._is_writing:
            self._begin(self._refused[0])

    def _task_status(self) -> TaskStatus:
        values = {"written": len(self.written), "folder": self._options.folder, "dropped": self._memory.dropped}
        if self._refused is not None:
            incident, error = self._refused
            return TaskStatus(Level.ERROR, f"{incident.name} waits in memory: {error}", values)
        return TaskStatus(Level.OK, f"{len(self.written)} written", values)

    @property
    def _is_writing(self) -> bool:
        return self._writing is not None and self._writing.is_alive()

    def _on_save(self, _request: Trigger.Request, response: Trigger.Response) -> Trigger.Response:
        response.success, response.message = True, "written within a second"
        self._due = self._due or (time.monotonic(), {"state": "", "reason": "ASKED", "text": "a user asked for it"})
        return response

    def _start_writing(self, facts: dict[str, str]) -> None:
        """Writes on a thread of its own, so that what comes meanwhile is kept."""
        self.wait()
        name = time.strftime("%Y%m%d-%H%M%S") + f"-{facts['reason'].lower()}"
        self._begin(_Incident(name=name, messages=self._memory.snapshot(), facts=facts))

    def _begin(self, incident: _Incident) -> None:
        self._retry_s = time.monotonic() + RETRY_S
        self._writing = threading.Thread(target=self._write, args=(incident,), name="incident")
        self._writing.start()

    def _write(self, incident: _Incident) -> None:
        folder = Path(self._options.folder)
        facts = incident.facts | {"dropped_for_memory": str(self._memory.dropped)}
        most_bytes = round(self._options.most_gigabytes * 1e9)
        try:
            make_room(folder, most=self._options.most_incidents, most_bytes=most_bytes)
            write_incident(folder / incident.name, incident.messages, facts=facts)
        except (SigmaError, OSError) as error:
            self._refused = self._refused or (incident, str(error))  # the first stop is the one to understand
            self.get_logger().error(f"{incident.name} stays in memory and is tried again: {error}")
            return
        if self._refused is not None and self._refused[0] is incident:
            self._refused = None
        self.written.append(folder / incident.name)
        self.get_logger().info(f"{incident.facts['reason']}: {len(incident.messages)} messages written to {folder}")

    def wait(self) -> None:
        """Until the bag in work, if any, is written."""
        if self._writing is not None:
            self._writing.join()

    def stop(self) -> bool:
        """Last words: an incident that waits is written."""
        if self._due is not None:
            facts, self._due = self._due[1], None
            self._start_writing(facts)
        self.wait()
        return True


def _type_name(kind: type) -> str:
    package = kind.__module__.partition(".")[0]
    return f"{package}/msg/{kind.__name__}"


def main(args: Sequence[str] | None = None) -> int:
    """Starts the node; returns the exit code."""
    return run_node(IncidentRecorder, IncidentOptions, args, __doc__)


if __name__ == "__main__":
    sys.exit(main())
