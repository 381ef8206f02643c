# SPDX-License-Identifier: Apache-2.0
"""Every `ros2` line that a page prints is typed into a shell and answered by the real nodes, or named with its reason.

Needs the command `ros2` of a distribution (or its sources on the path): the wheels of ROS do not have it.
"""

import os
import re
import shlex
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from documented import ROOT, printed_commands

PRINTED = {command.text: command for command in printed_commands() if command.words[0] == "ros2"}
NOT_TYPED = {
    "cameras:=usb_cam": "cameras of others; test_bringup.py says what is started",
    "robot.launch.py": "an arm on a serial bus; test_so101_driver.py has a simulated one",
    "so101_driver": "an arm on a serial bus; test_so101_driver.py has a simulated one",
    "camera_node": "a camera; test_camera_node.py has a virtual one",
}
"""What a line has in it, and what it needs that is not here."""
PLACES = {
    ":=DIR": ":=mini",
    ":=/path/to/sigma": ":=mini",
    ":=BAG": ":=bags/first",
    "/sigma_policy FILE": f"/sigma_policy {ROOT}/config/cautious_policy.yaml",
}
"""Words that stand for a user's own."""
ANSWERS = {
    "param set": "Set parameter successful",
    "param load": "Set parameter stitching successful",
    "service call": "Trigger_Response(success=",
    "action send_goal": "termination_reason: ",
}
READY = "[sigma_policy]: active"
PATIENCE_S = 600.0
LIVE_PRESETS = sorted((ROOT / "config").glob("cautious_[ps]*.yaml")) + sorted((ROOT / "config").glob("research_*.yaml"))


def kind(text: str) -> str:
    words = PRINTED[text].words
    return " ".join(words[1:3]) if words[1] not in ("launch", "run") else words[3]


TYPED = [text for text in PRINTED if not any(part in text for part in NOT_TYPED)]
ANSWERED = [text for text in TYPED if kind(text) in ANSWERS]
STARTS = [text for text in TYPED if kind(text) in ("policy_node", "policy.launch.py", "bringup.launch.py")]
SIM = "ros2 launch sigma_ros sim.launch.py"
REPLAYS = [text for text in TYPED if kind(text) == "replay.launch.py"]
RECORDS = [text for text in TYPED if kind(text) == "record.launch.py"]


def test_every_printed_line_is_typed_here_or_named_with_its_reason() -> None:
    assert sorted(TYPED) == sorted([*ANSWERED, *STARTS, *REPLAYS, *RECORDS, SIM])
    assert {kind(text) for text in ANSWERED} == ANSWERS.keys()
    assert [part for part in NOT_TYPED if not any(part in text for text in PRINTED)] == []


ROS2 = shutil.which("ros2")
"""Where it is there, that it cannot do what is typed is a failure."""

with_ros2 = [
    pytest.mark.ros,
    pytest.mark.slow,
    pytest.mark.gl,
    pytest.mark.skipif(ROS2 is None, reason="ros2 (ros2cli) comes with a ROS installation alone"),
]


def typed(text: str) -> list[str]:
    for place, ours in PLACES.items():
        text = text.replace(place, ours)
    return shlex.split(text)


def said(file: Path) -> str:
    return file.read_text(encoding="utf-8") if file.is_file() else ""


def until(done: Callable[[], object], what: Callable[[], str]) -> None:
    end_s = time.monotonic() + PATIENCE_S
    while not done():
        assert time.monotonic() < end_s, what()
        time.sleep(0.5)


def answer(words: list[str], wanted: str) -> str:
    """What a command says in the end; typed again, as a person would, until it has `wanted` in it."""
    told: list[str] = [""]

    def again() -> bool:
        done = subprocess.run(words, capture_output=True, text=True, check=False, timeout=PATIENCE_S)
        told[0] = done.stdout + done.stderr
        return done.returncode == 0 and wanted in told[0]

    until(again, lambda: f"{shlex.join(words)}\n{told[0]}")
    return told[0]


@contextmanager
def terminal(words: list[str], log: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A command in a terminal of its own, ended by Ctrl-C."""
    with log.open("wb") as output:
        process = subprocess.Popen(
            words, stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT, start_new_session=True
        )
    try:
        yield process
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGINT)
            process.wait(PATIENCE_S)
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)


@pytest.fixture(autouse=True, scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Where everything is typed: it has the tutorial's `my_arm.yaml`, and a recording in `bags/first` later."""
    place = tmp_path_factory.mktemp("typed")
    (place / "my_arm.yaml").write_text("extends: so101\nname: mine\n", encoding="utf-8")
    before = Path.cwd()
    os.chdir(place)
    yield place
    os.chdir(before)
    if ROS2 is not None:
        subprocess.run(["ros2", "daemon", "stop"], capture_output=True, check=False)


@pytest.fixture(scope="class")
def graph(folder: Path) -> Iterator[None]:
    [episodes] = [text for text in RECORDS if "episodes:=true" in text and "everything" in text]
    arm, recorder = folder / "arm.log", folder / "recorder.log"
    with terminal(typed(SIM), arm), terminal(typed(episodes), recorder):
        until(lambda: READY in said(arm), lambda: said(arm))
        until(lambda: "episodes go to" in said(recorder), lambda: said(recorder))
        yield


@pytest.mark.usefixtures("graph")
class TestWhileItRuns:
    pytestmark = with_ros2

    @pytest.mark.parametrize("text", ANSWERED)
    def test_a_printed_line_is_answered(self, text: str) -> None:
        answer(typed(text), ANSWERS[kind(text)])

    @pytest.mark.parametrize("file", LIVE_PRESETS, ids=lambda file: file.stem)
    def test_a_preset_loads_while_its_node_runs_and_says_only_successes(self, file: Path) -> None:
        node = f"/sigma_{file.stem.partition('_')[2]}"
        told = answer(["ros2", "param", "load", node, str(file)], "successful")
        assert all(line.endswith("successful") for line in told.splitlines() if line.startswith("Set parameter"))
        assert "fail" not in told

    def test_what_was_set_is_what_is_got_and_dumped(self) -> None:
        answer(["ros2", "param", "set", "/sigma_policy", "adapter.max_scale", "0.25"], ANSWERS["param set"])
        assert "0.25" in answer(["ros2", "param", "get", "/sigma_policy", "adapter.max_scale"], "Double value")
        assert "max_scale: 0.25" in answer(["ros2", "param", "dump", "/sigma_policy"], "ros__parameters")
        assert "allowed: 0 to 1" in answer(
            ["ros2", "param", "describe", "/sigma_policy", "adapter.max_scale"], "double"
        )

    def test_the_state_can_be_read_and_an_episode_is_thrown_away(self) -> None:
        assert "reason_text: " in answer(["ros2", "topic", "echo", "--once", "/sigma/supervisor_state"], "state: ")
        answer(["ros2", "service", "call", "/sigma_record/start", "std_srvs/srv/Trigger"], "response:")
        answer(["ros2", "service", "call", "/sigma_record/discard", "std_srvs/srv/Trigger"], "success=True")


class TestStarts:
    pytestmark = with_ros2

    @pytest.mark.parametrize("text", STARTS)
    def test_a_printed_start_comes_up_and_ends_cleanly_by_ctrl_c(self, text: str, folder: Path) -> None:
        log = folder / "start.log"
        with terminal(["ros2", "run", "sigma_ros", "sim_node"], folder / "robot.log"):
            with terminal(typed(text), log) as process:
                until(lambda: READY in said(log), lambda: said(log))
            assert process.returncode == 0, said(log)
        assert "Traceback" not in said(log)

    def test_the_tutorials_recording_is_replayed_into_a_report(self, folder: Path) -> None:
        [text] = [text for text in RECORDS if "bags/first" in text]
        log = folder / "record.log"
        robot = ["ros2", "run", "sigma_ros", "sim_node"]
        teacher = ["ros2", "topic", "pub", "-r", "30", "/forward_position_controller/commands"]
        teacher += ["std_msgs/msg/Float64MultiArray", "{data: [0.05, -1.6, 1.5, 1.0, 0.1, 0.2]}"]
        with terminal(robot, folder / "robot.log"), terminal(teacher, folder / "pub.log"), terminal(typed(text), log):
            until(lambda: re.search(r"commands [\d.]+ Hz.* GB free", said(log)), lambda: said(log))
        for replay in REPLAYS:
            out = folder / next(word.partition(":=")[2] for word in typed(replay) if word.startswith("out:="))
            with terminal(typed(replay), log) as process:
                process.wait(PATIENCE_S)
            assert (out / "report.html").is_file(), said(log)
            shutil.rmtree(out)
