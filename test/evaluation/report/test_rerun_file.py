# SPDX-License-Identifier: Apache-2.0
"""The Rerun recording holds curves, chunks and pictures; without the SDK the message says how to get it."""

import sys
import warnings

import pytest
from synthetic import synthetic_log

from sigma_ros.errors import MachineError
from sigma_ros.evaluation.report.figures import BASE, COMMAND, SIGMA
from sigma_ros.evaluation.report.rerun import import_rerun, write_rerun


@pytest.fixture(autouse=True)
def _warnings_are_errors():
    """What the SDK cannot take it warns about, and then leaves out."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield


def test_the_recording_holds_every_curve_chunk_and_camera(tmp_path):
    pytest.importorskip("rerun", reason="rerun-sdk is not installed (the extra sigma_ros[rerun])")
    from rerun.chunk import RrdReader  # noqa: PLC0415

    log = synthetic_log(ticks=48, gaps=(20, 21))
    write_rerun(log, tmp_path / "replay.rrd")
    assert [path.name for path in tmp_path.iterdir()] == ["replay.rrd"]
    entities = {str(chunk.entity_path) for chunk in RrdReader(tmp_path / "replay.rrd").stream()}
    for joint in log.contract.joint_names:
        for curve in ("recorded_action", "measured", "base", "sigma", "commanded"):
            assert f"/joint/{joint}/{curve}" in entities
    for name in ("chunk/base", "chunk/sigma", "scale/applied", "risk/residual", "telepathy/tau_l2"):
        assert f"/{name}" in entities
    assert {f"/camera/{camera.name}" for camera in log.contract.cameras} <= entities


def test_every_curve_has_its_own_colour_of_the_report(tmp_path):
    """As the viewer reads it back: a colour that the SDK refuses leaves all curves alike."""
    pytest.importorskip("rerun", reason="rerun-sdk is not installed (the extra sigma_ros[rerun])")
    from rerun.chunk import RrdReader  # noqa: PLC0415

    write_rerun(synthetic_log(ticks=48), tmp_path / "replay.rrd")
    colours = {}
    for chunk in RrdReader(tmp_path / "replay.rrd").stream():
        batch = chunk.to_record_batch()
        for name, column in zip(batch.schema.names, batch.columns, strict=True):
            if name.endswith("SeriesLines:colors"):
                (rgba,) = column[0].as_py()
                colours[str(chunk.entity_path)] = f"#{rgba >> 8:06x}"
    joint = "/joint/elbow_flex"
    assert [colours[f"{joint}/{name}"] for name in ("base", "sigma", "commanded")] == [BASE, SIGMA, COMMAND]
    curves = ("base", "sigma", "recorded_action", "measured", "commanded")
    assert len({colours[f"{joint}/{name}"] for name in curves}) == 5
    assert colours["/scale/asked_for"] != colours["/scale/applied"]
    assert len({colours[f"/risk/{name}"] for name in ("residual", "factors", "alignment")}) == 3


def test_without_the_sdk_the_message_says_how_to_get_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "rerun", None)
    with pytest.raises(MachineError, match=r"sigma_ros\[rerun\]"):
        import_rerun()
