# SPDX-License-Identifier: Apache-2.0
"""The whole path between real processes with the shipped model: equal to the graph-free replay to 1e-6."""

import json
import signal
import subprocess
import sys

import numpy as np
import pytest

from sigma_ros.bags.writer import BagWriter
from sigma_ros.contract_file import load_contract
from sigma_ros.nodes.replay.loop import lines

pytestmark = [pytest.mark.ros, pytest.mark.slow]
LIMIT_S = 300.0
MEASURED = {"timing", "conditions", "replay"}


@pytest.fixture(scope="module")
def recording(tmp_path_factory):
    """Two seconds of a slowly moving arm before two cameras."""
    contract = load_contract("so101")
    path = tmp_path_factory.mktemp("bags") / "recording"
    rng = np.random.default_rng(0)
    with BagWriter(path) as bag:
        for tick in range(60):
            at_ns = 1_700_000_000_000_000_000 + contract.tick_offset_ns(tick)
            q = np.array([0.0, -1.2, 1.2, 0.8, 0.0, 0.3]) + 0.1 * np.sin(0.1 * tick + np.arange(6))
            for camera in contract.cameras:
                rgb = np.kron(rng.integers(0, 256, (12, 16, 3), dtype=np.uint8), np.ones((40, 40, 1), dtype=np.uint8))
                bag.image(f"{camera.topic}/compressed", at_ns - 4_000_000, camera.name, rgb, jpeg_quality=90)
            bag.joints(contract.joint_state_topic, at_ns - 2_000_000, contract.joint_names, q)
            bag.joints(contract.joint_state_topic, at_ns + 14_000_000, contract.joint_names, q)
            bag.array(contract.command_topic, at_ns - 1_000_000, q + 0.01)
    return path


def start(name: str, *args: str) -> subprocess.Popen:
    return subprocess.Popen([sys.executable, "-m", f"sigma_ros.nodes.{name}", *args])


def tolerance(path: str) -> float:
    """A jerk is a third difference at 50 Hz: it magnifies the last bit of a command 125,000 times.

    An effect size is divided by the spread of two windows' differences here, itself a small difference.
    """
    return 1e-4 if "jerk" in path or "effect_size" in path else 1e-6


def numbers(value: object, path: str = "") -> dict[str, object]:
    """Leaves of a JSON document by path."""
    if isinstance(value, dict):
        items = [(f"{path}/{key}", entry) for key, entry in value.items() if path or key not in MEASURED]
    elif isinstance(value, list):
        items = [(f"{path}/{i}", entry) for i, entry in enumerate(value)]
    else:
        return {path: value}
    return {name: leaf for where, entry in items for name, leaf in numbers(entry, where).items()}


def test_node_replay_and_graph_free_replay_give_the_same_report(recording, tmp_path):
    children = [
        start("policy_node", "--lockstep", "true", "--allow_untrained", "true"),
        start("supervisor_node", "--lockstep", "true"),
        start("replay_node", "--bag", str(recording), "--out", str(tmp_path / "nodes"), "--start_timeout_s", "200"),
    ]
    try:
        assert children[2].wait(LIMIT_S) == 0
        for child in children[:2]:
            child.send_signal(signal.SIGINT)
            assert child.wait(LIMIT_S) == 0
    finally:
        for child in children:
            child.kill()
            child.wait()
    sigma = [sys.executable, "-m", "sigma_ros.cli.main", "replay", "--checkpoint", "mini", "--allow-untrained"]
    subprocess.run([*sigma, "--bag", str(recording), "--out", str(tmp_path / "offline")], check=True, timeout=LIMIT_S)
    ours, theirs = (numbers(json.loads((tmp_path / name / "report.json").read_text())) for name in ("nodes", "offline"))
    assert ours.keys() == theirs.keys()
    assert any("sigma" in path for path in ours)
    for path, value in ours.items():
        if isinstance(value, float):
            assert value == pytest.approx(theirs[path], rel=tolerance(path), abs=1e-6, nan_ok=True), path
        else:
            assert value == theirs[path], path


def test_ctrl_c_while_the_policy_still_loads_ends_the_replay_in_a_sentence(recording, tmp_path):
    """It waits for a minute while a model loads; a traceback and exit code 1 came of it."""
    command = [
        sys.executable,
        "-m",
        "sigma_ros.nodes.replay_node",
        "--bag",
        str(recording),
        "--out",
        str(tmp_path / "o"),
    ]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    try:
        assert process.stdout is not None
        first = process.stdout.readline()
        process.send_signal(signal.SIGINT)
        output = first + process.communicate(timeout=LIMIT_S)[0]
    finally:
        process.kill()
        process.wait()
    assert process.returncode == 130, output
    assert "waiting for the policy" in first
    assert "Traceback" not in output
    assert "interrupted before the first tick" in output
    assert not (tmp_path / "o").exists()


@pytest.mark.parametrize(("times", "said"), [((0, 5, 11, 12, 35, 100, 101), [10, 30, 100]), ((100,), [100]), ((), [])])
def test_progress_without_a_terminal_is_a_line_at_each_tenth(times, said):
    heard: list[int] = []
    tell = lines(1000, 100, heard.append)
    for at_ns in times:
        tell(1000 + at_ns)
    assert heard == said
