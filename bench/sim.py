# SPDX-License-Identifier: Apache-2.0
"""How often the expert succeeds and how fast the simulator is, as a Markdown table.

Run from the repository: python bench/sim.py [--seeds 100]
"""

import argparse
import time
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from scipy.stats import binomtest

from sigma_ros.sim.cameras import chosen_backend
from sigma_ros.sim.demonstration import Demonstration, demonstrate
from sigma_ros.sim.environment import SimArm
from sigma_ros.sim.recorder import BagFormat, write_demonstration
from sigma_ros.sim.setups import SETUPS, SOURCE


def p50_ms(work: Callable[[int], object], repeats: int) -> float:
    work(0)
    times = []
    for i in range(repeats):
        start = time.perf_counter()
        work(i)
        times.append(time.perf_counter() - start)
    return 1e3 * float(np.median(times))


def success_rows(seeds: int) -> list[tuple[str, str, str]]:
    rows = []
    for setup in SETUPS.values():
        with SimArm(setup) as arm:
            start = time.perf_counter()
            episodes = [demonstrate(arm, seed) for seed in range(seeds)]
            seconds = time.perf_counter() - start
        good = sum(episode.success for episode in episodes)
        low, high = binomtest(good, seeds).proportion_ci(method="wilson")
        simulated = sum(episode.ticks for episode in episodes) / arm.contract.fps
        name = f"expert, {setup.name}"
        rows += [
            (f"{name}: success over {seeds} seeds", f"{good / seeds:.1%} [{low:.1%}, {high:.1%}]", ">= 95 %"),
            (f"{name}: length of an episode", f"{simulated / seeds:.1f} s", "about 8 s"),
            (f"{name}: speed without pictures", f"{simulated / seconds:.0f} x real time", ""),
        ]
    return rows


def picture_rows(arm: SimArm, episode: Demonstration) -> list[tuple[str, str, str]]:
    states = episode.states
    rows = []
    for camera in arm.setup.camera_names:
        ms = p50_ms(lambda i, name=camera: arm.draw(states[i], name), 60)  # type: ignore[misc]
        rows.append((f"picture 640x480, {camera}, {chosen_backend()}", f"{ms:.1f} ms", "< 45 ms"))
    with arm.open_beauty() as cameras:
        ms = p50_ms(lambda i: cameras.render(states[i], "beauty"), 5)
    rows.append(("picture 1280x960 for documents", f"{ms:.0f} ms", ""))
    return rows


def recording_rows(arm: SimArm, episode: Demonstration) -> list[tuple[str, str, str]]:
    rows = []
    for name, how in (("raw", BagFormat()), ("JPEG 90", BagFormat(jpeg_quality=90))):
        with TemporaryDirectory() as folder:
            start = time.perf_counter()
            path = Path(folder) / "bag"
            write_demonstration(path, arm, episode, how)
            seconds = time.perf_counter() - start
            size = sum(file.stat().st_size for file in path.iterdir())
        speed = episode.ticks / arm.contract.fps / seconds
        rows.append((f"recording with pictures, {name}", f"{speed:.1f} x real time", "> 1 x"))
        rows.append((f"size of an episode, {name}", f"{size / 1e6:.0f} MB", ""))
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=100)
    seeds = parser.parse_args().seeds
    rows = success_rows(seeds)
    with SimArm(SOURCE) as arm:
        episode = demonstrate(arm, 0)
        rows += picture_rows(arm, episode) + recording_rows(arm, episode)
    print("| simulator | measured | asked |\n| --- | --- | --- |")
    for row in rows:
        print(f"| {' | '.join(row)} |")


if __name__ == "__main__":
    main()
