# SPDX-License-Identifier: Apache-2.0
"""A scripted policy without a model, in a process of its own: heartbeat and valid chunks, or faults on request.

MOCK: it stands in for `sigma_policy` where a test needs a policy that is cheap, fast and can misbehave on demand.
It proposes a slow wave that begins where the arm is. A fault is asked for on `/sigma/stand_in/mode` (std_msgs/String)
and confirmed on `/sigma/stand_in/done` with the moment at which the first faulty message went out.

    python -m safety.stand_in_policy [--wait]     with --wait: sleeps until a line comes on standard input
"""

import argparse
import random
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace

import numpy as np
from numpy import ndarray
from rclpy.executors import SingleThreadedExecutor
from rclpy.node import Node
from sensor_msgs.msg import JointState
from sigma_ros.msg import ActionChunk, SupervisorState
from std_msgs.msg import Bool, Header, String

from sigma_ros.contract_file import load_contract
from sigma_ros.errors import SigmaError
from sigma_ros.nodes.policy.ports import INSTANCE
from sigma_ros.nodes.shared import qos, topics
from sigma_ros.nodes.shared.messages import chunk_message as message_of
from sigma_ros.nodes.shared.process import ros_context
from sigma_ros.nodes.shared.qos import steady_clock
from sigma_ros.nodes.shared.sensor_messages import to_time
from sigma_ros.risk import plain_chunk
from sigma_ros.streams.joints import JointReader
from sigma_ros.supervisor.identity import Author
from sigma_ros.supervisor.reasons import State
from sigma_ros.values import Chunk

MODE = "/sigma/stand_in/mode"
DONE = "/sigma/stand_in/done"
HORIZON = 50
REPLAN_S = 8 / 30
_AMPLITUDE_RAD = 0.25
_PULSATANCE, _FAST_PULSATANCE = 1.5, 6.0
_FOLLOWING = (int(State.RUN), int(State.BASE_ONLY))

_AUTHOR = Author(robot="so101", instance=INSTANCE)

Spoil = Callable[[Chunk, ActionChunk], ActionChunk]


def chunk_message(chunk: Chunk) -> ActionChunk:
    """A chunk of this process."""
    return message_of(chunk, _AUTHOR)


def _changed(**changes: object) -> Spoil:
    return lambda chunk, _message: chunk_message(replace(chunk, **changes))  # type: ignore[arg-type]


def _element(value: float, *, array: str = "base_positions", index: int = 7) -> Spoil:
    def spoil(_chunk: Chunk, message: ActionChunk) -> ActionChunk:
        getattr(message, array)[index] = value
        return message

    return spoil


def _steps(make: Callable[[ndarray], ndarray]) -> Spoil:
    return lambda chunk, _message: chunk_message(replace(chunk, base_rad=make(np.array(chunk.base_rad))))


def _field(name: str, value: object) -> Spoil:
    def spoil(_chunk: Chunk, message: ActionChunk) -> ActionChunk:
        setattr(message, name, value)
        return message

    return spoil


def _stamped(offset_ns: int) -> Spoil:
    return lambda chunk, _message: chunk_message(replace(chunk, stamp_ns=chunk.stamp_ns + offset_ns))


def _joints(count: int) -> Spoil:
    def spoil(chunk: Chunk, _message: ActionChunk) -> ActionChunk:
        names = tuple(f"joint{i}" for i in range(count))
        base = np.zeros((chunk.horizon, count))
        return chunk_message(replace(chunk, joint_names=names, base_rad=base, residual_rad=np.zeros_like(base)))

    return spoil


_NYQUIST = ((-1.0) ** np.arange(HORIZON))[:, None]

SPOILS: dict[str, Spoil] = {
    "nan_first": _element(float("nan"), index=0),
    "nan_middle": _element(float("nan"), index=151),
    "nan_last": _element(float("nan"), index=299),
    "inf": _element(float("inf")),
    "nan_residual": _element(float("nan"), array="residual_positions"),
    "nan_scale": _field("scale", float("nan")),
    "giant": _element(1e308),
    "far_outside": _steps(lambda base: base + 100.0),
    "huge_step": _steps(lambda base: base + np.linspace(0.0, 1.5, HORIZON)[:, None] ** 0.1),
    "nyquist": _steps(lambda base: base + 0.5 * _NYQUIST),
    "into_limit": _steps(lambda base: base + np.linspace(0.0, 3.0, HORIZON)[:, None]),
    "five_joints": _joints(5),
    "seven_joints": _joints(7),
    "no_steps": _field("horizon", 0),
    "ragged": _field("horizon", 49),
    "ten_thousand_steps": lambda chunk, _: chunk_message(
        replace(chunk, base_rad=np.zeros((10_000, 6)), residual_rad=np.zeros((10_000, 6)))
    ),
    "other_names": _field("joint_names", [f"j{i}" for i in range(6)]),
    "other_period": _changed(step_period_ns=100_000_000),
    "late": _stamped(-600_000_000),
    "future": _stamped(3_600_000_000_000),
    "zero_stamp": _changed(stamp_ns=0),
    "duplicate": _changed(chunk_id=1),
    "other_robot": _field("robot_name", "another_arm"),
    "other_checkpoint": _changed(checkpoint_hash="another"),
    "scale_above_one": _field("scale", 1.0000001),
    "negative_scale": _field("scale", -0.5),
    "large_residual": _changed(residual_rad=np.full((HORIZON, 6), 0.9), scale=1.0),
    "opposed_residual": lambda chunk, _: chunk_message(
        replace(chunk, residual_rad=-1.5 * (chunk.base_rad - chunk.base_rad[0]), scale=1.0)
    ),
    "jump": _steps(lambda base: base + 0.3),
    "flapping_scale": lambda chunk, _: chunk_message(replace(chunk, scale=float(chunk.chunk_id % 2))),
}
"""Chunks gone wrong, by name: each makes the message that goes out instead of the good one."""

QUIET = ("no_chunks", "no_heartbeat", "unhealthy", "hang", "crash", "new_epoch", "lossy", "fast")
MODES = ("normal", *QUIET, *SPOILS)


class StandInPolicy(Node):
    """See the module."""

    def __init__(self) -> None:
        super().__init__("stand_in_policy")
        self._contract = load_contract("so101")
        self._reader = JointReader(self._contract)
        self._pose_rad: ndarray | None = None
        self._anchor_rad = np.zeros(6)
        self._began_ns = 0
        self._following = False
        self._chunk_id, self._epoch = 0, 0
        self.mode = "normal"
        self._dice = random.Random(0)
        self._chunks = self.create_publisher(ActionChunk, topics.ACTION_CHUNK, qos.CHUNK)
        self._heartbeat = self.create_publisher(Bool, topics.POLICY_HEARTBEAT, qos.HEARTBEAT)
        self._done = self.create_publisher(Header, DONE, qos.EVENT)
        self.create_subscription(JointState, self._contract.joint_state_topic, self._on_joints, qos.SENSOR)
        self.create_subscription(SupervisorState, topics.SUPERVISOR_STATE, self._on_state, qos.LATCHED)
        self.create_subscription(String, MODE, self._on_mode, qos.EVENT)
        self.create_timer(qos.HEARTBEAT_PERIOD_NS / 1e9, self._beat, clock=steady_clock())
        self._plan_timer = self.create_timer(REPLAN_S, self._plan, clock=steady_clock())

    def _on_joints(self, message: JointState) -> None:
        with suppress(SigmaError):  # a policy keeps to what it can read
            self._pose_rad = self._reader.read(tuple(message.name), message.position)

    def _on_state(self, message: SupervisorState) -> None:
        self._following = message.state in _FOLLOWING

    def _on_mode(self, message: String) -> None:
        self.mode = message.data
        if self.mode == "crash":
            sys.exit(1)
        at_ns = time.time_ns()
        if self.mode == "new_epoch":
            self._epoch, self.mode = self._epoch + 1, "normal"
        if self.mode == "unhealthy":
            self._beat()
        elif self.mode in SPOILS or self.mode == "normal":
            self._plan()
        self._done.publish(Header(stamp=to_time(at_ns), frame_id=message.data))
        if self.mode == "hang":
            time.sleep(2.0)
            self.mode = "normal"

    def _beat(self) -> None:
        if self.mode != "no_heartbeat" and not self._is_lost():
            self._heartbeat.publish(Bool(data=self.mode != "unhealthy"))

    def _is_lost(self) -> bool:
        return self.mode == "lossy" and self._dice.random() < 0.3

    def _plan(self) -> None:
        if self._pose_rad is None or self.mode in ("no_chunks", "unhealthy"):
            return
        now_ns = self.get_clock().now().nanoseconds
        if not self._following:
            self._anchor_rad, self._began_ns = self._pose_rad, now_ns
        chunk = self._wave(now_ns)
        self._chunk_id += 1
        if self._is_lost():
            return
        message = chunk_message(chunk)
        spoil = SPOILS.get(self.mode)
        self._chunks.publish(message if spoil is None else spoil(chunk, message))

    def _wave(self, now_ns: int) -> Chunk:
        contract = self._contract
        t = (now_ns - self._began_ns) / 1e9 + np.arange(HORIZON)[:, None] * contract.tick_period_ns / 1e9
        middle = 0.5 * (contract.lower_rad + contract.upper_rad)
        toward = np.where(self._anchor_rad > middle, -1.0, 1.0)
        pulsatance = _FAST_PULSATANCE if self.mode == "fast" else _PULSATANCE
        base = self._anchor_rad + toward * _AMPLITUDE_RAD * (1.0 - np.cos(pulsatance * t))
        return plain_chunk(
            contract,
            base,
            stamp_ns=now_ns,
            chunk_id=self._chunk_id + 1,
            epoch=self._epoch,
            tick=self._chunk_id,
            residual_rad=0.01 * np.sin(_PULSATANCE * t) * np.ones(contract.dof),
            scale=0.5,
            observation_age_ns=10_000_000,
            inference_ns=20_000_000,
            checkpoint_hash="stand-in",
        )


def main() -> int:
    """The program."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--wait", action="store_true")
    options, _ = parser.parse_known_args()
    if options.wait and not sys.stdin.readline():
        return 0
    with ros_context(sys.argv):
        node = StandInPolicy()
        executor = SingleThreadedExecutor()
        executor.add_node(node)
        try:
            executor.spin()
        except KeyboardInterrupt:
            return 0
    return 0


if __name__ == "__main__":
    sys.exit(main())
