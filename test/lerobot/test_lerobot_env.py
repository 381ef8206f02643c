# SPDX-License-Identifier: Apache-2.0
"""The simulator as LeRobot's environment: the simulated arm, in policy units, judged by the closed loop's rule."""

import json
import math
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from lerobot.configs import FeatureType
from lerobot.envs import make_env, preprocess_observation
from lerobot.envs.utils import close_envs, env_to_policy_features
from small import small_file

from sigma_ros.contract import Contract
from sigma_ros.contract_file import load_contract
from sigma_ros.errors import UsageError
from sigma_ros.lerobot.configuration_sim import SigmaSimConfig
from sigma_ros.lerobot.environment import SigmaSimEnv
from sigma_ros.lerobot.modeling_sigma import SigmaPolicy
from sigma_ros.sim.environment import SimArm
from sigma_ros.sim.setups import TARGET

pytestmark = pytest.mark.gl


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(small_file(tmp_path_factory.mktemp("contract"), size_px=(64, 48)))


@pytest.fixture(scope="module")
def contract(small: str) -> Contract:
    return load_contract(small)


def actions(contract: Contract, count: int) -> list[np.ndarray]:
    pose = SimArm(TARGET, contract=contract).positions_rad()
    swing = np.sin(np.arange(count) / 4.0)[:, None] * np.array([0.3, 0.0, 0.0, 0.0, 0.2, 0.1])
    return [contract.to_policy(pose + one).astype(np.float32) for one in swing]


def test_the_environment_is_the_simulated_arm(small: str, contract: Contract) -> None:
    env, arm = SigmaSimEnv(contract=small), SimArm(TARGET, contract=contract)
    seen, _ = env.reset(seed=3)
    arm.reset(3)
    for tick, action in enumerate(actions(contract, 10)):
        assert seen["agent_pos"].tolist() == contract.to_policy(arm.positions_rad()).astype(np.float32).tolist()
        assert set(seen["pixels"]) == {"up", "side"}
        assert np.array_equal(seen["pixels"]["side"], arm.render("side"))
        period_s = (contract.tick_offset_ns(tick + 1) - contract.tick_offset_ns(tick)) / 1e9
        seen, reward, terminated, truncated, info = env.step(action)
        arm.step(contract.to_rad(action.astype(np.float64)), period_s)
        assert (reward, terminated, truncated, info) == (0.0, False, False, {"is_success": False})
    assert env.observation_space.contains(seen)
    assert np.array_equal(env.render(), arm.render("up"))
    env.close()


def test_success_is_the_closed_loops_rule(small: str) -> None:
    env = SigmaSimEnv(contract=small)
    env.reset(seed=1)
    still = env.contract.to_policy(env._arm.positions_rad()).astype(np.float32)
    x, y = env._arm.setup.box.centre_m
    env._arm.place_brick((x, y, 0.03), yaw_rad=0.0)
    results = [env.step(still) for _ in range(15)]
    assert results[-1][1:] == (1.0, True, False, {"is_success": True})
    assert env._arm.brick_in_box()


def test_an_episode_ends_at_its_limit_without_success(small: str) -> None:
    env = SigmaSimEnv(contract=small, episode_s=0.1)
    seen, _ = env.reset(seed=1)
    ends = [env.step(seen["agent_pos"])[2:4] for _ in range(3)]
    assert ends == [(False, False), (False, False), (False, True)]


@pytest.mark.parametrize(("task", "words"), [("place", "lego brick"), ("L1", "brick into the"), ("C1", "press")])
def test_a_task_says_what_it_wants(small: str, task: str, words: str) -> None:
    env = SigmaSimEnv(contract=small, task=task, episode_s=0.1)
    env.reset(seed=2)
    assert words in env.task_description
    for _ in range(2):
        assert not env.step(env.reset(seed=2)[0]["agent_pos"])[4]["is_success"]


def test_a_degrees_contract_gives_degrees() -> None:
    env = SigmaSimEnv(contract="so101_degrees")
    seen, _ = env.reset(seed=4)
    arm = env._arm.positions_rad()
    middle = 0.5 * (env.contract.lower_rad + env.contract.upper_rad)
    joint = env.contract.joint_names.index("shoulder_pan")
    assert seen["agent_pos"][joint] == pytest.approx(math.degrees(arm[joint] - middle[joint]), abs=1e-4)


def test_unknown_tasks_and_set_ups_are_named(small: str) -> None:
    with pytest.raises(UsageError, match=r"no such task.*place, P1"):
        SigmaSimEnv(contract=small, task="P9")
    with pytest.raises(UsageError, match="no such simulated set-up"):
        SigmaSimEnv(contract=small, setup="moon")


def test_lerobot_sees_the_features_that_a_data_set_of_the_contract_has(small: str, contract: Contract) -> None:
    features = env_to_policy_features(SigmaSimConfig(contract=small))
    assert {key: feature.type for key, feature in features.items()} == {
        "action": FeatureType.ACTION,
        "observation.state": FeatureType.STATE,
        **{camera.dataset_key: FeatureType.VISUAL for camera in contract.cameras},
    }
    assert features["observation.images.up"].shape == (3, 48, 64)


@pytest.mark.parametrize("is_async", [False, True])
def test_two_environments_drive_one_policy(small: str, tiny_checkpoint: Path, *, is_async: bool) -> None:
    config = SigmaSimConfig(contract=small, episode_s=0.2)
    envs = make_env(config, n_envs=2, use_async_envs=is_async)
    env = envs["sigma_sim"][0]
    policy = SigmaPolicy.from_pretrained(tiny_checkpoint, device="cpu", contract=small)
    seen, _ = env.reset(seed=[1, 2])
    for _ in range(6):
        given: dict[str, Any] = {**preprocess_observation(seen), "task": list(env.call("task_description"))}
        with torch.inference_mode():
            action = policy.select_action(given)
        assert action.shape == (2, 6)
        seen, _, terminated, truncated, info = env.step(action.numpy())
    assert truncated.all()
    assert not terminated.any()
    assert not info["final_info"]["is_success"].any()
    close_envs(envs)


def evaluated(place: Path, small: str, environment: dict[str, str]) -> Any:
    """What lerobot-eval finds of one short episode of the policy in `place / "policy"`."""
    command = [
        "lerobot-eval",
        f"--policy.path={place / 'policy'}",
        "--policy.device=cpu",
        "--env.type=sigma_sim",
        f"--env.contract={small}",
        "--env.episode_s=0.4",
        "--eval.n_episodes=1",
        "--eval.batch_size=1",
        f"--output_dir={place / 'eval'}",
    ]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, cwd=place)
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads((place / "eval" / "eval_info.json").read_text(encoding="utf-8"))["overall"]


@pytest.mark.slow
def test_lerobot_eval_runs_the_model_that_ships(with_plugins: dict[str, str], small: str, tmp_path: Path) -> None:
    """`--policy.path`: a folder as `save_pretrained` and `training.train` write it."""
    SigmaPolicy.from_pretrained("mini", device="cpu", contract=small).save_pretrained(tmp_path / "policy")
    overall = evaluated(tmp_path, small, with_plugins)
    assert overall["n_episodes"] == 1
    assert Path(overall["video_paths"][0]).stat().st_size > 0
