# SPDX-License-Identifier: Apache-2.0
"""The nodes as processes: what they import, how they start wrongly, and how they end."""

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from node_fakes import AUTHOR, make_chunk, spin_until
from rclpy.node import Node
from sensor_msgs.msg import JointState
from sigma_ros.msg import ActionChunk, SupervisorState
from std_msgs.msg import Bool, Float64MultiArray
from std_srvs.srv import Trigger

from sigma_ros.contract_file import load_contract
from sigma_ros.nodes.shared import qos, topics
from sigma_ros.nodes.shared.messages import chunk_message
from sigma_ros.nodes.shared.sensor_messages import joint_state_message
from sigma_ros.stopping import end_on_signal

pytestmark = pytest.mark.ros
START_S = 90.0
ROOT = Path(__file__).resolve().parents[2]
NODES = ("policy_node", "supervisor_node", "replay_node", "sim_node")


@contextmanager
def node_process(name: str, *args: str) -> Iterator[subprocess.Popen]:
    """A node as a process of its own; killed at the end if it is still there."""
    command = [sys.executable, "-m", f"sigma_ros.nodes.{name}", *args]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def run(name: str, *args: str) -> tuple[int, str]:
    with node_process(name, *args) as process:
        output, _ = process.communicate(timeout=START_S)
        return process.returncode, output


def until_said(process: subprocess.Popen, text: str) -> str:
    """Reads the process's output up to a line with `text`."""
    assert process.stdout is not None
    lines = []
    for line in process.stdout:
        lines.append(line)
        if text in line:
            return line
    raise AssertionError(f"ended without saying {text!r}:\n{''.join(lines)}")


@pytest.mark.parametrize("name", NODES)
def test_help_lists_every_parameter(name):
    code, output = run(name, "--help")
    assert code == 0
    assert "--contract" in output


@pytest.mark.parametrize(
    ("name", "args", "said"),
    [
        ("supervisor_node", ("--contract", "nosuch"), "no such contract"),
        ("supervisor_node", ("--ros-args", "-p", "scale_ceilling:=0.5"), "did you mean scale_ceiling"),
        ("supervisor_node", ("--scale_ceiling", "1.5"), "allowed: 0 to 1"),
        ("supervisor_node", ("--nosuch", "1"), "unrecognized arguments"),
        ("supervisor_node", ("--ros-args", "-p", "broken"), "ROS arguments"),
        ("policy_node", ("--contract", "nosuch"), "no such contract"),
        ("sim_node", ("--setup", "moon"), "invalid choice"),
        ("replay_node", (), "bag must be given"),
    ],
)
def test_wrong_usage_is_one_clear_line_and_exit_code_2(name, args, said):
    code, output = run(name, *args)
    assert said in output
    assert code == 2
    assert "Traceback" not in output


def test_a_checkpoint_that_cannot_be_read_ends_the_policy_with_its_reason(tmp_path):
    code, output = run("policy_node", "--checkpoint", str(tmp_path))
    assert code == 1
    assert str(tmp_path) in output
    assert "Traceback" not in output


def test_a_bag_that_is_not_there_ends_the_replay_before_any_node_is_needed(tmp_path):
    code, output = run("replay_node", "--bag", str(tmp_path / "none"), "--out", str(tmp_path / "out"))
    assert code in (1, 2)
    assert "none" in output
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_a_node_cleanly(number):
    with node_process("supervisor_node") as process:
        until_said(process, "DISENGAGED")
        process.send_signal(number)
        output, _ = process.communicate(timeout=10)
        assert process.returncode == 0
        assert "Traceback" not in output


def test_a_terminated_supervisor_stops_the_arm_first(executor):
    """SIGTERM in motion: the commands go on, come to rest inside the limits, then the process ends."""
    contract = load_contract("so101")
    rig = Node("test_rig")
    executor.add_node(rig)
    commands: list[np.ndarray] = []
    states: list[SupervisorState] = []
    joints = rig.create_publisher(JointState, contract.joint_state_topic, qos.SENSOR)
    chunks = rig.create_publisher(ActionChunk, topics.ACTION_CHUNK, qos.CHUNK)
    heartbeat = rig.create_publisher(Bool, topics.POLICY_HEARTBEAT, qos.HEARTBEAT)
    every_one = 100  # a driver keeps the newest command alone; here the last two are compared
    rig.create_subscription(
        Float64MultiArray, contract.command_topic, lambda m: commands.append(np.array(m.data)), every_one
    )
    rig.create_subscription(SupervisorState, topics.SUPERVISOR_STATE, states.append, qos.LATCHED)

    def live() -> None:
        at_ns = rig.get_clock().now().nanoseconds
        pose = commands[-1] if commands else np.zeros(6)
        joints.publish(joint_state_message(at_ns=at_ns, names=contract.joint_names, positions_rad=pose))
        heartbeat.publish(Bool(data=True))

    rig.create_timer(0.02, live)
    with node_process("supervisor_node") as process:
        spin_until(executor, lambda: states and states[-1].joint_state_age < 0.1, what="joints at the supervisor")
        engage = rig.create_client(Trigger, topics.ENGAGE)
        spin_until(executor, engage.service_is_ready, what="the engage service")
        end_s = time.monotonic() + 60.0
        engaged = None
        while not (engaged and engaged.result().success):  # three joint states and a heartbeat must have come
            assert time.monotonic() < end_s, engaged and engaged.result().message
            engaged = engage.call_async(Trigger.Request())
            spin_until(executor, engaged.done, what="the engage service's answer")
        base = np.linspace(0.0, 1.0, 50)[:, None] * np.ones(6)
        stamp_ns = rig.get_clock().now().nanoseconds
        chunks.publish(
            chunk_message(make_chunk(contract, stamp_ns=stamp_ns, base_rad=base, residual_rad=0 * base), AUTHOR)
        )
        spin_until(executor, lambda: commands and commands[-1][0] > 0.1, what="motion")
        process.terminate()
        spin_until(executor, lambda: process.poll() is not None, what="the end of the supervisor")
        assert process.returncode == 0
        spin_until(executor, lambda: bool((commands[-1] == commands[-2]).all()), what="the same command twice")
    stream = np.array(commands)
    assert stream[-1][0] < 0.9, "it did not run the chunk to its end"
    speed = np.abs(np.diff(stream, axis=0)) / 0.02
    assert (speed <= contract.max_velocity_radps + 1e-6).all()


@pytest.mark.slow
def test_the_policy_process_with_the_shipped_model_starts_and_ends(executor):
    with node_process("policy_node", "--allow_untrained", "true") as process:
        until_said(process, "active")
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=20)
        assert process.returncode == 0


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_policy_that_loads_need_not_finish_to_be_stopped(number):
    """A large checkpoint takes minutes; `ros2 launch` would lose patience and report a dead process."""
    code = (
        "import sys, time\n"
        "from sigma_ros.nodes import policy_node as p\nfrom sigma_ros.nodes.shared import process\n"
        "from sigma_ros.nodes.policy.options import PolicyOptions\n"
        "def load(_options, logger):\n"
        "    logger.info('loading for an hour')\n"
        "    time.sleep(3600)\n"
        "sys.exit(process.run_node(lambda given: p.PolicyNode(given, load=load), PolicyOptions, [], ''))\n"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    try:
        until_said(process, "loading for an hour")
        process.send_signal(number)
        output, _ = process.communicate(timeout=10)
    finally:
        process.kill()
    assert process.returncode == 0
    assert "stopped while loading" in output


def test_the_shipped_transport_profile_is_used_unless_the_user_has_one():
    code = (
        "import os; from sigma_ros.nodes.shared.process import use_shipped_dds_profile as use; use('CHOSEN'); use();"
        "print(os.environ['FASTDDS_DEFAULT_PROFILES_FILE'])"
    )
    bare = {name: value for name, value in os.environ.items() if not name.startswith("FAST")}
    bare.pop("ROS_DISTRO", None)
    mine = bare | {"FASTDDS_DEFAULT_PROFILES_FILE": "mine"}
    common = bare | {"FASTDDS_DEFAULT_PROFILES_FILE": str(ROOT / "config" / "fastdds.xml")}
    cases = [(e, p, p) for e in (bare, common) for p in ("fastdds.xml", "fastdds_supervisor.xml")]
    for environment, profile, expected in [*cases, (mine, "fastdds_supervisor.xml", "mine")]:
        given = [sys.executable, "-c", code.replace("CHOSEN", profile)]
        done = subprocess.run(given, env=environment, capture_output=True, text=True, check=True)
        assert done.stdout.strip().endswith(expected)


def test_a_signal_that_comes_while_the_handlers_are_set_up_is_not_lost(monkeypatch):
    install, sent = signal.signal, []

    def interrupted(number, handler):
        before = install(number, handler)
        if not sent:
            sent.append(number)
            signal.raise_signal(number)
        return before

    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    monkeypatch.setattr(signal, "signal", interrupted)
    try:
        with end_on_signal() as request:
            end_s = time.monotonic() + 20.0
            while not request:
                assert time.monotonic() < end_s, "the signal was lost"
                threading.Event().wait(0.01)
    finally:
        for number, handler in before.items():
            install(number, handler)
    assert [request.number] == sent


def test_a_burst_of_signals_is_one_request_and_a_later_one_ends_the_process():
    """`ros2 launch` without a terminal sends its nodes another SIGINT when their group has got one already."""
    code = (
        "import os, signal, sys, time\n"
        "from sigma_ros.stopping import end_on_signal\n"
        "with end_on_signal() as request:\n"
        "    print('ready', flush=True)\n"
        "    while not request: time.sleep(0.01)\n"
        "    time.sleep(0.3)\n"
        "for _ in range(3): os.kill(os.getpid(), signal.SIGINT)\n"  # while it goes, the handlers are not back
        "print('still there', flush=True)\n"
        "time.sleep(float(sys.argv[1]))\n"
    )
    for rest_s, late, expected in (("0", False, 0), ("60", True, 128 + signal.SIGINT)):
        command = [sys.executable, "-c", code, rest_s]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        until_said(process, "ready")
        for _ in range(3):
            process.send_signal(signal.SIGINT)
        until_said(process, "still there")
        if late:
            time.sleep(1.0)
            process.send_signal(signal.SIGINT)
        process.communicate(timeout=30)
        assert process.returncode == expected


def test_a_supervisor_in_a_dry_run_says_where_its_commands_would_go():
    topic = load_contract("so101").command_topic
    with node_process("supervisor_node", "--ros-args", "-r", f"{topic}:=/sigma/dry_run") as process:
        assert until_said(process, "would go to").endswith("commands would go to /sigma/dry_run\n")
