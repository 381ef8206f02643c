# SPDX-License-Identifier: Apache-2.0
"""The law of the plugin: behind LeRobot's interface stands the same Sigma, chunk for chunk, row by row."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from lerobot.configs import PreTrainedConfig
from lerobot.policies.factory import make_pre_post_processors
from tiny_base import window_at

from sigma_ros.contract import Contract
from sigma_ros.contract_file import load_contract
from sigma_ros.errors import SigmaError, UsageError
from sigma_ros.lerobot.configuration_sigma import SigmaPolicyConfig
from sigma_ros.lerobot.modeling_sigma import SigmaPolicy
from sigma_ros.model.runtime import SigmaRuntime
from sigma_ros.streams.images import letterbox
from sigma_ros.values import AdapterSettings, Frame

TICKS, EVERY = 40, 5
"""5 does not divide the memory's stride of 16: some ticks commit without planning."""
WHOLE = AdapterSettings(min_scale=1.0)
"""The residual undiminished: an untrained one is so large that the adapter would leave the base alone."""
TASKS = ("put the brick into the box", "press the button")


@pytest.fixture(scope="module")
def contract() -> Contract:
    return load_contract("so101")


@pytest.fixture(scope="module")
def policy(tiny_checkpoint: Path) -> SigmaPolicy:
    return SigmaPolicy.from_pretrained(tiny_checkpoint, device="cpu", n_action_steps=EVERY, min_scale=1.0)


@pytest.fixture(autouse=True)
def _reset(policy: SigmaPolicy) -> None:
    policy.reset()


@pytest.fixture(scope="module")
def recordings(contract: Contract) -> list[list[dict[str, Any]]]:
    return [recording(contract, seed) for seed in (1, 2)]


def recording(contract: Contract, seed: int, ticks: int = TICKS) -> list[dict[str, Any]]:
    """Raw observations of one environment: pictures [h, w, 3] and a pose in policy units, rounded as LeRobot does."""
    generator = np.random.default_rng(seed)
    low, high = 0.9 * contract.lower_rad, 0.9 * contract.upper_rad
    return [
        {
            "pictures": {c.name: generator.integers(0, 256, (48, 64, 3), np.uint8) for c in contract.cameras},
            "state": contract.to_policy(generator.uniform(low, high)).astype(np.float32),
        }
        for _ in range(ticks)
    ]


def batch(contract: Contract, rows: list[dict[str, Any]], tasks: tuple[str, ...]) -> dict[str, Any]:
    """What LeRobot's pre-processor hands to a policy."""
    observation: dict[str, Any] = {
        c.dataset_key: torch.from_numpy(np.stack([row["pictures"][c.name] for row in rows])).permute(0, 3, 1, 2) / 255.0
        for c in contract.cameras
    }
    states = torch.from_numpy(np.stack([row["state"] for row in rows]))
    return {**observation, "observation.state": states, "task": list(tasks)}


def rows_at(recordings: list[list[dict[str, Any]]], tick: int) -> list[dict[str, Any]]:
    return [each[tick] for each in recordings]


def runtimes_chunks(runtime: SigmaRuntime, recorded: list[dict[str, Any]], task: str, every: int) -> dict[int, Any]:
    """Sigma's chunks by its own runtime and the plain rules: plan every so many ticks, commit every 16."""
    contract, size = runtime.contract, runtime.image_size_px
    frames = tuple(
        Frame(
            epoch=0,
            tick=tick,
            stamp_ns=1_000_000_000 + contract.tick_offset_ns(tick),
            images={name: letterbox(picture, size) for name, picture in row["pictures"].items()},
            positions_rad=contract.to_rad(row["state"].astype(np.float64)),
            image_age_ns={},
            joint_age_ns=0,
        )
        for tick, row in enumerate(recorded)
    )
    state, chunks = runtime.initial_state(epoch=0, task=task), {}
    for tick in range(len(frames)):
        window = window_at(frames, tick)
        window = type(window)(epoch=0, task=task, frames=window.frames, mask=window.mask)
        commit = tick % runtime.memory_stride == 0
        if tick % every == 0:
            found, state = runtime.step(window, state, commit=commit, settings=WHOLE, chunk_id=0)
            chunks[tick] = found.chunk
        elif commit:
            _, state = runtime.remember(window, state)
    return chunks


def test_actions_are_the_runtimes_over_an_episode(
    policy: SigmaPolicy, contract: Contract, recordings: list[list[dict[str, Any]]]
) -> None:
    chunks = runtimes_chunks(policy.runtime, recordings[0], TASKS[0], EVERY)
    assert all(chunk.scale == 1.0 and np.abs(chunk.residual_rad).max() > 1e-2 for chunk in chunks.values())
    for tick in range(TICKS):
        action = policy.select_action(batch(contract, rows_at(recordings[:1], tick), TASKS[:1]))
        chunk = chunks[tick - tick % EVERY]
        expected = contract.to_policy(chunk.blended_rad(chunk.scale))[tick % EVERY]
        assert action.dtype == torch.float32
        np.testing.assert_allclose(action.numpy(), expected[None], rtol=1e-6, atol=1e-6)


def test_chunks_are_the_runtimes(
    policy: SigmaPolicy, contract: Contract, recordings: list[list[dict[str, Any]]]
) -> None:
    short = recordings[0][:18]
    chunks = runtimes_chunks(policy.runtime, short, TASKS[0], 1)
    for tick, row in enumerate(short):
        got = policy.predict_action_chunk(batch(contract, [row], TASKS[:1]))
        expected = contract.to_policy(chunks[tick].blended_rad(chunks[tick].scale))
        assert got.shape == (1, policy.runtime.horizon, contract.dof)
        np.testing.assert_allclose(got[0].numpy(), expected, rtol=1e-6, atol=1e-6)


def test_the_memory_counts(policy: SigmaPolicy, contract: Contract, recordings: list[list[dict[str, Any]]]) -> None:
    """Else the laws above would hold without one."""
    from training.evaluate import switched_off  # noqa: PLC0415

    with_memory = runtimes_chunks(policy.runtime, recordings[0], TASKS[0], EVERY)[35]
    with switched_off(policy.runtime, "memory"):
        without = runtimes_chunks(policy.runtime, recordings[0], TASKS[0], EVERY)[35]
    assert np.abs(with_memory.residual_rad - without.residual_rad).max() > 1e-4


def test_environments_of_a_batch_do_not_mix(
    policy: SigmaPolicy, contract: Contract, recordings: list[list[dict[str, Any]]]
) -> None:
    together = [policy.select_action(batch(contract, rows_at(recordings, t), TASKS)) for t in range(TICKS)]
    for row in range(2):
        policy.reset()
        for tick in range(TICKS):
            alone = policy.select_action(batch(contract, [recordings[row][tick]], TASKS[row : row + 1]))
            assert torch.equal(alone[0], together[tick][row])
    assert not torch.equal(together[-1][0], together[-1][1])


def test_a_reset_forgets_everything(
    policy: SigmaPolicy, contract: Contract, recordings: list[list[dict[str, Any]]]
) -> None:
    first = [policy.select_action(batch(contract, rows_at(recordings[:1], t), TASKS[:1])) for t in range(20)]
    going_on = policy.select_action(batch(contract, rows_at(recordings[:1], 0), TASKS[:1]))
    policy.reset()
    again = [policy.select_action(batch(contract, rows_at(recordings[:1], t), TASKS[:1])) for t in range(20)]
    assert all(torch.equal(one, other) for one, other in zip(first, again, strict=True))
    assert not torch.equal(going_on, first[0])


def test_an_observation_is_not_changed(
    policy: SigmaPolicy, contract: Contract, recordings: list[list[dict[str, Any]]]
) -> None:
    given = batch(contract, rows_at(recordings, 0), TASKS)
    copied = {name: value.clone() if isinstance(value, torch.Tensor) else list(value) for name, value in given.items()}
    policy.select_action(given)
    assert given.keys() == copied.keys()
    assert all(torch.equal(given[k], v) if isinstance(v, torch.Tensor) else given[k] == v for k, v in copied.items())


def test_saved_and_loaded_it_is_the_same_policy(
    policy: SigmaPolicy, contract: Contract, recordings: list[list[dict[str, Any]]], tmp_path: Path
) -> None:
    policy.save_pretrained(tmp_path / "saved")
    config = PreTrainedConfig.from_pretrained(tmp_path / "saved")
    assert isinstance(config, SigmaPolicyConfig)
    assert (config.n_action_steps, config.checkpoint) == (EVERY, None)
    loaded = SigmaPolicy.from_pretrained(tmp_path / "saved")
    assert loaded.runtime.info.hash == policy.runtime.info.hash
    assert loaded.config.n_action_steps == EVERY
    for name, tensor in policy.state_dict().items():
        assert torch.equal(tensor, loaded.state_dict()[name]), name
    for tick in range(3):
        given = batch(contract, rows_at(recordings, tick), TASKS)
        assert torch.equal(policy.select_action(given), loaded.select_action(given))


def test_a_base_is_named_and_not_copied(tiny_checkpoint: Path, tmp_path: Path) -> None:
    base = tiny_checkpoint.parent / "base"
    SigmaPolicy.from_pretrained(base, device="cpu").save_pretrained(tmp_path / "saved")
    assert not list((tmp_path / "saved").glob("*.safetensors"))
    assert SigmaPolicy.from_pretrained(tmp_path / "saved").runtime.info.source == str(base)


def test_the_pipelines_round_what_they_carry(policy: SigmaPolicy, contract: Contract, tmp_path: Path) -> None:
    """A robot's single observation becomes a batch; names are mapped by LeRobot's own override; actions come back."""
    policy.save_pretrained(tmp_path)
    renamed = {"rename_map": {"observation.images.front": "observation.images.up"}}
    overrides = {"rename_observations_processor": renamed, "device_processor": {"device": "cpu"}}
    before, after = make_pre_post_processors(policy.config, str(tmp_path), preprocessor_overrides=overrides)
    pictures = {"observation.images.front": torch.rand(3, 48, 64), "observation.images.side": torch.rand(3, 48, 64)}
    state = torch.from_numpy(contract.to_policy(np.zeros(6)).astype(np.float32))
    action = after(policy.select_action(before({**pictures, "observation.state": state, "task": TASKS[0]})))
    assert action.shape == (1, contract.dof)


def _without(name: str) -> Any:
    return lambda given: {key: value for key, value in given.items() if key != name}


REFUSED: dict[str, tuple[Any, str]] = {
    "no camera": (_without("observation.images.up"), "lacks observation.images.up.*rename_map"),
    "no state": (_without("observation.state"), "lacks observation.state"),
    "another robot": (lambda b: b | {"observation.state": torch.zeros(2, 7)}, "state is not the contract's"),
    "degrees": (
        lambda b: b | {"observation.state": torch.tensor([[10.0, -20.0, 30.0, 45.0, 160.0, 5.0]] * 2)},
        "not in the contract's units.*wrist_roll 160.*so101_degrees",
    ),
    "nan": (lambda b: b | {"observation.state": torch.full((2, 6), torch.nan)}, "observation.state is not finite"),
    "nan picture": (
        lambda b: b | {"observation.images.up": torch.full((2, 3, 8, 8), torch.nan)},
        "images.up is not finite",
    ),
    "bytes as floats": (lambda b: b | {"observation.images.up": 255.0 * torch.ones(2, 3, 8, 8)}, "out of range"),
    "channels last": (lambda b: b | {"observation.images.up": torch.ones(2, 8, 8, 3)}, "not a batch of pictures"),
    "one task of two": (lambda b: b | {"task": ["one"]}, "not every environment has a task"),
    "a gripper's counts": (
        lambda b: b | {"observation.state": torch.tensor([[0.0, 0.0, 0.0, 0.0, 0.0, 2048.0]] * 2)},
        "units: the pose does not look like",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_a_wrong_observation_is_one_sentence(
    policy: SigmaPolicy, contract: Contract, recordings: list[list[dict[str, Any]]], case: str
) -> None:
    change, text = REFUSED[case]
    with pytest.raises(SigmaError, match=text):
        policy.select_action(change(batch(contract, rows_at(recordings, 0), TASKS)))


def test_other_wrong_uses_are_one_sentence(
    policy: SigmaPolicy, contract: Contract, recordings: list[list[dict[str, Any]]], tiny_checkpoint: Path
) -> None:
    given = batch(contract, rows_at(recordings, 0), TASKS)
    with pytest.raises(UsageError, match="its own noise"):
        policy.select_action(given, noise=torch.zeros(1))
    policy.select_action(given)
    with pytest.raises(SigmaError, match=r"call reset\(\)"):
        policy.select_action(batch(contract, recordings[0][:1], TASKS[:1]))
    with pytest.raises(UsageError, match="no checkpoint is named"):
        SigmaPolicy(SigmaPolicyConfig(device="cpu"))
    with pytest.raises(SigmaError, match="n_action_steps"):
        SigmaPolicy.from_pretrained(tiny_checkpoint, device="cpu", n_action_steps=51)


def test_lerobot_finds_both_distributions_by_their_names(with_plugins: dict[str, str]) -> None:
    code = """
from lerobot.utils.import_utils import register_third_party_plugins
from lerobot.configs import PreTrainedConfig
assert "sigma" not in PreTrainedConfig.get_known_choices()
register_third_party_plugins()
from lerobot.envs.factory import make_env_config
from lerobot.policies.factory import get_policy_class, make_policy_config, make_pre_post_processors
config = make_policy_config("sigma", checkpoint="mini", device="cpu")
make_pre_post_processors(config)
print(type(config).__name__, get_policy_class("sigma").__name__, make_env_config("sigma_sim").type)
"""
    found = subprocess.run(
        [sys.executable, "-c", code], env=with_plugins, capture_output=True, text=True, check=False, cwd="/"
    )
    assert found.returncode == 0, found.stderr
    assert found.stdout.split() == ["SigmaPolicyConfig", "SigmaPolicy", "sigma_sim"]
