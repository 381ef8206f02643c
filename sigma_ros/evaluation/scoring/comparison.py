# SPDX-License-Identifier: Apache-2.0
"""Two reports of the same recordings side by side: is B better than A, and by more than chance?

Windows are paired one by one, and both reports are measured in A's action space, so that checkpoints with other
statistics are not compared in other units.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

import numpy as np
from jaxtyping import Int64
from numpy import ndarray

from sigma_ros.errors import UsageError
from sigma_ros.evaluation.report.saved import SavedReport
from sigma_ros.evaluation.scoring.score import compare_arms
from sigma_ros.evaluation.scoring.statistics import Comparison

PRIMARY = "mse_trj"
ARMS = {"sigma": "Sigma", "base": "base", "commanded": "commanded"}
"""What is compared, and what it is called."""
_CONDITIONS = {
    "checkpoint": ("checkpoint", "hash"),
    "base": ("checkpoint", "base"),
    "adapter settings": ("adapter", "settings"),
    "tasks": ("replay", "tasks"),
    "replan_ticks": ("replay", "replan_ticks"),
    "memory_stride": ("replay", "memory_stride"),
    "seed": ("replay", "seed"),
    "mode": ("replay", "mode"),
    "supervisor": ("supervisor", "enabled"),
    "versions": ("conditions", "versions"),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class ReportComparison:
    """B minus A over the windows that both scored: a negative difference is a gain of B.

    `sigma`, `base` and `commanded` (over the windows that both have commands for) map mse_vec, mse_chk, mse_trj to a
    comparison whose `baseline` is A and whose `sigma` is B.
    `differences` holds the conditions in which the reports differ, A's value first.
    """

    places: tuple[str, str]
    headline: str
    warnings: tuple[str, ...]
    windows: int
    recordings: int
    sigma: Mapping[str, Comparison]
    base: Mapping[str, Comparison]
    commanded: Mapping[str, Comparison]
    differences: Mapping[str, tuple[Any, Any]]

    def document(self) -> dict[str, Any]:
        """As plain JSON values, the two sides called a and b."""
        rows = {arm: {name: _sides(row) for name, row in getattr(self, arm).items()} for arm in ARMS}
        values = {field.name: getattr(self, field.name) for field in fields(self)} | rows
        (a, b), differences = values.pop("places"), values.pop("differences")
        return {
            "schema": "sigma_ros/comparison/1",
            "a": a,
            "b": b,
            **values,
            "differences": {name: list(pair) for name, pair in differences.items()},
        }


def compare_reports(a: SavedReport, b: SavedReport, *, seed: int = 0) -> ReportComparison:
    """Pairs the reports' windows; `seed` is that of the bootstrap.

    Raises:
        UsageError: the reports are of other recordings, robots or recorded actions, or share no window.
    """
    _refuse_other_recordings(a, b)
    _refuse_other_robots(a, b)
    rows_a, rows_b = _paired(a, b)
    if not len(rows_a):
        raise UsageError("the reports share no scored window", where=f"{a.place} | {b.place}")
    if not np.array_equal(a.windows.target_rad[rows_a], b.windows.target_rad[rows_b]):
        raise UsageError(
            "the reports hold other recorded actions for the same windows",
            where=f"{a.place} | {b.place}",
            expected="one contract, with one action source",
        )
    episodes = a.windows.recording[rows_a]
    errors_a, errors_b = a.windows.errors(a.normalise).rows(rows_a), b.windows.errors(a.normalise).rows(rows_b)
    both = errors_a.commanded.known & errors_b.commanded.known
    sent_a, sent_b = errors_a.rows(both).commanded, errors_b.rows(both).commanded
    sigma = compare_arms(errors_a.sigma, errors_b.sigma, episodes, seed=seed)
    return ReportComparison(
        places=(str(a.place), str(b.place)),
        headline=_headline(sigma[PRIMARY]),
        warnings=_warnings(a, b, len(rows_a)),
        windows=len(rows_a),
        recordings=len(np.unique(episodes)),
        sigma=sigma,
        base=compare_arms(errors_a.baseline, errors_b.baseline, episodes, seed=seed),
        commanded=compare_arms(sent_a, sent_b, episodes[both], seed=seed),
        differences=_differences(a.document, b.document),
    )


def _refuse_other_recordings(a: SavedReport, b: SavedReport) -> None:
    only_a, only_b = (
        [name for name, key in zip(one.names, one.recordings, strict=True) if key not in other.recordings]
        for one, other in ((a, b), (b, a))
    )
    if only_a or only_b:
        raise UsageError(
            "the reports are of different recordings",
            where=f"{a.place} | {b.place}",
            expected="the same recordings, by their hash",
            got=" | ".join(
                f"only in {side}: {', '.join(names[:5])}{' and more' if len(names) > 5 else ''}"
                for side, names in (("A", only_a), ("B", only_b))
                if names
            ),
            remedy="replay the same bags with both checkpoints",
        )


def _refuse_other_robots(a: SavedReport, b: SavedReport) -> None:
    robots = [(one.document["contract"]["joints"], one.document["contract"]["fps"]) for one in (a, b)]
    if robots[0] != robots[1]:
        raise UsageError(
            "the reports are of different robots", expected=f"{robots[0]} (joints, fps)", got=f"{robots[1]}"
        )


def _paired(a: SavedReport, b: SavedReport) -> tuple[Int64[ndarray, " pairs"], Int64[ndarray, " pairs"]]:
    """Rows of the same windows in both reports, in A's order."""
    place = dict(_keys(b))
    pairs = [(row, place[key]) for key, row in _keys(a) if key in place]
    rows = np.array(pairs, dtype=np.int64).reshape(-1, 2)
    return rows[:, 0], rows[:, 1]


def _keys(report: SavedReport) -> list[tuple[tuple[str, int, int], int]]:
    windows = report.windows
    columns = zip(windows.recording.tolist(), windows.epoch.tolist(), windows.tick.tolist(), strict=True)
    return [((report.recordings[n], epoch, tick), row) for row, (n, epoch, tick) in enumerate(columns)]


def _headline(row: Comparison) -> str:
    if row.verdict == "equal":
        return "A and B are the same: every window has the same error."
    change = f"{abs(row.relative):.1%} {'lower' if row.difference < 0.0 else 'higher'}" if row.baseline else "above 0"
    spread = f"{row.confidence:.0%} interval {row.relative_low:+.1%} to {row.relative_high:+.1%}"
    counted = f"{row.units} {row.unit}{'s' if row.units != 1 else ''}"
    text = f"{PRIMARY} of B's Sigma is {change} ({spread}, p {row.p_value:.2g}, {counted})"
    if row.verdict == "undecided":
        return f"No difference beyond chance: {text}."
    return f"B is {row.verdict} than A: {text}."


def _warnings(a: SavedReport, b: SavedReport, paired: int) -> tuple[str, ...]:
    warnings = []
    for side, report in (("A", a), ("B", b)):
        if not report.document["complete"]:
            warnings.append(f"{side} IS INCOMPLETE: the replay was stopped before the recordings' end.")
        if not report.document["checkpoint"]["trained"]:
            warnings.append(f"{side} IS UNTRAINED: its weights are random.")
        left_out = len(report.windows.tick) - paired
        if left_out:
            warnings.append(f"{left_out} windows of {side} are not in the other report and were left out.")
    return tuple(warnings)


def _differences(a: Mapping[str, Any], b: Mapping[str, Any]) -> dict[str, tuple[Any, Any]]:
    pairs = {name: (a[part].get(key), b[part].get(key)) for name, (part, key) in _CONDITIONS.items()}
    return {name: pair for name, pair in pairs.items() if pair[0] != pair[1]}


def _sides(row: Comparison) -> dict[str, Any]:
    values = {**asdict(row), "relative": row.relative, "verdict": row.verdict}
    return {"a": values.pop("baseline"), "b": values.pop("sigma"), **values}
