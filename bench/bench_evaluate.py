# SPDX-License-Identifier: Apache-2.0
"""Many bags: 2 Ray workers against 1 on the small model.

Asked: 2 workers on 2 idle cores finish at least 1.8 times sooner than 1. Times count from the moment at which every
worker has its model (coming up is shown apart: it is the same for ten bags and for ten thousand).
Run: python bench/bench_evaluate.py --bags 8
"""

import argparse
import os
import tempfile
import time
from dataclasses import replace
from functools import partial
from pathlib import Path

from bench_bags import write

from sigma_ros.cli.scores.evaluate import load_runtime
from sigma_ros.contract_file import load_contract
from sigma_ros.evaluation.batch import BagRow, BatchSpec, Unit, unit_of
from sigma_ros.evaluation.fleet import Workers, run_units
from sigma_ros.evaluation.replay import ReplayOptions
from sigma_ros.policy.schedule import Schedule
from sigma_ros.supervisor.limits import SupervisorLimits
from sigma_ros.values import AdapterSettings


def spec(out: Path) -> BatchSpec:
    contract = replace(load_contract("so101"), action_source="next_state")  # the bench's bags hold no commands
    options = ReplayOptions(
        settings=AdapterSettings(),
        schedule=Schedule(8, 16),
        supervisor_limits=SupervisorLimits.for_replay(),
        ahead=True,
    )
    load = partial(load_runtime, "mini", contract, {"allow_untrained": True, "device": "cpu"})
    return BatchSpec(contract=contract, options=options, load=load, out=out, stamp="", pages=False, conditions={})


def timed(bags: list[Path], out: Path, workers: int) -> tuple[float, float, list[BagRow]]:
    """Seconds until the workers were up, seconds for the bags from there on, and the rows."""
    how = spec(out)
    ends: list[tuple[float, float]] = []

    def on_row(row: BagRow, _unit: Unit) -> None:
        ends.append((time.perf_counter(), row.wall_s))

    started = time.perf_counter()
    rows = run_units(
        [unit_of(bag, how) for bag in bags], how, Workers(count=workers), on_row=on_row, stopped=lambda: False
    )
    begun = max(end - wall for end, wall in ends[:workers])  # when the last worker began its first bag
    first = min(end - wall for end, wall in ends)
    busy_before = begun - first
    return first - started, ends[-1][0] - first - busy_before / 2, rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--bags", type=int, default=8)
    parser.add_argument("--seconds", type=float, default=8.0, help="length of each")
    options = parser.parse_args()
    fps = load_contract("so101").fps
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        ticks = round(options.seconds * fps)
        bags = [write(root / f"bag_{i}", ticks, jpeg_quality=90) for i in range(options.bags)]
        print(f"{os.cpu_count()} cores, load {os.getloadavg()[0]:.1f} ({time.strftime('%H:%M')})\n")
        print("| workers | up after [s] | bags [s] | ratio |\n| ---: | ---: | ---: | ---: |")
        reference = 0.0
        for workers in (1, 2):
            up_s, took_s, rows = timed(bags, root / f"out_{workers}", workers)
            assert all(row.status == "complete" for row in rows), rows
            reference = reference or took_s
            print(f"| {workers} | {up_s:.1f} | {took_s:.1f} | {reference / took_s:.2f} |", flush=True)


if __name__ == "__main__":
    main()
