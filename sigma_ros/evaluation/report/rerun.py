# SPDX-License-Identifier: Apache-2.0
"""A replay as a Rerun recording: cameras, joints, base and Sigma chunks, commands, scale and risk on one timeline.

Timelines: `bag` is the recording's own time, in seconds since its first tick. A chunk is drawn ahead of its tick: its
steps under `joint/NAME/base_chunk` and `sigma_chunk` at the times they are meant for.
"""

import os
from pathlib import Path
from typing import Any

import numpy as np
from numpy import ndarray

from sigma_ros.border import whole
from sigma_ros.errors import MachineError, SigmaError
from sigma_ros.evaluation.log import ReplayLog
from sigma_ros.evaluation.report.figures import BASE, COMMAND, RECORDED, SIGMA
from sigma_ros.evaluation.scoring.metrics import executed
from sigma_ros.values import NS_PER_S

TIMELINE = "bag"

Rgb = tuple[int, int, int]


def rgb(colour: str) -> Rgb:
    """A colour of the report (`#rrggbb`) as the three bytes that the SDK takes."""
    red, green, blue = bytes.fromhex(colour.removeprefix("#"))
    return red, green, blue


STYLES: dict[str, tuple[Rgb, float]] = {
    "base": (rgb(BASE), 1.5),
    "sigma": (rgb(SIGMA), 1.5),
    "recorded_action": (rgb(RECORDED), 3.0),
    "measured": ((197, 202, 211), 1.0),
    "commanded": (rgb(COMMAND), 1.5),
    "asked_for": (rgb(SIGMA), 1.5),
    "applied": (rgb(COMMAND), 1.5),
    "residual": (rgb(SIGMA), 1.5),
    "factors": (rgb(BASE), 1.5),
    "alignment": (rgb(COMMAND), 1.5),
    "sem_align": (rgb(SIGMA), 1.5),
    "tau_l2": (rgb(SIGMA), 1.5),
}
"""Colour and width of each curve by its name: the report's colours."""


def write_rerun(log: ReplayLog, path: Path) -> None:
    """Writes a recording that the Rerun viewer opens (`rerun FILE`).

    Raises:
        MachineError: rerun-sdk is not installed.
        SigmaError: the disk refused it.
    """
    rr = import_rerun()
    recording = rr.RecordingStream(f"sigma replay of {log.name}", recording_id=log.bag.sha256[:32])
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with whole(path) as partial:
            recording.save(str(partial))
            recording.send_blueprint(_blueprint(log))
            _send(rr, recording, log)
            recording.flush()
            recording.disconnect()
    except OSError as error:
        raise SigmaError("the Rerun recording could not be written", where=path, got=error) from error


def import_rerun() -> Any:
    """The Rerun SDK, without its analytics.

    Raises:
        MachineError: it is not installed.
    """
    os.environ.setdefault("RERUN_ANALYTICS", "false")
    try:
        import rerun  # noqa: PLC0415 - an optional extra
    except ImportError as error:
        raise MachineError(
            "the Python package rerun-sdk is not installed", remedy='pip install "sigma_ros[rerun]"'
        ) from error
    return rerun


def _send(rr: Any, recording: Any, log: ReplayLog) -> None:
    start_ns = int(log.ticks.stamp_ns[0]) if len(log.ticks) else 0
    steps = executed(log)
    published = [entry.chunk for entry in log.inferences if entry.published]
    for j, joint in enumerate(log.contract.joint_names):
        for name, stamps, values in (
            ("recorded_action", log.ticks.stamp_ns, log.ticks.action_rad[:, j]),
            ("measured", log.ticks.stamp_ns, log.ticks.joints_rad[:, j]),
            ("base", steps.stamp_ns, steps.baseline_rad[:, j]),
            ("sigma", steps.stamp_ns, steps.sigma_rad[:, j]),
            ("commanded", log.decisions.stamp_ns, log.decisions.command_rad[:, j]),
        ):
            _column(rr, recording, f"joint/{joint}/{name}", stamps - start_ns, np.degrees(values))
    chunk_stamps = np.array([chunk.stamp_ns for chunk in published], dtype=np.int64) - start_ns
    for name, numbers in (
        ("scale/asked_for", [chunk.scale for chunk in published]),
        ("risk/residual", [chunk.risk.residual_term for chunk in published]),
        ("risk/factors", [chunk.risk.factor_term for chunk in published]),
        ("risk/alignment", [chunk.risk.alignment_term for chunk in published]),
        ("telepathy/sem_align", [chunk.sem_align for chunk in published]),
        ("telepathy/tau_l2", [chunk.tau_l2 for chunk in published]),
    ):
        _column(rr, recording, name, chunk_stamps, np.array(numbers, dtype=np.float64))
    _column(rr, recording, "scale/applied", log.decisions.stamp_ns - start_ns, log.decisions.applied_scale)
    _chunks(rr, recording, log, start_ns)
    for shot in log.shots:
        recording.set_time(TIMELINE, duration=(shot.stamp_ns - start_ns) / NS_PER_S)
        for camera, jpeg in shot.jpegs.items():
            recording.log(f"camera/{camera}", rr.EncodedImage(contents=jpeg, media_type="image/jpeg"))


def _chunks(rr: Any, recording: Any, log: ReplayLog, start_ns: int) -> None:
    """Every published chunk whole, as lines of degrees over steps, at its own tick."""
    for entry in log.inferences:
        chunk = entry.chunk
        if not entry.published:
            continue
        recording.set_time(TIMELINE, duration=(chunk.stamp_ns - start_ns) / NS_PER_S)
        for arm, rad in (("base", chunk.base_rad), ("sigma", chunk.blended_rad(chunk.scale))):
            recording.log(f"chunk/{arm}", rr.Tensor(np.degrees(rad), dim_names=("step", "joint")))


def _column(rr: Any, recording: Any, path: str, stamps_ns: ndarray, values: ndarray) -> None:
    """One scalar over time; rows that are not finite are left out."""
    known = np.isfinite(values)
    if known.any():
        name = path.rpartition("/")[2]
        colour, width = STYLES[name]
        recording.log(path, rr.SeriesLines(colors=[colour], widths=[width], names=[name]), static=True)
        times = rr.TimeColumn(TIMELINE, duration=stamps_ns[known] / NS_PER_S)
        recording.send_columns(path, indexes=[times], columns=rr.Scalars.columns(scalars=values[known]))


def _blueprint(log: ReplayLog) -> Any:
    import rerun.blueprint as rrb  # noqa: PLC0415 - see import_rerun

    cameras = [rrb.Spatial2DView(origin=f"camera/{camera.name}", name=camera.name) for camera in log.contract.cameras]
    hidden, shown = rrb.PlotLegend(visible=False), rrb.PlotLegend(rrb.Corner2D.LeftTop)
    joints = [
        rrb.TimeSeriesView(origin=f"joint/{joint}", name=f"{joint} [deg]", plot_legend=hidden if j else shown)
        for j, joint in enumerate(log.contract.joint_names)
    ]
    telepathy_outputs = [
        rrb.TimeSeriesView(origin=origin, name=name, plot_legend=legend)
        for origin, name, legend in (
            ("scale", "scale", shown),
            ("risk", "risk", shown),
            ("telepathy/sem_align", "sem_align", hidden),
            ("telepathy/tau_l2", "tau_l2", hidden),
        )
    ]
    return rrb.Blueprint(
        rrb.Horizontal(
            rrb.Vertical(*cameras, *telepathy_outputs), rrb.Grid(*joints, grid_columns=2), column_shares=[1, 2]
        ),
        collapse_panels=True,
    )
