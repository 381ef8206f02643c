# SPDX-License-Identifier: Apache-2.0
"""The report's summary figures, made with Plotly: comparison, error by step and by joint, scale, risk against error.

A figure is returned as Plotly's plain dictionary. Text and grid colours are left to the page, which sets
them for light and dark; the series' colours work on both.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
import plotly.graph_objects as go
from numpy import ndarray

from sigma_ros.evaluation.log import ReplayLog
from sigma_ros.evaluation.scoring.metrics import TRJ
from sigma_ros.evaluation.scoring.scores import ErrorScores, Scores

BASE, SIGMA, COMMAND, RECORDED, WARN = "#e08214", "#3b82f6", "#12a17a", "#8a8f98", "#d6455d"

Figure = dict[str, object]


def figure_of(traces: Sequence[object], *, x: str, y: str, height: int = 280, **layout: object) -> Figure:
    """A Plotly figure with the page's margins and axis titles, as a plain dictionary."""
    figure = go.Figure(traces)
    figure.update_layout(
        template="none",
        height=height,
        margin={"l": 56, "r": 12, "t": 12, "b": 44},
        xaxis={"title": {"text": x, "standoff": 8}, "zeroline": False},
        yaxis={"title": {"text": y, "standoff": 8}, "zeroline": False, "exponentformat": "power", "automargin": True},
        legend={"orientation": "h", "y": 1.0, "yanchor": "bottom", "x": 0.0},
        hovermode="x unified",
    )
    figure.update_layout(**layout)
    return figure.to_plotly_json()


def compact(values: ndarray | Sequence[float]) -> ndarray:
    """Single precision: enough for a curve, half the file."""
    return np.asarray(values, dtype=np.float32)


def summary_figures(logs: Sequence[ReplayLog], scores: Scores) -> dict[str, Figure]:
    """Figures over all recordings, by element id; empty where nothing was scored."""
    figures = {"scale-histogram": scale_histogram(scores)}
    if scores.samples:
        figures["comparison"] = comparison_figure(scores)
        figures["step-error"] = step_error(scores)
        figures["joint-error"] = joint_error(logs[0], scores)
        figures["risk-error"] = risk_error(logs, scores)
        best = "best fixed scale in hindsight"
        figures["scale-sweep"] = scale_sweep(asdict(scores.sweep), scores.sigma.mse_trj, best=best)
    return figures


def comparison_figure(scores: Scores) -> Figure:
    """Change of each error against the base in percent, with its interval; left of 0 is a gain."""
    rows = [(name, value) for name, value in reversed(list(scores.comparison.items())) if value.baseline]
    change, low, high = (
        [100.0 * getattr(value, key) for _, value in rows] for key in ("relative", "relative_low", "relative_high")
    )
    bars = {"thickness": 2, "width": 6}
    trace = interval_dots([name for name, _ in rows], change, (low, high), SIGMA, size=11, bars=bars, showlegend=False)
    reach = max([abs(float(v)) for v in change] + [1.0]) * 1.6
    return figure_of(
        [trace],
        x="",
        y="",
        height=190,
        shapes=[zero_line()],
        hovermode="closest",
        yaxis={"automargin": True},
        xaxis={"title": {"text": "change [%]; left is better"}, "range": _range([*low, *high], reach)},
    )


def zero_line(width: int = 2) -> Figure:
    """Where nothing changes."""
    line = {"color": BASE, "width": width}
    return {"type": "line", "x0": 0, "x1": 0, "y0": 0, "y1": 1, "yref": "paper", "line": line}


def interval_dots(
    labels: Sequence[str],
    change: Sequence[float],
    ends: tuple[Sequence[float], Sequence[float]],
    colour: str,
    *,
    size: int,
    bars: Mapping[str, object],
    **more: object,
) -> go.Scatter:
    """Changes [%] with their intervals, low and high ends, one row a label; `bars` is the style of the intervals."""
    low, high = ends
    return go.Scatter(
        x=change,
        y=labels,
        error_x={
            "type": "data",
            "symmetric": False,
            "array": [end - at for end, at in zip(high, change, strict=True)],
            "arrayminus": [at - end for end, at in zip(low, change, strict=True)],
            **bars,
            "color": colour,
        },
        mode="markers",
        marker={"size": size, "color": colour},
        hovertemplate="%{y}: %{x:+.2f} %<extra></extra>",
        **more,
    )


def _range(ends: Sequence[float], reach: float) -> list[float]:
    finite = [end for end in ends if np.isfinite(end)]
    low, high = min([*finite, -reach * 0.25]), max([*finite, reach * 0.25])
    pad = 0.1 * (high - low)
    return [low - pad, high + pad]


def _arms(scores: Scores) -> list[tuple[str, ErrorScores, str]]:
    """Name, errors and colour of what was proposed, and of what was commanded where anything was."""
    arms: list[tuple[str, ErrorScores, str]] = [("base", scores.baseline, BASE), ("Sigma", scores.sigma, SIGMA)]
    return [*arms, ("after the supervisor", scores.commanded, COMMAND)] if scores.commanded.windows else arms


def step_error(scores: Scores) -> Figure:
    """Mean squared error of each of the 16 steps, as proposed and as commanded."""
    steps = list(range(len(scores.baseline.step_mse)))
    return figure_of(
        [
            go.Scatter(x=steps, y=arm.step_mse, name=name, line={"color": colour, "width": 3 if colour == BASE else 2})
            for name, arm, colour in _arms(scores)
        ],
        x="step of the chunk [ticks]",
        y="mean squared error",
        yaxis={"rangemode": "tozero", "title": {"text": "mse (normalised)"}},
    )


def joint_error(log: ReplayLog, scores: Scores) -> Figure:
    """Root mean squared error of each joint over the trajectory in degrees, as proposed and as commanded."""
    names = log.contract.joint_names
    return figure_of(
        [
            go.Bar(x=names, y=arm.joint_rmse_deg["trj"], name=name, marker={"color": colour})
            for name, arm, colour in _arms(scores)
        ],
        x="",
        y="RMS error over 16 steps [deg]",
        barmode="group",
        bargap=0.25,
        xaxis={"automargin": True},
    )


def scale_histogram(scores: Scores) -> Figure:
    """How often the adapter asked for which scale."""
    counts = scores.adapter.histogram
    width = 1.0 / len(counts)
    centres = [(i + 0.5) * width for i in range(len(counts))]
    bars = go.Bar(
        x=centres,
        y=counts,
        width=width * 0.9,
        marker={"color": SIGMA},
        hovertemplate="%{y} chunks at %{x:.2f}<extra></extra>",
    )
    return figure_of([bars], x="scale asked for by the adapter", y="chunks", xaxis={"range": [-0.02, 1.02]})


def scale_sweep(sweep: Mapping[str, Any], adapter_mse_trj: float, *, best: str) -> Figure:
    """Sigma's error had the scale been fixed (`SweepScores` as a document), beside what the adapter reached."""
    curve = {"name": "one fixed scale", "line": {"color": BASE, "width": 2.5}}
    adapter = {"name": "the adapter", "mode": "lines", "line": {"color": SIGMA, "width": 2}}
    dot = {"name": best, "mode": "markers", "marker": {"color": COMMAND, "size": 11}}
    traces = [
        go.Scatter(x=sweep["scales"], y=sweep["mse_trj"], **curve),
        go.Scatter(x=[0.0, 1.0], y=[adapter_mse_trj] * 2, **adapter),
        go.Scatter(x=[sweep["best_scale"]], y=[sweep["best_mse_trj"]], **dot),
    ]
    return figure_of(traces, x="scale", y="mse_trj (normalised)", hovermode="closest")


def risk_error(logs: Sequence[ReplayLog], scores: Scores) -> Figure:
    """Does the adapter know when Sigma is wrong? One dot per scored window."""
    windows = scores.windows
    names = zip(windows.recording.tolist(), windows.tick.tolist(), strict=True)
    dots = go.Scatter(
        x=windows.risk.tolist(),
        y=windows.sigma.spans[:, TRJ].tolist(),
        text=[f"{logs[recording].bag.name}, tick {tick}" for recording, tick in names],
        mode="markers",
        marker={"color": SIGMA, "size": 7, "opacity": 0.7},
        hovertemplate="%{text}<br>risk %{x:.2f}, error %{y:.3g}<extra></extra>",
    )
    return figure_of([dots], x="adapter's risk", y="Sigma's error, mse_trj", hovermode="closest", showlegend=False)
