# SPDX-License-Identifier: Apache-2.0
"""What the units came to: `bed.md` for people and `bed.json` with every episode; arms are compared on paired seeds."""

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool
from numpy import ndarray

from sigma_ros.evaluation.report.write import write_files
from sigma_ros.evaluation.scoring.statistics import holm
from sigma_ros.sim.tasks.catalogue import task_named

from ..statistics import mcnemar, nested_interval
from .closed_loop import EpisodeOutcome
from .units import UnitResult

PAGE, DATA = "bed.md", "bed.json"
REFERENCE = "sigma"

_HEAD = (
    "| task | arm | training seeds | chose | right, of those that chose | right, of all | success | p against sigma |",
    "| --- | --- | --- | --- | --- | --- | --- | --- |",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class SuccessRate:
    """A share with its 95 % interval over training seeds and episodes; NaN where nothing counted."""

    good: int
    counted: int
    low: float
    high: float

    def __str__(self) -> str:
        if not self.counted:
            return "none"
        share = f"{self.good} of {self.counted} = {self.good / self.counted:.0%}"
        return f"{share} ({self.low:.0%} to {self.high:.0%})"


@dataclass(frozen=True, slots=True, kw_only=True)
class ResultRow:
    """One arm of one task, or one intervention on Sigma, over its training seeds.

    `followed` is how many chose what the intervention speaks for, of those that chose. `p` is McNemar's, the largest
    of Holm's over the task's arms, of the seeds' median; NaN without a comparison.
    """

    task: str
    arm: str
    seeds: tuple[int, ...]
    chose: SuccessRate
    right: SuccessRate
    right_of_all: SuccessRate
    followed: SuccessRate
    success: SuccessRate
    p_by_seed: tuple[float, ...]
    p: float


def rows(results: Sequence[UnitResult]) -> list[ResultRow]:
    """Every arm and every intervention that was played, task by task."""
    made: list[ResultRow] = []
    for task in dict.fromkeys(result.task for result in results):
        arms: dict[str, dict[int, tuple[EpisodeOutcome, ...]]] = {}
        for result in results:
            if result.task != task:
                continue
            for kind, played in result.played.items():
                arms.setdefault(f"{result.arm}, {kind}" if kind else result.arm, {})[result.seed] = played
        made += _task_rows(task, arms)
    return made


def _task_rows(task: str, arms: Mapping[str, Mapping[int, tuple[EpisodeOutcome, ...]]]) -> list[ResultRow]:
    reference = arms.get(REFERENCE, {})
    by_seed = {
        name: tuple(
            mcnemar(_right(played[seed]), _right(reference[seed])) for seed in sorted(set(played) & set(reference))
        )
        for name, played in arms.items()
        if name != REFERENCE
    }
    # one p an arm: the median over its training seeds, then Holm over the arms of the task
    corrected = holm({name: float(np.median(values)) for name, values in by_seed.items() if values})
    return [
        ResultRow(
            task=task,
            arm=name,
            seeds=tuple(sorted(played)),
            chose=_rate(played, lambda o: o.chosen is not None),
            right=_rate(played, lambda o: o.chosen == o.goal, among=lambda o: o.chosen is not None),
            right_of_all=_rate(played, lambda o: o.chosen == o.goal),
            followed=_rate(played, lambda o: o.chosen == o.other, among=lambda o: o.chosen is not None),
            success=_rate(played, lambda o: o.success),
            p_by_seed=by_seed.get(name, ()),
            p=corrected.get(name, math.nan),
        )
        for name, played in arms.items()
    ]


def _right(played: Sequence[EpisodeOutcome]) -> Bool[ndarray, " episodes"]:
    return np.array([outcome.chosen == outcome.goal for outcome in played])


def _rate(
    played: Mapping[int, tuple[EpisodeOutcome, ...]],
    good: Callable[[EpisodeOutcome], bool],
    *,
    among: Callable[[EpisodeOutcome], bool] = lambda _outcome: True,
) -> SuccessRate:
    counted = np.array([[float(among(o)) for o in played[seed]] for seed in sorted(played)])
    hits = counted * np.array([[float(good(o)) for o in played[seed]] for seed in sorted(played)])
    low, high = nested_interval(hits, counted)
    return SuccessRate(good=int(hits.sum()), counted=int(counted.sum()), low=low, high=high)


def page(results: Sequence[UnitResult], conditions: Mapping[str, Any], *, missing: Sequence[str]) -> str:
    """The page's text; `missing` names units that have not been run."""
    made = rows(results)
    kind = "final, locked seeds" if conditions["final"] else "development seeds: not a result"
    lines = [
        "# Storey A of the test bed",
        "",
        f"Protocol {conditions['protocol'][:16]} ({kind}). {conditions['episodes']} episodes a training seed. "
        "Intervals: 95 %, bootstrap over training seeds and, within each, over episodes. p: exact McNemar on right "
        "choices of all episodes, seed by seed against `sigma` of the same training seed; the median over seeds, "
        "corrected by Holm over the arms of a task.",
        "",
        *_HEAD,
        *(_line(row) for row in made if "," not in row.arm),
        "",
        "## Interventions on trained `sigma` models, at the moment of choice",
        "",
        "| task | intervention | training seeds | right, of those that chose | followed what was put in | success |",
        "| --- | --- | --- | --- | --- | --- |",
        *(
            f"| {r.task} | {r.arm.partition(', ')[2]} | {len(r.seeds)} | {r.right} | {r.followed} | {r.success} |"
            for r in made
            if "," in r.arm
        ),
        "",
        "## Cost",
        "",
        *_costs(results),
        "",
        f"Not run: {', '.join(missing) or 'nothing'}.",
        "",
    ]
    return "\n".join(lines)


def _line(row: ResultRow) -> str:
    chance = task_named(row.task).options
    p = "" if math.isnan(row.p) else f"{row.p:.2g}"
    name = f"{row.arm} (chance 1/{chance})" if row.arm == REFERENCE and chance > 1 else row.arm
    rates = f"{row.chose} | {row.right} | {row.right_of_all} | {row.success}"
    return f"| {row.task} | {name} | {len(row.seeds)} | {rates} | {p} |"


def _costs(results: Sequence[UnitResult]) -> list[str]:
    lines = ["| arm | trained numbers | loss | CPU s to train | CPU s to play |", "| --- | --- | --- | --- | --- |"]
    for arm in dict.fromkeys(result.arm for result in results):
        some = [result for result in results if result.arm == arm]
        loss, trained, played = (
            float(np.mean([getattr(result, name) for result in some])) for name in ("loss", "train_cpu_s", "play_cpu_s")
        )
        lines.append(f"| {arm} | {some[0].parameters:,} | {loss:.4f} | {trained:.0f} | {played:.0f} |")
    return lines


def write(
    folder: Path, results: Sequence[UnitResult], conditions: Mapping[str, Any], *, missing: Sequence[str]
) -> None:
    """Writes both files, whole or not at all."""
    content = {"schema": 1, "conditions": dict(conditions), "missing": list(missing)}
    content["rows"] = [asdict(row) for row in rows(results)]
    content["units"] = [asdict(result) for result in results]
    text = json.dumps(content, indent=1).replace("NaN", "null")
    writers: dict[str, Callable[[Path], object]] = {
        DATA: lambda path: path.write_text(text + "\n", encoding="utf-8"),
        PAGE: lambda path: path.write_text(page(results, conditions, missing=missing), encoding="utf-8"),
    }
    write_files(writers, folder)
