# SPDX-License-Identifier: Apache-2.0
"""`sigma engage | release | stop | reset | scale | task` against running nodes, and where nobody answers."""

import subprocess
import threading
from collections.abc import Iterator
from importlib.util import find_spec

import pytest

from sigma_ros.cli.main import VERBS, load_verb
from sigma_ros.cli.robot.operate import app

if find_spec("rclpy") is None or find_spec("sigma_ros.msg") is None:
    pytest.skip("needs rclpy and the built messages: make setup, then . ./env.sh", allow_module_level=True)

import rclpy
from live_run import ROOT, sigma
from node_fakes import FakeRuntime, fake_model, small_contract
from rclpy.executors import SingleThreadedExecutor

from sigma_ros.nodes.policy_node import PolicyNode
from sigma_ros.nodes.shared.process import use_shipped_dds_profile
from sigma_ros.nodes.supervisor_node import SupervisorNode

pytestmark = pytest.mark.ros


@pytest.fixture
def graph(domain: str) -> Iterator[tuple[SupervisorNode, PolicyNode]]:
    """A supervisor and a policy that spin beside the test; the arm is absent."""
    use_shipped_dds_profile()
    rclpy.init()
    contract = small_contract()
    nodes = SupervisorNode(), PolicyNode(load=lambda _options, _logger: fake_model(contract, FakeRuntime(contract)))
    executor = SingleThreadedExecutor()
    for node in nodes:
        executor.add_node(node)
    ended = threading.Event()
    thread = threading.Thread(target=lambda: [executor.spin_once(timeout_sec=0.05) for _ in iter(ended.is_set, True)])
    thread.start()
    try:
        yield nodes
    finally:
        ended.set()
        thread.join()
        for node in nodes:
            node.stop()
            node.destroy_node()
        executor.shutdown(timeout_sec=0)
        rclpy.try_shutdown()


def ask(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(sigma(*words), capture_output=True, text=True, check=False, cwd=ROOT, timeout=120)


@pytest.mark.slow
def test_every_order_reaches_its_node_and_its_answer_the_user(graph: tuple[SupervisorNode, PolicyNode]) -> None:
    supervisor, policy = graph
    refused = ask("engage")
    assert refused.returncode == 1
    assert "the order was refused" in refused.stderr
    assert "joint" in refused.stderr, "an arm that says nothing is the reason"

    assert ask("stop").returncode == 0
    assert supervisor.drive.state == "ESTOP"
    assert "a stop is latched" in " ".join(ask("engage").stderr.split())
    assert ask("reset").returncode == 0
    assert supervisor.drive.state == "DISENGAGED"
    assert ask("release").returncode == 0

    assert ask("scale", "0.5").returncode == 0
    assert supervisor.get_parameter("scale_ceiling").value == 0.5

    assert ask("task", "fold the towel").stdout.strip() == "told"
    assert policy._task == "fold the towel"


@pytest.mark.slow
def test_where_nobody_answers_that_is_said_with_the_domain(domain: str) -> None:
    for words in (("engage",), ("stop",), ("scale", "0.5"), ("task", "wave")):
        done = ask(*words)
        said = " ".join(done.stderr.split())
        assert done.returncode == 1
        assert "nobody answers" in said
        assert f"in ROS domain {domain}" in said
        assert "sigma run --sim" in said


def test_a_ceiling_beyond_one_is_wrong_usage() -> None:
    assert ask("scale", "1.5").returncode == 2


def test_every_command_of_the_module_is_a_verb() -> None:
    names = {command.callback.__name__ for command in app.registered_commands if command.callback}
    assert names <= VERBS.keys()
    assert {load_verb(name).name for name in names} == names
