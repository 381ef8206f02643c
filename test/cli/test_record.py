# SPDX-License-Identifier: Apache-2.0
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml
from small import small_file
from typer.testing import CliRunner

pytest.importorskip("mujoco", reason="mujoco is not installed")

from sigma_ros.cli.recordings import record
from sigma_ros.errors import MachineError, SigmaError, UsageError

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def small_contract(tmp_path: Path) -> Path:
    """The SO-101 with small pictures, so that an episode is drawn in a second."""
    return small_file(tmp_path, size_px=(160, 120))


def run(*arguments: object) -> str:
    result = CliRunner().invoke(record.app, [str(argument) for argument in arguments], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.output


def custom_data(bag: Path) -> dict[str, str]:
    return yaml.safe_load((bag / "metadata.yaml").read_text())["rosbag2_bagfile_information"]["custom_data"]


@pytest.mark.gl
def test_each_episode_is_a_bag_of_its_own(tmp_path: Path, small_contract: Path) -> None:
    out = tmp_path / "out"
    text = run("--sim", "--episodes", 2, "--jpeg", 80, "--contract", small_contract, "--setup", "target", "--out", out)
    assert sorted(folder.name for folder in out.iterdir()) == ["episode_000000", "episode_000001"]
    seeds = [custom_data(folder)["sigma.seed"] for folder in out.iterdir()]
    assert len(set(seeds)) == 2
    assert custom_data(out / "episode_000000")["sigma.setup"] == "target"
    assert "recorded 2 episodes" in text
    assert "x real time" in text
    with pytest.raises(UsageError, match="exists already"):
        run("--sim", "--contract", small_contract, "--out", out)


@pytest.mark.gl
def test_failed_episodes_are_counted_and_kept_out_unless_asked(
    tmp_path: Path, small_contract: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from sigma_ros.sim import environment  # noqa: PLC0415

    answers = iter([False, True, False])
    monkeypatch.setattr(environment.SimArm, "brick_in_box", lambda self: next(answers))
    common = ("--sim", "--jpeg", 80, "--contract", small_contract, "--out")
    assert "kept out: 1" in run(*common, tmp_path / "good")
    assert custom_data(tmp_path / "good" / "episode_000000")["sigma.success"] == "true"
    assert "kept out: 0" in run(*common, tmp_path / "all", "--keep-failures")
    assert custom_data(tmp_path / "all" / "episode_000000")["sigma.success"] == "false"


def test_an_expert_that_always_fails_stops_the_recording(
    tmp_path: Path, small_contract: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from sigma_ros.sim import demonstration  # noqa: PLC0415

    def fail(*_: object, **__: object) -> None:
        raise SigmaError("out of reach")

    monkeypatch.setattr(demonstration, "demonstrate", fail)
    with pytest.raises(SigmaError, match=r"fails too often.*0 of 20"):
        run("--sim", "--contract", small_contract, "--out", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_without_sim_it_says_what_it_can_record(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="--sim"):
        run("--out", tmp_path)


def test_a_disk_that_is_too_small_is_refused_before_the_first_episode(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(record.shutil, "disk_usage", lambda _: type("Usage", (), {"free": 10**6})())
    with pytest.raises(MachineError, match=r"disk is too full.*0\.0 GB free.*--jpeg"):
        run("--sim", "--out", tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.gl
def test_ctrl_c_keeps_the_finished_bags_and_no_half_one(tmp_path: Path, small_contract: Path) -> None:
    out = tmp_path / "out"
    command = [sys.executable, "-m", "sigma_ros.cli.main", "record", "--sim", "--episodes", "500", "--jpeg", "80"]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])}
    process = subprocess.Popen(
        [*command, "--contract", str(small_contract), "--out", str(out)],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    deadline = time.monotonic() + 60.0
    while not (out / "episode_000000" / "metadata.yaml").exists() and time.monotonic() < deadline:
        os.sched_yield()
    process.send_signal(signal.SIGINT)
    text = process.communicate(timeout=30)[0].decode()
    assert process.returncode == 130, text
    assert "Traceback" not in text
    assert "interrupted; " in text
    assert (out / "episode_000000" / "metadata.yaml").exists()
    assert not list(out.glob("*.tmp"))
