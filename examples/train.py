# SPDX-License-Identifier: Apache-2.0
"""Train Sigma on your recordings: shards, a run, and scores on an episode it has not seen.

    python examples/train.py --dataset lerobot/svla_so101_pickplace --base lerobot/pi05_base --steps 300 --out out/mine
    python examples/train.py --bags recordings --steps 20 --out out/tiny      # the small base, on a laptop

The three calls are the commands of docs/training.md. Run it again to go on with a run that was cut.
"""

import argparse
import sys
from pathlib import Path

from training import evaluate, preprocess
from training import train as training


def main() -> int:
    """Runs the three commands; the exit code is that of the first that fails."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--dataset", help="a LeRobot data set: folder or Hub id")
    source.add_argument("--bags", help="a folder of recordings")
    parser.add_argument("--contract", default="so101")
    parser.add_argument("--base", default="mini")
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--batch", type=int, default=4, help="streams of four windows each")
    parser.add_argument("--phase-step", type=int, default=4, help="every how many ticks a window may begin")
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()

    shards, run = str(args.out / "shards"), str(args.out / "run")
    recordings = ["--dataset", args.dataset] if args.dataset else ["--bags", args.bags]
    state = ["--resume"] if (args.out / "run" / "state").is_dir() else []
    small = ["--image-size", "112"] if args.base == "mini" else []
    common = ["--dataset_dir", shards]
    steps = (
        (preprocess.main, [*recordings, "--contract", args.contract, *small, "--hold-out-every", "2", "--out", shards]),
        (training.main, [*common, "--base_model_id", args.base, "--output_dir", run, "--max_steps", str(args.steps),
                         "--batch_size", str(args.batch), "--phase_step", str(args.phase_step),
                         "--gradient_accumulation_steps", "1", "--allow_untrained", *state]),
        (evaluate.main, [*common, "--checkpoint", f"{run}/checkpoint", "--out", str(args.out / "scores"),
                         "--train_episodes", "0", "--allow_untrained", "--force"]),
    )  # fmt: skip
    return next((code for command, arguments in steps if (code := command(arguments))), 0)


if __name__ == "__main__":
    sys.exit(main())
