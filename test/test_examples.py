# SPDX-License-Identifier: Apache-2.0
"""The examples run, say what they promise, and stay short."""

import ast
import json
import runpy
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from small import small_file

from sigma_ros.bags.writer import BagWriter
from sigma_ros.contract_file import load_contract
from sigma_ros.nodes.panel.server import Server

ROOT = Path(__file__).resolve().parent.parent
EXAMPLES = sorted((ROOT / "examples").glob("*.py"))
START_NS = 1_700_000_000_000_000_000
TRAINED_POSE_RAD = np.array([0.0, -1.2, 1.2, 1.1, 0.0, 0.3])
"""Where the shipped model has seen the arm."""

Ran = Callable[..., str]


@pytest.fixture
def ran(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Ran:
    """Runs an example with arguments; gives what it printed."""

    def run(name: str, *arguments: object) -> str:
        monkeypatch.setattr(sys, "argv", [name, *map(str, arguments)])
        failed: object = None
        try:
            runpy.run_path(str(ROOT / "examples" / name), run_name="__main__")
        except SystemExit as end:
            failed = end.code
        told = capsys.readouterr()
        assert not failed, told.err
        return told.out

    return run


@pytest.fixture(scope="module")
def contract(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The SO-101 with 32 x 24 pictures, so that recordings are small."""
    return small_file(tmp_path_factory.mktemp("contract"))


def recorded(folder: Path, contract_file: Path, *, ticks: int) -> Path:
    """A synthetic recording of an arm that moves slowly."""
    contract = load_contract(contract_file)
    with BagWriter(folder) as bag:
        for tick in range(ticks):
            stamp_ns = START_NS + contract.tick_offset_ns(tick)
            pose_rad = TRAINED_POSE_RAD + 0.003 * tick
            for camera in contract.cameras:
                picture = np.full((24, 32, 3), 7 * tick % 256, np.uint8)
                bag.image(camera.topic, stamp_ns, camera.name, picture)
            bag.joints(contract.joint_state_topic, stamp_ns, contract.joint_names, pose_rad)
            bag.array(contract.command_topic, stamp_ns, pose_rad)
    return folder


@pytest.mark.parametrize("file", EXAMPLES, ids=lambda file: file.name)
def test_an_example_is_short_and_says_what_it_shows_how_to_run_it_and_where_it_is_listed(file: Path) -> None:
    text = file.read_text(encoding="utf-8")
    said = ast.get_docstring(ast.parse(text)) or ""
    assert 30 <= len(text.splitlines()) <= 80
    assert f"python examples/{file.name}" in said
    assert f"]({file.name})" in (ROOT / "examples" / "README.md").read_text(encoding="utf-8")


def test_there_are_seven() -> None:
    assert len(EXAMPLES) == 7


class Arm:
    """Behind the panel: an arm that runs once it is engaged."""

    def __init__(self) -> None:
        self.orders: list[tuple[str, object]] = []

    def view(self) -> dict[str, Any]:
        state = "RUN" if ("engage", None) in self.orders else "DISENGAGED"
        return {"supervisor": {"state": state, "reason_text": "nothing is wrong", "applied_scale": 0.5}}

    def picture(self, camera: str) -> bytes | None:
        return None

    async def act(self, order: str, value: object) -> str:
        self.orders.append((order, value))
        return "done"

    def emergency_stop(self) -> None:
        self.orders.append(("stop", None))


def test_an_arm_is_operated_through_its_panel_and_released_in_every_case(ran: Ran) -> None:
    arm = Arm()
    server = Server(arm, "127.0.0.1", 0)
    try:
        output = ran("panel.py", "--url", server.url.rstrip("/"), "--seconds", 0.3, "--scale", 0.5)
    finally:
        server.close()
    assert arm.orders == [("scale", 0.5), ("engage", None), ("release", None)]
    assert "RUN: nothing is wrong (scale 0.50)" in output


def test_the_commands_of_ones_own_policy_stay_inside_the_limits(ran: Ran) -> None:
    output = ran("own_policy.py")
    assert "ENGAGING, RUN" in output
    assert "0 broke a limit" in output
    assert not output.splitlines()[-1].startswith("0 of"), "the policy is too fast, so something is bounded"


def test_a_contract_of_ones_own_is_written_and_read_back(ran: Ran, tmp_path: Path) -> None:
    file = tmp_path / "mine.yaml"
    assert "my_robot, 6 joints, cameras ['wrist']" in ran("write_contract.py", file)
    shipped, own = load_contract("so101"), load_contract(file)
    assert own.max_velocity_radps.tolist() == [1.0 if name == "wrist_roll" else 2.0 for name in own.joint_names]
    assert (own.upper_rad == shipped.upper_rad).all()


def test_the_scripted_expert_reaches_for_the_brick_without_breaking_a_limit(ran: Ran) -> None:
    pytest.importorskip("mujoco", reason="the simulator is not installed")
    output = ran("closed_loop.py", "--time-limit-s", 2)
    assert "after 2.0 s" in output
    assert "0 broke a limit" in output


@pytest.mark.slow
def test_the_cards_model_is_called_as_the_card_says(ran: Ran) -> None:
    rows = [line.split() for line in ran("card_model.py").splitlines()]
    assert [row[0] for row in rows] == ["base", "residual", "blended", "factors"]


@pytest.mark.slow
def test_a_recording_is_replayed_into_a_report(ran: Ran, contract: Path, tmp_path: Path) -> None:
    bag = recorded(tmp_path / "bag", contract, ticks=40)
    output = ran("replay_bag.py", "--bag", bag, "--contract", contract, "--out", tmp_path / "out")
    assert (tmp_path / "out" / "report" / "report.html").is_file()
    document = json.loads((tmp_path / "out" / "report" / "report.json").read_text(encoding="utf-8"))
    assert document["verdict"]["headline"] in output


@pytest.mark.slow
def test_a_run_is_trained_and_scored_on_an_episode_it_has_not_seen(ran: Ran, contract: Path, tmp_path: Path) -> None:
    for index in range(2):
        recorded(tmp_path / "bags" / f"episode_{index:06d}", contract, ticks=100)
    small = ("--steps", 1, "--batch", 1, "--phase-step", 16)
    ran("train.py", "--bags", tmp_path / "bags", "--contract", contract, *small, "--out", tmp_path / "out")
    assert (tmp_path / "out" / "run" / "checkpoint" / "sigma_config.json").is_file()
    assert any((tmp_path / "out" / "scores").iterdir())
