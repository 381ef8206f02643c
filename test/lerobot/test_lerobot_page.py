# SPDX-License-Identifier: Apache-2.0
"""docs/lerobot.md, command for command but for the size: degrees, cameras front and wrist, a MEAN_STD fine-tune."""

import json
import shlex
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from lerobot.configs import NormalizationMode
from lerobot.datasets.lerobot_dataset import LeRobotDataset
from look_alikes import IMAGES, SO101_JOINTS, policy, save_fine_tune, statistics, tokenizer_folder
from small import small_file

from sigma_ros.cli.main import load_verb
from training import evaluate, preprocess, train

PAGE = Path(__file__).resolve().parents[2] / "docs" / "lerobot.md"
TRAIN = "--max_steps 2 --batch_size 1 --gradient_accumulation_steps 1 --phase_step 16 --eval_every 0"
LEROBOT_TRAIN = "--policy.device=cpu --steps=1 --batch_size=1 --num_workers=0 "
LEROBOT_EVAL = "--policy.device=cpu --env.episode_s=0.3 --eval.n_episodes=1"
SMALL_ACT = (
    "--policy.pretrained_backbone_weights=null --policy.dim_model=32 --policy.n_heads=2 --policy.dim_feedforward=32 "
    "--policy.n_encoder_layers=1 --policy.n_vae_encoder_layers=1"
)
SMALLER = (
    ("sigma preprocess", "--hold-out-every 2"),
    ("sigma train", TRAIN),
    ("lerobot-train", LEROBOT_TRAIN + "--dataset.root=me/pick --policy.train_windows=1"),
    ("sigma train-eval", ""),
    ("sigma transcode", ""),
    ("sigma evaluate", "--workers 0"),
    ("lerobot-eval", LEROBOT_EVAL),
    ("sigma record", "--episodes 1 --contract small.yaml"),
    ("sigma dataset", "--contract small.yaml"),
    ("lerobot-train", LEROBOT_TRAIN + SMALL_ACT),
    ("lerobot-eval", LEROBOT_EVAL + " --env.contract=small.yaml"),
)
"""The page's commands in its order, and what makes each small."""

NOT_RUN = ("pip install", "sigma run")
"""The plugins' wheels are on the children's path; `test/cli/robot/test_run.py` starts an arm."""


CAMERAS = (IMAGES + "front", IMAGES + "wrist")
MODES = {"STATE": "MEAN_STD", "ACTION": "MEAN_STD", "VISUAL": "IDENTITY"}
MEAN_STD = {kind: NormalizationMode(mode) for kind, mode in MODES.items()}


def commands() -> list[list[str]]:
    blocks = PAGE.read_text(encoding="utf-8").split("```sh\n")[1:]
    text = "\n".join(block.split("```", 1)[0] for block in blocks).replace("\\\n", " ")
    return [shlex.split(line) for line in text.splitlines() if line.strip()]


def name_of(words: list[str]) -> str:
    return words[0] if "-" in words[0] else " ".join(words[:2])


def with_smaller(words: list[str], smaller: str) -> list[str]:
    """LeRobot takes an option once: ours takes the place of the page's."""
    extra = shlex.split(smaller)
    names = {word.split("=")[0] for word in extra if "=" in word}
    return [*(word for word in words if word.split("=")[0] not in names), *extra]


def write_pick(
    root: Path, *, names: Sequence[str] = SO101_JOINTS, fps: int = 30, size: tuple[int, int] = (480, 640)
) -> None:
    """SYNTHETIC: two episodes of 20 frames in degrees, as lerobot-record names things now."""
    joints = {"dtype": "float32", "shape": (len(names),), "names": list(names)}
    video = {"dtype": "video", "shape": (*size, 3), "names": ["height", "width", "channels"]}
    features: dict[str, Any] = {"action": joints, "observation.state": joints}
    features |= {IMAGES + camera: video for camera in ("front", "wrist")}
    data = LeRobotDataset.create("local/pick", fps, features, root=root, robot_type="so101_follower")
    for number in range(2):
        for tick in range(20):
            pose = 70.0 * np.sin(0.12 * tick + number + np.arange(len(names)))
            pose[-1] = 30.0 + 0.3 * pose[-1]
            row: dict[str, Any] = {"observation.state": pose.astype(np.float32), "task": "pick the brick"}
            row["action"] = (pose + 2.0).astype(np.float32)
            for index, camera in enumerate(("front", "wrist")):
                picture = np.full((*size, 3), 40 + 60 * index, dtype=np.uint8)
                picture[100:180, 20 * tick : 20 * tick + 80] = 220
                row[IMAGES + camera] = picture
            data.add_frame(row)
        data.save_episode()
    data.finalize()


def commands_that_are_run() -> list[list[str]]:
    return [words for words in commands() if not " ".join(words).startswith(NOT_RUN)]


def test_the_page_is_short_and_has_all_commands() -> None:
    assert len(PAGE.read_text(encoding="utf-8").split()) <= 550
    run = commands_that_are_run()
    assert [name_of(words) for words in run] == [name for name, _ in SMALLER]
    assert len(commands()) == len(run) + len(NOT_RUN)


@pytest.mark.slow
@pytest.mark.gl
def test_the_pages_commands_run_as_printed(with_plugins: dict[str, str], tmp_path: Path) -> None:
    made = policy(cameras=CAMERAS, normalization_mapping=MEAN_STD)
    save_fine_tune(tmp_path / "me" / "pi05_pick", made, tokenizer_folder(tmp_path / "tokenizer"))
    write_pick(tmp_path / "me" / "pick")
    small_file(tmp_path, "so101_degrees", size_px=(64, 48))
    for words, (_, smaller) in zip(commands_that_are_run(), SMALLER, strict=True):
        command = with_smaller(words, smaller)
        done = subprocess.run(command, env=with_plugins, cwd=tmp_path, capture_output=True, text=True, check=False)
        assert done.returncode == 0, f"{shlex.join(command)}\n{done.stdout[-1000:]}\n{done.stderr[-3000:]}"
    assert (tmp_path / "out/evaluation/report.html").is_file()
    assert (tmp_path / "out/bags_report/summary.html").is_file()
    assert (tmp_path / "out/lerobot_train/checkpoints/last/pretrained_model/sigma_config.json").is_file()
    for folder in ("lerobot_eval", "act_eval"):
        found = json.loads((tmp_path / "out" / folder / "eval_info.json").read_text(encoding="utf-8"))
        assert found["overall"]["n_episodes"] == 1


@pytest.mark.slow
def test_another_arm_rate_and_picture_size_go_by_the_contract_that_is_drafted(tmp_path: Path) -> None:
    """Seven joints at 15 frames a second with wide pictures; the policy is named by its `checkpoints/last`."""
    names = (*SO101_JOINTS[:5], "wrist_yaw.pos", SO101_JOINTS[5])
    write_pick(tmp_path / "pick", names=names, fps=15, size=(360, 640))
    made = policy(cameras=CAMERAS, state=7, action=7, normalization_mapping=MEAN_STD)
    stats = {"observation.state": statistics(7), "action": statistics(7)}
    last = tmp_path / "trained" / "checkpoints" / "last"
    save_fine_tune(last / "pretrained_model", made, tokenizer_folder(tmp_path / "tokenizer"), stats=stats)
    contract, shards, out = (str(tmp_path / name) for name in ("my_arm.yaml", "shards", "out"))
    data: Any = str(tmp_path / "pick")
    load_verb("init").main(args=["--dataset", data, "--out", contract], standalone_mode=False)
    of_both = ["--contract", contract, "--base_model_id", str(last)]
    assert preprocess.main([*of_both, "--dataset", data, "--out", shards, "--hold-out-every", "2"]) == 0
    assert train.main([*of_both, "--dataset_dir", shards, "--output_dir", out, *shlex.split(TRAIN)]) == 0
    given = ["--checkpoint", f"{out}/checkpoint", "--contract", contract, "--dataset_dir", shards]
    assert evaluate.main([*given, "--out", str(tmp_path / "evaluation")]) == 0
    assert json.loads((tmp_path / "out/checkpoint/sigma_config.json").read_text())["settings"]["dof"] == 7
