# SPDX-License-Identifier: Apache-2.0
"""Times several ways of doing the same work, interleaved, and prints them beside each other."""

import time
from collections.abc import Callable, Mapping
from statistics import median


def interleaved(ways: Mapping[str, Callable[[], object]], *, repetitions: int = 9) -> dict[str, list[float]]:
    """Seconds of each way and repetition; one untimed round first, so that caches are warm for all."""
    for work in ways.values():
        work()
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(repetitions):
        for name, work in ways.items():
            begun = time.perf_counter()
            work()
            seconds[name].append(time.perf_counter() - begun)
    return seconds


def table(seconds: Mapping[str, list[float]], *, unit: str, per: float, reference: str) -> str:
    """Markdown: minimum and median in milliseconds per `unit` (`per` of them in one run), and the ratio of medians."""
    lines = [
        f"| way | min [ms/{unit}] | median [ms/{unit}] | times faster than {reference} |",
        "| --- | --- | --- | --- |",
    ]
    for name, values in seconds.items():
        ratio = median(seconds[reference]) / median(values)
        lines.append(f"| {name} | {min(values) / per * 1e3:.4f} | {median(values) / per * 1e3:.4f} | {ratio:.2f} |")
    return "\n".join(lines)
