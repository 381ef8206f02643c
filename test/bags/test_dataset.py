# SPDX-License-Identifier: Apache-2.0
"""Laws of bags as a data set: LeRobot opens it, and what came from a data set goes back to it unchanged."""

import itertools
import json
import os
import subprocess
import sys
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import yaml
from bags import MS, START_NS, TASK, picture, pose, small_contract, write_recording
from typer.testing import CliRunner

from sigma_ros.bags import lerobot_dataset as writing
from sigma_ros.bags.episode import Episode
from sigma_ros.bags.lerobot_dataset import to_units, write_dataset
from sigma_ros.bags.reader import open_bag
from sigma_ros.bags.transcode import load_episode, transcode
from sigma_ros.bags.writer import BagWriter
from sigma_ros.cli.recordings.dataset import app
from sigma_ros.contract_file import load_contract
from sigma_ros.errors import BagError, DatasetError, UsageError

SIDE = 64


square_contract = partial(small_contract, size_px=(SIDE, SIDE))


@pytest.mark.parametrize("name", ["so101", "cr5"])
def test_policy_units_survive_the_way_through_radians_to_the_last_bit(name):
    """Zero, and every single-precision number from 2e-5 on: far below what a servo resolves."""
    contract = load_contract(name)
    rng = np.random.default_rng(0)
    shape = (20_000, contract.dof)
    for scale in (2e-5, 1.0, 100.0):
        units = (scale * rng.choice([-1.0, 1.0], shape) * rng.uniform(1.0, 1.8, shape)).astype(np.float32)
        np.testing.assert_array_equal(to_units(contract.to_rad(units.astype(np.float64)), contract), units)
    zero = np.zeros(contract.dof)
    np.testing.assert_array_equal(to_units(contract.to_rad(zero), contract), zero.astype(np.float32))


@pytest.mark.slow
def test_encoding_videos_leaves_the_process_scheduled_as_it_was(tmp_path):
    """The encoder puts a root's process before everything else on the machine and leaves it there."""
    contract = small_contract()
    bag = write_recording(tmp_path / "bag", contract, ticks=20)
    before = os.sched_getscheduler(0), os.sched_getparam(0).sched_priority
    write_dataset([bag], contract, tmp_path / "set")
    assert (os.sched_getscheduler(0), os.sched_getparam(0).sched_priority) == before


@pytest.mark.slow
def test_a_library_that_is_missing_is_not_told_in_a_hundred_lines(tmp_path):
    """LeRobot logs a traceback where torchcodec cannot be loaded, once, at the first import."""
    code = "import sys, bags, sigma_ros.bags.lerobot_dataset as writing; from pathlib import Path\n"
    code += "writing._create(bags.small_contract(), 'set', Path(sys.argv[1]), videos=False)"
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "set")],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert "torchcodec" not in done.stdout + done.stderr


def test_a_data_set_goes_to_bags_and_back_exactly(tmp_path):
    lerobot = pytest.importorskip("lerobot.datasets.lerobot_dataset")
    contract = square_contract()
    source = _lerobot_set(lerobot, contract, tmp_path / "source", episodes=2, ticks=20)
    bags = []
    for index in range(2):
        bags.append(tmp_path / "bags" / f"episode_{index}")
        transcode(load_episode(str(tmp_path / "source"), index, contract), contract, bags[-1])
    written = write_dataset(bags, contract, tmp_path / "back")
    assert (written.episodes, written.frames, dict(written.left_out)) == (2, 40, {})
    back = lerobot.LeRobotDataset("local/back", root=tmp_path / "back")
    assert (back.fps, back.num_episodes, back.num_frames) == (30, 2, 40)
    for key in ("observation.state", "action", "timestamp", "frame_index", "episode_index"):
        one, other = (np.array(which.hf_dataset.with_format("numpy")[key]) for which in (source, back))
        np.testing.assert_array_equal(one, other, err_msg=key)
    assert back.features["observation.state"]["names"] == [f"{joint}.pos" for joint in contract.joint_names]
    assert [back[i]["task"] for i in (0, 39)] == ["task 0", "task 1"]
    assert tuple(back[5][contract.cameras[0].dataset_key].shape) == (3, SIDE, SIDE)
    states = np.array(back.hf_dataset.with_format("numpy")["observation.state"])
    for name, expected in (("mean", states.mean(axis=0)), ("min", states.min(axis=0)), ("max", states.max(axis=0))):
        np.testing.assert_allclose(back.meta.stats["observation.state"][name], expected, rtol=1e-5, atol=1e-4)
    assert json.loads((tmp_path / "back/meta/info.json").read_text())["codebase_version"] == "v3.0"
    assert not list(tmp_path.glob(".*"))


def _lerobot_set(lerobot, contract, root: Path, *, episodes: int, ticks: int):
    joints = {"dtype": "float32", "shape": (6,), "names": [f"{name}.pos" for name in contract.joint_names]}
    video = {"dtype": "video", "shape": (SIDE, SIDE, 3), "names": ["height", "width", "channels"]}
    features = {"observation.state": joints, "action": joints} | {c.dataset_key: video for c in contract.cameras}
    made = lerobot.LeRobotDataset.create("test/set", 30, features, root=root, use_videos=True)
    rng = np.random.default_rng(1)
    for index in range(episodes):
        for tick in range(ticks):
            state, action = (rng.uniform(-60, 60, 6).astype(np.float32) for _ in range(2))
            state[5], action[5] = abs(state[5]), abs(action[5])
            state[tick % 6] = 0.0
            pixels = np.full((SIDE, SIDE, 3), 3 * tick, np.uint8)
            pictures = {camera.dataset_key: pixels for camera in contract.cameras}
            made.add_frame({"observation.state": state, "action": action, "task": f"task {index}", **pictures})
        made.save_episode()
    made.finalize()
    return lerobot.LeRobotDataset("test/set", root=root)


class Rows:
    """Stands in for LeRobot's writer: keeps what it is given."""

    def __init__(self) -> None:
        self.episodes: list[list[dict]] = []
        self.open: list[dict] = []

    def add_frame(self, frame: dict) -> None:
        self.open.append(frame)

    def save_episode(self, **_how) -> None:
        self.episodes.append(self.open)
        self.open = []

    def finalize(self) -> None:
        assert not self.open


@pytest.fixture
def rows(monkeypatch) -> Rows:
    kept = Rows()

    def create(_contract, _name, root, **_how):
        (root / "meta").mkdir(parents=True)
        (root / "meta" / "info.json").write_text('{"codebase_version": "v3.0", "fps": 30, "features": {}}')
        return kept

    monkeypatch.setattr(writing, "_create", create)
    return kept


def test_a_row_is_a_tick_of_the_frame_clock_with_its_own_pictures_at_full_size(rows, tmp_path):
    contract = small_contract()
    bag = write_recording(tmp_path / "bag", contract, ticks=30)
    write_dataset([bag], contract, tmp_path / "set")
    (only,) = rows.episodes
    with open_bag(bag) as opened:
        ticks = list(Episode(opened, contract, image_size_px=16))
    assert len(only) == len(ticks) == 30
    for number, (row, tick) in enumerate(zip(only, ticks, strict=True)):
        np.testing.assert_array_equal(row["observation.state"], to_units(tick.joint_rad, contract))
        np.testing.assert_array_equal(row["action"], to_units(tick.action_rad, contract))
        assert row["task"] == TASK
        for index, camera in enumerate(contract.cameras):
            np.testing.assert_array_equal(row[camera.dataset_key], picture(2 * number + index))


def test_gaps_and_tasks_end_an_episode_and_short_stretches_are_counted(rows, tmp_path):
    contract = small_contract()
    blind = range(25, 34)
    with BagWriter(tmp_path / "bag") as out:
        for tick in range(75):
            stamp_ns = START_NS + contract.tick_offset_ns(tick)
            if tick in (0, 55, 65):
                out.text("/sigma_policy/task", stamp_ns - MS, f"task {tick}")
            for camera in contract.cameras if tick not in blind else ():
                out.image(camera.topic, stamp_ns, camera.name, picture(tick))
            out.joints(contract.joint_state_topic, stamp_ns, contract.joint_names, pose(tick, 6))
            out.array(contract.command_topic, stamp_ns, pose(tick, 6))
    written = write_dataset([tmp_path / "bag"], contract, tmp_path / "set")
    lengths = [len(rows_) for rows_ in rows.episodes]
    assert sum(lengths) == written.frames
    assert min(lengths) >= 16
    assert written.left_out["gaps"] > 0
    assert written.left_out["ticks of stretches that are too short"] > 0
    assert written.frames + sum(written.left_out.values()) >= 70
    assert {row["task"] for row in rows.episodes[-1]} <= {"task 55", "task 0"}


def test_the_next_pose_is_the_action_where_the_contract_says_so(rows, tmp_path):
    contract = small_contract(action_source="next_state")
    bag = write_recording(tmp_path / "bag", contract, ticks=30, commands=False)
    written = write_dataset([bag], contract, tmp_path / "set")
    (only,) = rows.episodes
    for row, following in itertools.pairwise(only):
        np.testing.assert_array_equal(row["action"], following["observation.state"])
    assert (written.frames, written.left_out) == (29, {"ticks without an action": 1})


def test_nothing_is_left_behind_when_a_bag_cannot_be_used(rows, tmp_path):
    contract = small_contract()
    short = write_recording(tmp_path / "short", contract, ticks=10)
    with pytest.raises(DatasetError, match="16 usable ticks"):
        write_dataset([short], contract, tmp_path / "set")
    with pytest.raises(BagError):
        write_dataset([tmp_path / "nothing"], contract, tmp_path / "set")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["short"]


def test_a_folder_that_exists_is_not_written_into(tmp_path):
    with pytest.raises(UsageError, match="exists already"):
        write_dataset([], small_contract(), tmp_path)


def test_the_command_says_what_became_of_the_ticks(rows, tmp_path, monkeypatch):
    contract = small_contract(action_source="next_state")
    monkeypatch.setattr("sigma_ros.contract_file.load_contract", lambda _name: contract)
    write_recording(tmp_path / "bags" / "one", contract, ticks=30, commands=False)
    done = CliRunner().invoke(app, ["--bags", str(tmp_path / "bags"), "--out", str(tmp_path / "set")])
    assert done.exit_code == 0, done.output
    assert "1 episodes, 29 frames, 1 task(s)" in done.output
    assert "left out: 1 ticks without an action" in done.output


def test_episodes_are_left_out_and_split_and_the_card_says_what_is_there(tmp_path: Path) -> None:
    contract = small_contract()
    bags = [write_recording(tmp_path / f"bag_{i}", contract, ticks=20 + i, task=f"task {i}") for i in range(4)]
    whole = write_dataset(bags, contract, tmp_path / "whole", videos=False)
    some = write_dataset(bags, contract, tmp_path / "some", videos=False, leave_out=[1], test_episodes=1)
    assert (whole.episodes, some.episodes) == (4, 3)
    assert some.frames == whole.frames - 21
    assert some.left_out["ticks of episodes that were not wanted"] == 21
    assert some.tasks == ("task 0", "task 2", "task 3")
    info = json.loads((tmp_path / "some" / "meta" / "info.json").read_text())
    assert info["splits"] == {"train": "0:2", "test": "2:3"}
    assert [load_episode(str(tmp_path / "some"), n, contract).task for n in range(3)] == list(some.tasks)
    card = (tmp_path / "some" / "README.md").read_text()
    assert yaml.safe_load(card.split("---\n")[1])["tags"] == ["LeRobot", "sigma"]
    assert "visualize_dataset" not in card, "it is not on the Hub"
    said = ("3 (train 0:2, test 2:3)", "task 3", "shoulder_pan (range m100 100)", "not wanted: 21")
    assert all(text in card for text in said)
    with pytest.raises(UsageError, match="too many episodes"):
        write_dataset(bags, contract, tmp_path / "none", videos=False, test_episodes=4)
    assert not (tmp_path / "none").exists()
