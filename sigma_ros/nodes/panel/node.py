# SPDX-License-Identifier: Apache-2.0
"""`sigma_panel`: a page to watch and operate an arm with (`sigma panel`).

It is one more user of topics and services: the supervisor judges its orders as everybody's, and goes on by its own
rules when this process ends. It sends no heartbeat that its silence could turn into a stop. What the page shows of one
moment is plain JSON: numbers are finite or null.
"""

import asyncio
import math
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import cv2
import numpy as np
from jaxtyping import Float64
from numpy import ndarray
from rclpy.node import Node
from rclpy.parameter import Parameter
from rclpy.serialization import deserialize_message
from rclpy.task import Future
from sensor_msgs.msg import CompressedImage, Image, JointState

from sigma_ros.contract import Camera, Contract
from sigma_ros.contract_file import load_contract
from sigma_ros.errors import SigmaError, UsageError
from sigma_ros.kinematics import ForwardKinematics, ToolPoint
from sigma_ros.msg import ActionChunk, TelepathyState
from sigma_ros.nodes.panel.server import Server, open_in_browser
from sigma_ros.nodes.shared import qos, topics
from sigma_ros.nodes.shared.image_messages import image_view, jpeg_message
from sigma_ros.nodes.shared.listen import MESSAGE_TYPES, Monitor, MonitorView
from sigma_ros.nodes.shared.node_options import PanelOptions
from sigma_ros.nodes.shared.operator import ORDERS, SETTINGS, Operator, outcome
from sigma_ros.nodes.shared.parameters import BoundParameters
from sigma_ros.nodes.shared.process import run_node
from sigma_ros.nodes.shared.sensor_messages import stamp_ns
from sigma_ros.streams.images import decode_full
from sigma_ros.streams.joints import JointMerger, JointReader
from sigma_ros.supervisor.reasons import State

_BASE_POINT = [0.0, 0.0, 0.0]
_TASKS_KEPT = 8


class Skeleton:
    """The arm as lines: from the base over the places of its joints to the tool's points; none without kinematics."""

    def __init__(self, contract: Contract) -> None:
        self._kinematics: ForwardKinematics | None = None
        found = contract.kinematics
        if found is None:
            return
        origins = tuple(ToolPoint(name=f"at {k.joint}", joint=k.joint, position_m=(0.0, 0.0, 0.0)) for k in found.links)
        self._kinematics = ForwardKinematics(replace(found, points=(*origins, *found.points)), contract.joint_names)
        names = self._kinematics.names
        self._chain = [names.index(point.name) for point in origins]
        self._tips = [(names.index(f"at {point.joint}"), names.index(point.name)) for point in found.points]

    def lines(self, positions_rad: Float64[ndarray, " dof"]) -> list[list[list[float]]]:
        """Polylines of points x, y, z [m] in the base's frame: the chain, then one to each tool point."""
        if self._kinematics is None:
            return []
        points = np.round(self._kinematics.points_m(positions_rad[None])[0].T, 4).tolist()
        return [[_BASE_POINT, *(points[i] for i in self._chain)], *([points[a], points[b]] for a, b in self._tips)]

    def path(self, positions_rad: Float64[ndarray, "steps dof"]) -> list[list[float]]:
        """The way of the middle of the tool's points [m]."""
        if self._kinematics is None:
            return []
        tips = self._kinematics.points_m(positions_rad)[:, :, [tip for _, tip in self._tips]]
        return list(np.round(tips.mean(axis=2), 4).tolist())


class KnownMemories:
    """What the memory held under each task that was heard, as its mean: what a memory is like is seen against them."""

    def __init__(self) -> None:
        self._sums: dict[str, Float64[ndarray, " width"]] = {}
        self._last: tuple[int, int] | None = None

    def alike(self, told: TelepathyState | None) -> dict[str, float]:
        """Takes in what was told, once; gives by task, the newest last, the cosine of this memory to that one."""
        memory = np.array(() if told is None else told.semantic_memory, dtype=np.float64)
        if told is None or not told.valid or not memory.size or not np.isfinite(memory).all():
            return {}
        if told.committed and self._last != (told.epoch, told.tick):
            self._last = told.epoch, told.tick
            self._sums[told.task] = self._sums.pop(told.task, 0.0) + memory
            self._sums = dict(list(self._sums.items())[-_TASKS_KEPT:])
        return {task: _cosine(known, memory) for task, known in self._sums.items() if known.shape == memory.shape}


def _cosine(one: Float64[ndarray, " width"], other: Float64[ndarray, " width"]) -> float:
    """NaN where one of them is zero."""
    lengths = float(np.linalg.norm(one) * np.linalg.norm(other))
    return float(one @ other) / lengths if lengths else math.nan


def plans(chunk: ActionChunk, skeleton: Skeleton) -> dict[str, Any]:
    """Base's and Sigma's plan (at the scale that was asked for): the tool's way, and the arm at its end."""
    base = np.array(chunk.base_positions).reshape(chunk.horizon, -1)
    sigma = base + chunk.scale * np.array(chunk.residual_positions).reshape(base.shape)
    return {
        name: {"path": skeleton.path(rows), "arm": skeleton.lines(rows[-1])}
        for name, rows in (("base", base), ("sigma", sigma))
    }


def page_view(
    seen: MonitorView, contract: Contract, skeleton: Skeleton, joints_rad: Mapping[str, float], now_s: float
) -> dict[str, Any]:
    """The whole view of one moment; `joints_rad` is the measured position by joint, empty before the first."""
    measured = np.array([joints_rad[name] for name in contract.joint_names]) if joints_rad else None
    told, chunk, telepathy = seen.supervisor, seen.chunk, seen.telepathy
    view = {
        "rates": {name: round(rate.hz(now_s), 1) for name, rate in seen.rates.items()},
        "reasons": list(seen.reasons),
        "troubles": [f"{name}: {text}" for name, text in sorted(seen.troubles.items())],
        "incidents": seen.incidents,
        "arm": [] if measured is None else skeleton.lines(measured),
        "joints": [
            {"name": joint.name, "rad": joints_rad.get(joint.name), "low": joint.lower_rad, "high": joint.upper_rad}
            for joint in contract.joints
        ],
        "supervisor": None if told is None or not seen.is_fresh(now_s) else _supervisor(told),
        "policy": None if chunk is None else _policy(chunk) | {"plans": plans(chunk, skeleton)},
        "telepathy": None if telepathy is None else _telepathy(telepathy),
    }
    shown: dict[str, Any] = finite(view)
    return shown


def _supervisor(told: Any) -> dict[str, Any]:
    names = ("reason", "reason_text", "requested_scale", "scale_ceiling", "applied_scale", "holds", "violations")
    return {name: getattr(told, name) for name in names} | {
        "state": State(told.state).name,
        "bounded": list(told.clipped_joints),
        "refused_chunks": told.refused_chunks,
    }


def _policy(chunk: Any) -> dict[str, Any]:
    names = ("scale", "min_scale", "max_scale", "risk_temperature", "residual_risk", "factor_risk", "alignment_risk")
    inference_s = chunk.inference_time.sec + chunk.inference_time.nanosec * 1e-9
    return {name: getattr(chunk, name) for name in names} | {"inference_ms": 1e3 * inference_s}


def _telepathy(told: Any) -> dict[str, Any]:
    return {name: getattr(told, name) for name in ("task", "valid", "memory_l2", "intent_l2", "tau_l2", "sem_align")}


def finite(value: Any) -> Any:
    """A value for JSON: what is not finite becomes null, which the page shows as unknown."""
    if isinstance(value, Mapping):
        return {key: finite(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [finite(each) for each in value]
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return value


ANSWER_S = 5.0
PICTURE_WIDTH_PX = 480
JPEG_QUALITY = 75


class PanelNode(Node):
    """See the module."""

    def __init__(self, parameter_overrides: Sequence[Parameter] = ()) -> None:
        super().__init__(topics.PANEL_NODE, parameter_overrides=list(parameter_overrides))
        options = BoundParameters(self, PanelOptions(), state=lambda: "running").value
        self._contract = load_contract(topics.contract_name(self, options.contract))
        self._reader, self._skeleton = JointReader(self._contract), Skeleton(self._contract)
        self._known = KnownMemories()
        self._operator = Operator(self)
        self._seen = Monitor(self).seen
        self._joints_rad: dict[str, float] = {}
        self._pictures: dict[str, bytes] = {}
        self._merger = JointMerger(self._contract, self._contract.states)
        for i, part in enumerate(self._contract.states):
            self.create_subscription(JointState, part.topic, partial(self._on_joints, i), qos.SENSOR)
        for camera in self._contract.cameras:
            keep = partial(self._pictures.__setitem__, camera.name)
            self.create_subscription(MESSAGE_TYPES[camera.message_type], camera.topic, keep, qos.SENSOR, raw=True)
        self._server = Server(self, options.host, options.port)
        self.get_logger().info(f"open {self._server.url}")
        if options.browser:
            open_in_browser(self._server.url)

    @property
    def url(self) -> str:
        """Where the page is."""
        return self._server.url

    def stop(self) -> bool:
        """Ends the page."""
        self._server.close()
        return True

    def _on_joints(self, part: int, message: JointState) -> None:
        said = stamp_ns(message.header.stamp), tuple(message.name), np.asarray(message.position)
        try:
            whole = self._merger.push(part, *said)
            if whole is None:
                return
            positions = self._reader.read(*whole[1:])
        except SigmaError as error:
            self.get_logger().error(str(error), throttle_duration_sec=5.0)
            return
        self._joints_rad = dict(zip(self._contract.joint_names, positions.tolist(), strict=True))

    # What the server asks for, in its thread.

    def view(self) -> dict[str, Any]:
        """See `server.Backend`."""
        shown = page_view(self._seen, self._contract, self._skeleton, self._joints_rad, time.monotonic())
        cameras = [camera.name for camera in self._contract.cameras]
        alike = finite(self._known.alike(self._seen.telepathy))
        return shown | {"cameras": cameras, "robot": self._contract.name, "memory_like": alike}

    def picture(self, camera: str) -> bytes | None:
        """See `server.Backend`; decoded and coded when somebody looks, never while pictures come in."""
        cdr = self._pictures.get(camera)
        entry = next((entry for entry in self._contract.cameras if entry.name == camera), None)
        if cdr is None or entry is None:
            return None
        try:
            return _for_page(deserialize_message(cdr, MESSAGE_TYPES[entry.message_type]), entry)
        except SigmaError:
            return None  # the policy refuses it too and says why in its diagnostics

    async def act(self, order: str, value: Any) -> str:
        """See `server.Backend`."""
        if order in ORDERS:
            return await _answer(self._operator.order(order))
        if order in SETTINGS:
            if isinstance(value, bool) or not isinstance(value, int | float):
                raise UsageError("a setting is a number", where=order, got=value)
            return await _answer(self._operator.set(order, value))
        if order == "task" and isinstance(value, str):
            self._operator.say_task(value)
            return "task sent"
        raise UsageError("there is no such order", got=f"{order} {value!r}"[:80])

    def emergency_stop(self) -> None:
        """See `server.Backend`: the request leaves in the server's thread, whatever the executor does."""
        self._operator.order("stop")


def _for_page(message: CompressedImage | Image, camera: Camera) -> bytes:
    rgb = decode_full(image_view(message), camera)
    height, width, _ = rgb.shape
    if width > PICTURE_WIDTH_PX:
        size = (PICTURE_WIDTH_PX, round(height * PICTURE_WIDTH_PX / width))
        rgb = cv2.resize(rgb, size, interpolation=cv2.INTER_AREA)
    return bytes(jpeg_message(header=message.header, rgb=rgb, quality=JPEG_QUALITY).data)


async def _answer(future: Future) -> str:
    done, said = outcome(await _awaited(future))
    if not done:
        raise SigmaError("refused", got=said)
    return said or "done"


async def _awaited(future: Future) -> Any:
    """The result of a future that the node's thread completes."""
    loop, done = asyncio.get_running_loop(), asyncio.Event()

    def wake(_: Future) -> None:
        loop.call_soon_threadsafe(done.set)

    future.add_done_callback(wake)
    try:
        await asyncio.wait_for(done.wait(), ANSWER_S)
    except TimeoutError as error:
        raise SigmaError("no answer came", expected=f"one within {ANSWER_S:g} s") from error
    return future.result()


def main(args: Sequence[str] | None = None) -> int:
    """Starts the node; returns the exit code."""
    return run_node(PanelNode, PanelOptions, args, __doc__)


if __name__ == "__main__":
    sys.exit(main())
