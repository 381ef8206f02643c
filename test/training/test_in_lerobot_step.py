# SPDX-License-Identifier: Apache-2.0
"""In LeRobot's loop the optimiser is the trainer's; the losses are held in test/lerobot/test_lerobot_train.py."""

import pytest
import torch

from training.in_lerobot.step import optimizer_preset, scheduler_preset
from training.options import TrainOptions


def test_the_optimiser_is_the_trainers() -> None:
    options, preset = TrainOptions(dataset_dir="data", output_dir="out"), optimizer_preset()
    assert (preset.lr, preset.weight_decay, preset.grad_clip_norm) == (
        options.learning_rate,
        options.weight_decay,
        options.clip_norm,
    )


@pytest.mark.parametrize("steps", [200, 100_000])
def test_the_rate_rises_and_falls_to_the_trainers_floor(steps: int) -> None:
    preset = optimizer_preset()
    optimizer = preset.build([torch.nn.Parameter(torch.zeros(1))])
    rate = scheduler_preset(preset.lr).build(optimizer, steps).lr_lambdas[0]
    assert rate(0) < 0.2
    assert rate(round(0.05 * steps)) == pytest.approx(1.0, abs=0.01)
    assert rate(steps) == pytest.approx(0.05)
