# SPDX-License-Identifier: Apache-2.0
"""`lerobot-rollout` with Sigma: what the robot is sent is what the policy says to what the robot showed."""

import json
import os
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
import torch
from waving_arm import CAMERAS, JOINTS, observation

from sigma_ros.lerobot.configuration_sigma import SigmaPolicyConfig
from sigma_ros.lerobot.modeling_sigma import SigmaPolicy
from sigma_ros.lerobot.processor_sigma import write_lerobot_files

HERE = Path(__file__).resolve().parent
TASK = "pick the brick"
ROLLOUT = (
    "lerobot-rollout --strategy.type=base --robot.type=waving_arm --robot.discover_packages_path=robots_of_a_test "
    "--policy.path=sigma --duration=2 --device=cpu --return_to_initial_position=false --play_sounds=false"
)


@pytest.mark.slow
def test_the_robot_is_sent_what_the_policy_says(
    tiny_checkpoint: Path, with_plugins: dict[str, str], tmp_path: Path
) -> None:
    folder = Path(shutil.copytree(tiny_checkpoint, tmp_path / "sigma"))
    write_lerobot_files(folder, SigmaPolicyConfig(device="cpu"))
    (tmp_path / "robots_of_a_test").mkdir()
    (tmp_path / "robots_of_a_test" / "__init__.py").write_text("import waving_arm\n", encoding="utf-8")
    path = os.pathsep.join([with_plugins["PYTHONPATH"], str(HERE), str(tmp_path)])
    environment = {**with_plugins, "PYTHONPATH": path}
    command = [*ROLLOUT.split(), f"--task={TASK}"]
    done = subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    sent = json.loads((tmp_path / "actions.json").read_text(encoding="utf-8"))
    assert len(sent) >= 2, "a loaded machine sends few, but the law holds for them all"
    policy = SigmaPolicy.from_pretrained(folder)
    for number, action in enumerate(sent, start=1):  # LeRobot looks once before it starts
        seen = observation(number)
        pictures = {f"observation.images.{c}": torch.from_numpy(seen[c]).permute(2, 0, 1)[None] for c in CAMERAS}
        state = torch.tensor([[seen[name] for name in JOINTS]], dtype=torch.float32)
        expected = policy.select_action({**pictures, "observation.state": state, "task": [TASK]})[0]
        np.testing.assert_allclose([action[name] for name in JOINTS], expected, rtol=0, atol=1e-6)
