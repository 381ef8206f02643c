#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""The supervisor as a process: start, memory, tick gaps and added latency: idle, in a flood, all cores busy, and both.

    python bench/bench_supervisor_process.py [--seconds 15]

Ten minutes each: `--seconds 600`. Start: from the process's birth to its first tick. Added latency: from the tick
(the state's header stamp) to the command's source time, and on to its arrival at a subscriber, which under load waits
for the subscriber too. Gaps: between the source times of successive states.

Asked: start < 1 s, no torch, RSS < 120 MB; latency p99 <= 10 ms, max <= 20 ms; gap
max <= 40 ms. Numbers of a shared machine are only as good as its load, which is printed.
"""

import argparse
import multiprocessing
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from safety.rig import Rig, rig
from sigma_ros.nodes.shared.sensor_messages import stamp_ns

STARTS = 5
LOADS = ("idle", "flood", "busy cores", "flood beside busy cores")


def burn(seconds: float) -> None:
    """Keeps one core busy."""
    end_s = time.monotonic() + seconds
    while time.monotonic() < end_s:
        sum(range(10_000))


def starts() -> list[float]:
    """Seconds from the birth of the process to its first tick, in a ROS domain with nobody else."""
    taken = []
    for _ in range(STARTS):
        began_s = time.monotonic()
        command = [sys.executable, "-m", "sigma_ros.nodes.supervisor_node"]
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as process:
            assert process.stdout is not None
            next(line for line in process.stdout if "DISENGAGED" in line)
            taken.append(time.monotonic() - began_s)
            process.terminate()
    return taken


def watch(bench: Rig, seconds: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Gaps between ticks, latency up to the command's source time, and up to its arrival, in ms."""
    bench.states.clear()
    bench.commands.clear()
    bench.arrivals.clear()
    states, arrivals = [], {}
    end_s = time.monotonic() + seconds
    while time.monotonic() < end_s:
        bench.rest(1.0)
        states += [entry for entry in bench.states if not states or entry[0] > states[-1][0]]
        arrivals |= dict(bench.arrivals)
    gaps = np.diff([at for at, _ in states]) / 1e6
    stamps = [(stamp_ns(said.header.stamp), at) for at, said in states]
    sent = np.array(sorted(arrivals))
    made, arrived = [], []
    for tick_ns, state_ns in stamps:
        index = int(np.searchsorted(sent, state_ns)) - 1
        if index >= 0 and tick_ns <= sent[index] <= state_ns:
            made.append((sent[index] - tick_ns) / 1e6)
            arrived.append((arrivals[int(sent[index])] - tick_ns) / 1e6)
    return gaps, np.array(made), np.array(arrived)


def row(name: str, values: np.ndarray, unit: str = "ms") -> None:
    p50, p99, worst = np.percentile(values, [50, 99, 100])
    print(f"{name:44s} p50 {p50:8.2f}  p99 {p99:8.2f}  max {worst:8.2f} {unit}  (n {len(values)})", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=15.0)
    options = parser.parse_args()
    cores = os.cpu_count() or 1
    print(f"{cores} cores, load before: {os.getloadavg()[0]:.1f}")
    row("start to first tick", np.array(starts()), "s")
    with tempfile.TemporaryDirectory() as folder, rig(Path(folder) / "log") as bench:
        assert bench.supervisor is not None
        print(f"{'memory, descriptors, threads':44s} {bench.supervisor.resources()}")
        for name in LOADS:
            helpers: list[multiprocessing.Process | subprocess.Popen[bytes]] = []
            if "busy" in name:
                helpers += [multiprocessing.Process(target=burn, args=(options.seconds + 2,)) for _ in range(cores)]
                for helper in helpers:
                    helper.start()  # type: ignore[union-attr]
            if "flood" in name:
                command = [sys.executable, "-m", "safety.fault_acts", "--seconds", str(options.seconds)]
                helpers += [subprocess.Popen(command)]
                bench.rest(1.5)
            gaps, made, arrived = watch(bench, options.seconds)
            row(f"tick gap, {name}", gaps)
            row(f"tick to command sent, {name}", made)
            row(f"tick to command received, {name}", arrived)
            for helper in helpers:
                helper.join() if isinstance(helper, multiprocessing.Process) else helper.wait()
        print(f"{'after all that':44s} {bench.supervisor.resources()}")
        print((Path(folder) / "log").read_text(errors="replace").splitlines()[1])


if __name__ == "__main__":
    main()
