# SPDX-License-Identifier: Apache-2.0
"""Inspection tells what is there, counts what every other verb counts; drafts are valid and mark what they guess."""

import html
import json
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from bags import MS, START_NS, TASK, picture, small_contract, write_recording
from test_transcode import CONTRACT as SET_CONTRACT
from test_transcode import write_v2, write_v3
from typer.testing import CliRunner

from sigma_ros.bags.episode import Episode
from sigma_ros.bags.reader import open_bag
from sigma_ros.bags.transcode import load_episode
from sigma_ros.bags.writer import BagWriter
from sigma_ros.calibration import JointCalibration
from sigma_ros.cli.recordings.contract import app as contract_app
from sigma_ros.cli.recordings.init import app as init_app
from sigma_ros.cli.recordings.inspect import PAGE, app
from sigma_ros.contract_file import load_contract
from sigma_ros.errors import DatasetError, SigmaError, UsageError
from sigma_ros.inspection.draft import GUESS, draft_contract
from sigma_ros.inspection.places import look_into

CONTRACT = small_contract()
RUN = CliRunner()
MINI = Path(__file__).resolve().parents[2] / "sigma_ros" / "assets" / "mini"


def test_a_bag_is_described_stream_by_stream(tmp_path: Path) -> None:
    found = look_into(str(write_recording(tmp_path / "bag", CONTRACT, ticks=60)))
    streams = {stream.name: stream for stream in found.streams}
    camera = streams[CONTRACT.cameras[0].topic]
    assert (camera.messages, camera.size_px, camera.encoding) == (60, (32, 24), "rgb8")
    assert camera.rhythm is not None
    assert camera.rhythm.rate_hz == pytest.approx(30.0, rel=1e-3)
    assert len(camera.pictures) == 4
    assert streams[CONTRACT.joint_state_topic].joints == CONTRACT.joint_names
    assert {guess.unit for guess in found.units} == {"radians"}
    assert (found.tasks, found.losses, found.episodes) == ({TASK: 1}, {}, 1)


@pytest.mark.parametrize("write", [write_v2, write_v3])
def test_a_data_set_is_described_from_its_own_files(tmp_path: Path, write: object) -> None:
    found = look_into(str(write(tmp_path / "set")))  # type: ignore[operator]
    streams = {stream.name: stream for stream in found.streams}
    assert found.episodes == 3
    assert found.facts["fps"] == 30.0
    assert sum(found.tasks.values()) == 3
    for camera in SET_CONTRACT.cameras:
        assert streams[camera.dataset_key].size_px == (32, 24)
        assert len(streams[camera.dataset_key].pictures) == 4
    assert streams["action"].joints == SET_CONTRACT.joint_names


def test_a_checkpoint_is_described_from_its_small_files() -> None:
    found = look_into(str(MINI))
    assert found.kind == "checkpoint"
    assert len(found.cameras()) == 2


def test_what_is_nothing_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("-")
    for place in (tmp_path, tmp_path / "notes.txt", tmp_path / "absent"):
        with pytest.raises(SigmaError, match="nothing to look into"):
            look_into(str(place))


def test_the_command_writes_json_and_a_page_that_asks_nothing_of_the_network(tmp_path: Path) -> None:
    bag = write_recording(tmp_path / "<b>bag", CONTRACT, ticks=40)
    result = RUN.invoke(app, [str(bag), "--json", "--out", str(tmp_path / "look")])
    assert result.exit_code == 0, result.output
    document = json.loads(result.stdout)
    assert document["kind"] == "bag"
    assert {stream["name"] for stream in document["streams"]} >= {CONTRACT.joint_state_topic}
    page = (tmp_path / "look" / PAGE).read_text(encoding="utf-8")
    assert len(page) < 200_000
    assert page.count('<img src="data:image/jpeg') == 8
    assert "default-src 'none'" in page
    assert "http" not in page.replace("http-equiv", "")
    assert "<b>bag" not in page


def test_losses_of_the_command_are_exit_code_3_and_strict_fails(tmp_path: Path) -> None:
    bag = write_recording(tmp_path / "bag", CONTRACT, ticks=40)
    (bag / "metadata.yaml").write_text("[")
    assert RUN.invoke(app, [str(bag)]).exit_code == 3
    result = RUN.invoke(app, [str(bag), "--strict"])
    assert isinstance(result.exception, SigmaError)


def test_a_clock_that_was_set_back_is_seen(tmp_path: Path) -> None:
    with BagWriter(tmp_path / "bag") as bag:
        for tick in range(60):
            stamp_ns = START_NS + tick * 33 * MS - (tick > 30) * 500 * MS
            bag.joints("/joint_states", stamp_ns, ("a",), np.array([0.1 * np.sin(tick)]))
    found = look_into(str(tmp_path / "bag"))
    assert any("a clock was set" in finding for finding in found.findings)


def test_streams_of_another_time_or_rate_are_seen(tmp_path: Path) -> None:
    """A constant delay below a second pairs with other poses, and a slow camera's pictures repeat: both are named."""
    late, slow = CONTRACT.cameras
    with BagWriter(tmp_path / "bag") as bag:
        for tick in range(60):
            stamp_ns = START_NS + CONTRACT.tick_offset_ns(tick)
            bag.image(late.topic, stamp_ns - 300 * MS, late.name, picture(tick), log_time_ns=stamp_ns)
            if tick % 2 == 0:
                bag.image(slow.topic, stamp_ns, slow.name, picture(tick))
            names, values = CONTRACT.joint_names, 0.3 * np.sin(0.05 * tick + np.arange(6))
            turned = slice(None, None, 1 if tick < 20 else -1)
            bag.joints(CONTRACT.joint_state_topic, stamp_ns, names[turned], values[turned])
            bag.array(CONTRACT.command_topic, stamp_ns, values)
    found = look_into(str(tmp_path / "bag"), contract=CONTRACT)
    assert f"{late.topic} is recorded 0.3 s after its stamp" in " ".join(found.findings)
    assert f"{slow.topic} has 15 Hz, the contract's ticks 30" in " ".join(found.findings)
    (state,) = [stream for stream in found.streams if stream.name == CONTRACT.joint_state_topic]
    rows = 0.3 * np.sin(0.05 * np.arange(60)[:, None] + np.arange(6))  # by name, in whatever order they came
    assert state.low == pytest.approx(rows.min(axis=0))
    plain = look_into(str(write_recording(tmp_path / "plain", CONTRACT, ticks=40)), contract=CONTRACT)
    assert not [finding for finding in plain.findings if "Hz" in finding or "recorded" in finding]


def test_a_camera_that_hangs_is_seen(tmp_path: Path) -> None:
    with BagWriter(tmp_path / "bag") as bag:
        for tick in range(80):
            bag.image("/up/image_raw", START_NS + tick * 33 * MS, "up", picture(min(tick, 20)))
    assert any("repeats one picture" in finding for finding in look_into(str(tmp_path / "bag")).findings)


def moving_set(root: Path, levels: list[int], lost: range = range(0)) -> Path:
    """A data set of one episode of images in which the joints move; rows `lost` are not there."""
    rows = [row for row in range(len(levels)) if row not in lost]
    coded = [cv2.imencode(".png", np.full((24, 32, 3), levels[row], np.uint8))[1].tobytes() for row in rows]
    joints = [[float(20.0 * np.sin(0.1 * row + i)) for i in range(6)] for row in rows]
    (root / "meta").mkdir(parents=True)
    (root / "data").mkdir()
    joint = {"dtype": "float32", "shape": [6], "names": [f"{name}.pos" for name in SET_CONTRACT.joint_names]}
    camera = {"dtype": "image", "shape": [24, 32, 3], "names": ["height", "width", "channels"]}
    features = {"observation.state": joint, "action": joint, "observation.images.up": camera}
    info = {"codebase_version": "v2.1", "fps": 30, "total_episodes": 1, "chunks_size": 1000, "features": features}
    (root / "meta" / "info.json").write_text(json.dumps({**info, "data_path": "data/episode_{episode_index}.parquet"}))
    (root / "meta" / "tasks.jsonl").write_text(json.dumps({"task_index": 0, "task": "a task"}))
    columns = {"observation.state": joints, "action": joints, "timestamp": [row / 30 for row in rows]}
    columns |= {"task_index": [0] * len(rows), "observation.images.up": [{"bytes": data, "path": ""} for data in coded]}
    pq.write_table(pa.table(columns), root / "data" / "episode_0.parquet")
    return root


def test_the_page_of_a_data_set_says_which_camera_hangs_and_which_rows_are_lost(tmp_path: Path) -> None:
    def findings(name: str, levels: list[int], lost: range = range(0)) -> list[str]:
        root = moving_set(tmp_path / name, levels, lost)
        done = RUN.invoke(app, [str(root), "--json", "--out", str(tmp_path / f"{name}_page")])
        found = json.loads(done.stdout)["findings"]
        page = (tmp_path / f"{name}_page" / PAGE).read_text()
        assert all(finding in html.unescape(page) for finding in found)
        return [finding for finding in found if "picture" in finding or "missing" in finding]

    assert findings("whole", list(range(80))) == []
    (hung,) = findings("hung", [min(row, 20) for row in range(80)])
    assert "observation.images.up repeats one picture from row 20 on" in hung
    (lost,) = findings("lost", list(range(80)), range(30, 36))
    assert lost.startswith("episode 0: 6 rows are missing")


def test_one_broken_episode_does_not_hide_the_others(tmp_path: Path) -> None:
    root = write_v2(tmp_path / "set")
    (film,) = root.glob(f"videos/**/{SET_CONTRACT.cameras[0].dataset_key}/**/*_000001.mp4")
    film.write_bytes(b"no film")
    found = look_into(str(root), contract=SET_CONTRACT)
    assert [reason for reason in found.losses if reason.startswith("episode 1 is not read")]
    assert found.facts["rows"] == sum((12, 9, 15))
    with pytest.raises(SigmaError, match="frames a second"):
        look_into(str(root), contract=replace(SET_CONTRACT, fps=20.0))


# Drafts.


def drafted(path: Path, text: str) -> Path:
    path.write_text(text, encoding="utf-8")
    return path


def test_the_draft_of_a_bag_reads_that_bag(tmp_path: Path) -> None:
    bag = write_recording(tmp_path / "bag", CONTRACT, ticks=40)
    contract = load_contract(drafted(tmp_path / "arm.yaml", draft_contract(look_into(str(bag)), "arm")))
    assert contract.joint_names == CONTRACT.joint_names
    assert {camera.topic for camera in contract.cameras} == {camera.topic for camera in CONTRACT.cameras}
    assert (contract.fps, contract.action_source, contract.tasks) == (30.0, "command", (TASK,))
    with open_bag(bag) as opened:
        ticks = Episode(opened, contract, image_size_px=None)
        assert sum(tick.window is not None for tick in ticks) == 40
        assert ticks.losses == {}


def test_more_names_than_entries_and_an_episode_without_a_number_are_one_sentence_each(tmp_path: Path) -> None:
    """Found by the fuzzer: both ended in a traceback."""
    moving_set(tmp_path / "set", list(range(0, 60, 3)))
    file = tmp_path / "set" / "meta" / "info.json"
    info = json.loads(file.read_text())
    info["features"]["observation.state"]["names"] += ["one.pos", "another.pos"]
    file.write_text(json.dumps(info))
    assert "observation.state has 6 entries and 8 names" in look_into(str(tmp_path / "set")).findings
    table = tmp_path / "set" / "meta" / "episodes" / "file-000.parquet"
    table.parent.mkdir()
    pq.write_table(pa.table({"episode_index": [0, None]}), table)
    with pytest.raises(DatasetError, match="numbers some by no number"):
        look_into(str(tmp_path / "set"))


def test_the_draft_of_a_data_set_reads_that_data_set(tmp_path: Path) -> None:
    root = write_v2(tmp_path / "set")
    contract = load_contract(drafted(tmp_path / "arm.yaml", draft_contract(look_into(str(root)), "arm")))
    assert load_episode(str(root), 1, contract).ticks == 9


def test_the_draft_of_a_data_set_whose_actions_are_no_joints_takes_the_next_state(tmp_path: Path) -> None:
    root = write_v2(tmp_path / "set")
    file = root / "meta" / "info.json"
    info = json.loads(file.read_text())
    info["features"]["action"]["names"] = [f"{name}_vel" for name in SET_CONTRACT.joint_names]
    file.write_text(json.dumps(info))
    contract = load_contract(drafted(tmp_path / "d.yaml", draft_contract(look_into(str(root)), "mine")))
    assert contract.action_source == "next_state"
    assert load_episode(str(root), 1, contract).ticks == 9


def test_a_draft_without_commands_takes_the_next_state(tmp_path: Path) -> None:
    bag = write_recording(tmp_path / "bag", CONTRACT, ticks=40, commands=False)
    assert load_contract(drafted(tmp_path / "a.yaml", draft_contract(look_into(str(bag)), "a"))).action_source == (
        "next_state"
    )


def test_limits_come_from_the_calibration_and_are_no_guess(tmp_path: Path) -> None:
    bag = write_recording(tmp_path / "bag", CONTRACT, ticks=40)
    known = [
        JointCalibration(name=name, range_min=1000 + i, range_max=3000, flipped=False)
        for i, name in enumerate(CONTRACT.joint_names)
    ]
    text = draft_contract(look_into(str(bag)), "arm", calibration=known)
    contract = load_contract(drafted(tmp_path / "arm.yaml", text))
    expected = [joint.counts_to_rad(joint.range_min, zero="encoder") for joint in known]
    assert contract.lower_rad == pytest.approx(expected, abs=1e-4)
    assert not [line for line in text.splitlines() if "lower_rad" in line and GUESS in line]
    with pytest.raises(SigmaError, match="no joint gripper"):
        draft_contract(look_into(str(bag)), "arm", calibration=known[:-1])


def test_foreign_joints_get_limits_around_what_was_recorded(tmp_path: Path) -> None:
    with BagWriter(tmp_path / "bag") as bag:
        for tick in range(60):
            bag.joints("/joint_states", START_NS + tick * 33 * MS, ("hip", "knee"), np.sin([0.1 * tick, 0.2 * tick]))
    text = draft_contract(look_into(str(tmp_path / "bag")), "leg")
    contract = load_contract(drafted(tmp_path / "leg.yaml", text))
    assert contract.joint_names == ("hip", "knee")
    assert (contract.lower_rad < -0.9).all()
    assert all(GUESS in line for line in text.splitlines() if "_rad" in line)


def test_the_commands_write_valid_contracts_and_name_the_real_cameras(tmp_path: Path) -> None:
    root, bag = write_v2(tmp_path / "set"), write_recording(tmp_path / "bag", CONTRACT, ticks=40)
    calibration = {n: {"range_min": 900, "range_max": 3100, "drive_mode": 0} for n in CONTRACT.joint_names}
    (tmp_path / "arm.json").write_text(json.dumps(calibration))
    name = SET_CONTRACT.cameras[0].dataset_key.rpartition(".")[2]
    init = ["--dataset", str(root), "--calibration", str(tmp_path / "arm.json"), "--cameras"]
    done = RUN.invoke(init_app, [*init, f"{name}=0", "--out", str(tmp_path / "mine.yaml")])
    assert done.exit_code == 0, done.output
    mine = load_contract(tmp_path / "mine.yaml")
    assert [camera.name for camera in mine.cameras] == [name]
    assert "/dev/video0" in (tmp_path / "mine.yaml").read_text()
    wrong = RUN.invoke(init_app, [*init, "front=0", "--out", str(tmp_path / "not.yaml")])
    assert isinstance(wrong.exception, UsageError)
    assert name in str(wrong.exception)
    assert not (tmp_path / "not.yaml").exists()
    for source in (["--bag", str(bag)], ["--dataset", str(root)], ["--checkpoint", str(MINI)]):
        out = tmp_path / f"{source[0]}.yaml"
        assert RUN.invoke(contract_app, ["draft", *source, "--out", str(out)]).exit_code == 0
        load_contract(out)
        again = RUN.invoke(contract_app, ["draft", *source, "--out", str(out)])
        assert isinstance(again.exception, UsageError)


def test_a_draft_of_what_cannot_be_read_says_what_could_not(tmp_path: Path) -> None:
    root = write_v2(tmp_path / "set")
    (root / "meta" / "tasks.jsonl").write_text("")
    with pytest.raises(UsageError, match=r"nothing tells the robot's joints.*episode 0 is not read"):
        draft_contract(look_into(str(root)), "arm")


def test_a_draft_that_would_be_no_contract_or_was_asked_for_wrongly_leaves_no_file(tmp_path: Path) -> None:
    with BagWriter(tmp_path / "bag") as bag:
        for tick in range(30):
            bag.joints("/joint_states", START_NS + tick * 33 * MS, ("hip",), np.sin([0.1 * tick]))
            for arm in ("left", "right"):
                bag.image(f"/{arm}/up/image_raw", START_NS + tick * 33 * MS, "up", picture(tick))
    out = tmp_path / "drafts" / "arm.yaml"
    out.parent.mkdir()
    draft = ["draft", "--bag", str(tmp_path / "bag"), "--out", str(out)]
    init = ["--dataset", str(write_v2(tmp_path / "set")), "--out", str(out)]
    for app_, arguments in ((contract_app, draft), (init_app, [*init, "--cameras", "up"])):
        assert isinstance(RUN.invoke(app_, arguments).exception, SigmaError)
    assert isinstance(RUN.invoke(init_app, [*init, "--zero", "middle"]).exception, UsageError)
    assert not list(out.parent.iterdir())


def test_foreign_names_neither_reach_the_terminal_nor_leave_their_place_in_a_draft(tmp_path: Path) -> None:
    hostile = "/up\x1b[2J\nfps: 1/image_raw"
    with BagWriter(tmp_path / "bag") as bag:
        for tick in range(60):
            bag.joints("/joint_states", START_NS + tick * 33 * MS, ("hip\x1b[31m", "b"), np.sin([0.1 * tick, 0.2]))
            bag.image(hostile, START_NS + tick * 33 * MS, "up", picture(tick))
    result = RUN.invoke(app, [str(tmp_path / "bag")])
    assert "\x1b" not in result.output
    found = look_into(str(tmp_path / "bag"))
    (camera,) = [stream.name for stream in found.cameras()]
    assert camera == hostile
    text = draft_contract(found, "arm")
    assert "\x1b" not in text
    assert sum(line.startswith("fps:") for line in text.splitlines()) == 1


def test_an_operators_interventions_are_counted_and_timed(tmp_path: Path) -> None:
    """Marks that repeat are one intervention; the last one lasts to the end."""
    with BagWriter(tmp_path / "bag") as bag:
        for second, by_operator in enumerate((False, True, True, False, False, True, True)):
            flag = b"\x00\x01\x00\x00" + bytes([by_operator])
            bag.raw("/arm1/sigma/intervention", "std_msgs/msg/Bool", second * 10**9, flag)
    assert look_into(str(tmp_path / "bag")).facts["interventions"] == "2, 3.0 s"
