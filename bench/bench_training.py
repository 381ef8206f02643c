# SPDX-License-Identifier: Apache-2.0
"""Training samples per second: Sigma with its cached base against LeRobot's own PEFT step of the same small policy.

A sample is one window with its action targets. Sigma's step takes four whole episodes of 20 windows, its memory
unrolled through each; LeRobot's is `PI05Policy.forward` under `wrap_with_peft` on q, k, v and o with AdamW behind it,
in batches of 16. Neither computes anything again for the backward pass. Asked: at least 5 times as many.
Run: python bench/bench_training.py
"""

import argparse
import tempfile
import time
from pathlib import Path
from statistics import median

import numpy as np
import torch
from accelerate import Accelerator
from peft import LoraConfig
from shared.side_by_side import interleaved, table

from sigma_ros.contract_file import load_contract
from sigma_ros.model.pi05.loading import load_base
from sigma_ros.model.pi05.mini import IMAGE_PX
from sigma_ros.model.settings import LORA_PROJECTIONS
from training.data import EpisodeArrays, ShardMeta, write_shard
from training.options import TrainOptions
from training.progress.estimate import memory_bytes
from training.run import Run
from training.sources import TARGET_STEPS, quantiles

STREAMS, BATCH = 4, 16
TICKS = 16 * 20
WINDOWS = STREAMS * TICKS // 16
"""Of one step of ours, and of `WINDOWS / BATCH` of LeRobot's."""


def synthetic_shards(folder: Path) -> Path:
    """SYNTHETIC: four episodes of noise pictures and smooth joints, as `training.preprocess` writes them."""
    contract, rng = load_contract("so101"), np.random.default_rng(0)
    known = load_base("mini").normalisation
    assert known is not None
    low, high = known.state.usual
    span = high - low
    folder.mkdir(parents=True)
    episodes, files = [], {}
    for number in range(4):
        swing = np.sin(0.05 * np.arange(TICKS)[:, None] + np.arange(contract.dof) + number)
        states = low + span * (0.5 + 0.5 * swing)
        name = f"shard_{number:05d}.safetensors"
        frames = rng.integers(0, 256, (TICKS, len(contract.cameras), IMAGE_PX, IMAGE_PX, 3), dtype=np.uint8)
        arrays = EpisodeArrays(
            episode=number,
            task=contract.tasks[0],
            frames=frames,
            states=states.astype(np.float32),
            actions=(states + 0.02 * span).astype(np.float32),
            valid=np.ones(TICKS, dtype=bool),
            acted=np.ones(TICKS, dtype=bool),
        )
        files[name] = write_shard(folder / name, arrays)
        episodes.append({"episode": number, "recording": "noise", "shard": name, "ticks": TICKS, "task": arrays.task})
    statistics = quantiles([states]).as_dict()
    ShardMeta(
        contract=contract.name,
        source="noise",
        source_revision=None,
        image_size_px=IMAGE_PX,
        cameras=tuple(camera.name for camera in contract.cameras),
        joint_names=contract.joint_names,
        fps=contract.fps,
        stride=16,
        target_steps=TARGET_STEPS,
        min_motion=0.0,
        episodes=tuple(episodes),
        windows=((0, 0),),
        static_windows=(),
        held_out=(),
        skipped=(),
        normalisation={"state": statistics, "action": statistics},
        files=files,
    ).write(folder)
    return folder


class Ours:
    """One optimiser step of `training.train` with its default unrolling."""

    def __init__(self, shards: Path, out: Path) -> None:
        options = TrainOptions(
            base_model_id="mini",
            dataset_dir=str(shards),
            output_dir=str(out),
            batch_size=STREAMS,
            gradient_accumulation_steps=1,
            max_steps=1000,
            phase_step=16,
            allow_untrained=True,
            gradient_checkpointing=False,
        )
        started_s = time.perf_counter()
        self.run = Run(options, Accelerator(cpu=True))
        self.cache_s = time.perf_counter() - started_s
        assert STREAMS * self.run.streams.windows_per_piece == WINDOWS

    def __call__(self) -> None:
        self.run.advance()


class Lerobots:
    """LeRobot's training steps with PEFT on as many windows; the pictures are decoded and resized already."""

    def __init__(self) -> None:
        backbone = load_base("mini", allow_untrained=True).backbone
        lora = LoraConfig(r=8, lora_alpha=16, target_modules=rf".*language_model.*\.({'|'.join(LORA_PROJECTIONS)})")
        backbone.policy.config.pretrained_path = "mini"
        self.policy = backbone.policy.wrap_with_peft(peft_config=lora).train()
        trained = [parameter for parameter in self.policy.parameters() if parameter.requires_grad]
        self.optimizer = torch.optim.AdamW(trained, lr=1e-4)
        tokens, mask = backbone.tokenize(load_contract("so101").tasks[0], np.zeros((BATCH, 6), dtype=np.float32))
        pictures = {key: torch.rand(BATCH, 3, IMAGE_PX, IMAGE_PX) for key in backbone.camera_keys}
        self.batch = {
            **pictures,
            "observation.language.tokens": tokens,
            "observation.language.attention_mask": mask,
            "action": torch.zeros(BATCH, backbone.horizon, 6),
        }

    def __call__(self) -> None:
        for _ in range(WINDOWS // BATCH):
            self.optimizer.zero_grad()
            loss, _ = self.policy.forward(self.batch)
            loss.backward()
            self.optimizer.step()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repetitions", type=int, default=7)
    args = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as scratch:
        ours = Ours(synthetic_shards(Path(scratch) / "data"), Path(scratch) / "out")
        ways = {"LeRobot PEFT": Lerobots(), "Sigma, cached base": ours}
        took = interleaved(ways, repetitions=args.repetitions)
    print(table(took, unit="window", per=WINDOWS, reference="LeRobot PEFT"))
    theirs_s, ours_s = (median(run.cpu_s for run in took[name]) for name in ways)
    print(
        f"\n{WINDOWS / ours_s:.1f} windows/s of CPU against {WINDOWS / theirs_s:.1f}: {theirs_s / ours_s:.2f} (asked 5)"
    )
    print(f"made the cache of {4 * TICKS} ticks in {ours.cache_s:.1f} s; peak memory {memory_bytes() / 1e9:.2f} GB")


if __name__ == "__main__":
    main()
