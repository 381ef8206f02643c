# SPDX-License-Identifier: Apache-2.0
"""Figures of the optional studies in a report: other texts and a cut memory, and late chunks."""

from collections.abc import Mapping, Sequence
from typing import Any

import plotly.graph_objects as go

from sigma_ros.evaluation.report_figures import BASE, COMMAND, SIGMA, WARN, Figure, figure_of


def study_figures(document: Mapping[str, Any]) -> dict[str, Figure]:
    """By element id; empty where no study was asked for. `document` is the content of `report.json`."""
    figures = {}
    if document["semantics"]:
        figures["semantics"] = _semantics(document["semantics"]["effects"])
    if document["latency"]:
        rows = document["latency"]["rows"]
        figures["latency"] = _late_errors(rows)
        figures["latency-motion"] = _late_motion(rows)
    return figures


def _late_errors(rows: Sequence[Mapping[str, Any]]) -> Figure:
    return _late_bars(rows, "RMS error [deg]", ("baseline_rmse_deg", "base", BASE), ("sigma_rmse_deg", "Sigma", SIGMA))


def _late_motion(rows: Sequence[Mapping[str, Any]]) -> Figure:
    """Whether there is a step at all, and how far the next chunk is from it where it takes over."""
    shares = [100.0 * row["uncovered_ticks"] / row["ticks"] if row["ticks"] else None for row in rows]
    return _late_bars(
        [{**row, "share": share} for row, share in zip(rows, shares, strict=True)],
        "deg; % of ticks",
        ("sigma_jump_mean_deg", "jump at take-over [deg]", COMMAND),
        ("share", "ticks without a step [%]", WARN),
    )


def _late_bars(rows: Sequence[Mapping[str, Any]], unit: str, *series: tuple[str, str, str]) -> Figure:
    names = [row["name"] for row in rows]
    traces = [
        go.Bar(
            x=names,
            y=[row[key] for row in rows],
            name=name,
            marker={"color": colour},
            text=["" if row[key] is None else f"{row[key]:.1f}" for row in rows],
            textposition="outside",
            cliponaxis=False,
        )
        for key, name, colour in series
    ]
    axis = {"title": {"text": "latency [ms]"}, "type": "category", "automargin": True}
    return figure_of(traces, x="", y=unit, barmode="group", bargap=0.3, xaxis=axis, yaxis={"rangemode": "tozero"})


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
            100.0 * row[f"relative_{end}"] if row[f"relative_{end}"] is not None else at
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
