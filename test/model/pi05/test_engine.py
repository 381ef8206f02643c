# SPDX-License-Identifier: Apache-2.0
"""The certificate holds for what was loaded and refuses one bit more; a tick is one graph that reads nothing back."""

import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tiny_base import frames, window_at
from tiny_sigma import TASK, noise_at, sights, tiny_sigma, window_ticks
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

from sigma_ros.contract import Contract
from sigma_ros.errors import MachineError
from sigma_ros.model.pi05.engine import Captured, GraphEngine, largest_difference
from sigma_ros.model.pi05.flow import FlowSteps
from sigma_ros.model.runtime import SigmaRuntime
from sigma_ros.model.sigma import SigmaTelepathyVLA
from sigma_ros.model.step import advance, initial_state, plan, telepathy_input_of
from sigma_ros.values import AdapterSettings


@pytest.fixture(scope="module", params=["float32", "bfloat16"])
def runtime(request: pytest.FixtureRequest, tiny_folder: Path, so101: Contract) -> SigmaRuntime:
    return SigmaRuntime.load(str(tiny_folder), contract=so101, dtype=request.param, seed=4)


def test_what_was_loaded_is_certified_on_each_observation(runtime: SigmaRuntime) -> None:
    recording = frames(4, runtime.image_size_px)
    for tick in (0, 3):
        certificate = runtime.certify(window_at(recording, tick))
        assert certificate.holds
        assert certificate.line == f"scale 0 equals LeRobot's predict_action_chunk bit for bit at epoch 0, tick {tick}"


def test_one_bit_more_and_it_is_refused(runtime: SigmaRuntime, monkeypatch: pytest.MonkeyPatch) -> None:
    plain = FlowSteps.integrate

    def another(self: FlowSteps, *given: torch.Tensor) -> torch.Tensor:
        chunk = plain(self, *given)
        chunk[0, 0, 0] = torch.nextafter(chunk[0, 0, 0], torch.tensor(9.0))
        return chunk

    monkeypatch.setattr(FlowSteps, "integrate", another)
    certificate = runtime.certify(window_at(frames(1, runtime.image_size_px), 0))
    assert 0.0 < certificate.base_difference < 1e-5
    assert certificate.line.startswith("REFUSED")


def replayed(function: Callable[..., Any], given: tuple[Tensor, ...]) -> Captured:
    """Stands for a CUDA graph where there is none: reads and writes the same tensors at each replay."""
    places = [each.clone() for each in given]
    made = function(*places)

    def replay() -> None:
        for old, new in zip(tree_leaves(made), tree_leaves(function(*places)), strict=True):
            old.copy_(new)

    return replay, places, made


@pytest.fixture
def engine(runtime: SigmaRuntime) -> Iterator[GraphEngine]:
    runtime.model.backbone.engine = GraphEngine(replayed)
    yield runtime.model.backbone.engine
    runtime.model.backbone.engine = None


def test_captured_functions_give_the_plain_chunks_and_are_captured_once(
    runtime: SigmaRuntime, engine: GraphEngine
) -> None:
    recording, made = frames(20, runtime.image_size_px), {}
    for captured in (engine, None):
        runtime.model.backbone.engine = captured
        state = runtime.initial_state(epoch=0, task=window_at(recording, 0).task)
        made[captured] = []
        for tick in (0, 8, 16):
            seen = window_at(recording, tick)
            step, state = runtime.step(seen, state, commit=True, settings=AdapterSettings(), chunk_id=0)
            made[captured].append(step)
    for fast, plain in zip(made[engine], made[None], strict=True):
        assert np.array_equal(fast.base_normalised, plain.base_normalised)
        assert np.array_equal(fast.residual_normalised, plain.residual_normalised)
        assert np.array_equal(fast.telepathy.semantic_memory, plain.telepathy.semantic_memory)
    assert sorted(key[0] for key in engine._captured) == ["chunk", "residual", "telepathy", "vision"]


def test_an_engine_is_told_in_the_certificate_and_left_where_it_is_off(
    runtime: SigmaRuntime, engine: GraphEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = window_at(frames(1, runtime.image_size_px), 0)
    certificate = runtime.certify(seen)
    assert certificate.holds
    assert "engine cuda_graph: 0.0e+00 rad off, 1e-03 allowed" in certificate.line
    assert runtime.model.backbone.engine is engine
    monkeypatch.setattr(engine, "run", lambda _, function, *given: tree_map(lambda made: 0.9 * made, function(*given)))
    off = runtime.certify(seen)
    assert off.holds, "the plain model does"
    assert off.engine_rad > off.bound_rad
    assert off.line.endswith("the plain model goes on without it")
    assert runtime.model.backbone.engine is None


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_without_a_cuda_device_graphs_are_refused_before_anything_is_loaded(so101: Contract) -> None:
    with pytest.raises(MachineError, match=r"needs a CUDA device.*engine:=plain"):
        SigmaRuntime.load("no such place", contract=so101, engine="cuda_graph")


def test_what_is_not_finite_is_infinitely_far() -> None:
    assert largest_difference(torch.tensor([1.0, math.nan]), torch.tensor([1.0, 2.0])) == math.inf
    assert largest_difference(torch.tensor([math.nan]), torch.tensor([math.nan])) == math.inf
    assert largest_difference(torch.tensor([1.0, 2.0]), torch.tensor([1.5, 2.0])) == 0.5


# What a GPU needs, proven without one: one graph without breaks, and a tick that never waits for the device.


class NothingWaits(TorchDispatchMode):
    """Raises where a number would be read back, or a shape would depend on the data."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if any(part in func.name() for part in ("_local_scalar_dense", "nonzero", "masked_select", "unique", "equal")):
            raise AssertionError(f"{func.name()} waits for the device")
        return func(*args, **(kwargs or {}))


def tick_functions(model: SigmaTelepathyVLA) -> dict[str, tuple[Callable[..., Any], tuple[Any, ...]]]:
    """The tensor functions of a tick, and what they get."""
    backbone, config = model.backbone, model.config
    state = initial_state(model, epoch=0, task=TASK)
    given = telepathy_input_of(model, state)
    patches = torch.zeros(1, config.cameras, backbone.patch_grid**2, backbone.width)
    seen = torch.ones(1, config.cameras, dtype=torch.bool)
    prompt = model.prompts([TASK], torch.zeros(1, config.dof))
    noise, base = noise_at(model, 0), torch.zeros(1, config.horizon, config.dof)
    images = torch.zeros(config.cameras, backbone.image_size_px, backbone.image_size_px, 3, dtype=torch.uint8)
    prefix = backbone.prefix(patches, seen, *prompt)
    table = backbone.flow_steps.modulations(1, backbone.device)

    def telepathy(given: Any, previous: Any, base: Tensor) -> object:
        output = model.believe(given, previous)
        residual = model.correct(output, given.states[:, -1], base)
        return output, residual, model.ratios(output, residual)

    def keys_and_values(*prompt: Tensor) -> list[Any]:
        return list(backbone.prefix(*prompt).cache)

    return {
        "vision": (backbone.encode_images, (images,)),
        "prefix": (keys_and_values, (patches, seen, *prompt)),
        "flow": (backbone.flow_steps.run, (prefix.cache, prefix.mask, noise, table)),
        "telepathy": (telepathy, (given, state.recurrence, base)),
    }


@pytest.mark.slow
@pytest.mark.parametrize("name", ["vision", "prefix", "flow", "telepathy"])
def test_a_part_of_the_tick_is_one_graph_and_reads_nothing_back(name: str) -> None:
    function, given = tick_functions(tiny_sigma())[name]
    with torch.no_grad():
        function(*given)
        with NothingWaits():
            function(*given)
        torch._dynamo.reset()
        torch.compile(function, backend="eager", fullgraph=True)(*given)


def test_a_whole_tick_runs_where_no_number_can_be_read() -> None:
    """Tensors of the meta device have shapes alone: whatever asks for a value there, or for the host's copy, fails."""
    model = tiny_sigma()
    recording = sights(model, 20)
    model = model.to("meta")
    state = initial_state(model, epoch=0, task=TASK)
    for tick in (0, 16, 19):
        state = advance(model, state, window_ticks(tick), lambda t: recording[t])
        made, _ = plan(model, state, noise=noise_at(model, tick), commit=False)
        assert made.action.residual.composite.device.type == "meta"
        assert made.action.base.shape == (1, model.config.horizon, model.config.dof)


def test_every_prompt_has_the_same_length_so_that_one_graph_serves_all_tasks() -> None:
    model = tiny_sigma()
    texts = ("a", TASK, " ".join(["brick"] * 8))
    shapes = {tuple(part.shape) for text in texts for part in model.prompts([text], torch.zeros(1, 6))}
    assert len(shapes) == 1
    assert len({model.read_text([text])[0].shape for text in texts}) == 1
