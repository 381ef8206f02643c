# SPDX-License-Identifier: Apache-2.0
"""Pages that open from disk: the template's frame (`page.html.jinja`), Plotly inside, nothing asked of the network."""

import base64
import gzip
import json
import math
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import jinja2
import numpy as np
import plotly.io
from numpy import ndarray
from plotly.offline import get_plotlyjs

from sigma_ros.evaluation.log import ReplayLog, Strip
from sigma_ros.evaluation.report.bounded import bounded_strip
from sigma_ros.evaluation.report.curves import SERIES, joint_figures, study_figures, timeline_figures
from sigma_ros.evaluation.report.figures import Figure, summary_figures
from sigma_ros.evaluation.report.terms import term
from sigma_ros.evaluation.scoring.scores import Scores
from sigma_ros.streams.images import as_jpeg
from sigma_ros.values import NS_PER_S


def render(template: str, figures: Mapping[str, Figure], **values: object) -> str:
    """A page from one of the templates beside this module; `figures` are drawn in the elements of their names.

    Plotly is inside where there are figures.
    """
    page = _templates().get_template(template)
    # as JSON that cannot end the script element it stands in
    drawn = {key: plotly.io.to_json(one, validate=False).replace("</", "<\\/") for key, one in figures.items()}
    return page.render(**values, figures=drawn, plotly=_plotly() if drawn else "")


@cache
def _plotly() -> str:
    """Plotly's library, compressed: a third of its size, and the same bytes each time."""
    return base64.b64encode(gzip.compress(get_plotlyjs().encode(), compresslevel=9, mtime=0)).decode()


@cache
def _templates() -> jinja2.Environment:
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    environment.globals["term"] = term
    environment.filters["num"] = _number
    environment.filters["pct"] = _percent
    environment.filters["bounds"] = _bounds
    environment.filters["pretty"] = lambda value: json.dumps(value, indent=1, ensure_ascii=False)
    return environment


def _number(value: float | None, digits: int = 3) -> str:
    """A number with `digits` significant digits; a dash where it is undefined."""
    if value is None:
        return "–"
    if isinstance(value, int):
        return f"{value:,}".replace(",", "\u202f")
    if 10.0**digits <= abs(value) < 1e7:
        return f"{value:,.0f}".replace(",", "\u202f")
    return f"{value:.{digits}g}"


def _percent(value: float | None) -> str:
    return "–" if value is None else f"{_hundredths(value)} %"


def _bounds(row: Mapping[str, Any]) -> str:
    """A comparison's interval, as a share of the baseline."""
    low, high = row["relative_low"], row["relative_high"]
    return "–" if low is None or high is None else f"{_hundredths(low)} … {_hundredths(high)} %"


def _hundredths(value: float) -> str:
    return f"{100.0 * value:+.{2 if abs(value) < 0.1 else 1}f}".replace("-", "−")


# `report.html`: one file that opens from disk, shows its verdict first and asks the network for nothing.
#
# The page is `report_page.html.jinja`; Plotly's library travels inside it, compressed, and a content
# security policy forbids every connection (`page.py`).


SHOWN_EPISODES = 4
"""Recordings whose curves are drawn: the worst ones by Sigma's mse_trj."""

SHOWN_STRIPS = 6
JPEG_QUALITY = 85

TIMELINE_TITLES = {
    "scale": "Scale: asked for, applied, ceiling",
    "risk": "Risk: the three terms of the adapter",
    "tau": "Norm of the telepathy factors",
    "sem": "Alignment of memory and task text",
}


class _Plot(NamedTuple):
    element: str
    title: str
    detail: str
    figure: Figure


class _Episode(NamedTuple):
    name: str
    end_s: float
    joints: tuple[_Plot, ...]
    timeline: tuple[_Plot, ...]
    bounded: _Plot | None
    shots: str
    cameras: tuple[str, ...]


def report_page(logs: Sequence[ReplayLog], scores: Scores, document: Mapping[str, object]) -> str:
    """The whole page; `document` is the content of `report.json`."""
    shown = _worst_first(logs, scores)[:SHOWN_EPISODES]
    episodes = [_episode(f"e{i}", log) for i, log in enumerate(shown)]
    summary = summary_figures(logs, scores) | study_figures(document)
    figures = dict(summary)
    for episode in episodes:
        strip = (episode.bounded,) if episode.bounded else ()
        figures |= {plot.element: plot.figure for plot in (*episode.joints, *strip, *episode.timeline)}
    return render(
        "report_page.html.jinja",
        figures,
        report=document,
        joint_names=logs[0].contract.joint_names,
        episodes=episodes,
        hidden_episodes=len(logs) - len(shown),
        series=SERIES,
        strips=_strips(logs),
    )


def _episode(prefix: str, log: ReplayLog) -> _Episode:
    shots = {
        "times_s": [round((shot.stamp_ns - int(log.ticks.stamp_ns[0])) / NS_PER_S, 3) for shot in log.shots],
        "cameras": {
            camera.name: [
                "data:image/jpeg;base64," + base64.b64encode(shot.jpegs[camera.name]).decode() for shot in log.shots
            ]
            for camera in log.contract.cameras
        },
    }
    limits = {
        joint.name: f"{math.degrees(joint.lower_rad):.0f}° to {math.degrees(joint.upper_rad):.0f}°"
        for joint in log.contract.joints
    }
    return _Episode(
        name=log.bag.name,
        end_s=(int(log.ticks.stamp_ns[-1]) - int(log.ticks.stamp_ns[0])) / NS_PER_S if len(log.ticks) else 0.0,
        joints=tuple(
            _Plot(f"{prefix}-joint-{name}", name, f"limits {limits[name]}", figure)
            for name, figure in joint_figures(log).items()
        ),
        timeline=tuple(
            _Plot(f"{prefix}-{name}", TIMELINE_TITLES[name], "", figure)
            for name, figure in timeline_figures(log).items()
        ),
        bounded=_Plot(f"{prefix}-bounded", "", "", bounded_strip(log)) if len(log.decisions) else None,
        shots=json.dumps(shots) if log.shots else "",
        cameras=tuple(camera.name for camera in log.contract.cameras),
    )


def _worst_first(logs: Sequence[ReplayLog], scores: Scores) -> list[ReplayLog]:
    ranked = sorted(zip(scores.episodes, logs, strict=True), key=lambda pair: -np.nan_to_num(pair[0].sigma_mse_trj))
    return [log for _, log in ranked]


def _strips(logs: Sequence[ReplayLog]) -> list[dict[str, object]]:
    """The worst windows over all recordings, worst first, with their pictures as data URIs."""
    worst = sorted(((strip.error, i, strip) for i, log in enumerate(logs) for strip in log.strips), key=_worst_key)
    return [_strip(logs[i], strip) for _, i, strip in worst[:SHOWN_STRIPS]]


def _worst_key(entry: tuple[float, int, Strip]) -> tuple[float, int, int, int]:
    error, recording, strip = entry
    return -error, recording, strip.epoch, strip.tick


def _strip(log: ReplayLog, strip: Strip) -> dict[str, object]:
    tick_s = log.contract.tick_period_ns / NS_PER_S
    first = int(log.ticks.stamp_ns[0])
    stamps = [
        entry.chunk.stamp_ns
        for entry in log.inferences
        if (entry.chunk.epoch, entry.chunk.tick) == (strip.epoch, strip.tick)
    ]
    return {
        "episode": log.bag.name,
        "epoch": strip.epoch,
        "tick": strip.tick,
        "time_s": (stamps[0] - first) / NS_PER_S,
        "error": strip.error,
        "ages_s": [age * tick_s for age in strip.age_ticks],
        "cameras": {camera: [data_uri(image) for image in images] for camera, images in strip.images.items()},
    }


def data_uri(image: ndarray) -> str:
    """An RGB picture (height, width, 3) as a JPEG that stands in a page."""
    data = as_jpeg(image, JPEG_QUALITY, where="the page").tobytes()
    return "data:image/jpeg;base64," + base64.b64encode(data).decode()
