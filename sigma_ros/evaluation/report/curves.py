# SPDX-License-Identifier: Apache-2.0
"""Curves of one recording over time: each joint as recorded, proposed and commanded; scale, risk, telepathy.

Base and Sigma are drawn as they would be executed: of each published chunk the steps until the next one.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import plotly.graph_objects as go
from numpy import ndarray

from sigma_ros.evaluation.log import SCORED_STEPS, ReplayLog
from sigma_ros.evaluation.report.figures import (
    BASE,
    COMMAND,
    RECORDED,
    SIGMA,
    WARN,
    Figure,
    compact,
    figure_of,
    interval_dots,
    zero_line,
)
from sigma_ros.evaluation.scoring.metrics import executed
from sigma_ros.values import NS_PER_S

MAX_POINTS = 1500
"""Points of a drawn curve; longer ones are thinned evenly."""

_PROPOSAL_SPANS, _PROPOSAL_DEG = 1.5, 45.0
"""Proposals further from what the arm did than this many times its extent, or this, are cut off in a figure."""

SERIES = (
    ("base", BASE),
    ("Sigma", SIGMA),
    ("recorded action", RECORDED),
    ("measured", RECORDED),
    ("commanded", COMMAND),
)
"""Name and colour of the curves in every joint's figure, in drawing order."""


def joint_figures(log: ReplayLog) -> dict[str, Figure]:
    """One figure per joint, by joint name, in degrees over seconds."""
    start_ns = _start_ns(log)
    tick_s = (log.ticks.stamp_ns - start_ns) / NS_PER_S
    decision_s = (log.decisions.stamp_ns - start_ns) / NS_PER_S
    steps = executed(log)
    executed_s = (steps.stamp_ns - start_ns) / NS_PER_S
    base, sigma = steps.baseline_rad, steps.sigma_rad
    bands = _worst_bands(log, start_ns)
    figures = {}
    for j, joint in enumerate(log.contract.joints):
        curves: list[tuple[ndarray, ndarray, dict[str, object], float]] = [
            (executed_s, base[:, j], {"width": 2.5}, 0.8),
            (executed_s, sigma[:, j], {"width": 1.5}, 0.8),
            (tick_s, log.ticks.action_rad[:, j], {"width": 4}, 0.6),
            (tick_s, log.ticks.joints_rad[:, j], {"width": 1.5, "dash": "dot"}, 1.0),
            (decision_s, log.decisions.command_rad[:, j], {"width": 2.5, "dash": "dash"}, 1.0),
        ]
        traces = [
            _line(x, np.degrees(y), name, {"color": colour, **style}, opacity)
            for (name, colour), (x, y, style, opacity) in zip(SERIES, curves, strict=True)
        ]
        limits = (math.degrees(joint.lower_rad), math.degrees(joint.upper_rad))
        proposed, done = (np.degrees(np.concatenate([y for _, y, _, _ in part])) for part in (curves[:2], curves[2:]))
        figures[joint.name] = figure_of(
            traces,
            x="time [s]",
            y="position [deg]",
            height=230,
            showlegend=False,
            shapes=[*bands, *(_limit_line(limit) for limit in limits)],
            yaxis={"title": {"text": "position [deg]"}, "range": _axis(done, proposed, limits), "zeroline": False},
        )
    return figures


def timeline_figures(log: ReplayLog) -> dict[str, Figure]:
    """Scale, risk terms, tau and sem_align over time, by element id."""
    start_ns = _start_ns(log)
    chunks = [entry.chunk for entry in log.inferences]
    time_s = np.array([chunk.stamp_ns - start_ns for chunk in chunks], dtype=np.float64) / NS_PER_S
    return {
        "scale": _scale_figure(log, start_ns, time_s),
        "risk": _risk_figure(log, time_s),
        "tau": _pair_figure(log, time_s, "tau_l2", "tau_l2"),
        "sem": _pair_figure(log, time_s, "sem_align", "sem_align"),
    }


def _scale_figure(log: ReplayLog, start_ns: int, time_s: ndarray) -> Figure:
    track = log.decisions
    decision_s = (track.stamp_ns - start_ns) / NS_PER_S
    scale = np.array([entry.chunk.scale for entry in log.inferences])
    step = {"shape": "hv"}
    return figure_of(
        [
            _line(time_s, scale, "asked for", {"color": SIGMA, "width": 2, **step}),
            _line(decision_s, track.applied_scale, "applied", {"color": COMMAND, "width": 1.5, **step}),
            _line(decision_s, track.scale_ceiling, "ceiling", {"color": RECORDED, "width": 1, "dash": "dash"}),
        ],
        x="time [s]",
        y="scale",
        height=240,
        yaxis={"title": {"text": "scale"}, "range": [-0.04, 1.06]},
        shapes=_state_bands(log, start_ns),
    )


def _risk_figure(log: ReplayLog, time_s: ndarray) -> Figure:
    terms = (("residual", SIGMA), ("factor", BASE), ("alignment", COMMAND))
    risks = [entry.chunk.risk for entry in log.inferences]
    traces = [
        go.Scatter(
            x=compact(time_s),
            y=compact(np.nan_to_num([getattr(risk, f"{term}_term") for risk in risks], posinf=np.nan)),
            name="factors" if term == "factor" else term,
            stackgroup="risk",
            line={"color": colour, "width": 1},
            hovertemplate="%{y:.3g}",
        )
        for term, colour in terms
    ]
    return figure_of(traces, x="time [s]", y="risk, stacked terms", height=240)


def _pair_figure(log: ReplayLog, time_s: ndarray, field: str, title: str) -> Figure:
    sigma = np.array([getattr(entry, field) for entry in log.inferences])
    base = np.array([getattr(entry, f"baseline_{field}") for entry in log.inferences])
    known = np.isfinite(base)
    traces = [
        go.Scatter(
            x=compact(time_s[known]),
            y=compact(base[known]),
            name="base",
            mode="lines+markers",
            line={"color": BASE, "width": 2.5},
            hovertemplate="%{y:.4g}",
        ),
        _line(time_s, sigma, "Sigma", {"color": SIGMA, "width": 1.5}),
    ]
    return figure_of(traces, x="time [s]", y=title, height=240)


def _line(x: ndarray, y: ndarray, name: str, style: dict[str, object], opacity: float = 1.0) -> go.Scatter:
    keep = slice(None, None, max(1, math.ceil(len(x) / MAX_POINTS)))
    return go.Scatter(
        x=compact(x[keep]),
        y=compact(y[keep]),
        name=name,
        mode="lines",
        line=style,
        opacity=opacity,
        hovertemplate="%{y:.4g}",
    )


def _axis(done: ndarray, proposed: ndarray, limits: tuple[float, float]) -> list[float]:
    """The extent of what the arm did with some air; proposals widen it, but wild ones must not flatten the rest."""
    done, proposed = done[np.isfinite(done)], proposed[np.isfinite(proposed)]
    low, high = (float(done.min()), float(done.max())) if len(done) else limits
    reach = max(_PROPOSAL_SPANS * (high - low), _PROPOSAL_DEG)
    if len(proposed):
        low = min(low, max(float(proposed.min()), low - reach))
        high = max(high, min(float(proposed.max()), high + reach))
    pad = max(0.08 * (high - low), 2.0)
    return [low - pad, high + pad]


def _limit_line(limit_deg: float) -> dict[str, object]:
    line = {"color": WARN, "width": 1.5, "dash": "dash"}
    return {"type": "line", "xref": "paper", "x0": 0, "x1": 1, "y0": limit_deg, "y1": limit_deg, "line": line}


def _worst_bands(log: ReplayLog, start_ns: int) -> list[dict[str, object]]:
    span_s = SCORED_STEPS * log.contract.tick_period_ns / NS_PER_S
    bands = []
    for strip in log.strips:
        index = np.flatnonzero((log.ticks.epoch == strip.epoch) & (log.ticks.tick == strip.tick))
        begin_s = float(log.ticks.stamp_ns[index[0]] - start_ns) / NS_PER_S
        bands.append(_band(begin_s, begin_s + span_s, WARN, 0.10))
    return bands


def _state_bands(log: ReplayLog, start_ns: int) -> list[dict[str, object]]:
    """Shades the time in which the supervisor was not running."""
    track = log.decisions
    idle = np.array([state != "RUN" for state in track.state], dtype=np.int8)
    edges = np.flatnonzero(np.diff(idle, prepend=0, append=0)).reshape(-1, 2)
    time_s = (track.stamp_ns - start_ns) / NS_PER_S
    return [_band(float(time_s[first]), float(time_s[end - 1]), RECORDED, 0.18) for first, end in edges[:200]]


def _band(x0: float, x1: float, colour: str, opacity: float) -> dict[str, object]:
    place = {"type": "rect", "x0": x0, "x1": x1, "yref": "paper", "y0": 0, "y1": 1}
    return {**place, "fillcolor": colour, "opacity": opacity, "line": {"width": 0}, "layer": "below"}


def _start_ns(log: ReplayLog) -> int:
    return int(log.ticks.stamp_ns[0]) if len(log.ticks) else 0


# Figures of the optional studies in a report: other texts and a cut memory, and late chunks.


def study_figures(document: Mapping[str, Any]) -> dict[str, Figure]:
    """By element id; empty where no study was asked for. `document` is the content of `report.json`."""
    figures = {}
    if document["semantics"]:
        figures["semantics"] = _semantics(document["semantics"]["effects"])
    if document["latency"]:
        rows = document["latency"]["rows"]
        arms = (("baseline_rmse_deg", "base", BASE), ("sigma_rmse_deg", "Sigma", SIGMA))
        figures["latency"] = _late_bars(rows, "RMS error [deg]", *arms)
        figures["latency-motion"] = _late_motion(rows)
    return figures


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
    layout: dict[str, Any] = {"height": 240, "scattermode": "group", "hovermode": "closest"}
    return figure_of(traces, x="change [%]; right is worse", y="", shapes=[zero_line(1)], **layout)


def _intervals(effects: Sequence[Mapping[str, Any]], arm: str, name: str, colour: str) -> go.Scatter:
    rows = [(effect["name"], effect[arm]) for effect in effects if effect[arm]["baseline"]]
    change = [100.0 * row["relative"] for _, row in rows]
    low, high = (
        [at if row[end] is None else 100.0 * row[end] for (_, row), at in zip(rows, change, strict=True)]
        for end in ("relative_low", "relative_high")
    )
    return interval_dots([label for label, _ in rows], change, (low, high), colour, size=10, bars={}, name=name)
