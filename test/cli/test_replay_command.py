# SPDX-License-Identifier: Apache-2.0
"""`sigma replay` with the small model that ships: exit codes, messages, and a report or nothing."""

import json
import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from small import small_file

from sigma_ros.bags.writer import BagWriter
from sigma_ros.cli.scores import replay_run
from sigma_ros.cli.scores.replay import ReplayRequest
from sigma_ros.cli.scores.replay_run import COMPLETE, WITH_LOSSES, run
from sigma_ros.contract_file import load_contract
from sigma_ros.errors import BagError, CheckpointError, ContractError, SigmaError, UsageError
from sigma_ros.policy.schedule import REPLAN_TICKS
from sigma_ros.stopping import INTERRUPTED

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parents[2]
START_NS = 1_700_000_000_000_000_000
TICKS = 34


@pytest.fixture(scope="module")
def small(tmp_path_factory) -> Path:
    """A contract with 32 x 24 pictures, so that recordings are small."""
    return small_file(tmp_path_factory.mktemp("contract"))


@pytest.fixture(scope="module")
def bag(tmp_path_factory, small) -> Path:
    return recording(tmp_path_factory.mktemp("bags") / "episode_000000", small)


def recording(path: Path, contract_file: Path, *, skip_images: range = range(0), topics: int = 2) -> Path:
    contract = load_contract(contract_file)
    with BagWriter(path) as out:
        for tick in range(TICKS):
            stamp_ns = START_NS + contract.tick_offset_ns(tick)
            pose = np.array([0.0, -1.2, 1.2, 1.1, 0.0, 0.3]) + 0.01 * tick  # where the shipped model was trained
            for camera in contract.cameras[:topics]:
                if tick not in skip_images:
                    picture = np.full((24, 32, 3), 7 * tick % 256, np.uint8)
                    out.image(camera.topic, stamp_ns, camera.name, picture)
            out.joints(contract.joint_state_topic, stamp_ns, contract.joint_names, pose)
            out.array(contract.command_topic, stamp_ns, pose)
    return path


def request(bag: Path, contract: Path, out: Path, **changes) -> ReplayRequest:
    default = ReplayRequest(
        bags=[bag], out=out, checkpoint="mini", contract=str(contract), allow_untrained=True, device="cpu"
    )
    return replace(default, **changes)


def report(out: Path) -> dict:
    return json.loads((out / "report.json").read_text())


def test_a_complete_replay_ends_with_0_and_says_where_the_report_is(bag, small, tmp_path):
    out = tmp_path / "report"
    command = [sys.executable, "-m", "sigma_ros.cli.main", "replay", "--bag", bag, "--contract", small]
    command += ["--checkpoint", "mini", "--allow-untrained", "--out", out]
    done = subprocess.run(
        list(map(str, command)),
        capture_output=True,
        text=True,
        check=False,
        cwd=ROOT,
        env={**os.environ, "COLUMNS": "200"},
    )
    assert done.returncode == COMPLETE, done.stderr
    assert str(out / "report.html") in done.stdout
    assert "mse_trj" in done.stdout
    assert sorted(path.name for path in out.iterdir()) == ["chunks.parquet", "report.html", "report.json"]
    assert report(out)["samples"] == 2
    assert report(out)["conditions"]["command"].startswith("sigma replay --bag")


def test_an_untrained_sigma_equals_its_base_to_the_last_bit(bag, small, tmp_path, random_mini):
    run(request(bag, small, tmp_path / "report", checkpoint=str(random_mini)))
    document = report(tmp_path / "report")
    for name in ("mse_vec", "mse_chk", "mse_trj"):
        assert document["baseline"][name] == document["sigma"][name] > 0.0
    assert document["comparison"]["mse_trj"]["verdict"] == "equal"


def test_losses_end_with_3_and_are_in_the_report(small, tmp_path):
    lossy = recording(tmp_path / "lossy", small, skip_images=range(10, 22))
    assert run(request(lossy, small, tmp_path / "report")) == WITH_LOSSES
    assert report(tmp_path / "report")["bag"]["losses"]["invalid_ticks"] > 0


def test_strict_refuses_losses_and_writes_nothing(small, tmp_path):
    lossy = recording(tmp_path / "lossy", small, skip_images=range(10, 22))
    with pytest.raises(BagError, match="losses"):
        run(request(lossy, small, tmp_path / "report", strict=True))
    assert not (tmp_path / "report").exists()


def test_a_bag_that_does_not_fit_is_refused_before_the_model_is_loaded(small, tmp_path, monkeypatch):
    monkeypatch.setattr(replay_run.SigmaRuntime, "load", lambda *_, **__: pytest.fail("the model was loaded"))
    narrow = recording(tmp_path / "narrow", small, topics=1)
    with pytest.raises(ContractError, match="side_camera"):
        run(request(narrow, small, tmp_path / "report"))
    cut = tmp_path / "cut.mcap"
    cut.write_bytes(b"\x89MCAP0\r\n not a bag")
    with pytest.raises(SigmaError):
        run(request(cut, small, tmp_path / "report"))
    assert not (tmp_path / "report").exists()


def test_a_report_that_is_there_is_refused_before_anything_is_read(bag, small, tmp_path, monkeypatch):
    (tmp_path / "report.json").write_text("{}")
    monkeypatch.setattr(replay_run, "load_contract", lambda *_: pytest.fail("something was read"))
    with pytest.raises(UsageError, match="already holds a report"):
        run(request(bag, small, tmp_path))


def test_random_weights_are_refused_unless_asked_for(bag, small, tmp_path, random_mini):
    with pytest.raises(CheckpointError, match=r"(?i)untrained|random"):
        run(request(bag, small, tmp_path / "report", checkpoint=str(random_mini), allow_untrained=False))


def test_ctrl_c_leaves_a_report_marked_incomplete_and_130(bag, small, tmp_path, monkeypatch):
    """A real signal arrives during the inference of tick 16; that tick is finished."""
    step = replay_run.SigmaRuntime.step

    def interrupted(self, window, *args, **kwargs):
        if window.tick == 16:
            os.kill(os.getpid(), signal.SIGINT)
        return step(self, window, *args, **kwargs)

    monkeypatch.setattr(replay_run.SigmaRuntime, "step", interrupted)
    before = signal.getsignal(signal.SIGINT)
    assert run(request(bag, small, tmp_path / "report")) == INTERRUPTED
    assert signal.getsignal(signal.SIGINT) is before
    document = report(tmp_path / "report")
    assert document["complete"] is False
    assert document["ticks"]["total"] == 17
    assert any(warning.startswith("INCOMPLETE") for warning in document["verdict"]["warnings"])


def test_a_folder_of_recordings_is_pooled(bag, small, tmp_path):
    folder = tmp_path / "set"
    for index in range(2):
        recording(folder / f"episode_{index:06d}", small)
    assert run(request(folder, small, tmp_path / "report")) == COMPLETE
    document = report(tmp_path / "report")
    assert [row["name"] for row in document["episodes"]] == ["episode_000000", "episode_000001"]
    assert document["samples"] == 4
    assert document["bag"]["count"] == 2


def test_real_time_is_counted_in_the_report_and_shown_on_the_page(bag, small, tmp_path):
    """On the machine's clock, so nothing is said about how fast it is."""
    assert run(request(bag, small, tmp_path / "report", realtime=True)) == COMPLETE
    late = report(tmp_path / "report")["latency"]
    (row,) = late["rows"]
    assert (late["clock"], row["name"]) == ("wall", "measured")
    planned = len(range(0, TICKS, REPLAN_TICKS))
    assert 1 <= row["chunks"] <= planned
    for count in ("late", "skipped", "superseded", "deadline_misses", "overruns", "late_ticks", "uncovered_ticks"):
        assert 0 <= row[count] <= TICKS, count
    assert 0.0 < row["tick_ms_p50"] <= row["tick_ms_p99"]
    assert row["tick_ms_p50"] <= row["latency_ms_max"], "an age is inference and waiting"
    page = (tmp_path / "report" / "report.html").read_text()
    for shown in ("Late chunks", "this machine", 'id="latency"', "superseded", "deadline misses", "p50 / p99"):
        assert shown in page


def test_latency_in_bag_time_and_on_the_clock_exclude_each_other(bag, small, tmp_path):
    with pytest.raises(UsageError, match="--realtime"):
        run(request(bag, small, tmp_path / "report", realtime=True, latency="0"))
