# SPDX-License-Identifier: Apache-2.0
"""Figures of the optional studies in a report: other texts and a cut memory, and late chunks."""

from collections.abc import Mapping, Sequence
from typing import Any

import plotly.graph_objects as go

from sigma_ros.evaluation.report_figures import BASE, SIGMA, Figure, figure_of


def study_figures(document: Mapping[str, Any]) -> dict[str, Figure]:
    """By element id; empty where no study was asked for. `document` is the content of `report.json`."""
    figures = {}
    if document["semantics"]:
        figures["semantics"] = _semantics(document["semantics"]["effects"])
    if document["latency"]:
        figures["latency"] = _latency(document["latency"]["rows"])
    return figures


def _latency(rows: Sequence[Mapping[str, Any]]) -> Figure:
    names = [f"{row['name']} ms" if row["name"] != "measured" else "measured" for row in rows]
    traces = [
        go.Bar(x=names, y=[row["baseline_mse"] for row in rows], name="base, executed", marker={"color": BASE}),
        go.Bar(x=names, y=[row["sigma_mse"] for row in rows], name="Sigma, executed", marker={"color": SIGMA}),
    ]
    return figure_of(traces, x="latency", y="mean squared error (normalised)", barmode="group", bargap=0.3)


def _semantics(effects: Sequence[Mapping[str, Any]]) -> Figure:
    shown = [effect for effect in reversed(effects) if effect["name"] != "recorded"]
    traces = [_intervals(shown, "base", "base", BASE), _intervals(shown, "sigma", "Sigma", SIGMA)]
    zero = {"type": "line", "x0": 0, "x1": 0, "y0": 0, "y1": 1, "yref": "paper", "line": {"color": BASE, "width": 1}}
    layout: dict[str, Any] = {"height": 240, "shapes": [zero], "scattermode": "group", "hovermode": "closest"}
    return figure_of(traces, x="change [%]; right is worse", y="", **layout)


def _intervals(effects: Sequence[Mapping[str, Any]], arm: str, name: str, colour: str) -> go.Scatter:
    rows = [(effect["name"], effect[arm]) for effect in effects if effect[arm]["baseline"]]
    change = [100.0 * row["relative"] for _, row in rows]
    ends = {
        end: [
            100.0 * row[end] / row["baseline"] if row[end] is not None else at
            for (_, row), at in zip(rows, change, strict=True)
        ]
        for end in ("low", "high")
    }
    return go.Scatter(
        x=change,
        y=[label for label, _ in rows],
        name=name,
        mode="markers",
        marker={"size": 10, "color": colour},
        error_x={
            "type": "data",
            "symmetric": False,
            "array": [high - at for high, at in zip(ends["high"], change, strict=True)],
            "arrayminus": [at - low for low, at in zip(ends["low"], change, strict=True)],
            "color": colour,
        },
        hovertemplate="%{y}: %{x:+.2f} %<extra></extra>",
    )
