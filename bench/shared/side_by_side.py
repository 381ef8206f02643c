# SPDX-License-Identifier: Apache-2.0
"""Times several ways of doing the same work, interleaved, and prints them beside each other.

Beside the time on the clock stands the processor's time (all threads): on a busy machine only that one is steady.
"""

import time
from collections.abc import Callable, Mapping
from statistics import median
from typing import NamedTuple


class Took(NamedTuple):
    """Seconds of one run."""

    wall_s: float
    cpu_s: float


def interleaved(ways: Mapping[str, Callable[[], object]], *, repetitions: int = 9) -> dict[str, list[Took]]:
    """Times of each way and repetition; one untimed round first, so that caches are warm for all."""
    for work in ways.values():
        work()
    took: dict[str, list[Took]] = {name: [] for name in ways}
    for _ in range(repetitions):
        for name, work in ways.items():
            wall_s, cpu_s = time.perf_counter(), time.process_time()
            work()
            took[name].append(Took(time.perf_counter() - wall_s, time.process_time() - cpu_s))
    return took


def table(took: Mapping[str, list[Took]], *, unit: str, per: float, reference: str) -> str:
    """Markdown: milliseconds per `unit` (`per` of them in one run), and how many times faster than the reference."""
    lines = [
        f"| way | min [ms/{unit}] | median [ms/{unit}] | times faster | median CPU [ms/{unit}] | times less CPU |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    wall_s = {name: median(run.wall_s for run in runs) for name, runs in took.items()}
    cpu_s = {name: median(run.cpu_s for run in runs) for name, runs in took.items()}
    for name, runs in took.items():
        least_s = min(run.wall_s for run in runs)
        lines.append(
            f"| {name} | {least_s / per * 1e3:.4f} | {wall_s[name] / per * 1e3:.4f} | "
            f"{wall_s[reference] / wall_s[name]:.2f} | {cpu_s[name] / per * 1e3:.4f} | "
            f"{cpu_s[reference] / cpu_s[name]:.2f} |"
        )
    return "\n".join(lines)
