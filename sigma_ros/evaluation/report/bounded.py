# SPDX-License-Identifier: Apache-2.0
"""The strip under a recording's curves: when the supervisor bounded which joint, by which limit, and why."""

from collections.abc import Mapping

import numpy as np
import plotly.graph_objects as go
from jaxtyping import Bool, Int64
from numpy import ndarray

from sigma_ros.evaluation.log import DecisionTrack, ReplayLog
from sigma_ros.evaluation.report.figures import BASE, COMMAND, RECORDED, SIGMA, WARN, Figure, figure_of
from sigma_ros.evaluation.scoring.commands import LIMITS, bounding_limits, held_back
from sigma_ros.evaluation.scoring.verdict import reason_text
from sigma_ros.values import NS_PER_S

LIMIT_COLOURS: Mapping[str, str] = dict(zip(LIMITS, (WARN, SIGMA, BASE, "#8b5cf6", RECORDED), strict=True))
"""Colour of each limit in the strip."""

RESIDUAL_ROW = "residual"

_Run = tuple[float, float, str]
"""Beginning and end in seconds, and what is told about it."""


def bounded_strip(log: ReplayLog) -> Figure:
    """Bars over time, a row per joint and one for the residual; one series per limit."""
    track = log.decisions
    start_ns = int(log.ticks.stamp_ns[0]) if len(log.ticks) else 0
    time_s = (track.stamp_ns - start_ns) / NS_PER_S
    limits = bounding_limits(track, log.contract)
    period_s = log.contract.command_period_ns / NS_PER_S
    names = log.contract.joint_names
    traces = []
    for order, limit in enumerate(LIMITS, start=1):
        rows = [
            (name, run)
            for j, name in enumerate(names)
            for run in _runs(limits[:, j] == order, time_s, period_s, f"{name}: {limit}", track)
        ]
        traces.append(_bars(rows, limit, LIMIT_COLOURS[limit]))
    held = [(RESIDUAL_ROW, run) for run in _runs(held_back(track), time_s, period_s, "residual held back", track)]
    traces.append(_bars(held, "residual held back", COMMAND))
    return figure_of(
        traces,
        x="time [s]",
        y="",
        height=90 + 26 * (len(names) + 1),
        barmode="overlay",
        hovermode="closest",
        yaxis={
            "categoryorder": "array",
            "categoryarray": [*reversed(names), RESIDUAL_ROW],
            "range": [-0.5, len(names) + 0.5],
            "automargin": True,
        },
        xaxis={"title": {"text": "time [s]"}, "range": [0.0, float(time_s.max(initial=1.0))], "zeroline": False},
    )


def _runs(
    on: Bool[ndarray, " decisions"], time_s: ndarray, period_s: float, name: str, track: DecisionTrack
) -> list[_Run]:
    """Stretches of ticks for one reason, as times with their words."""
    reasons = np.array(track.reason)
    breaks = np.flatnonzero(_is_new(on, reasons, track.stamp_ns))
    runs = []
    for first, end in zip(breaks, [*breaks[1:], len(on)], strict=True):
        if on[first]:
            words = f"{name}<br>supervisor: {reason_text(str(reasons[first])) if reasons[first] != 'OK' else 'OK'}"
            runs.append((float(time_s[first]), float(time_s[end - 1]) + period_s, words))
    return runs


def _is_new(
    on: Bool[ndarray, " decisions"], reasons: ndarray, stamp_ns: Int64[ndarray, " decisions"]
) -> Bool[ndarray, " decisions"]:
    """Where a stretch begins: on or off changes, the reason does, or time goes back."""
    changes = (on[1:] != on[:-1]) | (reasons[1:] != reasons[:-1]) | (np.diff(stamp_ns) < 0)
    return np.concatenate([[True], changes])[: len(on)]


def _bars(rows: list[tuple[str, _Run]], name: str, colour: str) -> go.Bar:
    return go.Bar(
        orientation="h",
        name=name,
        y=[row for row, _ in rows],
        base=[run[0] for _, run in rows],
        x=[run[1] - run[0] for _, run in rows],
        text=[run[2] for _, run in rows],
        textposition="none",
        marker={"color": colour, "line": {"width": 0}},
        hovertemplate="%{text}<br>%{base:.2f} s, for %{x:.2f} s<extra></extra>",
    )
