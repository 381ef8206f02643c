# SPDX-License-Identifier: Apache-2.0
"""`lerobot-rollout` with Sigma: what the robot is sent is what the policy says to what the robot showed."""

import json
import os
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from waving_arm import CAMERAS, JOINTS, observation

from sigma_ros.lerobot.configuration_sigma import SigmaPolicyConfig
from sigma_ros.lerobot.modeling_sigma import SigmaPolicy
from sigma_ros.lerobot.processor_sigma import write_lerobot_files

HERE = Path(__file__).resolve().parent
TASK = "pick the brick"
ROLLOUT = (
    "lerobot-rollout --robot.type=waving_arm --robot.discover_packages_path=robots_of_a_test --policy.path=sigma "
    "--device=cpu --play_sounds=false --fps=30 "
)
BASE = "--strategy.type=base --duration=2 --return_to_initial_position=false"
EPISODIC = (
    "--strategy.type=episodic --strategy.reset_to_initial_position=false --dataset.repo_id=me/rollout_waving "
    "--dataset.root=recorded --dataset.num_episodes=2 --dataset.episode_time_s=1 --dataset.reset_time_s=0 "
    "--dataset.push_to_hub=false --dataset.num_image_writer_threads_per_camera=1"
)


def roll_out(options: str, checkpoint: Path, environment: dict[str, str], place: Path) -> SigmaPolicy:
    """Runs the command on the waving arm in `place`; gives the policy that it ran."""
    folder = Path(shutil.copytree(checkpoint, place / "sigma"))
    write_lerobot_files(folder, SigmaPolicyConfig(device="cpu"))
    (place / "robots_of_a_test").mkdir()
    (place / "robots_of_a_test" / "__init__.py").write_text("import waving_arm\n", encoding="utf-8")
    path = os.pathsep.join([environment["PYTHONPATH"], str(HERE), str(place)])
    command = [*ROLLOUT.split(), *options.split(), f"--task={TASK}"]
    command += [f"--dataset.single_task={TASK}"] if options == EPISODIC else []
    done = subprocess.run(
        command, env=environment | {"PYTHONPATH": path}, cwd=place, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return SigmaPolicy.from_pretrained(folder)


def said(policy: SigmaPolicy, number: int) -> np.ndarray:
    """The policy's next action to an observation of the arm."""
    seen = observation(number)
    pictures = {f"observation.images.{c}": torch.from_numpy(seen[c]).permute(2, 0, 1)[None] for c in CAMERAS}
    state = torch.tensor([[seen[name] for name in JOINTS]], dtype=torch.float32)
    return policy.select_action({**pictures, "observation.state": state, "task": [TASK]})[0].numpy()


@pytest.mark.slow
def test_the_robot_is_sent_what_the_policy_says(
    tiny_checkpoint: Path, with_plugins: dict[str, str], tmp_path: Path
) -> None:
    policy = roll_out(BASE, tiny_checkpoint, with_plugins, tmp_path)
    sent = json.loads((tmp_path / "actions.json").read_text(encoding="utf-8"))
    assert len(sent) >= 2, "a loaded machine sends few, but the law holds for them all"
    for number, action in enumerate(sent, start=1):  # LeRobot looks once before it starts
        np.testing.assert_allclose([action[name] for name in JOINTS], said(policy, number), rtol=0, atol=1e-6)


@pytest.mark.slow
def test_what_lerobot_records_of_it_is_what_the_policy_says_each_episode_with_an_empty_memory(
    tiny_checkpoint: Path, with_plugins: dict[str, str], tmp_path: Path
) -> None:
    """`lerobot-record` takes no policy any more; episodes of one are recorded by this strategy."""
    policy = roll_out(EPISODIC, tiny_checkpoint, with_plugins, tmp_path)
    rows = pd.concat(pd.read_parquet(file) for file in sorted((tmp_path / "recorded" / "data").rglob("*.parquet")))
    assert sorted(set(rows["episode_index"])) == [0, 1]
    poses = {number: [observation(number)[name] for name in JOINTS] for number in range(200)}
    for _, episode in rows.groupby("episode_index"):
        policy.reset()
        for state, action in zip(episode["observation.state"], episode["action"], strict=True):
            number = min(poses, key=lambda n: float(np.abs(state - poses[n]).max()))
            np.testing.assert_allclose(state, poses[number], atol=1e-4)
            np.testing.assert_allclose(action, said(policy, number), rtol=0, atol=1e-5)
