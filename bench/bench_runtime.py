# SPDX-License-Identifier: Apache-2.0
"""The policy node under two raw 640x480 cameras at 30 Hz: where the time from observation to command goes.

    python bench/bench_runtime.py                  # the small model inside and in a process, replan_ticks 8 and 4
    python bench/bench_runtime.py --inference process --rates      # cameras and joints that promise their rates

A robot process publishes cameras (30 Hz) and joint states (50 Hz); the supervisor is a process of its own; the policy
node runs here as it is shipped. "bare" is `runtime.step` alone, for as many new ticks as between two plans, measured
just before on the same machine with the robot's and the supervisor's processes running, so that what they take counts
on neither side. Pictures between two plans are encoded before the step, as the node does while it is free: "bare" for
the latency is the step, "bare" for the rate is both. With replan_ticks 4 the model is hardly ever idle (replan rate).
Asked: inference in the node / bare <= 1.10, chunks/s / bare >= 0.9 at replan_ticks 4, observation to chunk beyond
inference <= 10 ms p50 and 25 ms p99, ticks lost <= 0.1 %.
"""

import argparse
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import rclpy
from rclpy.executors import SingleThreadedExecutor
from rclpy.node import Node
from rclpy.parameter import Parameter
from sensor_msgs.msg import Image, JointState
from sigma_ros.msg import SupervisorState

from sigma_ros.cli.robot.delay_sources import written
from sigma_ros.contract_file import load_contract
from sigma_ros.contract_text import shipped_config_dir
from sigma_ros.nodes.policy.model import PolicyModel, load_policy
from sigma_ros.nodes.policy.options import PolicyOptions
from sigma_ros.nodes.policy.ports import PolicyOutput
from sigma_ros.nodes.policy_node import PolicyNode
from sigma_ros.nodes.shared import qos, topics
from sigma_ros.nodes.shared.image_messages import image_message
from sigma_ros.nodes.shared.process import ros_context
from sigma_ros.nodes.shared.qos import steady_clock
from sigma_ros.nodes.shared.sensor_messages import joint_state_message, stamp_ns
from sigma_ros.policy.job import Outcome, Proposed
from sigma_ros.streams.stream import JOINTS
from sigma_ros.values import ENGINES, WINDOW_TICKS, AdapterSettings, Frame, Window

CONTRACT = load_contract("so101")
POSE = np.array([0.05, -1.2, 1.0, 0.8, 0.1, 0.2])
TIMER_S = 0.02
BARE_STEPS = 30
STAGES = ("tick_wait", "queue", "inference", "publish", "observation_to_chunk", "beyond_inference")
QUIET = ("--ros-args", "--log-level", "error")


def robot() -> None:
    """The child: cameras and joints until it is ended."""
    with ros_context([]):
        node = Node("bench_robot")
        executor = SingleThreadedExecutor()
        executor.add_node(node)
        pictures = [np.random.default_rng(i).integers(0, 256, (480, 640, 3), dtype=np.uint8) for i in range(4)]
        cameras = [node.create_publisher(Image, camera.topic, qos.SENSOR) for camera in CONTRACT.cameras]
        joints = node.create_publisher(JointState, CONTRACT.joint_state_topic, qos.SENSOR)
        count = [0]

        def now_ns() -> int:
            return int(node.get_clock().now().nanoseconds)

        def publish_images() -> None:
            count[0] += 1
            for publisher in cameras:
                publisher.publish(image_message(at_ns=now_ns(), frame_id="camera", rgb=pictures[count[0] % 4]))

        def publish_joints() -> None:
            message = joint_state_message(at_ns=now_ns(), names=CONTRACT.joint_names, positions_rad=POSE)
            joints.publish(message)

        node.create_timer(1.0 / CONTRACT.fps, publish_images, clock=steady_clock())
        node.create_timer(0.02, publish_joints, clock=steady_clock())
        executor.spin()


def window(tick: int, size_px: int) -> Window:
    rng = np.random.default_rng(tick)
    pictures = {c.name: rng.integers(0, 256, (size_px, size_px, 3), dtype=np.uint8) for c in CONTRACT.cameras}
    frames = tuple(
        Frame(
            epoch=0,
            tick=max(0, tick - WINDOW_TICKS + 1 + i),
            stamp_ns=1 + CONTRACT.tick_offset_ns(tick),
            images=pictures,
            positions_rad=POSE,
            image_age_ns=dict.fromkeys(pictures, 0),
            joint_age_ns=0,
        )
        for i in range(WINDOW_TICKS)
    )
    return Window(epoch=0, task=CONTRACT.tasks[0], frames=frames, mask=np.ones(WINDOW_TICKS, dtype=bool))


def bare_ms(model: PolicyModel, replan_ticks: int) -> tuple[float, float]:
    """`runtime.step` so many ticks apart, as it is called live, and the same with the pictures before it; medians."""
    runtime: Any = model.runtime
    state = runtime.initial_state(epoch=0, task=CONTRACT.tasks[0])
    took = []
    for i in range(BARE_STEPS):
        tick = 16 + replan_ticks * i
        before, seen = (window(at, model.image_size_px) for at in (tick - 1, tick))
        begun = time.perf_counter()
        state = runtime.observe(before, state)
        start = time.perf_counter()
        _, state = runtime.step(seen, state, commit=i % 2 == 0, settings=AdapterSettings(), chunk_id=i)
        end = time.perf_counter()
        took.append((end - start, end - begun))
    step_ms, all_ms = 1e3 * np.median(took[2:], axis=0)
    return float(step_ms), float(all_ms)


class Probe:
    """Notes when outcomes are published, when the supervisor knows them, and how late a timer of the node comes."""

    def __init__(self, node: PolicyNode, monkey: Callable[..., None]) -> None:
        self.rows: list[tuple[float, ...]] = []
        self.command_ms: list[float] = []
        self.late_ms: list[float] = []
        self._node = node
        self._stamps: dict[int, int] = {}
        self._next_s = 0.0
        monkey(self)
        node.create_subscription(SupervisorState, topics.SUPERVISOR_STATE, self._on_state, qos.LATCHED)
        node.create_timer(TIMER_S, self._on_timer, clock=steady_clock())

    def note(self, outcome: Outcome, published_ns: int) -> None:
        asked = outcome.request
        if not isinstance(outcome, Proposed) or not asked.plans:
            return
        chunk = outcome.chunk
        whole = published_ns - chunk.stamp_ns
        rest = whole - outcome.delay_ns
        took = (asked.late_ns, asked.waited_ns, outcome.took_ns, rest, whole, whole - outcome.took_ns)
        self.rows.append(tuple(v / 1e6 for v in took))
        self._stamps[chunk.chunk_id] = chunk.stamp_ns

    def _on_state(self, message: SupervisorState) -> None:
        since = self._stamps.pop(int(message.chunk_id), None)
        if since is not None:
            self.command_ms.append((stamp_ns(message.header.stamp) - since) / 1e6)

    def _on_timer(self) -> None:
        now_s = time.monotonic()
        if self._next_s:
            self.late_ms.append(1e3 * max(0.0, now_s - self._next_s))
        self._next_s = now_s + TIMER_S


def patched(probe: Probe) -> None:
    plain = PolicyOutput.publish

    def publish(self: PolicyOutput, outcome: Any) -> None:
        plain(self, outcome)
        probe.note(outcome, int(self._node.get_clock().now().nanoseconds))

    PolicyOutput.publish = publish  # type: ignore[method-assign]


def measure(model: PolicyModel, seconds: float, replan_ticks: int, contract: str) -> dict[str, float]:
    """From the first chunks on for `seconds`."""
    plain = PolicyOutput.publish
    with ros_context([]):
        parameters = [Parameter("replan_ticks", value=replan_ticks), Parameter("contract", value=contract)]
        node = PolicyNode(parameters, load=lambda _options, _logger: model)
        probe = Probe(node, patched)
        executor = SingleThreadedExecutor()
        executor.add_node(node)
        deadline = time.monotonic() + 30.0
        spin_for(executor, lambda: len(probe.rows) >= 3 or time.monotonic() > deadline)
        probe.rows.clear()
        probe.late_ms.clear()
        session = node._session
        assert session is not None
        before, skipped = session.clock.counters, session.thread.loop.skipped
        cpu, end = time.process_time(), time.monotonic() + seconds
        spin_for(executor, lambda: time.monotonic() > end)
        after = session.clock.counters
        result = summary(probe, seconds, (time.process_time() - cpu) / seconds)
        ticks = after.windows + after.gaps - before.windows - before.gaps
        result["lost_%"] = 100.0 * (after.gaps - before.gaps) / max(1, ticks)
        result["skipped"] = session.thread.loop.skipped - skipped
        frames = after.streams["up"].received - before.streams["up"].received
        result["frames_%"] = 100.0 * frames / (seconds * CONTRACT.fps)
        node.trigger_deactivate()
        node.destroy_node()
        executor.shutdown()
    PolicyOutput.publish = plain  # type: ignore[method-assign]
    return result


def spin_for(executor: Any, done: Callable[[], bool]) -> None:
    while not done():
        executor.spin_once(timeout_sec=0.05)


def summary(probe: Probe, seconds: float, cores: float) -> dict[str, float]:
    rows = np.array(probe.rows) if probe.rows else np.full((1, 6), np.nan)
    result: dict[str, float] = {"chunks_hz": len(probe.rows) / seconds, "cores": cores}
    for i, name in enumerate(STAGES):
        result[f"{name}_p50"], result[f"{name}_p99"] = np.percentile(rows[:, i], [50, 99])
    commands = probe.command_ms or [np.nan]
    result["observation_to_command_p50"], result["observation_to_command_p99"] = np.percentile(commands, [50, 99])
    result["timer_p50"], result["timer_p99"] = np.percentile(probe.late_ms or [np.nan], [50, 99])
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--robot", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--seconds", type=float, default=15.0)
    parser.add_argument("--checkpoint", default="mini")
    parser.add_argument("--engine", default="plain", choices=ENGINES)
    parser.add_argument("--inference", nargs="+", default=["inside", "process"], choices=("inside", "process"))
    parser.add_argument("--replan-ticks", nargs="+", type=int, default=[8, 4])
    parser.add_argument("--rates", action="store_true", help="the contract promises its streams' rates")
    given = parser.parse_args()
    if given.robot:
        robot()
        return
    children = [
        subprocess.Popen([sys.executable, __file__, "--robot"]),
        subprocess.Popen(
            [sys.executable, "-m", "sigma_ros.nodes.supervisor_node", "--ros-args", "--log-level", "error"]
        ),
    ]
    try:
        with tempfile.TemporaryDirectory() as folder:
            rows = measured(given, promised(Path(folder)) if given.rates else "so101")
    finally:
        for child in children:
            child.terminate()
            child.wait()
    print(f"load {os.getloadavg()[0]:.1f}\n\n| | {' | '.join(rows)} |\n|{' --- |' * (len(rows) + 1)}")
    for key in next(iter(rows.values())):
        unit = " [ms]" if key.endswith(("p50", "p99")) else ""
        print(f"| {key}{unit} | {' | '.join(f'{row[key]:.2f}' for row in rows.values())} |")


def promised(folder: Path) -> str:
    """The contract with the rates at which the robot here sends."""
    file = folder / "so101.yaml"
    file.write_text((shipped_config_dir() / file.name).read_text(encoding="utf-8"), encoding="utf-8")
    written(file, CONTRACT.delays, {camera.name: CONTRACT.fps for camera in CONTRACT.cameras} | {JOINTS: 50.0})
    return str(file)


def measured(given: argparse.Namespace, contract: str) -> dict[str, dict[str, float]]:
    """Each way and replan rate, with bare inference in the same process just before it."""
    rows = {}
    for inference in given.inference:
        options = PolicyOptions(
            checkpoint=given.checkpoint,
            contract=contract,
            allow_untrained=True,
            inference=inference,
            engine=given.engine,
        )
        model = load_policy(options, rclpy.logging.get_logger("bench"))
        for ticks in given.replan_ticks:
            p50, all_p50 = bare_ms(model, ticks)
            row = measure(model, given.seconds, ticks, contract)
            ratios = {"bare_p50": p50, "inference / bare": row["inference_p50"] / p50}
            possible_hz = min(1e3 / all_p50, CONTRACT.fps / ticks)
            rows[f"{inference}, {ticks}"] = ratios | {"chunks / bare": row["chunks_hz"] / possible_hz} | row
        model.close()
    return rows


if __name__ == "__main__":
    main()
