# SPDX-License-Identifier: Apache-2.0
"""Bag reading with image decode and resize to 224, against rosbags; and memory against the bag's length.

Asked: no slower than rosbags' deserialise + resize on the same bag, memory flat (within 10 %).
Run: python bench/bench_bags.py
"""

import argparse
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from rosbags.highlevel import AnyReader
from rosbags.rosbag2 import CompressionFormat, CompressionMode, StoragePlugin, Writer
from shared.side_by_side import interleaved, table

from sigma_ros.bags.reader import open_bag
from sigma_ros.bags.writer import BagWriter
from sigma_ros.contract import Camera
from sigma_ros.contract_file import load_contract
from sigma_ros.streams.images import ImageMessage, decode_resized, letterbox

CONTRACT = load_contract("so101")
CAMERAS = {camera.topic: camera for camera in CONTRACT.cameras}
SIZE = 224
START_NS = 10**18
POSE_RAD = np.array([0.0, -1.65, 1.55, 1.15, 0.0, 0.05])
"""A folded SO-101, as the small model's data begin; a model refuses poses that it was never trained on."""


def scene(tick: int) -> np.ndarray:
    """A moving picture with as much detail as a camera's: JPEG makes about 40 kB of it."""
    rows, columns = np.mgrid[:480, :640]
    noise = np.random.default_rng(tick % 8).normal(0, 6, (480, 640, 1))
    colours = np.stack([(rows + 3 * tick) % 256, (columns // 2) % 256, (rows // 3 + columns // 5) % 256], axis=-1)
    return np.clip(colours + noise, 0, 255).astype(np.uint8)


def write(path: Path, ticks: int, *, storage: str = "mcap", jpeg_quality: int | None = None) -> Path:
    scenes = [scene(tick) for tick in range(16)]
    with BagWriter(path, storage="mcap" if storage == "mcap" else "sqlite3") as bag:
        for tick in range(ticks):
            stamp_ns = START_NS + CONTRACT.tick_offset_ns(tick)
            for camera in CONTRACT.cameras:
                bag.image(camera.topic, stamp_ns, camera.name, scenes[tick % 16], jpeg_quality=jpeg_quality)
            for joint in range(3):
                bag.joints(CONTRACT.joint_state_topic, stamp_ns + joint * 10**7, CONTRACT.joint_names, POSE_RAD)
    return path


def rewrite(source: Path, target: Path, mode: CompressionMode) -> Path:
    """The same messages as rosbags itself writes them: without checksums, or with zstd chunks."""
    writer = Writer(target, version=9, storage_plugin=StoragePlugin.MCAP)
    if mode is not CompressionMode.NONE:
        writer.set_compression(mode, CompressionFormat.ZSTD)
    with AnyReader([source]) as reader, writer:
        copies = {
            connection.id: writer.add_connection(
                connection.topic, connection.msgtype, msgdef=connection.msgdef.data, rihs01=connection.digest
            )
            for connection in reader.connections
        }
        for connection, stamp_ns, data in reader.messages():
            writer.write(copies[connection.id], stamp_ns, data)
    return target


def with_rosbags(path: Path) -> int:
    images = 0
    with AnyReader([path]) as reader:
        for connection, _, data in reader.messages():
            message: Any = reader.deserialize(data, connection.msgtype)
            if connection.msgtype == "sensor_msgs/msg/Image":
                letterbox(message.data.reshape(message.height, message.width, 3), SIZE)
                images += 1
            elif connection.msgtype == "sensor_msgs/msg/CompressedImage":
                letterbox(np.asarray(cv2.imdecode(message.data, cv2.IMREAD_COLOR_RGB)), SIZE)
                images += 1
    return images


def with_ours(path: Path) -> int:
    images = 0
    with open_bag(path) as bag:
        for record in bag.records():
            if isinstance(record.message, ImageMessage):
                decode_resized(record.message, camera_of(record.topic), SIZE)
                images += 1
    return images


def camera_of(topic: str) -> Camera:
    return CAMERAS[topic]


def peak_mb(path: Path) -> float:
    """Peak memory of a process of its own that reads the whole bag."""
    program = (
        "import resource, sys; sys.path.insert(0, 'bench'); from pathlib import Path; import bench_bags\n"
        "bench_bags.with_ours(Path(sys.argv[1])); print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)"
    )
    done = subprocess.run([sys.executable, "-c", program, str(path)], capture_output=True, text=True, check=True)
    return int(done.stdout) / 1024


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--ticks", type=int, default=200, help="length of the timed bags")
    parser.add_argument("--minutes", type=float, default=10.0, help="length of the long bag for the memory test")
    options = parser.parse_args()
    cv2.setNumThreads(1)
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        raw = write(root / "raw", options.ticks)
        bags = {
            "raw, MCAP, checksums (as we write it)": raw,
            "raw, MCAP, no checksums": rewrite(raw, root / "plain", CompressionMode.NONE),
            "raw, MCAP, zstd chunks": rewrite(raw, root / "zstd", CompressionMode.STORAGE),
            "raw, SQLite": write(root / "sqlite", options.ticks, storage="sqlite3"),
            "JPEG 90, MCAP, checksums": write(root / "jpeg", options.ticks, jpeg_quality=90),
        }
        for title, path in bags.items():
            assert with_ours(path) == with_rosbags(path) == 2 * options.ticks
            ways = {
                "rosbags deserialise + resize": lambda p=path: with_rosbags(p),
                "sigma": lambda p=path: with_ours(p),
            }
            print(f"\n### {title}\n")
            print(
                table(interleaved(ways), unit="image", per=2 * options.ticks, reference="rosbags deserialise + resize")
            )
        print("\n### Peak memory of a process that reads the bag (JPEG)\n\n| minutes | peak [MB] |\n| --- | --- |")
        for minutes in (options.minutes / 10, options.minutes):
            path = write(root / f"long_{minutes}", round(minutes * 1800), jpeg_quality=90)
            print(f"| {minutes:g} | {peak_mb(path):.1f} |")


if __name__ == "__main__":
    main()
