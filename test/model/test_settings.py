# SPDX-License-Identifier: Apache-2.0
"""Settings as JSON: every field checked, older checkpoints read as what they were."""

import dataclasses
import json

import pytest
import torch

from sigma_ros.errors import CheckpointError
from sigma_ros.model.settings import SigmaConfig
from sigma_ros.model.telepathy import SemanticMemory

ADDED = ("memory_gate_bias", "smoothed_steps")


@pytest.mark.parametrize("config", [SigmaConfig.full(), SigmaConfig.small(dof=7, plain_lora=True)])
def test_settings_round_trip_through_json(config):
    assert SigmaConfig.from_json(json.loads(json.dumps(config.to_json()))) == config


def test_design_sizes_are_the_defaults():
    config = SigmaConfig.full()
    assert (config.resampler_queries, config.resampler_layers, config.state_tokens, config.readouts) == (32, 2, 4, 4)
    assert (config.memory_width, config.intent_width, config.factor_count, config.factor_width) == (512, 256, 8, 256)
    assert (config.lora_rank, config.lora_alpha, config.lora_dropout, config.memory_stride) == (16, 32.0, 0.05, 16)
    assert (config.chunk_steps, config.trajectory_steps, config.residual_steps, config.pooled_grid) == (8, 16, 50, 4)


@pytest.mark.parametrize("name", [field.name for field in dataclasses.fields(SigmaConfig) if field.name not in ADDED])
def test_every_field_is_needed_and_checked(name):
    values = SigmaConfig.full().to_json()
    with pytest.raises(CheckpointError, match=f"missing: {name}"):
        SigmaConfig.from_json({key: value for key, value in values.items() if key != name})
    with pytest.raises(CheckpointError, match=name):
        SigmaConfig.from_json({**values, name: "nonsense"})


def test_settings_of_a_checkpoint_without_added_fields_are_read_as_what_they_were():
    older = {name: value for name, value in SigmaConfig.full().to_json().items() if name not in ADDED}
    assert SigmaConfig.from_json(older) == SigmaConfig.full(memory_gate_bias=0.0)


def test_a_new_memory_keeps_most_of_what_it_holds():
    torch.manual_seed(0)
    memory = SemanticMemory(64, gate_bias=SigmaConfig.full().memory_gate_bias)
    with torch.no_grad():
        gate = torch.sigmoid(memory.gate(0.3 * torch.randn(500, 128)))
    assert 0.85 < 1.0 - float(gate.mean()) < 0.91


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"resampler_heads": 7}, "no multiple of 7 heads"),
        ({"chunk_steps": 17}, "chunk_steps <= trajectory_steps"),
        ({"horizon": 15}, "trajectory_steps <= residual_steps"),
        ({"residual_steps": 51}, "residual_steps <= horizon"),
        ({"smoothed_steps": 4}, "smoothed_steps must be odd"),
        ({"smoothed_steps": 51}, "smoothed_steps must be odd and at most 50"),
        ({"trained_delay_s": -0.1}, "trained_delay_s must be in"),
        ({"lora_dropout": 1.0}, "lora_dropout must be in"),
        ({"memory_width": 0}, "memory_width is 0"),
        ({"lora_alpha": float("nan")}, "lora_alpha is nan"),
        ({"plain_lora": True, "use_lora": False}, "plain_lora needs use_lora"),
        ({"corrected_joints": (True, True)}, "corrected_joints needs 6 entries"),
    ],
)
def test_settings_that_cannot_be_right_are_refused(changes, text):
    with pytest.raises(CheckpointError, match=text):
        SigmaConfig.full(**changes)


def test_settings_from_before_the_late_branch_are_read_with_the_steps_they_were_trained_on():
    values = SigmaConfig.full().to_json()
    before = {name: value for name, value in values.items() if name not in ("residual_steps", "trained_delay_s")}
    del before["use_late"]
    config = SigmaConfig.from_json({**before, "fade_steps": 4})
    assert (config.residual_steps, config.trained_delay_s, config.use_late) == (16, 0.0, False)
    with pytest.raises(CheckpointError, match="missing: trajectory_steps"):
        SigmaConfig.from_json({n: v for n, v in before.items() if n != "trajectory_steps"} | {"fade_steps": 4})
