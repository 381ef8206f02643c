# SPDX-License-Identifier: Apache-2.0
"""The Rerun recording holds curves, chunks and pictures; without the SDK the message says how to get it."""

import sys

import pytest
from synthetic import synthetic_log

from sigma_ros.errors import MachineError
from sigma_ros.evaluation.report.rerun import import_rerun, write_rerun


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


def test_without_the_sdk_the_message_says_how_to_get_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "rerun", None)
    with pytest.raises(MachineError, match=r"sigma_ros\[rerun\]"):
        import_rerun()
