# SPDX-License-Identifier: Apache-2.0
"""Settings, the card's batch, the residual's composition, pooling: the small pieces."""

import dataclasses
import json

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tiny_sigma import batch_of, tiny_sigma

from sigma_ros.errors import CheckpointError, SigmaError
from sigma_ros.model.residual import compose
from sigma_ros.model.settings import SigmaConfig
from sigma_ros.model.telepathy import SemanticMemory
from sigma_ros.model.tokens import pool_tokens

ADDED = ("memory_gate_bias",)


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


def test_settings_of_a_checkpoint_from_before_the_gates_bias_are_read_as_what_they_were():
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


def parts(seed=0, dof=6):
    generator = torch.Generator().manual_seed(seed)
    return {
        "vector": torch.randn(2, 1, dof, generator=generator),
        "chunk": torch.randn(2, 8, dof, generator=generator),
        "trajectory": torch.randn(2, 16, dof, generator=generator),
        "late": torch.randn(2, 40, dof, generator=generator),
    }


def test_the_residual_is_the_sum_of_its_scales():
    given_parts = parts()
    whole = compose(**given_parts, horizon=50)
    for step in range(16):
        expected = given_parts["trajectory"][:, step] + given_parts["late"][:, step]
        if step < 8:
            expected = expected + given_parts["chunk"][:, step]
        if step == 0:
            expected = expected + given_parts["vector"][:, 0]
        torch.testing.assert_close(whole[:, step], expected)


def test_behind_the_steps_it_was_trained_on_the_residual_is_held_and_never_fades():
    given_parts = parts()
    whole = compose(**given_parts, horizon=50)
    for step in range(16, 50):
        held = given_parts["trajectory"][:, 15] + given_parts["late"][:, min(step, 39)]
        torch.testing.assert_close(whole[:, step], held)


@given(horizon=st.integers(40, 80))
def test_the_residual_always_spans_the_horizon(horizon):
    assert compose(**parts(), horizon=horizon).shape == (2, horizon, 6)


def test_settings_from_before_the_late_branch_are_read_with_the_steps_they_were_trained_on():
    values = SigmaConfig.full().to_json()
    before = {name: value for name, value in values.items() if name not in ("residual_steps", "trained_delay_s")}
    del before["use_late"]
    config = SigmaConfig.from_json({**before, "fade_steps": 4})
    assert (config.residual_steps, config.trained_delay_s, config.use_late) == (16, 0.0, False)
    with pytest.raises(CheckpointError, match="missing: trajectory_steps"):
        SigmaConfig.from_json({n: v for n, v in before.items() if n != "trajectory_steps"} | {"fade_steps": 4})


def test_pooling_averages_square_blocks_of_the_image():
    grid = torch.arange(64.0).reshape(1, 8, 8, 1)
    pooled = pool_tokens(grid.reshape(1, 64, 1), 4).reshape(4, 4)
    torch.testing.assert_close(pooled[1, 2], grid[0, 2:4, 4:6, 0].mean())


@pytest.mark.parametrize(
    ("change", "text"),
    [
        (lambda b: b.pop("texts"), "keys"),
        (lambda b: b.update(depth=1), "keys"),
        (lambda b: b.update(vis_obs=b["vis_obs"][:, :15]), "vis_obs"),
        (lambda b: b.update(vis_obs=b["vis_obs"][:, :, :1]), "2 cameras"),
        (lambda b: b.update(vis_obs=b["vis_obs"].float()), r"finite floats in \[0, 1\]"),
        (lambda b: b.update(vis_obs=b["vis_obs"] / 255.0 * float("nan")), r"finite floats in \[0, 1\]"),
        (lambda b: b.update(robot_state=b["robot_state"][..., :5]), "robot_state"),
        (lambda b: b.update(texts=["one"]), "vis_obs"),
        (lambda b: b.update(camera_mask=torch.ones(2, 16, 2)), "camera_mask"),
        (lambda b: b.update(tick_mask=torch.zeros(2, 16, dtype=torch.bool)), "newest tick"),
        (lambda b: b.update(semantic_memory=torch.zeros(2, 3)), "semantic_memory"),
    ],
)
def test_a_batch_that_does_not_fit_is_refused_by_key(change, text):
    model = tiny_sigma()
    batch = batch_of(model, 2)
    change(batch)
    with pytest.raises(SigmaError, match=text):
        model(batch)


def test_float_images_are_the_bytes_they_came_from():
    model = tiny_sigma()
    batch = batch_of(model, 1)
    ours, theirs = model(batch), model({**batch, "vis_obs": batch["vis_obs"].float() / 255.0})
    assert all(torch.equal(value, theirs[name]) for name, value in ours.items())


def test_outputs_have_the_documented_shapes():
    model = tiny_sigma()
    config = model.config
    shapes = {name: tuple(value.shape) for name, value in model(batch_of(model, 2)).items()}
    actions = {"vector": (2, 6), "chunk": (2, 8, 6), "trajectory": (2, 16, 6)}
    assert shapes == {
        "base_actions": (2, 50, 6),
        "telepathy_residual": (2, 50, 6),
        **{f"base_action_{name}": shape for name, shape in actions.items()},
        **{f"telepathy_residual_{name}": shape for name, shape in actions.items()},
        "telepathy_factors": (2, config.factor_count, config.factor_width),
        "semantic_memory": (2, config.memory_width),
        "intent": (2, config.intent_width),
        "alignment": (2,),
        "semantic_alignment": (2,),
    }
