# SPDX-License-Identifier: Apache-2.0
"""Replay with the small model: speed against real time, memory against the recording's length, nodes left out.

Asked: at least 3 times real time on 2 idle cores; peak memory of 10 minutes within 10 % of that of 1 minute.
Run: python bench/bench_replay.py            (--minutes 10 for the memory rows; they take a while)
"""

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from bench_bags import write

from sigma_ros.contract_file import load_contract

WAYS = {"tick by tick": False, "in groups ahead": True}
PROGRAM = """
import resource, sys, time
from dataclasses import replace
from sigma_ros.contract_file import load_contract
from sigma_ros.supervisor.limits import SupervisorLimits
from sigma_ros.policy.schedule import Schedule
from sigma_ros.evaluation.replay import ReplayOptions, replay
from sigma_ros.evaluation.report.write import write_report
from sigma_ros.evaluation.scoring.score import score
from sigma_ros.model.runtime import SigmaRuntime
from sigma_ros.values import AdapterSettings
from pathlib import Path
bag, ahead, out = sys.argv[1:4]
contract = replace(load_contract("so101"), action_source="next_state")
runtime = SigmaRuntime.load("mini", contract=contract, allow_untrained=True, device="cpu")
options = ReplayOptions(settings=AdapterSettings(), schedule=Schedule(8, 16),
                        supervisor_limits=SupervisorLimits.for_replay(), ahead=ahead == "True")
wall, cpu = time.perf_counter(), time.process_time()
log = replay(bag, contract=contract, runtime=runtime, options=options)
wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
if out:
    write_report([log], score(log), Path(out))
print(log.bag.duration_s, wall, cpu, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)
"""


def run(bag: Path, *, ahead: bool, out: str = "") -> tuple[float, float, float, float]:
    """Seconds of recording, wall and CPU seconds, peak memory [MB] of a process of its own."""
    command = [sys.executable, "-c", PROGRAM, str(bag), str(ahead), out]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    duration_s, wall_s, cpu_s, peak_mb = (float(word) for word in done.stdout.split()[-4:])
    return duration_s, wall_s, cpu_s, peak_mb


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=20.0, help="length of the timed recording")
    parser.add_argument("--repetitions", type=int, default=3)
    parser.add_argument("--minutes", type=float, default=0.0, help="length of the long recording for the memory rows")
    options = parser.parse_args()
    fps = load_contract("so101").fps
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        bag = write(root / "timed", round(options.seconds * fps), jpeg_quality=90)
        runs: dict[str, list[tuple[float, float, float, float]]] = {way: [] for way in WAYS}
        for _ in range(options.repetitions):
            for way, ahead in WAYS.items():
                runs[way].append(run(bag, ahead=ahead))
        load = os.getloadavg()[0]
        print(
            f"{os.cpu_count()} cores, load {load:.1f} ({time.strftime('%H:%M')}), {options.seconds:g} s of recording\n"
        )
        print("| | best x real time | CPU seconds for one of recording | peak [MB] |\n| --- | ---: | ---: | ---: |")
        for way, took in runs.items():
            fastest = max(duration / wall for duration, wall, _, _ in took)
            cpu = min(cpu / duration for duration, _, cpu, _ in took)
            print(f"| {way} | {fastest:.2f} | {cpu:.2f} | {max(peak for *_, peak in took):.0f} |")
        if options.minutes:
            print("\n| minutes | peak with report [MB] |\n| ---: | ---: |")
            for minutes in (options.minutes / 10, options.minutes):
                path = write(root / f"long_{minutes:g}", round(minutes * 60 * fps), jpeg_quality=80)
                peak_mb = run(path, ahead=True, out=str(root / f"report_{minutes:g}"))[3]
                print(f"| {minutes:g} | {peak_mb:.0f} |", flush=True)


if __name__ == "__main__":
    main()
