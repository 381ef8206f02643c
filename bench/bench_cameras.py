# SPDX-License-Identifier: Apache-2.0
"""Two raw 640x480 cameras at 30 Hz between two processes: frames lost and latency, before and after.

    python bench/bench_cameras.py                 # 60 s each: Fast DDS as it comes, then what this package ships
    python bench/bench_cameras.py --seconds 10 --repeat 3

"before" is best effort, depth 1, without a profile; "after" is `qos.SENSOR` with `config/fastdds.xml`.
Asked: after < 1 % lost. Exit code 1 when it is not.
"""

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable

import numpy as np
import rclpy
from rclpy.executors import SingleThreadedExecutor
from rclpy.node import Node
from rclpy.qos import QoSProfile, ReliabilityPolicy
from rich.console import Console
from rich.progress import track
from rich.table import Table
from sensor_msgs.msg import Image
from std_msgs.msg import Empty

from sigma_ros.nodes.shared import qos
from sigma_ros.nodes.shared.image_messages import image_message
from sigma_ros.nodes.shared.process import use_shipped_dds_profile
from sigma_ros.nodes.shared.sensor_messages import stamp_ns

CAMERAS = ("up", "side")
RATE_HZ = 30
ASKED_LOSS = 0.01
PROFILES = ("FASTDDS_DEFAULT_PROFILES_FILE", "FASTRTPS_DEFAULT_PROFILES_FILE")


def camera_qos(variant: str) -> QoSProfile:
    return qos.SENSOR if variant == "after" else QoSProfile(depth=1, reliability=ReliabilityPolicy.BEST_EFFORT)


def publish(variant: str, seconds: float) -> None:
    rclpy.init()
    node = Node("bench_camera_driver")
    publishers = [node.create_publisher(Image, f"/bench/{name}", camera_qos(variant)) for name in CAMERAS]
    done = node.create_publisher(Empty, "/bench/done", qos.EVENT)
    executor = SingleThreadedExecutor()
    executor.add_node(node)
    while any(p.get_subscription_count() < 1 for p in [*publishers, done]):
        executor.spin_once(timeout_sec=0.1)
    picture = np.random.default_rng(0).integers(0, 256, (480, 640, 3), dtype=np.uint8)
    took_ms = []
    start = time.monotonic()
    for frame in range(int(seconds * RATE_HZ)):
        time.sleep(max(0.0, start + frame / RATE_HZ - time.monotonic()))
        for publisher in publishers:
            message = image_message(at_ns=time.time_ns(), frame_id="camera", rgb=picture)
            before = time.perf_counter()
            publisher.publish(message)
            took_ms.append((time.perf_counter() - before) * 1e3)
    time.sleep(0.5)
    done.publish(Empty())
    done.wait_for_all_acked()
    report({"publish_ms_p50": np.percentile(took_ms, 50), "publish_ms_p99": np.percentile(took_ms, 99)})
    rclpy.shutdown()


def subscribe(variant: str) -> None:
    rclpy.init()
    node = Node("bench_policy")
    received = dict.fromkeys(CAMERAS, 0)
    latency_ms: list[float] = []
    finished: list[Empty] = []

    def counter(name: str) -> Callable[[Image], None]:
        def count(message: Image) -> None:
            received[name] += 1
            latency_ms.append((time.time_ns() - stamp_ns(message.header.stamp)) / 1e6)

        return count

    for name in CAMERAS:
        node.create_subscription(Image, f"/bench/{name}", counter(name), camera_qos(variant))
    node.create_subscription(Empty, "/bench/done", finished.append, qos.EVENT)
    executor = SingleThreadedExecutor()
    executor.add_node(node)
    while not finished:
        executor.spin_once(timeout_sec=1.0)
    p50, p99 = np.percentile(latency_ms, [50, 99]) if latency_ms else (np.nan, np.nan)
    report({"received": sum(received.values()), "latency_ms_p50": p50, "latency_ms_p99": p99})
    rclpy.shutdown()


def report(values: dict[str, float]) -> None:
    sys.stdout.write(json.dumps(values) + "\n")


def measure(variant: str, seconds: float) -> dict[str, float]:
    environment = {name: value for name, value in os.environ.items() if name not in PROFILES}
    command = [sys.executable, __file__, "--seconds", str(seconds), "--variant", variant, "--role"]
    children = [
        subprocess.Popen([*command, role], stdout=subprocess.PIPE, text=True, env=environment)
        for role in ("subscribe", "publish")
    ]
    try:
        values = {}
        for child in children:
            output, _ = child.communicate(timeout=seconds + 60)
            values.update(json.loads(output))
    finally:
        for child in children:
            child.kill()
    sent = int(seconds * RATE_HZ) * len(CAMERAS)
    return {"sent": sent, "lost": 1.0 - values["received"] / sent, **values}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--repeat", type=int, default=1)
    parser.add_argument("--variant", choices=("before", "after"))
    parser.add_argument("--role", choices=("publish", "subscribe"))
    parser.add_argument("--json", help="write the rows here as well")
    args = parser.parse_args()
    if args.role:
        if args.variant == "after":
            use_shipped_dds_profile()
        publish(args.variant, args.seconds) if args.role == "publish" else subscribe(args.variant)
        return 0
    runs = [variant for variant in ("before", "after") for _ in range(args.repeat)]
    rows = [{"variant": v, **measure(v, args.seconds)} for v in track(runs, description="cameras")]
    table = Table("", "sent", "received", "lost", "latency p50 / p99 ms", "publish p50 / p99 ms")
    for row in rows:
        latency = f"{row['latency_ms_p50']:.2f} / {row['latency_ms_p99']:.2f}"
        took = f"{row['publish_ms_p50']:.2f} / {row['publish_ms_p99']:.2f}"
        table.add_row(row["variant"], f"{row['sent']}", f"{row['received']}", f"{row['lost']:.2%}", latency, took)
    Console().print(table)
    if args.json:
        with open(args.json, "w", encoding="utf-8") as file:
            json.dump(rows, file, indent=1)
    return int(any(row["lost"] >= ASKED_LOSS for row in rows if row["variant"] == "after"))


if __name__ == "__main__":
    sys.exit(main())
