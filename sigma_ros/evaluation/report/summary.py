# SPDX-License-Identifier: Apache-2.0
"""The summary of many bags: pooled errors with a bootstrap over recordings, one row per bag, failures with reasons.

Everything but the top-level keys `timing` and `conditions` is the same however many workers there were.
"""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
import plotly.graph_objects as go
import pyarrow as pa
import pyarrow.parquet as pq

from sigma_ros.evaluation.batch import MEASURED, BagRow
from sigma_ros.evaluation.report.document import comparison_values, plain, sweep_values
from sigma_ros.evaluation.report.figures import BASE, COMMAND, SIGMA, Figure, figure_of
from sigma_ros.evaluation.report.page import render
from sigma_ros.evaluation.report.saved import SUMMARY_SCHEMA, SavedReport, read_report
from sigma_ros.evaluation.scoring.metrics import SPANS
from sigma_ros.evaluation.scoring.score import BATCH
from sigma_ros.evaluation.scoring.scores import SweepScores
from sigma_ros.evaluation.scoring.statistics import Comparison, compare, rank_correlation
from sigma_ros.evaluation.scoring.windows import WindowErrors, sweep_scales

PRIMARY = "mse_trj"
_TRJ = tuple(SPANS).index("trj")
_WEIGHED = ("tau_l2", "sem_align")


@dataclass(frozen=True, slots=True, kw_only=True)
class Pooled:
    """All scored windows of all usable bags, compared."""

    errors: WindowErrors
    comparison: Mapping[str, Comparison]
    sweep: SweepScores


def pool(folders: Sequence[Path], *, seed: int = 0) -> tuple[Pooled, Mapping[str, Any]] | None:
    """Reads the bags' reports one after the other and pools their windows; also the first report's document.

    Only errors are kept of each, so that memory grows by a few hundred bytes per window.
    """
    parts: list[WindowErrors] = []
    first: SavedReport | None = None
    for number, folder in enumerate(folders):
        report = read_report(folder)
        first = first or report
        errors = report.windows.errors(report.normalise)
        parts.append(
            WindowErrors(
                **{field.name: getattr(errors, field.name) for field in fields(errors) if field.name != "recording"},
                recording=np.full(len(errors), number, dtype=np.int64),
            )
        )
    if first is None:
        return None
    errors = WindowErrors.joined(parts)
    comparison = {
        f"mse_{name}": compare(errors.baseline[:, i], errors.sigma[:, i], errors.recording, seed=seed)
        for i, name in enumerate(SPANS)
    }
    return Pooled(errors=errors, comparison=comparison, sweep=sweep_scales(errors, seed=seed)), first.document


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
        "verdict": {"headline": _headline(pooled), "warnings": _warnings(rows, first, complete=complete)},
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
        "comparison": {} if pooled is None else {k: comparison_values(v) for k, v in pooled.comparison.items()},
        "sweep": None if pooled is None else sweep_values(pooled.sweep),
        "adapter": {**_adapter(pooled), "settings": first.get("adapter", {}).get("settings")},
        "supervisor": {
            "enabled": first.get("supervisor", {}).get("enabled"),
            **{
                total: sum(getattr(row, name) for row in usable)
                for total, name in (
                    ("ticks", "supervisor_ticks"),
                    ("clipped", "clipped"),
                    ("holds", "holds"),
                    ("violations", "violations"),
                    ("breaches", "breaches"),
                )
            },
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
    samples = np.array([row.samples for row in usable], dtype=np.float64)
    values = {f"mse_{name}": math.nan for name in SPANS}
    if pooled is not None and len(pooled.errors):
        means = getattr(pooled.errors, arm).mean(axis=0)
        values = {f"mse_{name}": float(means[i]) for i, name in enumerate(SPANS)}
    for name in _WEIGHED:
        column = np.array([getattr(row, f"{arm}_{name}") for row in usable], dtype=np.float64)
        scored = samples > 0
        values[name] = float(np.average(column[scored], weights=samples[scored])) if scored.any() else math.nan
    return values


def _adapter(pooled: Pooled | None) -> dict[str, float]:
    """Over scored windows (a report's own `adapter` is over published chunks)."""
    if pooled is None or not len(pooled.errors):
        return {"scale_mean": math.nan, "risk_error_rho": math.nan, "risk_error_p": math.nan}
    rho, p_value = rank_correlation(pooled.errors.risk, pooled.errors.sigma[:, _TRJ])
    return {"scale_mean": float(pooled.errors.scale.mean()), "risk_error_rho": rho, "risk_error_p": p_value}


def _headline(pooled: Pooled | None) -> str:
    if pooled is None or not len(pooled.errors):
        return "Nothing was scored."
    row = pooled.comparison[PRIMARY]
    if row.verdict == "equal":
        return "Sigma equals its base exactly on these recordings."
    words = {"better": "beats", "worse": "is worse than"}.get(row.verdict, "does not beat")
    if not row.baseline or math.isnan(row.low):
        return f"Sigma {words} its base: {PRIMARY} {row.sigma:.3g} against {row.baseline:.3g}."
    return (
        f"Sigma {words} its base: {PRIMARY} is {abs(row.relative):.1%} {'lower' if row.difference < 0 else 'higher'} "
        f"({row.confidence:.0%} interval {row.relative_low:+.1%} to {row.relative_high:+.1%}, "
        f"p {row.p_value:.2g}, {row.units} {row.unit}s)."
    )


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


def summary_page(document: Mapping[str, Any]) -> str:
    """The whole page; `document` is the content of `summary.json`."""
    worst = sorted(document["episodes"], key=lambda row: -(row["sigma_mse_trj"] or 0.0))
    figures: dict[str, Figure] = {}
    if document["comparison"]:
        scored = [row for row in document["episodes"] if row["baseline_mse_trj"]]
        figures = {
            "changes": _changes(scored),
            "pairs": _pairs(scored),
            "scale-sweep": _sweep(document),
        }
    return render("evaluation_page.html.jinja", figures, report=document, ordered=worst[:LISTED])


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
    zero = {"type": "line", "x0": 0, "x1": 0, "y0": 0, "y1": 1, "yref": "paper", "line": {"color": BASE, "width": 2}}
    axis: dict[str, object] = {"title": {"text": "recordings"}, "rangemode": "tozero"}
    if counts.max() < _FEW:
        axis["dtick"] = 1
    return figure_of([bars], x="change [%]; left is better", y="", shapes=[zero], hovermode="closest", yaxis=axis)


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


def _sweep(document: Mapping[str, Any]) -> Figure:
    sweep = document["sweep"]
    curve = go.Scatter(
        x=sweep["scales"], y=sweep["mse_trj"], name="one fixed scale", line={"color": BASE, "width": 2.5}
    )
    adapter = go.Scatter(
        x=[0, 1], y=[document["sigma"]["mse_trj"]] * 2, name="the adapter", line={"color": SIGMA}, mode="lines"
    )
    best = go.Scatter(
        x=[sweep["best_scale"]],
        y=[sweep["best_mse_trj"]],
        name="best in hindsight",
        mode="markers",
        marker={"color": COMMAND, "size": 11},
    )
    return figure_of([curve, adapter, best], x="scale", y="mse_trj (normalised)", hovermode="closest")
