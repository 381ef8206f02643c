# SPDX-License-Identifier: Apache-2.0
"""What the units came to: `bed.md` and `bed.svg` for people, `bed.json` with every episode; arms on paired seeds."""

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool
from matplotlib.figure import Figure
from numpy import ndarray

from sigma_ros.evaluation.report.write import write_files
from sigma_ros.evaluation.scoring.statistics import holm
from sigma_ros.sim.tasks.catalogue import task_named

from ..trials.statistics import mcnemar, nested_interval
from .closed_loop import EpisodeOutcome
from .units import UnitResult

PAGE, DATA, PICTURE = "bed.md", "bed.json", "bed.svg"
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
        f"![Right choices by task and arm, and what was followed when the memory was changed]({PICTURE})",
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


_RIGHT, _FOLLOWED = "#3b82f6", "#e08214"


def draw(made: Sequence[ResultRow], path: Path) -> None:
    """Writes an SVG: of those that chose, the share that chose rightly, and that followed an intervention."""
    tasks = list(dict.fromkeys(row.task for row in made))
    most = max(sum(row.task == task for row in made) for task in tasks)
    figure = Figure(figsize=(4.6 * len(tasks), 0.42 * most + 1.5), layout="constrained")
    for axes, task in zip(figure.subplots(1, len(tasks), squeeze=False)[0], tasks, strict=True):
        some = sorted((row for row in made if row.task == task), key=lambda row: "," in row.arm)[::-1]
        for y, row in enumerate(some):
            shares = [(row.right, _RIGHT, 0.17)] + ([(row.followed, _FOLLOWED, -0.17)] if "," in row.arm else [])
            for rate, colour, up in shares:
                if not rate.counted:
                    continue
                share = 100.0 * rate.good / rate.counted
                axes.barh(y + up, share, height=0.3, color=colour)
                axes.plot([100.0 * rate.low, 100.0 * rate.high], [y + up, y + up], color="#1f2937", linewidth=1.5)
                axes.text(103.0, y + up, f"{rate.good}/{rate.counted}", va="center", fontsize=8)
        axes.set_yticks(range(len(some)), [row.arm.replace("sigma, ", "memory ") for row in some])
        axes.axvline(100.0 / task_named(task).options, color="#8a8f98", linestyle="--", linewidth=1.0)
        axes.set_xlim(0.0, 120.0)
        axes.set_xticks(range(0, 101, 25))
        axes.set_title(task)
    figure.supxlabel(
        "%, of those that chose. Blue: right; orange: followed what was put in; dashed: chance; line: 95 %", fontsize=9
    )
    figure.savefig(path, format="svg", metadata={"Date": None})


def write(
    folder: Path, results: Sequence[UnitResult], conditions: Mapping[str, Any], *, missing: Sequence[str]
) -> None:
    """Writes all files, whole or not at all."""
    content = {"schema": 1, "conditions": dict(conditions), "missing": list(missing)}
    content["rows"] = [asdict(row) for row in rows(results)]
    content["units"] = [asdict(result) for result in results]
    text = json.dumps(content, indent=1).replace("NaN", "null")
    writers: dict[str, Callable[[Path], object]] = {
        DATA: lambda path: path.write_text(text + "\n", encoding="utf-8"),
        PICTURE: lambda path: draw(rows(results), path),
        PAGE: lambda path: path.write_text(page(results, conditions, missing=missing), encoding="utf-8"),
    }
    write_files(writers, folder)
