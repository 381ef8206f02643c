# SPDX-License-Identifier: Apache-2.0
"""python -m training.trials.pooled: success of several training seeds' `sigma sim` runs, latency by latency.

Only episode seeds that every run has at every latency count. Intervals are over training seeds and episodes, and never
narrower than Wilson's over all episodes: where every run does alike, a bootstrap knows no doubt. Of a task with a
choice a second table says, of those that chose, how many chose rightly, and how many as the twin was asked, whose
memory or text an intervention puts in.

Example:
    python -m training.trials.pooled --runs out/sim_seed0 out/sim_seed1 out/sim_seed2
"""

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float64
from numpy import ndarray
from rich.console import Console
from scipy import stats

from sigma_ros.border import read_json
from sigma_ros.errors import UsageError

from .. import exit_code
from .. import parser as command_parser
from .statistics import nested_interval

_SAME = ("task", "intervention", "setup", "stitching", "crossfade_steps", "replan_ticks", "limits", "time_limit_s")
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
    low, high = _interval(good, np.ones_like(good))
    flat = [episode for row in episodes for episode in row]
    return {
        "arm": cell[0],
        "latency_ms": cell[1],
        "successes": [int(row.sum()) for row in good],
        "episodes": good.shape[1],
        "rate": float(good.mean()),
        "low": low,
        "high": high,
        "grasped": sum(episode["held"] for episode in flat),
        "violations": sum(episode["violations"] for episode in flat),
        **{name: float(np.mean([episode[name] for episode in flat])) for name in _MEANS},
        **(_choices(episodes) if flat[0].get("goal") is not None else {}),
    }


def _interval(good: Float64[ndarray, "seeds episodes"], counted: Float64[ndarray, "seeds episodes"]) -> list[float]:
    """Ends of the wider of both intervals; NaN where nothing counts."""
    low, high = nested_interval(good, counted)
    total = int(counted.sum())
    wilson = stats.binomtest(int(good.sum()), total).proportion_ci(method="wilson") if total else None
    return [low, high] if wilson is None else [min(low, float(wilson.low)), max(high, float(wilson.high))]


def _choices(episodes: list[list[dict[str, Any]]]) -> dict[str, Any]:
    """Of a task with a choice: `chose` with its interval, then of those `right` and `as_twin` with theirs."""

    def counted(aim: str | None = None) -> Float64[ndarray, "seeds episodes"]:
        return np.array([[float(_chose(episode, aim)) for episode in row] for row in episodes])

    chose = counted()
    found = {"chose": [int(chose.sum()), *_interval(chose, np.ones_like(chose))]}
    for name, aim in (("right", "goal"), ("as_twin", "other")):
        like = counted(aim)
        found[name] = [int(like.sum()), *_interval(like, chose)]
    return found


def _chose(episode: dict[str, Any], aim: str | None) -> bool:
    """Whether an episode chose at all, or what `aim` names."""
    chosen = episode["chosen"]
    return chosen is not None and (aim is None or chosen == episode[aim])


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
    if "chose" in rows[0]:
        lines += ["", "| arm | chose | right, of those | as the twin was asked |", "| --- | --- | --- | --- |"]
        for row in rows:
            count, chose = row["episodes"] * len(row["successes"]), row["chose"][0]
            parts = [_share(row["chose"], count), _share(row["right"], chose), _share(row["as_twin"], chose)]
            lines.append(f"| {row['arm']}, {row['latency_ms']:g} ms | {' | '.join(parts)} |")
    return "\n".join(lines)


def _share(found: list[float], count: int) -> str:
    if not count:
        return "0 of 0"
    return f"{found[0]:.0f} of {count} = {found[0] / count:.0%} ({found[1]:.0%} to {found[2]:.0%})"


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
