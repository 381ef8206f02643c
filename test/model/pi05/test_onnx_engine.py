# SPDX-License-Identifier: Apache-2.0
"""What ONNX Runtime makes of a policy is the plain model's within the certificate's bound, or does not run."""

import builtins
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tiny_base import frames, window_at
from tiny_sigma import tiny_sigma

from sigma_ros.contract import Contract
from sigma_ros.errors import MachineError, UsageError
from sigma_ros.model.pi05 import onnx_engine
from sigma_ros.model.pi05.onnx_engine import OnnxEngine
from sigma_ros.model.runtime import Inference, SigmaRuntime
from sigma_ros.model.step import warm_up
from sigma_ros.values import AdapterSettings

NEAR = 1e-5
"""In normalised actions; rounding alone, far within the certificate's 1e-3 rad."""


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cache folder for all tests of this file: exporting takes seconds."""
    return tmp_path_factory.mktemp("kept")


@pytest.fixture
def runtime(tiny_folder: Path, so101: Contract, kept: Path) -> Iterator[SigmaRuntime]:
    pytest.importorskip("onnxruntime", reason="the extra onnx is not installed")
    pytest.importorskip("onnx", reason="the extra onnx is not installed")
    loaded = SigmaRuntime.load(str(tiny_folder), contract=so101, device="cpu", dtype="float32", seed=4)
    loaded.model = tiny_sigma(smoothed_steps=5)
    loaded.model.backbone.engine = OnnxEngine(loaded.model, kept)
    yield loaded
    loaded.model.backbone.engine = None


def made(runtime: SigmaRuntime, *ticks: int) -> list[Inference]:
    recording = frames(20, runtime.image_size_px)
    state, steps = runtime.initial_state(epoch=0, task=window_at(recording, 0).task), []
    for tick in ticks:
        seen = window_at(recording, tick)
        step, state = runtime.step(seen, state, commit=True, settings=AdapterSettings(), chunk_id=0)
        steps.append(step)
    return steps


def test_chunks_memory_and_certificate_are_the_plain_ones_within_the_bound(runtime: SigmaRuntime) -> None:
    engine = runtime.model.backbone.engine
    fast = made(runtime, 0, 8, 16)
    assert engine is not None
    assert engine.problem == ""
    certificate = runtime.certify(window_at(frames(1, runtime.image_size_px), 0))
    assert certificate.holds
    assert certificate.keeps_engine
    assert runtime.model.backbone.engine is engine
    assert f"engine onnx: {certificate.engine_rad:.1e} rad off, 1e-03 allowed" in certificate.line
    runtime.model.backbone.engine = None
    for one, other in zip(fast, made(runtime, 0, 8, 16), strict=True):
        assert np.abs(other.residual_normalised).max() > 100 * NEAR, "the residual is no zero that equals anything"
        for name in ("base_normalised", "residual_normalised"):
            assert np.abs(getattr(one, name) - getattr(other, name)).max() < NEAR
        assert np.abs(one.telepathy.semantic_memory - other.telepathy.semantic_memory).max() < NEAR


@pytest.mark.slow
def test_a_group_is_its_rows_alone_to_a_millionth_and_few_sizes_are_exported(
    runtime: SigmaRuntime, monkeypatch: pytest.MonkeyPatch
) -> None:
    backbone, exported, real = runtime.model.backbone, [], onnx_engine._exported
    monkeypatch.setattr(onnx_engine, "_exported", lambda *given: exported.append(given) or real(*given))
    pictures = torch.from_numpy(np.stack([next(iter(f.images.values())) for f in frames(23, runtime.image_size_px)]))
    alone, together = (backbone.encode_images(pictures, per_call=count) for count in (1, 23))
    assert (alone - together).abs().max() < 1e-6 * alone.abs().max()
    assert torch.equal(alone[:1], backbone.encode_images(pictures[:1])), "a robot's picture has one size of group"
    assert sorted(len(given[0]) for _, _, given in exported) in ([4, 16], [1, 4, 16])
    seen = torch.ones(4, len(backbone.camera_keys), dtype=torch.bool)
    patches = torch.randn(4, len(backbone.camera_keys), *alone.shape[1:], generator=torch.Generator().manual_seed(0))
    noise = torch.randn(4, backbone.horizon, backbone.max_dof, generator=torch.Generator().manual_seed(1))
    given = (patches, seen, *backbone.tokenize("put it there", np.zeros((4, 6))), noise)
    whole = backbone.base_chunk(*given)
    rows = torch.cat([backbone.base_chunk(*(each[row : row + 1] for each in given)) for row in range(4)])
    assert (whole - rows).abs().max() < 1e-6


@pytest.mark.slow
@pytest.mark.parametrize("part", ["telepathy", "backbone.policy"])
def test_an_engine_of_other_weights_is_left_and_the_report_says_so(runtime: SigmaRuntime, part: str) -> None:
    warm_up(runtime.model)
    with torch.no_grad():
        for parameter in runtime.model.get_submodule(part).parameters():
            parameter.mul_(1.05)
    certificate = runtime.certify(window_at(frames(1, runtime.image_size_px), 0))
    assert certificate.holds, "the plain model does"
    assert certificate.engine_rad > certificate.bound_rad
    assert certificate.line.endswith("the plain model goes on without it")
    assert runtime.model.backbone.engine is None


@pytest.mark.slow
def test_what_was_exported_is_kept_whole_and_taken_for_the_same_weights_alone(
    runtime: SigmaRuntime, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    exported, real = [], onnx_engine._exported

    def counted(*given: Any) -> bytes:
        exported.append(given)
        return real(*given)

    def export_count() -> int:
        exported.clear()
        runtime.model.backbone.engine = OnnxEngine(runtime.model, tmp_path)
        runtime.model.backbone.encode_images(picture)
        return len(exported)

    monkeypatch.setattr(onnx_engine, "_exported", counted)
    picture = torch.zeros(1, runtime.image_size_px, runtime.image_size_px, 3, dtype=torch.uint8)
    assert [export_count(), export_count()] == [1, 0]
    (file,) = tmp_path.iterdir()
    file.write_bytes(file.read_bytes()[:99])
    assert [export_count(), export_count()] == [1, 0], "a damaged file is replaced"
    with torch.no_grad():
        next(runtime.model.backbone.parameters()).add_(1e-3)
    assert export_count() == 1


def test_the_graph_of_what_cannot_be_exported_is_for_the_log_alone(
    runtime: SigmaRuntime, tmp_path: Path, capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    engine = OnnxEngine(runtime.model, tmp_path)
    with caplog.at_level("DEBUG", logger=onnx_engine.__name__):
        given = torch.ones(2, 3)
        assert torch.equal(engine.run("odd", torch.special.i0e, given), torch.special.i0e(given))
    assert engine.problem.startswith("odd could not be exported: UnsupportedOperatorError")
    assert "aten::special_i0e" in caplog.text
    assert capfd.readouterr() == ("", "")


def test_what_cannot_be_exported_runs_plainly_with_the_reason(
    runtime: SigmaRuntime, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def refused(*_: Any) -> bytes:
        raise RuntimeError("no such operator")

    monkeypatch.setattr(onnx_engine, "_exported", refused)
    runtime.model.backbone.engine = OnnxEngine(runtime.model, tmp_path)
    fast = made(runtime, 0)
    certificate = runtime.certify(window_at(frames(1, runtime.image_size_px), 0))
    assert "engine onnx: vision could not be exported: RuntimeError: no such operator, the plain" in certificate.line
    assert runtime.model.backbone.engine is None
    assert np.array_equal(fast[0].base_normalised, made(runtime, 0)[0].base_normalised)


def test_without_the_package_the_remedy_is_told_before_anything_is_loaded(
    so101: Contract, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = builtins.__import__

    def without(name: str, *given: Any, **named: Any) -> Any:
        if name == "onnxruntime":
            raise ImportError(name)
        return real(name, *given, **named)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(MachineError, match=r"packages that are not installed.*sigma_ros\[onnx\]"):
        SigmaRuntime.load("no such place", contract=so101, engine="onnx")


def test_another_number_type_is_refused(runtime: SigmaRuntime) -> None:
    with pytest.raises(UsageError, match="bfloat16 on cpu"):
        OnnxEngine(runtime.model.to(torch.bfloat16))
