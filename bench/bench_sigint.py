# SPDX-License-Identifier: Apache-2.0
"""Ctrl-C at random moments of a policy node's life: how it ends, and how long that takes.

    python bench/bench_sigint.py --times 100

Asked: no hang, no crash; 0 once the node runs, the signal itself before Python has set up its handler.
"""

import argparse
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

import numpy as np
from rich.progress import track

ROOT = Path(__file__).resolve().parent.parent
LONGEST_S = 15.0
FINE = ("0", "-2", "130", "interrupted while importing")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--times", type=int, default=20)
    parser.add_argument("--longest", type=float, default=4.0, help="latest moment [s]")
    given = parser.parse_args()
    text = (ROOT / "config" / "so101.yaml").read_text(encoding="utf-8")
    contract = Path(tempfile.mkdtemp()) / "small.yaml"
    contract.write_text(text.replace("width_px: 640, height_px: 480", "width_px: 64, height_px: 48"), encoding="utf-8")
    command = [sys.executable, str(ROOT / "test" / "nodes" / "waving_policy.py"), str(contract), "30"]
    codes: Counter[str] = Counter()
    took: list[float] = []
    rng = random.Random(0)
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell starts background jobs with it ignored
    for _ in track(range(given.times), description="Ctrl-C"):
        process = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, env=os.environ | {"PYTHONFAULTHANDLER": "1"}
        )
        try:
            time.sleep(rng.uniform(0.0, given.longest))
            process.send_signal(signal.SIGINT)
            sent_s = time.monotonic()
            output, _ = process.communicate(timeout=LONGEST_S)
            took.append(time.monotonic() - sent_s)
            early = process.returncode == 1 and b"KeyboardInterrupt" in output
            code = "interrupted while importing" if early else str(process.returncode)
            codes[code] += 1
            if code not in FINE:
                print(f"ended with {code}:\n{output.decode(errors='replace')[-2000:]}")
        except subprocess.TimeoutExpired:
            codes["hung"] += 1
            process.send_signal(signal.SIGABRT)  # faulthandler says where each thread is
            print(f"hung:\n{process.communicate()[0].decode(errors='replace')[-4000:]}")
        finally:
            process.kill()
            process.wait()
    print("| ended with | times |\n| --- | --- |")
    for code, count in codes.most_common():
        print(f"| {code} | {count} |")
    p50, p99 = np.percentile(took, [50, 99])
    print(f"\nfrom the signal to the end: p50 {1e3 * p50:.0f} ms, p99 {1e3 * p99:.0f} ms")
    return int(any(code not in FINE for code in codes))


if __name__ == "__main__":
    sys.exit(main())
