# SPDX-License-Identifier: Apache-2.0
"""python -m training.trials.pooled: success of several training seeds' `sigma sim` runs, latency by latency.

Only episode seeds that every run has at every latency count. Intervals are over training seeds and episodes, and never
narrower than Wilson's over all episodes: where every run does alike, a bootstrap knows no doubt.

Example:
    python -m training.trials.pooled --runs out/sim_seed0 out/sim_seed1 out/sim_seed2
"""

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from scipy import stats

from sigma_ros.border import read_json
from sigma_ros.errors import UsageError

from .. import exit_code
from .. import parser as command_parser
from .statistics import nested_interval

_SAME = ("setup", "stitching", "crossfade_steps", "replan_ticks", "limits", "time_limit_s")
_MEANS = ("duration_s", "jerk_rms", "clipped_share", "scale_mean")


def pooled(runs: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """A row for each arm and latency over the documents (`sim.json`) of several training seeds.

    Raises:
        UsageError: their conditions differ, or they have no episode in common.
    """
    _check_alike(runs)
    tables = [{(e["arm"], e["latency_ms"], e["seed"]): e for e in run["episodes"]} for run in runs]
    cells = sorted({key[:2] for table in tables for key in table})
    seeds = sorted({key[2] for key in tables[0]})
    seeds = [seed for seed in seeds if all((*cell, seed) in table for table in tables for cell in cells)]
    if not seeds:
        raise UsageError("the runs have no episode seed in common at every latency", got=f"{len(cells)} cells")
    return [_row(cell, [[table[*cell, seed] for seed in seeds] for table in tables]) for cell in cells]


def _check_alike(runs: Sequence[dict[str, Any]]) -> None:
    for name in _SAME:
        told = [json.dumps(run["conditions"].get(name), sort_keys=True) for run in runs]
        if len(set(told)) > 1:
            raise UsageError(f"the runs differ in {name}", expected=told[0], got=", ".join(told[1:]))


def _row(cell: tuple[str, float], episodes: list[list[dict[str, Any]]]) -> dict[str, Any]:
    good = np.array([[float(episode["success"]) for episode in row] for row in episodes])
    low, high = nested_interval(good, np.ones_like(good))
    wilson = stats.binomtest(int(good.sum()), good.size).proportion_ci(method="wilson")
    flat = [episode for row in episodes for episode in row]
    return {
        "arm": cell[0],
        "latency_ms": cell[1],
        "successes": [int(row.sum()) for row in good],
        "episodes": good.shape[1],
        "rate": float(good.mean()),
        "low": min(low, float(wilson.low)),
        "high": max(high, float(wilson.high)),
        "grasped": sum(episode["held"] for episode in flat),
        "violations": sum(episode["violations"] for episode in flat),
        **{name: float(np.mean([episode[name] for episode in flat])) for name in _MEANS},
    }


def markdown(rows: Sequence[dict[str, Any]]) -> str:
    """The table of docs/results.md."""
    head = "arm | success | of each training seed | 95 % interval | grasped | bounded ticks | jerk | violations"
    lines = [f"| {head} |", "| " + " | ".join(["---"] * 8) + " |"]
    for row in rows:
        count = row["episodes"] * len(row["successes"])
        each = ", ".join(str(good) for good in row["successes"])
        lines.append(
            f"| {row['arm']}, {row['latency_ms']:g} ms | {sum(row['successes'])} of {count} = {row['rate']:.0%} "
            f"| {each} of {row['episodes']} | {row['low']:.0%} to {row['high']:.0%} | {row['grasped']} "
            f"| {row['clipped_share']:.0%} | {row['jerk_rms']:.0f} | {row['violations']} |"
        )
    return "\n".join(lines)


def main(argv: list[str] | None = None) -> int:
    """Runs the command; 0 done, 2 usage."""
    parser = command_parser("trials.pooled", __doc__)
    parser.add_argument("--runs", nargs="+", type=Path, required=True, help="a folder of `sigma sim` per training seed")
    given = parser.parse_args(argv)

    def run() -> int:
        documents = [_document(folder) for folder in given.runs]
        Console(highlight=False, markup=False).print(markdown(pooled(documents)), soft_wrap=True)
        return 0

    return exit_code(run, interrupted="interrupted")


def _document(folder: Path) -> dict[str, Any]:
    content = read_json(folder / "sim.json")
    if not isinstance(content, dict) or not {"episodes", "conditions"} <= content.keys():
        raise UsageError("this is no run of `sigma sim`", where=folder)
    return content


if __name__ == "__main__":
    sys.exit(main())
