# SPDX-License-Identifier: Apache-2.0
"""The wheel in an empty environment of each Python works from any folder: demo without ROS, training, commands.

Nothing is asked of the network: the pinned requirements come from uv's cache, as `make dist` leaves it. Where it
holds none for this Python, they are those of this environment, by a path file; another Python is skipped.
"""

import email
import json
import os
import subprocess
import sys
import sysconfig
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
LARGEST_BYTES = 27_000_000
"""A base of 11 MB and two Sigmas of 8 MB each are most of it."""

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(folder), str(ROOT)]
    built = subprocess.run(command, capture_output=True, text=True, check=False)
    assert built.returncode == 0, built.stderr[-2000:]
    return next(folder.glob("*.whl"))


@pytest.fixture(scope="module", params=["3.12", "3.13"])
def binaries(wheel, tmp_path_factory, request) -> Path:
    """The folder of the new environment's commands."""
    found = subprocess.run(
        [ROOT / "scripts/find_python.sh", request.param], capture_output=True, text=True, check=False
    )
    if found.returncode:
        pytest.skip(f"no Python {request.param} on this machine")
    folder = tmp_path_factory.mktemp("environment")
    uv = [sys.executable, "-m", "uv"]
    subprocess.run([*uv, "venv", "-q", "--no-project", "--python", found.stdout.strip(), folder / "venv"], check=True)
    install = [*uv, "pip", "install", "-q", "--offline", "--python", str(folder / "venv")]
    pinned = ["-c", str(ROOT / "requirements/lock.txt"), f"{wheel}[sim]"]
    if subprocess.run([*install, *pinned], check=False).returncode:
        if sys.version_info[:2] != tuple(map(int, request.param.split("."))):
            pytest.skip(f"uv's cache holds no packages for Python {request.param}: make dist")
        subprocess.run([*install, "--no-deps", str(wheel)], check=True)
        site = next(folder.glob("venv/lib/python*/site-packages"))
        (site / "requirements.pth").write_text(sysconfig.get_path("purelib") + "\n", encoding="utf-8")
    return folder / "venv" / "bin"


def run(binaries: Path, cwd: Path, *words: str) -> subprocess.CompletedProcess[str]:
    clean = {name: os.environ[name] for name in ("PATH", "HOME") if name in os.environ} | {"OMP_NUM_THREADS": "1"}
    command = [str(binaries / "python"), *words]
    return subprocess.run(command, cwd=cwd, env=clean, capture_output=True, text=True, check=False)


def test_the_wheel_is_small_and_carries_what_it_needs(wheel) -> None:
    assert wheel.stat().st_size < LARGEST_BYTES
    names = set(zipfile.ZipFile(wheel).namelist())
    for part in (
        "training/train.py",
        "training/bed/__main__.py",
        "assets/mini/model.safetensors",
        "assets/mini_memory/sigma_config.json",
        "cli/main.py",
    ):
        assert f"sigma_ros/{part}" in names
    assert [name for name in names if name.startswith(("test/", "bench/", "safety/"))] == []


def test_the_index_page_of_the_package_says_what_it_is_and_where_the_paper_is(wheel) -> None:
    with zipfile.ZipFile(wheel) as content:
        name = next(name for name in content.namelist() if name.endswith(".dist-info/METADATA"))
        metadata = email.message_from_bytes(content.read(name))
    assert metadata["Description-Content-Type"] == "text/markdown"
    assert metadata.get_payload().startswith("# sigma_ros")
    assert {"Author", "Keywords", "Classifier"} <= set(metadata.keys())
    assert any("arxiv.org/abs/2512.00783" in url for url in metadata.get_all("Project-URL"))


def test_the_demo_runs_without_ros_and_its_first_lines_are_about_the_arm(binaries, tmp_path) -> None:
    done = run(binaries, tmp_path, "-m", "sigma_ros.cli.main", "demo", "--no-ros", "--out", "demo")
    assert done.returncode == 0, done.stderr[-3000:]
    report = json.loads((tmp_path / "demo" / "report.json").read_text(encoding="utf-8"))
    assert report["verdict"]["headline"].startswith("After the supervisor")
    assert (tmp_path / "demo" / "report.html").is_file()


def test_the_code_that_runs_is_the_wheels(binaries, tmp_path) -> None:
    done = run(binaries, tmp_path, "-c", "import sigma_ros, sigma_ros.training; print(sigma_ros.__file__)")
    assert str(binaries.parent) in done.stdout, done.stderr


def test_training_is_a_verb_of_the_wheel(binaries, tmp_path) -> None:
    done = run(binaries, tmp_path, "-m", "sigma_ros.cli.main", "train")
    assert done.returncode == 2
    assert "dataset_dir is missing" in done.stderr.replace("\n", " ")
