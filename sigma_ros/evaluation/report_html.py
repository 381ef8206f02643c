# SPDX-License-Identifier: Apache-2.0
"""`report.html`: one file that opens from disk, shows its verdict first and asks the network for nothing.

The page is `report_page.html.jinja`; Plotly's library travels inside it, compressed, and a content
security policy forbids every connection (`page.py`).
"""

import base64
import json
import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import cv2
import numpy as np
from numpy import ndarray

from sigma_ros.evaluation.page import render
from sigma_ros.evaluation.replay_log import ReplayLog, Strip
from sigma_ros.evaluation.report_curves import SERIES, joint_figures, timeline_figures
from sigma_ros.evaluation.report_figures import Figure, summary_figures
from sigma_ros.evaluation.report_studies import study_figures
from sigma_ros.evaluation.scores import Scores
from sigma_ros.values import NS_PER_S

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
    joints: tuple[_Plot, ...]
    timeline: tuple[_Plot, ...]
    shots: str
    cameras: tuple[str, ...]


def report_page(logs: Sequence[ReplayLog], scores: Scores, document: Mapping[str, object]) -> str:
    """The whole page; `document` is the content of `report.json`."""
    shown = _worst_first(logs, scores)[:SHOWN_EPISODES]
    episodes = [_episode(f"e{i}", log) for i, log in enumerate(shown)]
    summary = summary_figures(logs, scores) | study_figures(document)
    figures = dict(summary)
    for episode in episodes:
        figures |= {plot.element: plot.figure for plot in (*episode.joints, *episode.timeline)}
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
        joints=tuple(
            _Plot(f"{prefix}-joint-{name}", name, f"limits {limits[name]}", figure)
            for name, figure in joint_figures(log).items()
        ),
        timeline=tuple(
            _Plot(f"{prefix}-{name}", TIMELINE_TITLES[name], "", figure)
            for name, figure in timeline_figures(log).items()
        ),
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
        "cameras": {camera: [_data_uri(image) for image in images] for camera, images in strip.images.items()},
    }


def _data_uri(image: ndarray) -> str:
    _, data = cv2.imencode(".jpg", cv2.cvtColor(image, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY])
    return "data:image/jpeg;base64," + base64.b64encode(data.tobytes()).decode()
