# SPDX-License-Identifier: Apache-2.0
"""Peak memory and time of loading pi0.5 in bfloat16: LeRobot's loader against this package's.

    python bench/bench_model_load.py                   # full widths, 1 of 18 layers: 10 GB, two minutes
    python bench/bench_model_load.py --size full       # as published: LeRobot needs about 20 GB; see `free -g`

Each loader runs in a process of its own on the same file (random float32 weights, as pi05_base is stored).
`peak` is the kernel's VmHWM; a mapped file counts in it, so the anonymous part is given as well. Where LeRobot's
loader does not fit this machine, the memory it had taken until then stands for it.
Asked: ours at most 0.85 x LeRobot's. Exit code 1 when it is more, or a loader fails.
"""

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from lerobot.configs import PreTrainedConfig
from lerobot.policies.pi05.modeling_pi05 import PI05Policy
from random_base import sizes_of, write_random_checkpoint
from rich.console import Console
from rich.table import Table

from sigma_ros.contract_file import load_contract
from sigma_ros.model.pi05.loading import load_base
from sigma_ros.model.pi05.sizes import network_sizes

ASKED = 0.85


def memory_gb(pid: int | str, field: str) -> float:
    """A field of the kernel's view of a process; 0 when the process is gone."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return 0.0
    return max((int(line.split()[1]) * 1024 / 1e9 for line in lines if line.startswith(field + ":")), default=0.0)


def limit_memory(limit_gb: float | None) -> None:
    Path("/proc/self/oom_score_adj").write_text("1000")  # if memory runs out, this process goes, not another
    if limit_gb is not None:
        resource.setrlimit(resource.RLIMIT_DATA, (int(limit_gb * 1e9),) * 2)


def load(who: str, folder: Path, size: str) -> dict[str, object]:
    """Runs in a child that has the libraries imported."""
    libraries_gb = memory_gb("self", "VmRSS")
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
        "libraries_gb": libraries_gb,
        "weights_gb": sum(p.nbytes for p in policy.parameters()) / 1e9,
        "parameters": sum(p.numel() for p in policy.parameters()),
    }


def in_child(who: str, folder: Path, size: str, limit_gb: float | None) -> dict[str, float]:
    """Runs a loader and watches its memory from outside, so that a load that fails leaves its peak too."""

    command = [sys.executable, __file__, "--child", who, "--folder", str(folder), "--size", size]
    command += [] if limit_gb is None else ["--limit-gb", str(limit_gb)]
    peaks = {"peak_gb": 0.0, "anonymous_peak_gb": 0.0}
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as child:
        while child.poll() is None:
            for name, field in (("peak_gb", "VmHWM"), ("anonymous_peak_gb", "RssAnon")):
                peaks[name] = max(peaks[name], memory_gb(child.pid, field))
            time.sleep(0.02)
        output = child.stdout.read() if child.stdout else ""
    if child.returncode != 0:
        return {**peaks, "failed": child.returncode}
    return {**peaks, **json.loads(output.splitlines()[-1])}


def show(results: dict[str, dict[str, float]], file_gb: float, console: Console) -> float:
    table = Table("loader", "time [s]", "peak [GB]", "anonymous [GB]", "libraries [GB]", "weights [GB]", "parameters")
    for who, r in results.items():
        if "failed" in r:
            table.add_row(who, "failed", f">= {r['peak_gb']:.2f}", f">= {r['anonymous_peak_gb']:.2f}", "", "", "")
            continue
        numbers = (r["load_s"], r["peak_gb"], r["anonymous_peak_gb"], r["libraries_gb"], r["weights_gb"])
        table.add_row(who, *(f"{n:.2f}" for n in numbers), f"{r['parameters'] / 1e9:.3f} G")
    ratio = results["ours"]["peak_gb"] / results["lerobot"]["peak_gb"]
    anonymous = results["ours"]["anonymous_peak_gb"] / results["lerobot"]["anonymous_peak_gb"]
    console.print(table)
    console.print(f"file {file_gb:.2f} GB; peak ratio {ratio:.3f} (asked <= {ASKED}), anonymous {anonymous:.3f}")
    return ratio


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", default="wide-1", help="mini, wide-N or full")
    parser.add_argument("--stored", default="F32", choices=["F32", "BF16"], help="type in the file")
    parser.add_argument("--limit-gb", type=float, help="a loader that allocates more fails instead of the machine")
    parser.add_argument("--out", type=Path, default=Path("bench/out"))
    parser.add_argument("--child", help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.child:
        limit_memory(args.limit_gb)
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
    sys.exit((args.size != "mini" and ratio > ASKED) or "failed" in results["ours"])


if __name__ == "__main__":
    main()
