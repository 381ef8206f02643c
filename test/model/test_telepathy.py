# SPDX-License-Identifier: Apache-2.0
"""The telepathy path has one graph and static shapes, and its resampler is plain attention written more cheaply."""

from dataclasses import fields, replace

import pytest
import torch
from tiny_sigma import TASK, sights, tiny_sigma, window_ticks
from torch.nn import functional

from sigma_ros.model.resampler import CrossAttention, Resampler
from sigma_ros.model.settings import SigmaConfig
from sigma_ros.model.step import advance, initial_state, telepathy_input_of
from sigma_ros.model.telepathy import Recurrence, TelepathyInput
from sigma_ros.model.tokens import PADDING

pytestmark = pytest.mark.slow


def telepathy_input_at(model, task, ticks, missing_camera=None):
    recording = sights(model, 20)
    if missing_camera is not None:
        seen = torch.ones(model.config.cameras, dtype=torch.bool)
        seen[missing_camera] = False
        recording = [replace(sight, seen=seen) for sight in recording]
    state = advance(model, initial_state(model, epoch=0, task=task), ticks, lambda t: recording[t])
    return telepathy_input_of(model, state)


@pytest.mark.parametrize(("dtype", "merged"), [("float32", False), ("bfloat16", True)])
def test_the_telepathy_path_is_one_graph_without_breaks(dtype, merged):
    model = tiny_sigma(dtype)
    if merged:
        model.merge_for_serving()
    telepathy_input = telepathy_input_at(model, TASK, window_ticks(17))
    previous = Recurrence.start(model.config, batch=1)
    base = torch.randn(1, model.config.horizon, model.config.dof)
    names = tuple(field.name for field in fields(TelepathyInput))

    def path(memory, factors, base, *seen):
        given = TelepathyInput(**dict(zip(names, seen, strict=True)))
        telepathy_output = model.believe(given, Recurrence(memory=memory, factors=factors))
        return telepathy_output.intent, model.correct(telepathy_output, given.states[:, -1], base).composite

    inputs = (previous.memory, previous.factors, base, *(getattr(telepathy_input, name) for name in names))
    with torch.no_grad():
        expected = path(*inputs)
        compiled = torch.compile(path, backend="eager", fullgraph=True)(*inputs)
    for ours, theirs in zip(expected, compiled, strict=True):
        torch.testing.assert_close(ours, theirs)


def test_no_text_hole_or_missing_camera_changes_a_shape():
    model = tiny_sigma()
    early = (*(PADDING,) * 15, 0)
    holes = tuple(PADDING if slot in {3, 9} else tick for slot, tick in enumerate(window_ticks(17)))
    cases = [
        telepathy_input_at(model, TASK, window_ticks(17)),
        telepathy_input_at(model, "go", early),
        telepathy_input_at(model, "a text that is longer than the model reads at once", holes),
        telepathy_input_at(model, TASK, window_ticks(17), missing_camera=1),
    ]
    for field in fields(TelepathyInput):
        assert len({tuple(getattr(case, field.name).shape) for case in cases}) == 1, field.name


def test_a_text_longer_than_the_model_reads_is_cut():
    model = tiny_sigma()
    words = "put the brick into the box and then do it again and again"
    text, mask = model.read_text([words])
    assert text.shape[1] == model.config.text_tokens
    assert mask.all()


def test_the_resampler_is_attention_over_normalised_and_projected_tokens():
    """Keys and values are never written down; the norm's gain and shift are in the projection. Values and gradients."""
    torch.manual_seed(0)
    model = Resampler(SigmaConfig.small())
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape))
    pooled = torch.randn(3, 16, 2, 16, 192)
    seen = torch.rand(3, 16, 2) < 0.8
    pooled[0, 0, 0], seen[0, 0, 0] = torch.nan, False
    results = []
    for looked in (model.features_of(pooled, seen), _looked(model, pooled, seen)):
        used = {name: one for name, one in model.named_parameters() if not name.startswith(("film", "to_width"))}
        gradients = torch.autograd.grad(looked.sin().sum(), list(used.values()))
        results.append({"features": looked, **dict(zip(used, gradients, strict=True))})
    for name, expected in results[1].items():
        scale = max(1.0, float(expected.detach().abs().max()))
        assert torch.allclose(results[0][name], expected, atol=1e-5 * scale), name


def _looked(model: Resampler, pooled: torch.Tensor, seen: torch.Tensor) -> torch.Tensor:
    """What `features_of` says, by the modules one behind the other and PyTorch's own attention."""
    tokens = model.to_inner(model.token_norm(pooled.nan_to_num()))
    tokens = tokens + model.time[None, :, None, None] + model.camera[None, None, :, None] + model.place
    hidden = ~seen[..., None].expand(-1, -1, -1, 16).flatten(1)
    queries = model.queries.expand(3, -1, -1)
    for layer in model.layers:
        look: CrossAttention = layer.attention
        own = look.query_norm(queries)
        context = torch.cat([look.token_norm(tokens.flatten(1, 3)), own], dim=1).transpose(0, 1)
        found, _ = functional.multi_head_attention_forward(
            own.transpose(0, 1),
            context,
            context,
            own.shape[2],
            look.heads,
            torch.cat([look.to_query.weight, look.to_key_value.weight]),
            torch.cat([look.to_query.bias, look.to_key_value.bias]),
            None,
            None,
            add_zero_attn=False,
            dropout_p=0.0,
            out_proj_weight=look.to_output.weight,
            out_proj_bias=look.to_output.bias,
            key_padding_mask=functional.pad(hidden, (0, own.shape[1])),
            need_weights=False,
        )
        queries = queries + found.transpose(0, 1)
        queries = queries + layer.feed_forward(queries)
    return queries
