# SPDX-License-Identifier: Apache-2.0
"""`results.md` and `results.svg` of a study: a table one can check, a picture one can read."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from sigma_ros.evaluation.report.write import write_files
from sigma_ros.evaluation.scoring.metrics import SPANS
from sigma_ros.evaluation.scoring.statistics import holm

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from sigma_ros.evaluation.scoring.statistics import Comparison

    from ..options import TrainOptions
    from ..study import ArmResult
    from .statistics import SeedChange

PAGE, PICTURE = "results.md", "results.svg"
_COLOURS = {"vec": "#3b82f6", "chk": "#12a17a", "trj": "#e08214"}
_SHOWN_PERCENT = 50.0
"""What lies further out is written at the edge."""


def write_page(arms: Sequence[ArmResult], common: TrainOptions, out: Path) -> None:
    """Writes both files, whole or not at all."""
    out.mkdir(parents=True, exist_ok=True)
    writers: dict[str, Callable[[Path], object]] = {
        PICTURE: lambda path: _draw(arms, path),
        PAGE: lambda path: path.write_text(page(arms, common), encoding="utf-8"),
    }
    write_files(writers, out)


def page(arms: Sequence[ArmResult], common: TrainOptions) -> str:
    """The page's text."""
    if not arms:
        return "No run has finished yet.\n"
    first = arms[0]
    windows = first.errors["vec"].shape[1]
    units = first.against_base["vec"].units
    others = [arm for arm in arms if arm.against_sigma]
    lines = [
        f"Trained with: `{common.command()}`, arms differ as named. Scored on {windows} windows of {units} held-out "
        f"{first.against_base['vec'].unit}s; an arm's error is the mean over its training seeds. Intervals: paired "
        "bootstrap over episodes, 95 %. p: sign-flip permutation over episodes, corrected by Holm over the column.",
        "",
        "## Against the untouched base",
        "",
        *_table(arms, "against_base"),
        "",
        *(_against_sigma(others) if others else ()),
        "## Spread over training seeds, and the semantic figures",
        "",
        "| arm | seeds | mse_trj, mean ± deviation over seeds | tau_l2 with against without adapters | sem_align |",
        "| --- | --- | --- | --- | --- |",
        *(_spread(arm) for arm in arms),
        "",
        f"![Change against the base and against the whole of Sigma]({PICTURE})",
        "",
    ]
    return "\n".join(lines)


def _against_sigma(others: Sequence[ArmResult]) -> list[str]:
    return [
        "## Against the whole of Sigma",
        "",
        "Above zero: the arm is worse than Sigma, so the part that is missing was worth something.",
        "",
        *_table(others, "against_sigma"),
        "",
        "## The same from training seed to training seed",
        "",
        "What another training run would have said: mean change against Sigma of the same seed, Student's 95 % "
        "interval of its logarithm over seeds, and on how many seeds the arm is worse. Not corrected for the number "
        "of rows.",
        "",
        "| arm | " + " | ".join(f"mse_{span} | worse" for span in SPANS) + " |",
        "| --- |" + " --- | --- |" * len(SPANS),
        *(_over_seeds(arm) for arm in others),
        "",
    ]


def _table(arms: Sequence[ArmResult], field: str) -> list[str]:
    corrected = {s: holm({arm.name: getattr(arm, field)[s].p_value for arm in arms}) for s in SPANS}
    lines = [
        "| arm | seeds | " + " | ".join(f"mse_{span} | p" for span in SPANS) + " |",
        "| --- | --- |" + " --- | --- |" * len(SPANS),
    ]
    for arm in arms:
        cells = []
        for span in SPANS:
            cells += [_change(getattr(arm, field)[span]), f"{corrected[span][arm.name]:.2g}"]
        lines.append(f"| {arm.name} | {len(arm.seeds)} | " + " | ".join(cells) + " |")
    return lines


def _change(one: Comparison) -> str:
    if not one.baseline:
        return "undefined"
    return f"{one.relative:+.1%} ({one.relative_low:+.1%} to {one.relative_high:+.1%})"


def _over_seeds(arm: ArmResult) -> str:
    cells = []
    for span in SPANS:
        one = arm.seeds_against_sigma[span]
        between = "" if math.isnan(one.low) else f" ({one.low:+.1%} to {one.high:+.1%})"
        cells += ["undefined" if math.isnan(one.mean) else f"{one.mean:+.1%}{between}", f"{one.worse} of {one.seeds}"]
    return f"| {arm.name} | " + " | ".join(cells) + " |"


def _spread(arm: ArmResult) -> str:
    means = arm.errors["trj"].mean(axis=1)
    spread = f" ± {means.std(ddof=1):.4f}" if len(means) > 1 else ""
    return (
        f"| {arm.name} | {len(arm.seeds)} | {means.mean():.4f}{spread} | "
        + " | ".join("none" if math.isnan(v) else f"{v:+.1%}" for v in arm.semantic_change.values())
        + " |"
    )


def _draw(arms: Sequence[ArmResult], path: Path) -> None:
    figure = Figure(figsize=(11.0, 0.5 * len(arms) + 1.4), layout="constrained")
    left, right = figure.subplots(1, 2, sharey=True)
    for row, arm in enumerate(reversed(arms)):
        for place, span in enumerate(SPANS):
            y = row + 0.22 * (1 - place)
            _draw_against_base(left, arm, span, y)
            if arm.seeds_against_sigma:
                _draw_against_sigma(right, arm.seeds_against_sigma[span], y, _COLOURS[span])
    for axes in (left, right):
        axes.axvline(0.0, color="#8a8f98", linewidth=1.0)
        axes.grid(visible=True, axis="y", color="#e5e7eb")
        axes.set_axisbelow(True)
    left.set_yticks(range(len(arms)), [arm.name for arm in reversed(arms)])
    left.set_xlabel(
        "change of the error against the untouched base, % (left is better)\n"
        "intervals over episodes; ticks: training seeds"
    )
    right.set_xlim(-_SHOWN_PERCENT, _SHOWN_PERCENT)
    right.set_xlabel(
        "change of the error against the whole of Sigma, %\nintervals over training seeds; hollow: could be zero"
    )
    names = [
        Line2D([], [], color=colour, marker="o", linestyle="", label=f"mse_{span}") for span, colour in _COLOURS.items()
    ]
    figure.legend(handles=names, loc="outside upper center", ncols=len(SPANS), frameon=False)
    figure.savefig(path, format="svg", metadata={"Date": None})


def _draw_against_base(axes: Axes, arm: ArmResult, span: str, y: float) -> None:
    one, colour = arm.against_base[span], _COLOURS[span]
    if not one.baseline:
        return
    axes.plot([100.0 * one.relative_low, 100.0 * one.relative_high], [y, y], color=colour, linewidth=2.0)
    axes.plot(100.0 * one.relative, y, "o", color=colour)
    seeds = 100.0 * (arm.errors[span].mean(axis=1) / one.baseline - 1.0)
    axes.plot(seeds, [y] * len(seeds), "|", color=colour, alpha=0.6)


def _draw_against_sigma(axes: Axes, one: SeedChange, y: float, colour: str) -> None:
    if math.isnan(one.mean):
        return
    mean = 100.0 * one.mean
    if abs(mean) > _SHOWN_PERCENT:
        axes.text(
            math.copysign(0.97 * _SHOWN_PERCENT, mean),
            y,
            f"{mean:+.0f} %",
            color=colour,
            ha="right" if mean > 0.0 else "left",
            va="center",
        )
        return
    sure = one.low > 0.0 or one.high < 0.0
    axes.plot([100.0 * one.low, 100.0 * one.high], [y, y], color=colour, linewidth=2.0)
    axes.plot(mean, y, "o", color=colour, markerfacecolor=colour if sure else "white")
