# SPDX-License-Identifier: Apache-2.0
"""`summary.html`: the page over many bags."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import plotly.graph_objects as go

from sigma_ros.evaluation.page import render
from sigma_ros.evaluation.report_figures import BASE, COMMAND, SIGMA, Figure, figure_of

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
