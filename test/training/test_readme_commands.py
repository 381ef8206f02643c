# SPDX-License-Identifier: Apache-2.0
"""The README's training commands, letter for letter but for the size, on look-alikes of what they name."""

import json
import math
import shlex
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from lerobot.datasets.lerobot_dataset import LeRobotDataset

from sigma_ros.errors import CheckpointError, ContractError, DatasetError
from sigma_ros.model.pi05 import places
from training import evaluate, preprocess, train
from training.data import ShardMeta

ROOT = Path(__file__).resolve().parents[2]
from look_alikes import (  # type: ignore[import-not-found]  # noqa: E402
    SO101_CAMERAS,
    SO101_JOINTS,
    policy,
    save_fine_tune,
    save_published_base,
    statistics,
    tokenizer_folder,
)

MAINS = {"preprocess": preprocess.main, "train": train.main, "evaluate": evaluate.main}
SMALLER = {
    "preprocess": ["--hold-out-every", "2"],
    "train": shlex.split("--max_steps 2 --batch_size 1 --gradient_accumulation_steps 1 --phase_step 16 --eval_every 0"),
    "evaluate": [],
}
TASK = "pink lego brick into the transparent box"


def readme_commands(name: str = "docs/training.md") -> list[list[str]]:
    """The first block of commands that trains."""
    text = (ROOT / name).read_text(encoding="utf-8")
    start = text.index("\npython -m training.preprocess --dataset") + 1
    block = text[start : text.index("```", start)]
    return [shlex.split(line) for line in block.replace("\\\n", " ").splitlines()]


def write_pickplace(
    root: Path, *, fps: int = 30, cameras: tuple[str, ...] = ("up", "side"), reach: float = 70.0
) -> Path:
    """SYNTHETIC: the layout, names and sizes of lerobot/svla_so101_pickplace, two episodes of 20 frames."""
    joints = {"dtype": "float32", "shape": (6,), "names": list(SO101_JOINTS)}
    video = {"dtype": "video", "shape": (480, 640, 3), "names": ["height", "width", "channels"]}
    features: dict[str, Any] = {"action": joints, "observation.state": joints}
    features |= {f"observation.images.{camera}": video for camera in cameras}
    data = LeRobotDataset.create("local/pickplace", fps, features, root=root, robot_type="so101_follower")
    for number in range(2):
        for tick in range(20):
            pose = reach * np.sin(0.12 * tick + number + np.arange(6))
            pose[5] = 30.0 + 20.0 * pose[5] / reach
            row: dict[str, Any] = {"observation.state": pose.astype(np.float32), "task": TASK}
            row["action"] = (pose + 2.0).astype(np.float32)
            for index, camera in enumerate(cameras):
                picture = np.full((480, 640, 3), 40 + 60 * index, dtype=np.uint8)
                picture[100:180, 20 * tick : 20 * tick + 80] = 220
                row[f"observation.images.{camera}"] = picture
            data.add_frame(row)
        data.save_episode()
    data.finalize()
    return root


@pytest.fixture(scope="module")
def hub(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """What the commands name on the Hub."""
    folder = tmp_path_factory.mktemp("hub")
    tokenizer = tokenizer_folder(folder / "tokenizer")
    return {
        "lerobot/pi05_base": save_published_base(folder / "pi05_base", tokenizer),
        "lerobot/svla_so101_pickplace": write_pickplace(folder / "pickplace"),
        "tokenizer": tokenizer,
    }


@pytest.fixture
def here(hub: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working folder on a machine whose Hub has just those."""

    def fetch(name: str, **_: Any) -> str:
        return str(hub[name])

    monkeypatch.setattr("huggingface_hub.snapshot_download", fetch)
    monkeypatch.setattr(places, "snapshot_download", fetch)
    monkeypatch.setenv("SIGMA_TOKENIZER", str(hub["tokenizer"]))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_the_commands_run_as_printed(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    commands = readme_commands()
    assert [command[2] for command in commands] == [f"training.{name}" for name in MAINS]
    for _, _, module, *arguments in commands:
        name = module.removeprefix("training.")
        assert MAINS[name]([*arguments, *SMALLER[name]]) == 0, capsys.readouterr().err
    assert (here / "out/evaluation/report.html").is_file()
    card = (here / "out/sigma/checkpoint/sigma_config.json").read_text(encoding="utf-8")
    assert '"observation.images.up": "observation.images.base_0_rgb"' in card, "it remembers which camera is which"


def test_the_bases_own_cameras_are_asked_for_before_anything_is_loaded(
    here: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    first, second, _ = readme_commands()
    assert preprocess.main([*first[3:], *SMALLER["preprocess"]]) == 0
    monkeypatch.setattr("training.run.load_base", lambda *_, **__: pytest.fail("loaded"))
    without = second[3 : second.index("--rename")] + [w for w in second if w == "bf16"]
    assert train.main([word for word in without if word not in ("--dtype", "bf16")]) == ContractError.exit_code
    said = " ".join(capsys.readouterr().err.split())
    assert "--rename up=base_0_rgb side=left_wrist_0_rgb" in said


def test_a_base_named_to_preprocess_is_checked_before_anything_is_decoded(
    here: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(preprocess, "preprocess", lambda *_, **__: pytest.fail("decoded"))
    given = [*readme_commands()[0][3:], "--base_model_id", "lerobot/pi05_base"]
    assert preprocess.main(given) == ContractError.exit_code
    assert "base_0_rgb" in capsys.readouterr().err


def test_a_base_that_nothing_can_be_trained_on_and_a_set_without_episodes_are_named_before_anything_is_decoded(
    here: Path, hub: dict[str, Path], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(preprocess, "preprocess", lambda *_, **__: pytest.fail("decoded"))
    save_fine_tune(here / "relative", policy(use_relative_actions=True), hub["tokenizer"])
    assert preprocess.main([*readme_commands()[0][3:], "--base_model_id", "relative"]) == CheckpointError.exit_code
    assert "use_relative_actions false" in capsys.readouterr().err
    joints = {"dtype": "float32", "shape": (6,), "names": list(SO101_JOINTS)}
    pictures = {key: {"dtype": "video", "shape": (480, 640, 3), "names": ["height", "width", "channels"]}
                for key in SO101_CAMERAS}  # fmt: skip
    features: dict[str, Any] = {"action": joints, "observation.state": joints, **pictures}
    LeRobotDataset.create("local/empty", 30, features, root=here / "empty").finalize()
    assert preprocess.main(["--dataset", "empty", "--out", "shards"]) == DatasetError.exit_code
    assert "the data set has no episodes" in capsys.readouterr().err


def test_other_names_of_cameras_are_joined_on_request(
    here: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = write_pickplace(tmp_path / "front_wrist", cameras=("front", "wrist"))
    given = ["--dataset", str(root), "--contract", "so101", "--out", "shards", "--image-size", "32"]
    assert preprocess.main(given) == 1
    assert "--rename front=up wrist=side" in " ".join(capsys.readouterr().err.split())
    assert preprocess.main([*given, "--rename", "front=up", "wrist=side"]) == 0


def test_another_rate_is_resampled_only_when_asked_for(
    here: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = write_pickplace(tmp_path / "slow", fps=15)
    given = ["--dataset", str(root), "--contract", "so101", "--out", "shards", "--image-size", "32"]
    assert preprocess.main(given) == 1
    assert "15 frames a second, the contract 30" in " ".join(capsys.readouterr().err.split())
    assert preprocess.main([*given, "--resample"]) == 0
    assert ShardMeta.read(tmp_path / "shards").episodes[0]["ticks"] == 39


def test_a_data_set_in_degrees_is_named_before_anything_is_decoded(
    here: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    root = write_pickplace(tmp_path / "degrees", reach=95.0)
    wide = root / "data/chunk-000/file-000.parquet"
    table = pq.read_table(wide).to_pandas()
    for key in ("observation.state", "action"):
        table[key] = [row * np.float32([1, 1, 1, 1, 1.6, 1]) for row in table[key]]
    pq.write_table(pa.Table.from_pandas(table), wide)
    given = ["--dataset", str(root), "--out", "shards", "--image-size", "32"]
    with monkeypatch.context() as patched:
        patched.setattr(preprocess, "preprocess", lambda *_, **__: pytest.fail("decoded"))
        assert preprocess.main([*given, "--contract", "so101"]) == 1
    assert "wrist_roll reaches 15" in (said := " ".join(capsys.readouterr().err.split()))
    assert "so101_degrees" in said
    assert preprocess.main([*given, "--contract", "so101_degrees"]) == 0


def test_a_data_set_in_radians_is_named_before_anything_is_decoded(
    here: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    root = write_pickplace(tmp_path / "radians")
    file = root / "data/chunk-000/file-000.parquet"
    table = pq.read_table(file).to_pandas()
    for key in ("observation.state", "action"):
        table[key] = [row * np.float32(np.pi / 180.0) for row in table[key]]
    pq.write_table(pa.Table.from_pandas(table), file)
    monkeypatch.setattr(preprocess, "preprocess", lambda *_, **__: pytest.fail("decoded"))
    for contract in ("so101", "so101_degrees"):
        given = ["--dataset", str(root), "--out", "shards", "--image-size", "32", "--contract", contract]
        assert preprocess.main(given) == 1
        assert "radians, or -1 .. 1?" in " ".join(capsys.readouterr().err.split())


@pytest.mark.parametrize("steps", [5, 10, 20])
def test_a_base_with_short_chunks_and_scaled_pictures_is_trained_and_evaluated(
    steps: int, here: Path, hub: dict[str, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    modes = {"STATE": "MEAN_STD", "ACTION": "MEAN_STD", "VISUAL": "MEAN_STD"}
    made = policy(chunk_size=steps, n_action_steps=steps, normalization_mapping=modes)
    shades = {"mean": torch.full((3, 1, 1), 0.4), "std": torch.full((3, 1, 1), 0.3)}
    stats = {"observation.state": statistics(), "action": statistics(), **dict.fromkeys(SO101_CAMERAS, shades)}
    save_fine_tune(here / "short", made, hub["tokenizer"], stats=stats)
    commands = {words[2].removeprefix("training."): words[3:] for words in readme_commands()}
    commands["train"] = shlex.split("--base_model_id short --dataset_dir data/pickplace --output_dir out/sigma")
    for name, arguments in commands.items():
        assert MAINS[name]([*arguments, *SMALLER[name]]) == 0, capsys.readouterr().err
    settings = json.loads((here / "out/sigma/checkpoint/sigma_config.json").read_text(encoding="utf-8"))["settings"]
    assert (settings["horizon"], settings["residual_steps"]) == (steps, steps)
    assert settings["trained_delay_s"] == pytest.approx(min(15, steps - 1) / 30, abs=1e-6)
    report = json.loads((here / "out/evaluation/sigma_eval_checkB.json").read_text(encoding="utf-8"))
    assert all(math.isfinite(arm["baseline"]["mse_trj"]) for arm in report.values())
