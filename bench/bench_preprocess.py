# SPDX-License-Identifier: Apache-2.0
"""`training.preprocess` on a LeRobot data set with videos against a straightforward loop over `LeRobotDataset`.

Both end with the same: windows of 16 ticks of two cameras at the model's size, their states and 16 actions. The loop
asks the data set for each window (`delta_timestamps`), as the original's preprocessing does, and resizes its pictures;
`row by row` asks for every row once and cuts windows from that. Asked: at least 4 times as fast, at most 1.5 GiB.
Run: python bench/bench_preprocess.py --bags data/target/episode_000000 (bags of `sigma record --sim`)
"""

import argparse
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch
from lerobot.datasets.lerobot_dataset import LeRobotDataset
from lerobot.policies.common.vla_utils import resize_with_pad_torch

from sigma_ros.contract_file import load_contract
from training.shards import PreprocessOptions, preprocess
from training.sources import dataset_sources

CONTRACT = load_contract("so101")
TICKS = 16


def ours(dataset: Path, out: Path, size_px: int) -> int:
    """Windows that `training.preprocess` made."""
    options = PreprocessOptions(
        out=out,
        contract=CONTRACT,
        image_size_px=size_px,
        stride=TICKS,
        min_motion=0.0,
        hold_out_every=0,
        skip_broken=False,
    )
    meta = preprocess(
        dataset_sources(str(dataset), [0], CONTRACT, revision=None), options, described="b", revision=None
    )
    return len(meta.windows)


def by_window(dataset: Path, size_px: int) -> int:
    """Windows that a loop over the data set gives, each asked for with its past and its actions."""
    past = [(i - TICKS + 1) / CONTRACT.fps for i in range(TICKS)]
    ahead = [i / CONTRACT.fps for i in range(TICKS)]
    keys = [camera.dataset_key for camera in CONTRACT.cameras]
    times = {**dict.fromkeys(keys, past), "observation.state": past, "action": ahead}
    rows = LeRobotDataset("local/bench", root=dataset, delta_timestamps=times, episodes=[0])
    count = 0
    for row in range(0, len(rows) - TICKS + 1, TICKS):
        sample = rows[row]
        for key in keys:
            _resized(sample[key], size_px)
        count += 1
    return count


def by_row(dataset: Path, size_px: int) -> int:
    """Windows that a loop over single rows allows."""
    rows = LeRobotDataset("local/bench", root=dataset, episodes=[0])
    for row in range(len(rows)):
        sample = rows[row]
        for camera in CONTRACT.cameras:
            _resized(sample[camera.dataset_key][None], size_px)
    return len(range(0, len(rows) - TICKS + 1, TICKS))


def _resized(pictures: torch.Tensor, size_px: int) -> torch.Tensor:
    small = resize_with_pad_torch(pictures.permute(0, 2, 3, 1), size_px, size_px)
    return (small * 255.0).round().to(torch.uint8)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bags", type=Path, help="a bag; one simulated episode is recorded without it")
    parser.add_argument("--image-size", type=int, default=224)
    args = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as scratch:
        bag = args.bags
        if bag is None:
            command = "record --sim --setup target --episodes 1 --jpeg 90 --out"
            _sigma(*command.split(), str(Path(scratch) / "bag"))
            bag = Path(scratch) / "bag"
        dataset = Path(scratch) / "dataset"
        _sigma("dataset", "--bags", str(bag), "--out", str(dataset))
        ways: dict[str, Callable[[], int]] = {
            "LeRobotDataset, window by window": lambda: by_window(dataset, args.image_size),
            "LeRobotDataset, row by row": lambda: by_row(dataset, args.image_size),
            "training.preprocess": lambda: ours(dataset, Path(scratch) / "out", args.image_size),
        }
        _report(ways, Path(scratch) / "out")


def _sigma(*words: str) -> None:
    subprocess.run([sys.executable, "-m", "sigma_ros.cli.main", *words], check=True, stderr=subprocess.DEVNULL)


def _report(ways: dict[str, Callable[[], int]], out: Path) -> None:
    print("| way | windows | time [s] | CPU [s] | CPU [ms/window] |\n| --- | --- | --- | --- | --- |")
    cpu_s = {}
    for name, work in ways.items():
        shutil.rmtree(out, ignore_errors=True)
        wall, cpu = time.perf_counter(), time.process_time()
        windows = work()
        cpu_s[name] = (time.process_time() - cpu) / windows
        wall_s = time.perf_counter() - wall
        print(f"| {name} | {windows} | {wall_s:.1f} | {cpu_s[name] * windows:.1f} | {cpu_s[name] * 1e3:.0f} |")
    ours_s = cpu_s["training.preprocess"]
    print(
        f"\n{cpu_s['LeRobotDataset, window by window'] / ours_s:.2f} times less CPU than window by window (asked 4), ",
        end="",
    )
    print(f"{cpu_s['LeRobotDataset, row by row'] / ours_s:.2f} times less than row by row")
    peak_gb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 2**30
    print(f"peak memory of this process, all ways together: {peak_gb:.2f} GiB")


if __name__ == "__main__":
    main()
