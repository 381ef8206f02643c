# SPDX-License-Identifier: Apache-2.0
"""`lerobot-train --policy.type=sigma`: its losses are those of `training.train` on the same windows."""

import json
import shlex
import subprocess
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from lerobot.datasets.lerobot_dataset import LeRobotDataset
from lerobot.utils.constants import ACTION, OBS_IMAGES, OBS_STATE
from look_alikes import policy as policy_with
from look_alikes import save_fine_tune, save_published_base, tokenizer_folder

from sigma_ros.contract_file import load_contract
from sigma_ros.errors import CheckpointError, SigmaError, UsageError
from sigma_ros.lerobot.configuration_sigma import SigmaPolicyConfig
from sigma_ros.lerobot.modeling_sigma import SigmaPolicy
from sigma_ros.model.telepathy import Recurrence
from sigma_ros.model.tokens import pool_tokens
from sigma_ros.streams.images import letterbox
from training.losses import LossWeights, SigmaLossModule, total, traf_weights
from training.streams import Windows

TASK, TICKS = "pick the brick", 60
WINDOWS = 2
"""Of a sample."""

CAMERAS = {"up": "front", "side": "wrist"}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> LeRobotDataset:
    """SYNTHETIC: an episode of noise pictures in the contract's units, cameras front and wrist."""
    root, contract, rng = tmp_path_factory.mktemp("data") / "set", load_contract("so101"), np.random.default_rng(0)
    joints = {"dtype": "float32", "shape": (6,), "names": [f"{name}.pos" for name in contract.joint_names]}
    picture = {"dtype": "image", "shape": (48, 64, 3), "names": ["height", "width", "channels"]}
    features: dict[str, Any] = {ACTION: joints, OBS_STATE: joints}
    features |= {f"{OBS_IMAGES}.{name}": picture for name in CAMERAS.values()}
    made = LeRobotDataset.create("local/set", 30, features, root=root, use_videos=False)
    for tick in range(TICKS):
        pose = (40.0 * np.sin(0.1 * tick + np.arange(6))).astype(np.float32)
        pose[5] = 30.0 + 0.5 * pose[5]
        pictures = {f"{OBS_IMAGES}.{name}": rng.integers(0, 256, (48, 64, 3), np.uint8) for name in CAMERAS.values()}
        made.add_frame({OBS_STATE: pose, ACTION: pose + 2.0, "task": TASK, **pictures})
    made.save_episode()
    made.finalize()
    return made


def policy_of(checkpoint: Path, data: LeRobotDataset, **options: Any) -> SigmaPolicy:
    config = SigmaPolicyConfig(
        checkpoint=str(checkpoint), device="cpu", cameras=CAMERAS, train_windows=WINDOWS, late_ticks=0, **options
    )
    return SigmaPolicy(config, dataset_meta=data.meta)


def drawn(data: LeRobotDataset, policy: SigmaPolicy, frames: tuple[int, ...]) -> dict[str, Any]:
    """What LeRobot's loader gives for these frames of the episode."""
    fps, config = data.fps, policy.config
    deltas = {key: [i / fps for i in config.observation_delta_indices] for key in (OBS_STATE, *data.meta.camera_keys)}
    deltas[ACTION] = [i / fps for i in config.action_delta_indices]
    windowed = LeRobotDataset(data.repo_id, root=data.root, delta_timestamps=deltas)
    batch: dict[str, Any] = torch.utils.data.default_collate([windowed[frame] for frame in frames])
    return batch


def window_by_hand(policy: SigmaPolicy, data: LeRobotDataset, row: int, noise: torch.Tensor) -> Windows:
    """The 16 ticks up to a row of the episode as `training.streams` describes them, from the data set's own rows."""
    runtime, backbone = policy.runtime, policy.model.backbone
    plain = [data[i] for i in range(max(0, row - 15), row + 1)]
    room = 16 - len(plain)
    frames = np.stack(
        [
            np.stack(
                [
                    letterbox(
                        (one[f"{OBS_IMAGES}.{CAMERAS[c.name]}"] * 255).round().byte().permute(1, 2, 0).numpy(),
                        runtime.image_size_px,
                    )
                    for c in runtime.contract.cameras
                ]
            )
            for one in plain
        ]
    )
    mapping, normalisation = runtime.inputs.mapping, runtime.normalisation
    tokens = mapping.patches(mapping.images(frames), backbone)
    pooled = pool_tokens(tokens.flatten(0, 1), policy.model.config.pooled_grid).unflatten(0, tokens.shape[:2])
    states = normalisation.state.normalise(np.stack([one[OBS_STATE].numpy() for one in plain]))
    prompt = policy.model.prompts([TASK], torch.from_numpy(states[-1:]))
    chunk = backbone.base_chunk(tokens[-1:], mapping.mask(1), *prompt, noise)[..., :6]
    last = TICKS - 1
    actions = np.stack([data[min(row + i, last)][ACTION].numpy() for i in range(policy.model.config.residual_steps)])
    valid = torch.arange(16)[None] >= room
    return Windows(
        pooled=torch.nn.functional.pad(pooled, (0, 0, 0, 0, 0, 0, room, 0))[None],
        seen=valid[..., None] & mapping.seen,
        states=torch.nn.functional.pad(torch.from_numpy(states), (0, 0, room, 0))[None],
        valid=valid,
        base=chunk,
        old_base=chunk,
        age=torch.zeros(1),
        delay=torch.zeros(1, dtype=torch.int64),
        target=torch.from_numpy(normalisation.action.normalise(actions))[None],
        known=torch.ones(1, policy.model.config.residual_steps, dtype=torch.bool),
        corrected=torch.tensor([False]),
        present=torch.tensor([True]),
        tasks=(TASK,),
        names=("",),
    )


@pytest.mark.parametrize(("frame", "rows"), [(40, (24, 40)), (20, (4, 20)), (9, (9,)), (44, (28, 44))])
def test_the_loss_of_a_frame_is_that_of_its_windows_with_their_memory(
    tiny_checkpoint: Path, data: LeRobotDataset, frame: int, rows: tuple[int, ...]
) -> None:
    policy = policy_of(tiny_checkpoint, data)
    torch.manual_seed(3)
    draws = []
    for _ in range(WINDOWS - len(rows)):  # before the episode began
        torch.randint(1, (1,))
    for _ in rows:
        draws.append(torch.randn(1, policy.runtime.horizon, policy.model.backbone.max_dof))
        torch.randint(1, (1,))  # the window's latency
    with torch.no_grad():
        windows = [window_by_hand(policy, data, row, draw) for row, draw in zip(rows, draws, strict=True)]
        start = Recurrence.start(policy.model.config, batch=1, device="cpu")
        outcome = SigmaLossModule(policy.model)(windows, start, [TASK])
        present = torch.ones(len(rows), dtype=torch.bool)
        weights = traf_weights(torch.cat([w.base_error for w in windows]), present)
        expected, parts = total(outcome.terms, weights, present, LossWeights(), progress=1.0, count=float(len(rows)))
        torch.manual_seed(3)
        loss, named = policy.forward(drawn(data, policy, (frame,)))
    assert float(loss) == pytest.approx(float(expected), rel=1e-5)
    assert named == pytest.approx({name: float(part) for name, part in parts.items()}, rel=1e-4, abs=1e-7)
    if len(rows) > 1:  # and the memory counts
        with torch.no_grad():
            alone = SigmaLossModule(policy.model)(windows[1:], start, [TASK])
        assert float(alone.terms["sem"][0]) != pytest.approx(float(outcome.terms["sem"][1]), rel=1e-6)


def test_training_changes_heads_and_adapters_and_the_saved_folder_has_them(
    tiny_checkpoint: Path, data: LeRobotDataset, tmp_path: Path
) -> None:
    policy = policy_of(tiny_checkpoint, data).train()
    before = {name: tensor.clone() for name, tensor in policy.state_dict().items()}
    optimizer = policy.config.get_optimizer_preset().build(policy.get_optim_params())
    loss, _ = policy.forward(drawn(data, policy, (40, 9)))
    loss.backward()
    optimizer.step()
    policy.update()
    trained = set(policy.model.trained())
    changed = {name for name, tensor in policy.state_dict().items() if not torch.equal(tensor, before[name])}
    assert changed
    assert not any("backbone.policy" in name and "lora" not in name for name in changed)
    assert len(changed) <= len(trained)
    policy.save_pretrained(tmp_path / "saved")
    loaded = SigmaPolicy.from_pretrained(
        tmp_path / "saved", config=replace(policy.config, checkpoint="a run's first checkpoint"), dataset_meta=data.meta
    )
    for name, tensor in policy.state_dict().items():
        assert torch.equal(tensor, loaded.state_dict()[name]), name
    manifest = json.loads((tmp_path / "saved" / "sigma_config.json").read_text(encoding="utf-8"))
    assert manifest["training"]["steps"] == 1
    assert loaded.model.references == policy.model.references
    assert not list((tmp_path / "saved").glob("partial*"))


def test_a_bare_base_is_trained_in_the_data_sets_units(data: LeRobotDataset, tmp_path: Path) -> None:
    base = save_published_base(tmp_path / "base", tokenizer_folder(tmp_path / "tokenizer"))
    with pytest.raises(SigmaError) as said:
        policy_of(base, data)
    _, option = str(said.value).split("--policy.rename=")
    policy = policy_of(base, data, rename=json.loads(shlex.split(option)[0].removesuffix("),")))
    assert policy.runtime.inputs.mapping.seen.tolist() == [True, True, False]
    np.testing.assert_allclose(policy.runtime.normalisation.state.statistics["q99"], data.meta.stats[OBS_STATE]["q99"])


def test_a_base_with_relative_actions_is_refused_as_by_sigma_train(data: LeRobotDataset, tmp_path: Path) -> None:
    relative = policy_with(use_relative_actions=True)
    base = save_fine_tune(tmp_path / "relative", relative, tokenizer_folder(tmp_path / "tokenizer"))
    policy = policy_of(base, data)
    batch = drawn(data, policy, (40,))
    with pytest.raises(CheckpointError, match="cannot be trained on a policy with relative actions"):
        policy.forward(batch)


def test_what_does_not_fit_is_one_sentence(tiny_checkpoint: Path, data: LeRobotDataset) -> None:
    policy = policy_of(tiny_checkpoint, data)
    with pytest.raises(UsageError, match="leave --peft out"):
        policy.wrap_with_peft(peft_cli_overrides={})
    batch = drawn(data, policy, (40,))
    with pytest.raises(SigmaError, match=r"lacks observation\.images\.front"):
        policy.forward({name: value for name, value in batch.items() if "front" not in name})
    with pytest.raises(SigmaError, match="not of this policy"):
        policy.forward({**batch, ACTION: batch[ACTION][:, :5]})
    with pytest.raises(UsageError, match="on this disk alone"):
        policy_of(tiny_checkpoint, data, push_to_hub=True, repo_id="me/sigma")
    with pytest.raises(UsageError, match="train_windows >= 1"):
        SigmaPolicyConfig(train_windows=0)
    with pytest.raises(UsageError, match="cameras up, side"):
        SigmaPolicyConfig(cameras={"top": "front"})


@pytest.mark.slow
def test_lerobot_train_runs_saves_and_resumes(
    tiny_checkpoint: Path, data: LeRobotDataset, with_plugins: dict[str, str], tmp_path: Path
) -> None:
    def run(*words: str) -> subprocess.CompletedProcess[str]:
        command = ["lerobot-train", *words, "--batch_size=2", "--num_workers=0", "--wandb.enable=false"]
        return subprocess.run(command, env=with_plugins, cwd=tmp_path, capture_output=True, text=True, check=False)

    first = [
        *("--policy.type=sigma", f"--policy.checkpoint={tiny_checkpoint}", "--policy.device=cpu"),
        *(f"--policy.train_windows={WINDOWS}", "--dataset.repo_id=local/set", f"--dataset.root={data.root}"),
        *("--steps=2", "--output_dir=out"),
    ]
    (mended,) = shlex.split(run(*first).stderr.strip().splitlines()[-1].split("for example ")[1])
    assert mended == f"--policy.cameras={json.dumps(CAMERAS)}"
    config = "--config_path=out/checkpoints/last/pretrained_model/train_config.json"
    for words in ([*first, mended], [config, "--resume=true", "--steps=3"]):
        done = run(*words)
        assert done.returncode == 0, done.stderr[-3000:]
    saved = tmp_path / "out/checkpoints/000003/pretrained_model"
    assert json.loads((saved / "sigma_config.json").read_text(encoding="utf-8"))["training"]["steps"] == 3
    assert SigmaPolicy.from_pretrained(saved).runtime.info.sigma_trained
