# SPDX-License-Identifier: Apache-2.0
"""Replay with the small model: one bag, one bag through the nodes, many bags on two workers, memory.

Asked, on 2 idle cores: one bag at least 3 times faster than real time, in lockstep through the nodes at least 0.7 of
that; many bags on 2 workers 8 times faster, and 1.8 times sooner than on 1, from the moment at which every worker has
its model; peak memory of 10 minutes within 10 % of that of 1 minute. The policy plans as often as it does by default.
Run: python bench/bench_replay.py            (--minutes 10 for the memory rows; they take a while)
"""

import argparse
import importlib.util
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from functools import partial
from pathlib import Path
from statistics import median

from bench_bags import write

from sigma_ros.cli.scores.evaluate_run import load_runtime
from sigma_ros.contract import Contract
from sigma_ros.contract_file import load_contract
from sigma_ros.evaluation.batch import BagRow, BatchSpec, Unit, unit_of
from sigma_ros.evaluation.fleet import Workers, run_units
from sigma_ros.evaluation.replay import ReplayOptions
from sigma_ros.policy.schedule import REPLAN_TICKS, Schedule
from sigma_ros.supervisor.limits import SupervisorLimits
from sigma_ros.values import ENGINES, AdapterSettings

LIMIT_S = 600.0
BAG_S = 8
"""Length of each of the recordings for the workers."""
CONTRACT = "extends: so101\nname: so101_bench\naction: {source: next_state}\n"
"""The bench's bags hold no commands."""

OPTIONS = ReplayOptions(
    settings=AdapterSettings(), schedule=Schedule(), supervisor_limits=SupervisorLimits.for_replay(), ahead=True
)
PROGRAM = """
import resource, sys, time
from dataclasses import replace
from pathlib import Path
sys.path.insert(0, "bench")
from bench_replay import OPTIONS
from sigma_ros.contract_file import load_contract
from sigma_ros.evaluation.replay import replay
from sigma_ros.evaluation.report.write import write_report
from sigma_ros.evaluation.scoring.score import score
from sigma_ros.model.runtime import SigmaRuntime
from sigma_ros.policy.schedule import Schedule
bag, contract, ahead, out, engine, replan_ticks = sys.argv[1:7]
contract = load_contract(contract)
runtime = SigmaRuntime.load("mini", contract=contract, allow_untrained=True, device="cpu", engine=engine)
options = replace(OPTIONS, ahead=ahead == "True", schedule=Schedule(int(replan_ticks)))
wall, cpu = time.perf_counter(), time.process_time()
log = replay(bag, contract=contract, runtime=runtime, options=options)
wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
if out:
    write_report([log], score(log), Path(out))
print(log.bag.duration_s, wall, cpu, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)
"""


def run(
    bag: Path, contract: Path, *, ahead: bool, out: str = "", engine: str = "plain", replan_ticks: int = REPLAN_TICKS
) -> tuple[float, float, float, float]:
    """Seconds of recording, wall and CPU seconds, peak memory [MB] of a process of its own."""
    command = [sys.executable, "-c", PROGRAM, str(bag), str(contract), str(ahead), out, engine, str(replan_ticks)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    duration_s, wall_s, cpu_s, peak_mb = (float(word) for word in done.stdout.split()[-4:])
    return duration_s, wall_s, cpu_s, peak_mb


def one_bag(bag: Path, contract: Path, repetitions: int, engines: list[str], replan_ticks: int) -> None:
    print("| | best x real time | CPU seconds for one of recording | peak [MB] |\n| --- | ---: | ---: | ---: |")
    ways = {"tick by tick": (False, "plain")} | {f"in groups ahead, {engine}": (True, engine) for engine in engines}
    for way, (ahead, engine) in ways.items():
        how = {"ahead": ahead, "engine": engine, "replan_ticks": replan_ticks}
        took = [run(bag, contract, **how) for _ in range(repetitions)]
        fastest = max(duration / wall for duration, wall, _, _ in took)
        cpu = min(cpu / duration for duration, _, cpu, _ in took)
        print(f"| {way} | {fastest:.2f} | {cpu:.2f} | {max(peak for *_, peak in took):.0f} |", flush=True)


def node(name: str, *args: object) -> subprocess.Popen:
    return subprocess.Popen([sys.executable, "-m", f"sigma_ros.nodes.{name}", *map(str, args)])


def finished(command: subprocess.Popen, out: Path) -> float:
    """How many times real time, as the report says."""
    try:
        if command.wait(LIMIT_S) != 0:
            raise SystemExit(f"{command.args!r} ended with {command.returncode}")
    finally:
        command.kill()
    return json.loads((out / "report.json").read_text())["timing"]["realtime_factor"]


def through_nodes(bag: Path, contract: Path, root: Path, repetitions: int) -> None:
    """Policy and supervisor stay up for all turns; the two ways take turns."""
    common = ("--lockstep", "true", "--contract", contract)
    nodes = [node("policy_node", *common, "--allow_untrained", "true"), node("supervisor_node", *common)]
    offline = [sys.executable, "-m", "sigma_ros.cli.main", "replay", "--checkpoint", "mini", "--allow-untrained"]
    offline += ["--contract", str(contract), "--bag", str(bag), "--out"]
    took: dict[str, list[float]] = {"sigma replay": [], "through the nodes": []}
    try:
        for turn in range(repetitions):
            out = root / f"nodes_{turn}"
            through = node("replay_node", "--bag", bag, "--out", out, "--contract", contract, "--start_timeout_s", 200)
            took["through the nodes"].append(finished(through, out))
            out = root / f"offline_{turn}"
            took["sigma replay"].append(finished(subprocess.Popen([*offline, str(out)]), out))
        for each in nodes:
            each.send_signal(signal.SIGINT)
            each.wait(LIMIT_S)
    finally:
        for each in nodes:
            each.kill()
            each.wait()
    print("\n| | x real time, each turn | median |\n| --- | --- | ---: |")
    for name, factors in took.items():
        print(f"| {name} | {', '.join(f'{factor:.2f}' for factor in factors)} | {median(factors):.2f} |")
    ratio = median(took["through the nodes"]) / median(took["sigma replay"])
    print(f"\nthrough the nodes / sigma replay: {ratio:.2f} (asked >= 0.7)")


def evaluated(
    bags: list[Path], contract: Contract, out: Path, workers: int, *, engine: str, replan_ticks: int
) -> tuple[float, float]:
    """Seconds until the workers were up, and seconds for the bags from there on."""
    options = replace(OPTIONS, schedule=Schedule(replan_ticks))
    load = partial(load_runtime, "mini", contract, {"allow_untrained": True, "device": "cpu", "engine": engine})
    how = BatchSpec(contract=contract, options=options, load=load, out=out, stamp="", pages=False, conditions={})
    ends: list[tuple[float, float]] = []

    def on_row(row: BagRow, _unit: Unit) -> None:
        assert row.status == "complete", row
        ends.append((time.perf_counter(), row.wall_s))

    started, units = time.perf_counter(), [unit_of(bag, how) for bag in bags]
    run_units(units, how, Workers(count=workers), on_row=on_row, stopped=lambda: False)
    begun = max(end - wall for end, wall in ends[:workers])  # when the last worker began its first bag
    first = min(end - wall for end, wall in ends)
    return first - started, ends[-1][0] - first - (begun - first) / 2


def many_bags(bags: list[Path], contract: Contract, root: Path, engine: str, replan_ticks: int) -> None:
    print(
        f"\n| workers, {engine} | up after [s] | bags [s] | ratio | x real time |\n| ---: | ---: | ---: | ---: | ---: |"
    )
    reference = 0.0
    for workers in (1, 2):
        out = root / f"out_{engine}_{workers}"
        up_s, took_s = evaluated(bags, contract, out, workers, engine=engine, replan_ticks=replan_ticks)
        reference = reference or took_s
        print(
            f"| {workers} | {up_s:.1f} | {took_s:.1f} | {reference / took_s:.2f} | {BAG_S * len(bags) / took_s:.2f} |",
            flush=True,
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=20.0, help="length of the timed recording")
    here = ["plain", *(["onnx"] if importlib.util.find_spec("onnxruntime") else [])]
    parser.add_argument("--engines", nargs="+", default=here, choices=ENGINES)
    parser.add_argument("--replan-ticks", type=int, default=REPLAN_TICKS)
    parser.add_argument("--repetitions", type=int, default=3)
    parser.add_argument("--bags", type=int, default=8, help="recordings for the two workers, of 8 s each")
    parser.add_argument("--minutes", type=float, default=0.0, help="length of the long recording for the memory rows")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        root, contract = Path(folder), Path(folder) / "so101_bench.yaml"
        contract.write_text(CONTRACT)
        fps = load_contract(contract).fps
        bag = write(root / "timed", round(options.seconds * fps), jpeg_quality=90)
        print(
            f"{os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}, {options.seconds:g} s of recording, "
            f"a chunk every {options.replan_ticks} ticks\n"
        )
        one_bag(bag, contract, options.repetitions, options.engines, options.replan_ticks)
        through_nodes(bag, contract, root, options.repetitions)
        bags = [write(root / f"bag_{i}", round(BAG_S * fps), jpeg_quality=90) for i in range(options.bags)]
        for engine in options.engines:
            many_bags(bags, load_contract(contract), root, engine, options.replan_ticks)
        if options.minutes:
            print("\n| minutes | peak with report [MB] |\n| ---: | ---: |")
            for minutes in (options.minutes / 10, options.minutes):
                path = write(root / f"long_{minutes:g}", round(minutes * 60 * fps), jpeg_quality=80)
                peak_mb = run(path, contract, ahead=True, out=str(root / f"report_{minutes:g}"))[3]
                print(f"| {minutes:g} | {peak_mb:.0f} |", flush=True)


if __name__ == "__main__":
    main()
