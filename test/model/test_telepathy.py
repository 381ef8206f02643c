# SPDX-License-Identifier: Apache-2.0
"""The telepathy path has one graph and static shapes, so that it can be compiled or captured."""

from dataclasses import fields, replace

import pytest
import torch
from tiny_sigma import TASK, sights, tiny_sigma, window_ticks

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
