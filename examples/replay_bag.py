# SPDX-License-Identifier: Apache-2.0
"""Replay a recording through Sigma and its untouched base, and read the scores without opening the report.

    python examples/replay_bag.py --bag recordings/episode_000000 --out out/replay
    python examples/replay_bag.py --out out/replay        # records one simulated episode first

Nothing here needs ROS. A recording of the simulator needs the extra `sim` and an OpenGL library.
"""

import argparse
import subprocess
import sys
from pathlib import Path

from sigma_ros.contract_file import load_contract
from sigma_ros.evaluation.replay import ReplayOptions, replay
from sigma_ros.evaluation.report.write import write_report
from sigma_ros.evaluation.scoring.score import score
from sigma_ros.evaluation.scoring.verdict import verdict_of
from sigma_ros.model.runtime import SigmaRuntime
from sigma_ros.policy.schedule import Schedule
from sigma_ros.supervisor.limits import SupervisorLimits
from sigma_ros.values import AdapterSettings


def main() -> None:
    """Records if nothing is given, replays, writes the report and prints its headline."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bag", type=Path)
    parser.add_argument("--checkpoint", default="mini")
    parser.add_argument("--contract", default="so101")
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()

    bag = args.bag or recorded(args.out / "recordings")
    contract = load_contract(args.contract)
    runtime = SigmaRuntime.load(args.checkpoint, contract=contract, device="cpu", allow_untrained=True)
    options = ReplayOptions(
        settings=AdapterSettings(max_scale=1.0),  # how much of the residual may pass
        schedule=Schedule(replan_ticks=16, memory_stride=runtime.memory_stride),
        supervisor_limits=SupervisorLimits.for_replay(),
        ahead=True,  # work pictures out in groups: faster, the same numbers
    )
    log = replay(bag, contract=contract, runtime=runtime, options=options)
    scores = score(log)
    paths = write_report([log], scores, args.out / "report", force=True)
    print(verdict_of([log], scores).headline)
    print(f"report: {paths.page}")


def recorded(folder: Path) -> Path:
    """One episode of the simulated arm on the set-up that the small Sigma was trained on."""
    command = "record --sim --setup target --episodes 1 --seed 7 --jpeg 90 --overwrite --out"
    subprocess.run([sys.executable, "-m", "sigma_ros.cli.main", *command.split(), str(folder)], check=True)
    return folder / "episode_000000"


if __name__ == "__main__":
    main()
