# SPDX-License-Identifier: Apache-2.0
"""Peak memory and time of loading pi0.5 in bfloat16: LeRobot's loader against this package's.

    python bench/bench_model_load.py                   # full widths, 4 of 18 layers: a few GB, a minute
    python bench/bench_model_load.py --size full       # as published: LeRobot needs about 20 GB; see `free -g`

Each loader runs in a process of its own on the same file (random float32 weights, as pi05_base is stored).
`peak` is the kernel's VmHWM; a mapped file counts in it, so the anonymous part is given as well.
Asked: ours at most 0.85 x LeRobot's. Exit code 1 when it is more, or a loader fails.
"""

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

from lerobot.configs import PreTrainedConfig
from lerobot.policies.pi05.modeling_pi05 import PI05Policy
from random_base import sizes_of, write_random_checkpoint
from rich.console import Console
from rich.table import Table

from sigma_ros.contract_file import load_contract
from sigma_ros.model.base_checkpoint import load_base
from sigma_ros.model.sizes import network_sizes

ASKED = 0.85


def memory_gb(field: str) -> float:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(field + ":"):
            return int(line.split()[1]) * 1024 / 1e9
    raise RuntimeError(f"/proc/self/status has no {field}")


class AnonymousPeak(threading.Thread):
    """The largest RssAnon seen, looked at every 10 ms."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.peak_gb = 0.0
        self.start()

    def run(self) -> None:
        while True:
            self.peak_gb = max(self.peak_gb, memory_gb("RssAnon"))
            time.sleep(0.01)


def load(who: str, folder: Path, size: str) -> dict[str, object]:
    """Runs in a child that has the libraries imported."""
    libraries_gb = memory_gb("VmRSS")
    anonymous = AnonymousPeak()
    started = time.perf_counter()
    if who == "lerobot":
        config = PreTrainedConfig.from_pretrained(folder)
        config.dtype = "bfloat16"
        with network_sizes(sizes_of(size)):
            policy = PI05Policy.from_pretrained(folder, config=config)
    else:
        policy = load_base(folder, dtype="bfloat16").backbone.policy
    return {
        "load_s": time.perf_counter() - started,
        "peak_gb": memory_gb("VmHWM"),
        "anonymous_peak_gb": anonymous.peak_gb,
        "libraries_gb": libraries_gb,
        "weights_gb": sum(p.nbytes for p in policy.parameters()) / 1e9,
        "parameters": sum(p.numel() for p in policy.parameters()),
    }


def in_child(who: str, folder: Path, size: str, limit_gb: float | None) -> dict[str, float]:
    def limit() -> None:
        if limit_gb is not None:
            resource.setrlimit(resource.RLIMIT_DATA, (int(limit_gb * 1e9),) * 2)

    done = subprocess.run(
        [sys.executable, __file__, "--child", who, "--folder", str(folder), "--size", size],
        stdout=subprocess.PIPE,
        text=True,
        check=False,
        preexec_fn=limit,
    )
    if done.returncode != 0:
        raise SystemExit(f"the load by {who} ended with {done.returncode}")
    return json.loads(done.stdout.splitlines()[-1])


def show(results: dict[str, dict[str, float]], file_gb: float, console: Console) -> float:
    table = Table("loader", "time [s]", "peak [GB]", "anonymous [GB]", "libraries [GB]", "weights [GB]", "parameters")
    for who, r in results.items():
        numbers = (r["load_s"], r["peak_gb"], r["anonymous_peak_gb"], r["libraries_gb"], r["weights_gb"])
        table.add_row(who, *(f"{n:.2f}" for n in numbers), f"{r['parameters'] / 1e9:.3f} G")
    ratio = results["ours"]["peak_gb"] / results["lerobot"]["peak_gb"]
    anonymous = results["ours"]["anonymous_peak_gb"] / results["lerobot"]["anonymous_peak_gb"]
    console.print(table)
    console.print(f"file {file_gb:.2f} GB; peak ratio {ratio:.3f} (asked <= {ASKED}), anonymous {anonymous:.3f}")
    return ratio


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", default="wide-4", help="mini, wide-N or full")
    parser.add_argument("--stored", default="F32", choices=["F32", "BF16"], help="type in the file")
    parser.add_argument("--limit-gb", type=float, help="a loader that allocates more fails instead of the machine")
    parser.add_argument("--out", type=Path, default=Path("bench/out"))
    parser.add_argument("--child", help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.child:
        print(json.dumps(load(args.child, args.folder, args.size)))
        return
    console = Console()
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch) / "base"
        file_gb = write_random_checkpoint(folder, load_contract("so101"), sizes_of(args.size), args.stored) / 1e9
        results = {who: in_child(who, folder, args.size, args.limit_gb) for who in ("ours", "lerobot")}
    ratio = show(results, file_gb, console)
    args.out.mkdir(parents=True, exist_ok=True)
    record = {"size": args.size, "stored": args.stored, "file_gb": file_gb, "peak_ratio": ratio, **results}
    (args.out / f"model_load_{args.size}.json").write_text(json.dumps(record, indent=2) + "\n")
    sys.exit(ratio > ASKED)


if __name__ == "__main__":
    main()
