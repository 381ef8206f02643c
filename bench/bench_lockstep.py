# SPDX-License-Identifier: Apache-2.0
"""A replay through the nodes (lockstep, DDS) against `sigma replay` of the same recording with the small model.

Asked: at least half of the graph-free speed. Times are the reports' own, from the first record to the last tick. Policy
and supervisor stay up for all turns; the two ways take turns.
Run: python bench/bench_lockstep.py
"""

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median

from bench_bags import write

from sigma_ros.contract_file import load_contract

ASKED = 0.5
LIMIT_S = 600.0
CONTRACT = "extends: so101\nname: so101_bench\naction: {source: next_state}\n"
"""The bench's bags hold no commands."""


def start(node: str, *args: object) -> subprocess.Popen:
    return subprocess.Popen([sys.executable, "-m", f"sigma_ros.nodes.{node}", *map(str, args)])


def finished(command: subprocess.Popen, out: Path) -> float:
    """How many times real time, as the report says."""
    try:
        if command.wait(LIMIT_S) != 0:
            raise SystemExit(f"{command.args!r} ended with {command.returncode}")
    finally:
        command.kill()
    return json.loads((out / "report.json").read_text())["timing"]["realtime_factor"]


def measure(bag: Path, contract: Path, root: Path, repetitions: int) -> dict[str, list[float]]:
    nodes = [
        start("policy_node", "--lockstep", "true", "--allow_untrained", "true", "--contract", contract),
        start("supervisor_node", "--lockstep", "true", "--contract", contract),
    ]
    offline = [sys.executable, "-m", "sigma_ros.cli.main", "replay", "--checkpoint", "mini", "--allow-untrained"]
    offline += ["--contract", str(contract), "--bag", str(bag), "--out"]
    took: dict[str, list[float]] = {"sigma replay": [], "through the nodes": []}
    try:
        for turn in range(repetitions):
            out = root / f"nodes_{turn}"
            through = start("replay_node", "--bag", bag, "--out", out, "--contract", contract, "--start_timeout_s", 200)
            took["through the nodes"].append(finished(through, out))
            out = root / f"offline_{turn}"
            took["sigma replay"].append(finished(subprocess.Popen([*offline, str(out)]), out))
        for node in nodes:
            node.send_signal(signal.SIGINT)
            node.wait(LIMIT_S)
    finally:
        for node in nodes:
            node.kill()
            node.wait()
    return took


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=20.0, help="length of the recording")
    parser.add_argument("--repetitions", type=int, default=3)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        contract = root / "so101_bench.yaml"
        contract.write_text(CONTRACT)
        bag = write(root / "bag", round(options.seconds * load_contract("so101").fps), jpeg_quality=90)
        took = measure(bag, contract, root, options.repetitions)
    load = os.getloadavg()[0]
    print(f"\n{os.cpu_count()} cores, load {load:.1f} ({time.strftime('%H:%M')}), {options.seconds:g} s of recording\n")
    print("| | x real time, each turn | median |\n| --- | --- | ---: |")
    for name, factors in took.items():
        print(f"| {name} | {', '.join(f'{factor:.2f}' for factor in factors)} | {median(factors):.2f} |")
    ratio = median(took["through the nodes"]) / median(took["sigma replay"])
    print(f"\nthrough the nodes / sigma replay: {ratio:.2f} (asked >= {ASKED})")


if __name__ == "__main__":
    main()
