# SPDX-License-Identifier: Apache-2.0
"""`sigma demo`: refuses what cannot work before it starts, and leaves no process and no half report behind."""

import json
import signal
import socket
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
from processes import node_processes

ROOT = Path(__file__).resolve().parents[2]
WITHOUT_ROS = find_spec("rclpy") is None or find_spec("sigma_ros.msg") is None
needs_ros = pytest.mark.skipif(WITHOUT_ROS, reason="needs rclpy and the built messages: make setup, then . ./env.sh")
AS_A_SHELL_SEES_130 = (130, -signal.SIGINT)
"""A Ctrl-C inside a string that Python executes (a dataclass being made) makes Python end by the signal, whatever
`sys.exit` said (CPython's `unhandled_keyboard_interrupt`); a shell calls both 130."""


def command(*arguments: str | Path) -> list[str]:
    return [sys.executable, "-m", "sigma_ros.cli.main", "demo", *map(str, arguments)]


def sigma_demo(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command(*arguments), capture_output=True, text=True, check=False, cwd=ROOT)


@needs_ros
def test_a_folder_with_other_things_is_never_replaced(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("years of work")
    result = sigma_demo("--out", tmp_path)
    assert result.returncode == 2
    assert "thesis.tex" in result.stderr
    assert (tmp_path / "thesis.tex").read_text() == "years of work"


@needs_ros
@pytest.mark.ros
def test_a_domain_in_use_is_one_clear_error_before_anything_starts(tmp_path: Path) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as other:
        other.bind(("", 7400 + 250 * 99 + 10))
        result = sigma_demo("--out", tmp_path / "demo", "--domain", "99")
    assert result.returncode == 1
    assert "domain 99, UDP port 32160" in result.stderr
    assert not (tmp_path / "demo").exists()


@needs_ros
@pytest.mark.ros
def test_ctrl_c_ends_every_process_and_leaves_no_report(tmp_path: Path) -> None:
    out = tmp_path / "demo"
    with subprocess.Popen(command("--out", out), stdout=subprocess.PIPE, text=True, cwd=ROOT) as running:
        assert running.stdout is not None
        assert "recording an episode" in running.stdout.readline()
        assert len(node_processes(out)) == 2
        running.send_signal(signal.SIGINT)
        assert running.wait(60) in AS_A_SHELL_SEES_130
    assert node_processes(out) == []
    assert not (out / "report.json").exists()


@needs_ros
@pytest.mark.ros
def test_a_policy_that_cannot_load_is_told_with_its_reason(tmp_path: Path) -> None:
    result = sigma_demo("--out", tmp_path / "demo", "--checkpoint", tmp_path / "absent")
    assert result.returncode == 1
    assert "the policy process ended" in result.stderr
    assert "absent" in result.stderr.replace("\n", "")
    assert not (tmp_path / "demo" / "report.json").exists()


@needs_ros
@pytest.mark.ros
@pytest.mark.gl
@pytest.mark.slow
def test_the_demo_replaces_its_own_output_and_leaves_what_the_readme_promises(tmp_path: Path) -> None:
    out = tmp_path / "demo"
    (out / "recording").mkdir(parents=True)
    (out / "report.json").write_text("of an earlier run")
    result = sigma_demo("--out", out)
    assert result.returncode == 0, result.stderr
    assert (out / "recording").is_dir()
    report = json.loads((out / "report.json").read_text(encoding="utf-8"))
    assert report["replay"]["mode"] == "nodes"
    assert report["supervisor"]["violations"] == 0
    assert report["samples"] > 10
    assert "<html" in (out / "report.html").read_text(encoding="utf-8")[:500]
    assert str(out / "report.html") in result.stdout.replace("\n", "")
    assert node_processes(out) == []
