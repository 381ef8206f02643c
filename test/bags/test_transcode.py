# SPDX-License-Identifier: Apache-2.0
"""An episode of a LeRobot data set as a bag: numbers exact, pictures in step, and the label on it."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import av
import cv2
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from bags import HEIGHT, SHARED_DATA, SIZE, WIDTH, small_contract
from numpy import ndarray
from small import small_file
from typer.testing import CliRunner

from sigma_ros.bags.dataset_facts import check_numbers
from sigma_ros.bags.episode import Episode
from sigma_ros.bags.reader import open_bag
from sigma_ros.bags.transcode import START_NS, load_episode, transcode
from sigma_ros.cli.recordings.transcode import app
from sigma_ros.contract import Contract
from sigma_ros.contract_file import load_contract
from sigma_ros.errors import DatasetError, SigmaError, UsageError

CONTRACT = small_contract()
CR5_DATA = SHARED_DATA / "cr5_6dof_banana" / "dataset"
EPISODES = (12, 9, 15)  # ticks of the synthetic episodes
TASKS = ("first task", "second task")


def shade(episode_index: int, tick: int) -> int:
    return 20 + 70 * episode_index + 4 * tick


def write_video(file: Path, shades: list[int]) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(file), "w") as container:
        stream = container.add_stream("libx264", rate=30)
        stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, "yuv420p"
        stream.options = {"crf": "5", "g": "4"}
        for value in shades:
            pixels = np.full((HEIGHT, WIDTH, 3), value, dtype=np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
        container.mux(stream.encode())


def rows_of(index: int, contract: Contract) -> dict[str, Any]:
    ticks = EPISODES[index]
    states = (np.arange(ticks)[:, None] + 10 * np.arange(contract.dof)).astype(np.float32)
    return {
        "observation.state": states.tolist(),
        "action": (states + 0.5).tolist(),
        "timestamp": (np.arange(ticks) / 30).astype(np.float32),
        "frame_index": np.arange(ticks),
        "episode_index": np.full(ticks, index),
        "task_index": np.full(ticks, index % 2),
    }


def info_of(contract: Contract, version: str, **paths: str) -> dict[str, Any]:
    joints = [f"{name}.pos" for name in contract.joint_names]
    video = {"dtype": "video", "shape": [HEIGHT, WIDTH, 3], "names": ["height", "width", "channels"]}
    return {
        "codebase_version": version,
        "fps": 30,
        "total_episodes": len(EPISODES),
        "chunks_size": 1000,
        "features": {
            "observation.state": {"dtype": "float32", "shape": [6], "names": joints},
            "action": {"dtype": "float32", "shape": [6], "names": joints},
            **{camera.dataset_key: video for camera in contract.cameras},
        },
        **paths,
    }


def write_v2(root: Path, contract: Contract = CONTRACT) -> Path:
    """SYNTHETIC data set in LeRobot's v2.1 layout."""
    (root / "meta").mkdir(parents=True)
    info = info_of(
        contract,
        "v2.1",
        data_path="data/chunk-{episode_chunk:03d}/episode_{episode_index:06d}.parquet",
        video_path="videos/chunk-{episode_chunk:03d}/{video_key}/episode_{episode_index:06d}.mp4",
    )
    (root / "meta" / "info.json").write_text(json.dumps(info))
    lines = [json.dumps({"task_index": index, "task": task}) for index, task in enumerate(TASKS)]
    (root / "meta" / "tasks.jsonl").write_text("\n".join(lines))
    for index, ticks in enumerate(EPISODES):
        file = root / f"data/chunk-000/episode_{index:06d}.parquet"
        file.parent.mkdir(parents=True, exist_ok=True)
        pq.write_table(pa.table(rows_of(index, contract)), file)
        for camera in contract.cameras:
            film = root / f"videos/chunk-000/{camera.dataset_key}/episode_{index:06d}.mp4"
            write_video(film, [shade(index, tick) for tick in range(ticks)])
    return root


def write_v3(root: Path, contract: Contract = CONTRACT) -> Path:
    """SYNTHETIC data set in LeRobot's v3.0 layout: all episodes in one file and one video."""
    (root / "meta" / "episodes" / "chunk-000").mkdir(parents=True)
    info = info_of(
        contract,
        "v3.0",
        data_path="data/chunk-{chunk_index:03d}/file-{file_index:03d}.parquet",
        video_path="videos/{video_key}/chunk-{chunk_index:03d}/file-{file_index:03d}.mp4",
    )
    (root / "meta" / "info.json").write_text(json.dumps(info))
    tasks = pa.table({"task_index": [0, 1], "task": list(TASKS)}).to_pandas().set_index("task")
    tasks.to_parquet(root / "meta" / "tasks.parquet")
    starts = np.cumsum([0, *EPISODES])[:-1] / 30
    rows: dict[str, list] = {"episode_index": list(range(3)), "data/chunk_index": [0] * 3, "data/file_index": [0] * 3}
    for camera in contract.cameras:
        rows[f"videos/{camera.dataset_key}/chunk_index"] = [0] * 3
        rows[f"videos/{camera.dataset_key}/file_index"] = [0] * 3
        rows[f"videos/{camera.dataset_key}/from_timestamp"] = starts.tolist()
        film = root / f"videos/{camera.dataset_key}/chunk-000/file-000.mp4"
        write_video(film, [shade(index, tick) for index, ticks in enumerate(EPISODES) for tick in range(ticks)])
    pq.write_table(pa.table(rows), root / "meta/episodes/chunk-000/file-000.parquet")
    (root / "data" / "chunk-000").mkdir(parents=True)
    tables = [pa.table(rows_of(index, contract)) for index in range(3)]
    pq.write_table(pa.concat_tables(tables), root / "data/chunk-000/file-000.parquet")
    return root


WRITERS = {"v2.1": write_v2, "v3.0": write_v3}


@pytest.fixture(scope="module", params=sorted(WRITERS))
def dataset(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Path]:
    folder = tmp_path_factory.mktemp("dataset") / "synthetic"
    return request.param, WRITERS[request.param](folder)


def brightness(image: ndarray) -> float:
    return float(image[SIZE // 2 - 2 : SIZE // 2 + 2].mean())


@pytest.mark.parametrize("index", [0, 1, 2])
def test_states_and_actions_come_back_exactly_and_pictures_in_step(
    dataset: tuple[str, Path], tmp_path: Path, index: int
) -> None:
    version, root = dataset
    source = load_episode(str(root), index, CONTRACT)
    assert (source.version, source.ticks, source.task) == (version, EPISODES[index], TASKS[index % 2])
    transcode(source, CONTRACT, tmp_path / "bag")
    with open_bag(tmp_path / "bag", strict=True) as bag:
        ticks = list(Episode(bag, CONTRACT, image_size_px=SIZE))
        notes = bag.info.metadata
    assert len(ticks) == EPISODES[index]
    rows = rows_of(index, CONTRACT)
    for tick, (item, state, action) in enumerate(zip(ticks, rows["observation.state"], rows["action"], strict=True)):
        assert item.window is not None
        assert item.joint_rad is not None
        assert item.action_rad is not None
        assert np.allclose(CONTRACT.to_policy(item.joint_rad), state, rtol=0, atol=1e-12)
        assert np.allclose(CONTRACT.to_policy(item.action_rad), action, rtol=0, atol=1e-12)
        assert item.window.newest.age_ns == 0
        for image in item.window.newest.images.values():
            assert abs(brightness(image) - shade(index, tick)) < 2.5
        assert item.window.task == TASKS[index % 2]
    assert notes["sigma.source"] == "transcoded"
    assert notes["sigma.episode"] == str(index)
    assert notes["sigma.dataset"].endswith("/synthetic")


def test_a_data_set_with_pictures_in_its_rows_is_read(tmp_path: Path) -> None:
    root = write_v2(tmp_path / "set")
    info = json.loads((root / "meta" / "info.json").read_text())
    table = pq.read_table(root / "data/chunk-000/episode_000001.parquet")
    for camera in CONTRACT.cameras:
        info["features"][camera.dataset_key]["dtype"] = "image"
        coded = [
            cv2.imencode(".png", np.full((HEIGHT, WIDTH, 3), shade(1, tick), dtype=np.uint8))[1].tobytes()
            for tick in range(EPISODES[1])
        ]
        table = table.append_column(camera.dataset_key, pa.array([{"bytes": data, "path": ""} for data in coded]))
    (root / "meta" / "info.json").write_text(json.dumps(info))
    pq.write_table(table, root / "data/chunk-000/episode_000001.parquet")
    transcode(load_episode(str(root), 1, CONTRACT), CONTRACT, tmp_path / "bag")
    with open_bag(tmp_path / "bag") as bag:
        for tick, item in enumerate(Episode(bag, CONTRACT, image_size_px=SIZE)):
            assert item.window is not None
            assert brightness(item.window.newest.images["up"]) == shade(1, tick)


def break_info(root: Path, **changes: Any) -> None:
    file = root / "meta" / "info.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))


def cut_video(root: Path) -> None:
    write_video(root / f"videos/chunk-000/{CONTRACT.cameras[0].dataset_key}/episode_000001.mp4", [1, 2, 3])


def resize_video(root: Path) -> None:
    file = root / f"videos/chunk-000/{CONTRACT.cameras[1].dataset_key}/episode_000001.mp4"
    with av.open(str(file), "w") as container:
        stream = container.add_stream("libx264", rate=30)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        for _ in range(EPISODES[1]):
            pixels = np.zeros((48, 64, 3), dtype=np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
        container.mux(stream.encode())


def replace_column(root: Path, name: str, values: Any) -> None:
    file = root / "data/chunk-000/episode_000001.parquet"
    table = pq.read_table(file)
    pq.write_table(table.set_column(table.column_names.index(name), name, pa.array(values)), file)


def no_time(root: Path) -> None:
    replace_column(root, "timestamp", np.zeros(EPISODES[1], dtype=np.float32))


def not_finite(root: Path) -> None:
    replace_column(root, "observation.state", [[np.nan] * 6] * EPISODES[1])


def rename_joints(root: Path) -> None:
    file = root / "meta" / "info.json"
    file.write_text(file.read_text().replace("gripper.pos", "claw.pos"))


def lose_file(root: Path) -> None:
    break_info(root, total_episodes=1)
    (root / "data/chunk-000/episode_000001.parquet").unlink()


@pytest.mark.parametrize(
    ("damage", "text"),
    [
        (lambda root: (root / "meta" / "info.json").unlink(), "not a LeRobot data set"),
        (lambda root: (root / "meta" / "info.json").write_text("{"), "not a LeRobot data set"),
        (lambda root: break_info(root, codebase_version="v1.6"), r"version is not known.*got: v1\.6"),
        (
            lambda root: break_info(root, features={}),
            "it has no observation.state, action, observation.images.up, observation.images.side",
        ),
        (lose_file, r"no such episode.*expected: 0 \.\. 0; got: 1"),
        (lambda root: break_info(root, data_path="elsewhere/{nothing}"), "episode 1 cannot be read"),
        (lambda root: (root / "data/chunk-000/episode_000001.parquet").write_bytes(b"x"), "the table cannot be read"),
        (lambda root: (root / "meta" / "tasks.jsonl").write_text(""), r"no table of tasks names.*got: \[1\]; remedy"),
        (cut_video, r"fewer pictures than rows.*expected: 9; got: 3"),
        (resize_video, r"another size than the contract's camera.*expected: 32x24; got: 64x48"),
        (no_time, "timestamps do not increase"),
        (not_finite, r"values that are not finite.*episode 1.*got: (?:nan|-?inf) of \w+ in frame \d+, \d+ values"),
        (rename_joints, "joints are missing: gripper"),
    ],
)
def test_a_damaged_data_set_is_one_clear_error_and_leaves_no_bag(tmp_path: Path, damage: Any, text: str) -> None:
    root = write_v2(tmp_path / "set")
    damage(root)
    with pytest.raises(SigmaError, match=text):
        transcode(load_episode(str(root), 1, CONTRACT), CONTRACT, tmp_path / "bag")
    assert [file.name for file in tmp_path.iterdir()] == ["set"]


@pytest.mark.parametrize("kept", ["its index", "an index without a name", "a column"])
def test_tasks_are_their_texts_however_the_table_has_them(kept: str, tmp_path: Path) -> None:
    root = write_v3(tmp_path / "set")
    table = pa.table({"task_index": [0, 1], "task": list(TASKS)}).to_pandas()
    if kept != "a column":
        table = table.set_index("task").rename_axis("task" if kept == "its index" else None)
    table.to_parquet(root / "meta" / "tasks.parquet")
    assert [load_episode(str(root), index, CONTRACT).task for index in (0, 1)] == list(TASKS)


def test_what_the_contract_leaves_out_and_rows_without_a_text_are_said_before_anything_is_decoded(
    tmp_path: Path,
) -> None:
    root = write_v3(tmp_path / "set")
    assert check_numbers(str(root), [0, 1, 2], CONTRACT, revision=None, rename={}) == []
    info = json.loads((root / "meta" / "info.json").read_text())
    info["features"]["action"]["names"].append("wrist_yaw.pos")
    (root / "meta" / "info.json").write_text(json.dumps(info))
    table = pq.read_table(root / "data/chunk-000/file-000.parquet").to_pandas()
    table["action"] = [[*row, 0.0] for row in table["action"]]
    table.to_parquet(root / "data/chunk-000/file-000.parquet")
    pa.table({"task_index": [0, 1], "task": ["", TASKS[1]]}).to_pandas().to_parquet(root / "meta" / "tasks.parquet")
    left_out, without = check_numbers(str(root), [0, 1, 2], CONTRACT, revision=None, rename={})
    assert left_out.startswith("action: the contract has no wrist_yaw")
    assert without.endswith(f"the contract's: {CONTRACT.tasks[0]}")


def test_an_episode_that_is_not_listed_in_v3_is_named(tmp_path: Path) -> None:
    root = write_v3(tmp_path / "set")
    break_info(root, total_episodes=9)
    with pytest.raises(DatasetError, match="episode 7 is not listed"):
        load_episode(str(root), 7, CONTRACT)


def test_a_hub_data_set_is_fetched_file_by_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = write_v3(tmp_path / "abc123")
    asked: list[str] = []

    def snapshot(name: str, *, repo_type: str, revision: str, allow_patterns: list[str]) -> str:
        assert (name, repo_type, revision) == ("somebody/pick", "dataset", "main")
        asked.extend(allow_patterns)
        return str(root)

    monkeypatch.setattr("huggingface_hub.snapshot_download", snapshot)
    source = load_episode("somebody/pick", 2, CONTRACT, revision="main")
    assert source.name == "somebody/pick@abc123"
    assert "data/chunk-000/file-000.parquet" in asked
    assert not any(pattern in ("*", "**") for pattern in asked)


def test_a_name_that_is_neither_here_nor_on_the_hub_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    def offline(*_: object, **__: object) -> str:
        raise OSError("no network")

    monkeypatch.setattr("huggingface_hub.snapshot_download", offline)
    with pytest.raises(DatasetError, match=r"neither a folder here nor can it be fetched.*no network"):
        load_episode("somebody/pick", 0, CONTRACT)


def test_the_command_writes_a_bag_and_says_what_it_holds(tmp_path: Path) -> None:
    root = write_v2(tmp_path / "set")
    arguments = [str(root), "--episode", "1", "--out", str(tmp_path / "bag"), "--contract", str(small_file(tmp_path))]
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 0, result.output
    assert "9 ticks of episode 1" in result.output
    assert "second task" in result.output
    again = CliRunner().invoke(app, arguments)
    assert isinstance(again.exception, UsageError)
    assert CliRunner().invoke(app, [*arguments, "--overwrite"]).exit_code == 0


@pytest.mark.slow
def test_a_data_set_that_lerobot_itself_wrote_is_read(tmp_path: Path) -> None:
    lerobot_dataset = pytest.importorskip("lerobot.datasets.lerobot_dataset")
    contract = small_contract()
    contract = replace(contract, cameras=tuple(replace(c, width_px=64, height_px=64) for c in contract.cameras))
    joints = {"dtype": "float32", "shape": (6,), "names": [f"{name}.pos" for name in contract.joint_names]}
    video = {"dtype": "video", "shape": (64, 64, 3), "names": ["height", "width", "channels"]}
    features = {"observation.state": joints, "action": joints} | {c.dataset_key: video for c in contract.cameras}
    dataset = lerobot_dataset.LeRobotDataset.create("test/set", 30, features, root=tmp_path / "set", use_videos=True)
    for index in range(2):
        for tick in range(10):
            pixels = np.full((64, 64, 3), shade(index, tick), dtype=np.uint8)
            values = np.full(6, 10 * index + tick, dtype=np.float32)
            pictures = {camera.dataset_key: pixels for camera in contract.cameras}
            dataset.add_frame({"observation.state": values, "action": values, "task": TASKS[index], **pictures})
        dataset.save_episode()
    dataset.finalize()
    transcode(load_episode(str(tmp_path / "set"), 1, contract), contract, tmp_path / "bag")
    with open_bag(tmp_path / "bag") as bag:
        ticks = list(Episode(bag, contract, image_size_px=SIZE))
    assert len(ticks) == 10
    for tick, item in enumerate(ticks):
        assert item.window is not None
        assert item.joint_rad is not None
        assert contract.to_policy(item.joint_rad)[0] == pytest.approx(10 + tick)
        assert abs(brightness(item.window.newest.images["up"]) - shade(1, tick)) < 3
        assert item.window.task == TASKS[1]


@pytest.mark.skipif(not CR5_DATA.is_dir(), reason="the shared real recordings are not here")
def test_a_real_episode_of_another_arm_becomes_ticks(tmp_path: Path) -> None:
    contract = load_contract("cr5")
    source = load_episode(str(CR5_DATA), 71, contract)
    assert (source.version, source.ticks, source.task) == ("v2.1", 181, "put the banana on the plate")
    transcode(source, contract, tmp_path / "bag")
    with open_bag(tmp_path / "bag", strict=True) as bag:
        assert contract.command_topic not in bag.info.topics
        run = Episode(bag, contract, image_size_px=224)
        ticks = list(run)
    assert len(ticks) == 181
    assert sum(tick.window is None for tick in ticks) == 0
    assert ticks[0].item.stamp_ns == START_NS + round(source.timestamps_s[0] * 1e9)
    ages_ms = np.array([tick.window.newest.age_ns / 1e6 for tick in ticks if tick.window is not None])
    assert ages_ms.max() < 353  # the largest step of this recording is 352 ms
    step = np.abs(np.diff([tick.joint_rad for tick in ticks if tick.joint_rad is not None], axis=0))
    assert step.max() < 0.5
    first = ticks[0]
    assert first.window is not None
    image = first.window.newest.images["top"]
    assert image.shape == (224, 224, 3)
    assert image[112].std() > 5
