# SPDX-License-Identifier: Apache-2.0
"""The summary of many bags: pooled errors with a bootstrap over recordings, one row per bag, failures with reasons.

Everything but the top-level keys `timing` and `conditions` is the same however many workers there were.
"""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import plotly.graph_objects as go
import pyarrow as pa
import pyarrow.parquet as pq

from sigma_ros.evaluation.batch import MEASURED, BagRow
from sigma_ros.evaluation.report.document import comparisons, plain, sweep_values
from sigma_ros.evaluation.report.figures import BASE, SIGMA, Figure, figure_of, scale_sweep, zero_line
from sigma_ros.evaluation.report.page import render
from sigma_ros.evaluation.report.saved import SUMMARY_SCHEMA, SavedReport, read_report
from sigma_ros.evaluation.report.write import JSON, PAGE
from sigma_ros.evaluation.scoring.metrics import SPANS, TRJ
from sigma_ros.evaluation.scoring.score import BATCH, commanded_scores, compare_arms, sweep_scales
from sigma_ros.evaluation.scoring.scores import CommandedScores, SweepScores
from sigma_ros.evaluation.scoring.statistics import Comparison, rank_correlation
from sigma_ros.evaluation.scoring.verdict import headline_of
from sigma_ros.evaluation.scoring.windows import WindowErrors, renumbered

_ARMS = ("baseline", "sigma", "commanded")
_WEIGHED = ("tau_l2", "sem_align")
_COUNTED = ("clipped", "holds", "violations", "breaches")


@dataclass(frozen=True, slots=True, kw_only=True)
class Pooled:
    """All scored windows of all usable bags, compared."""

    errors: WindowErrors
    comparison: Mapping[str, Comparison]
    commanded: CommandedScores
    sweep: SweepScores


def pool(folders: Sequence[Path]) -> tuple[Pooled, Mapping[str, Any]] | None:
    """Reads the bags' reports one after the other and pools their windows; also the first report's document.

    Only errors are kept of each, so that memory grows by about 5 kB per window.
    """
    parts: list[WindowErrors] = []
    first: SavedReport | None = None
    for number, folder in enumerate(folders):
        report = read_report(folder)
        first = first or report
        parts.append(renumbered(report.windows, number).errors(report.normalise))
    if first is None:
        return None
    errors = WindowErrors.joined(parts)
    comparison = compare_arms(errors.baseline, errors.sigma, errors.recording)
    commanded, sweep = commanded_scores(errors), sweep_scales(errors)
    return Pooled(errors=errors, comparison=comparison, commanded=commanded, sweep=sweep), first.document


def summary_document(
    rows: Sequence[BagRow],
    pooled: Pooled | None,
    first: Mapping[str, Any],
    *,
    complete: bool,
    conditions: Mapping[str, object],
) -> dict[str, Any]:
    """`summary.json`: verdict, pooled scores, one row per bag. `first` is the document of any of the bags' reports."""
    usable = [row for row in rows if row.status != "failed"]
    document = {
        "schema": SUMMARY_SCHEMA,
        "complete": complete,
        "verdict": {
            "headline": headline_of(pooled.comparison, pooled.commanded) if pooled else "Nothing was scored.",
            "warnings": _warnings(rows, first, complete=complete),
        },
        "bags": {
            "total": len(rows),
            "complete": sum(row.status == "complete" for row in rows),
            "with_losses": sum(row.status == "losses" for row in rows),
            "failed": sum(row.status == "failed" for row in rows),
            "duration_s": sum(row.duration_s for row in usable),
        },
        "samples": 0 if pooled is None else len(pooled.errors),
        "batches": 0 if pooled is None else math.ceil(len(pooled.errors) / BATCH),
        "baseline": _arm(pooled, usable, "baseline"),
        "sigma": _arm(pooled, usable, "sigma"),
        "commanded": _commanded(pooled),
        "comparison": {} if pooled is None else comparisons(pooled.comparison),
        "sweep": None if pooled is None else sweep_values(pooled.sweep),
        "adapter": {**_adapter(pooled), "settings": first.get("adapter", {}).get("settings")},
        "supervisor": {
            "enabled": first.get("supervisor", {}).get("enabled"),
            **{name: _weighed(usable, name, "commanded") for name in ("requested_scale_mean", "applied_scale_mean")},
            "ticks": sum(row.supervisor_ticks for row in usable),
            **{name: sum(getattr(row, name) for row in usable) for name in _COUNTED},
        },
        "episodes": [{k: v for k, v in asdict(row).items() if k not in MEASURED} for row in usable],
        "failures": [{"bag": row.bag, "reason": row.reason} for row in rows if row.status == "failed"],
        "checkpoint": first.get("checkpoint"),
        "contract": first.get("contract"),
        "replay": {**first.get("replay", {}), "tasks": sorted({row.task for row in usable})},
        "timing": {"bag_wall_s": sum(row.wall_s for row in rows)},
        "conditions": dict(conditions),
    }
    values = plain(document)
    assert isinstance(values, dict)
    return values


def write_rows(rows: Sequence[BagRow], path: Path) -> None:
    """`bags.parquet`: one row per bag, the failed ones too."""
    pq.write_table(pa.Table.from_pylist([asdict(row) for row in rows]), path, compression="zstd")


def _arm(pooled: Pooled | None, usable: Sequence[BagRow], arm: str) -> dict[str, float]:
    values = {f"mse_{name}": math.nan for name in SPANS}
    if pooled is not None and len(pooled.errors):
        means = getattr(pooled.errors, arm).spans.mean(axis=0)
        values = {f"mse_{name}": float(means[i]) for i, name in enumerate(SPANS)}
    values |= {name: _weighed(usable, f"{arm}_{name}", "samples") for name in _WEIGHED}
    return values


def _weighed(rows: Sequence[BagRow], name: str, weight: str) -> float:
    """The mean of a field over the bags, each with its own weight; NaN without any."""
    values, weights = (np.array([getattr(row, field) for row in rows], dtype=np.float64) for field in (name, weight))
    counted = weights > 0
    return float(np.average(values[counted], weights=weights[counted])) if counted.any() else math.nan


def _commanded(pooled: Pooled | None) -> dict[str, object]:
    """Over the windows of which every step was commanded."""
    if pooled is None or not pooled.commanded.windows:
        return {"windows": 0, "comparison": {}}
    names = ("windows", *(f"mse_{name}" for name in SPANS), *(f"{arm}_rmse_deg" for arm in _ARMS))
    values = {name: getattr(pooled.commanded, name) for name in names}
    return {**values, "comparison": comparisons(pooled.commanded.comparison)}


def _adapter(pooled: Pooled | None) -> dict[str, float]:
    """Over scored windows (a report's own `adapter` is over published chunks)."""
    if pooled is None or not len(pooled.errors):
        return {"scale_mean": math.nan, "risk_error_rho": math.nan, "risk_error_p": math.nan}
    rho, p_value = rank_correlation(pooled.errors.risk, pooled.errors.sigma.spans[:, TRJ])
    return {"scale_mean": float(pooled.errors.scale.mean()), "risk_error_rho": rho, "risk_error_p": p_value}


def _warnings(rows: Sequence[BagRow], first: Mapping[str, Any], *, complete: bool) -> list[str]:
    warnings = []
    checkpoint = first.get("checkpoint", {"trained": True, "sigma_trained": True})
    if not checkpoint["trained"]:
        warnings.append("UNTRAINED MODEL: the weights are random; the numbers show that the path works, nothing else.")
    elif not checkpoint["sigma_trained"]:
        warnings.append("UNTRAINED SIGMA: its residual is zero by construction, so it equals its base.")
    if not complete:
        warnings.append("INCOMPLETE: the evaluation was stopped before the last bag.")
    same = Counter(row.sha256 for row in rows if row.sha256)
    copies = sorted(row.name for row in rows if same[row.sha256] > 1)
    if copies:
        named = ", ".join(copies[:_FEW])
        warnings.append(f"COPIES: {len(copies)} bags hold recordings that are there more than once, such as {named}.")
    failures = sum(row.status == "failed" for row in rows)
    if failures:
        warnings.append(f"FAILED: {failures} of {len(rows)} bags could not be used; their reasons are listed.")
    lossy = sum(row.status == "losses" for row in rows)
    if lossy:
        warnings.append(f"LOSSES: in {lossy} bags something could not be used; each bag's report says what.")
    broken = sum(row.violations + row.breaches for row in rows)
    if broken:
        warnings.append(f"LIMITS BROKEN: {broken} times. This must never happen; please report it.")
    unverifiable = sum(not row.checksummed for row in rows)
    if unverifiable:
        warnings.append(f"UNVERIFIABLE: {unverifiable} bags carry no checksums, so damage to them could go unnoticed.")
    return warnings


# `summary.html`: the page over many bags.


_FEW = 8

LISTED = 200
"""Recordings in the page's table; all are in bags.parquet."""


def summary_page(document: Mapping[str, Any], *, pages: bool = False) -> str:
    """The whole page; `document` is the content of `summary.json`. Each recording leads to its report beside it.

    Args:
        document: The content of `summary.json`.
        pages: Every bag has a `report.html`; else the links lead to its `report.json`.
    """
    worst = sorted(document["episodes"], key=lambda row: -(row["sigma_mse_trj"] or 0.0))
    figures: dict[str, Figure] = {}
    if document["comparison"]:
        scored = [row for row in document["episodes"] if row["baseline_mse_trj"]]
        figures = {
            "changes": _changes(scored),
            "pairs": _pairs(scored),
            "scale-sweep": scale_sweep(document["sweep"], document["sigma"]["mse_trj"], best="best in hindsight"),
        }
    return render(
        "evaluation_page.html.jinja",
        figures,
        report=document,
        ordered=worst[:LISTED],
        report_name=PAGE if pages else JSON,
    )


def _changes(rows: Sequence[Mapping[str, Any]]) -> Figure:
    changes = [100.0 * (row["sigma_mse_trj"] / row["baseline_mse_trj"] - 1.0) for row in rows]
    counts, edges = np.histogram(changes, bins=30, range=(min(0.0, *changes) - 1.0, max(0.0, *changes) + 1.0))
    bars = go.Bar(
        x=(edges[:-1] + edges[1:]) / 2.0,
        y=counts,
        width=0.92 * np.diff(edges),
        marker={"color": SIGMA},
        hovertemplate="%{y} recordings at %{x:.1f} %<extra></extra>",
    )
    axis: dict[str, object] = {"title": {"text": "recordings"}, "rangemode": "tozero"}
    if counts.max() < _FEW:
        axis["dtick"] = 1
    return figure_of(
        [bars], x="change [%]; left is better", y="", shapes=[zero_line()], hovermode="closest", yaxis=axis
    )


def _pairs(rows: Sequence[Mapping[str, Any]]) -> Figure:
    base, sigma = ([row[f"{arm}_mse_trj"] for row in rows] for arm in ("baseline", "sigma"))
    reach = max([*base, *sigma, 0.0]) * 1.05
    line = go.Scatter(x=[0, reach], y=[0, reach], mode="lines", line={"color": BASE, "width": 2}, hoverinfo="skip")
    dots = go.Scatter(
        x=base,
        y=sigma,
        mode="markers",
        text=[row["name"] for row in rows],
        marker={"color": SIGMA, "size": 7, "opacity": 0.7},
        hovertemplate="%{text}<br>base %{x:.4g}, Sigma %{y:.4g}<extra></extra>",
    )
    return figure_of([line, dots], x="base, mse_trj", y="Sigma, mse_trj", hovermode="closest", showlegend=False)
