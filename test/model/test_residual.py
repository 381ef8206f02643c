# SPDX-License-Identifier: Apache-2.0
"""The residual of steps that come late: over the whole chunk, told the step and the age of its base."""

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given as whatever
from hypothesis import strategies as st
from tiny_sigma import sights, tiny_sigma

from sigma_ros.model.checkpoint.folder import load_trained, open_manifest, save_checkpoint
from sigma_ros.model.checkpoint.manifest import HEADS_FILE, BaseIdentity, Training
from sigma_ros.model.residual import LateBranch, compose, neighbours, smoothing
from sigma_ros.model.sigma import SigmaTelepathyVLA
from sigma_ros.model.step import advance, initial_state, recorrect
from sigma_ros.model.telepathy import TelepathyOutput
from training.loop import chosen_parts
from training.options import PARTS


def believed(model: SigmaTelepathyVLA, batch: int = 2) -> TelepathyOutput:
    return TelepathyOutput.blank(model.config, batch=batch)


def given(model: SigmaTelepathyVLA, batch: int = 2) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    dof, horizon = model.config.dof, model.config.horizon
    return torch.rand(batch, dof, generator=generator), torch.rand(batch, horizon, dof, generator=generator)


def test_every_step_of_the_chunk_is_corrected() -> None:
    model = tiny_sigma()
    state, base = given(model)
    residual = model.correct(believed(model), state, base).composite
    assert residual.shape == base.shape
    assert bool((residual.abs().amax(dim=(0, 2)) > 0.0).all())
    assert bool((residual.diff(dim=1).abs().amax(dim=(0, 2)) > 0.0).all()), "no two steps share a correction"


def test_the_age_of_the_base_and_nothing_else_changes_the_correction_of_an_old_one() -> None:
    model = tiny_sigma()
    state, base = given(model)
    fresh, zero, old = (
        model.correct(believed(model), state, base, age).composite
        for age in (None, torch.zeros(2), torch.tensor([0.0, 9.0]))
    )
    torch.testing.assert_close(fresh, zero, rtol=0.0, atol=0.0)
    torch.testing.assert_close(fresh[0], old[0])
    assert not torch.allclose(fresh[1], old[1])


def test_an_untrained_late_branch_corrects_nothing() -> None:
    model = tiny_sigma(stirred=False)
    state, base = given(model)
    assert not model.correct(believed(model), state, base, torch.full((2,), 5.0)).composite.any()


@pytest.mark.parametrize("steps", [16, 31])
def test_behind_the_trained_steps_the_last_correction_is_held(steps: int) -> None:
    model = tiny_sigma(residual_steps=steps)
    state, base = given(model)
    residual = model.correct(believed(model), state, base).composite
    held = residual[:, steps - 1 : steps].expand(-1, 50 - steps, -1)
    torch.testing.assert_close(residual[:, steps:], held)


def test_smoothing_takes_the_trembling_out_of_the_sum_and_leaves_lines_and_other_joints_alone() -> None:
    corrected = (True,) * 5 + (False,)
    plain, smooth = (tiny_sigma(corrected_joints=corrected, smoothed_steps=steps) for steps in (1, 11))
    state, base = given(plain)
    before, after = (base + m.correct(believed(m), state, base).composite.detach() for m in (plain, smooth))
    torch.testing.assert_close(after[..., :5], (smoothing(50, 11) @ before)[..., :5], rtol=0.0, atol=1e-5)
    torch.testing.assert_close(after[..., 5], base[..., 5], rtol=0.0, atol=0.0)
    step = torch.linspace(-1.0, 1.0, 50)[:, None]
    torch.testing.assert_close(smoothing(50, 11) @ (0.3 + step), 0.3 + step, rtol=0.0, atol=1e-5)
    assert torch.equal(smoothing(50, 1), torch.eye(50))


def test_the_smoothing_grows_with_the_step_and_leaves_the_first_one_alone() -> None:
    torch.testing.assert_close(smoothing(50, 11)[0], torch.eye(50)[0])
    left = smoothing(50, 11).square().sum(dim=1)  # of the variance of a trembling that knows no step from another
    assert (left[:17].diff() < 1e-6).all()
    assert 0.05 < left[16] < 0.15
    torch.testing.assert_close(left[16:38], left[16].expand(22), rtol=0.05, atol=0.0)
    alternating = torch.tensor([1.0, -1.0]).repeat(25)[:, None]
    assert (smoothing(50, 11) @ alternating)[8:-8].abs().max() < 0.1


def test_a_step_sees_its_neighbours_and_not_the_far_end() -> None:
    base = torch.arange(50.0)[None, :, None].expand(1, 50, 2)
    seen = neighbours(base).unflatten(2, (2, 5))
    assert seen[0, 20, 0].tolist() == [18.0, 19.0, 20.0, 21.0, 22.0]
    assert seen[0, 0, 1].tolist() == [0.0, 0.0, 0.0, 1.0, 2.0]


def test_what_is_left_of_a_chunk_is_as_old_as_what_is_gone_of_it(monkeypatch: pytest.MonkeyPatch) -> None:
    model, seen = tiny_sigma(), []
    forward = LateBranch.forward

    def watched(
        self: LateBranch, telepathy_output: TelepathyOutput, state: torch.Tensor, base: torch.Tensor, age: torch.Tensor
    ) -> object:
        seen.append(age.tolist())
        return forward(self, telepathy_output, state, base, age)

    monkeypatch.setattr(LateBranch, "forward", watched)
    recording = sights(model, 1)
    start = initial_state(model, epoch=0, task="pick the brick")
    state = advance(model, start, (*[-1] * 15, 0), lambda tick: recording[tick])
    for left in (50, 41):
        action = recorrect(model, state, torch.zeros(left, model.config.dof))
        assert action.residual.composite.shape[1] == left
    assert seen == [[0.0], [9.0]]


def test_a_checkpoint_without_the_late_branch_is_read_and_never_fades(tmp_path: Path) -> None:
    model = tiny_sigma(use_late=False, residual_steps=16)
    base = BaseIdentity(source="in memory", revision=None, weights_hash=None, fingerprint="0" * 64)
    save_checkpoint(model, tmp_path / "old", base=base, training=Training(trained=True))
    manifest, _ = open_manifest(lora_dir=tmp_path / "old", heads_path=tmp_path / "old" / HEADS_FILE)
    again = SigmaTelepathyVLA(model.backbone, manifest.settings)
    load_trained(again, manifest, heads_path=tmp_path / "old" / HEADS_FILE, lora_dir=tmp_path / "old")
    state, actions = given(model)
    ours, theirs = (m.correct(believed(m), state, actions).composite.detach().numpy() for m in (model, again))
    np.testing.assert_array_equal(ours, theirs)
    assert np.abs(ours[:, 16:]).min() > 0.0


@pytest.mark.parametrize("part", PARTS)
def test_a_run_changes_the_parts_it_names_and_no_other(part: str) -> None:
    model = tiny_sigma()
    chosen = chosen_parts(model, part)
    prefix = {"all": "", "residual": "residual.", "late": "residual.branches.late."}[part]
    assert set(chosen) == {name for name in model.trained() if name.startswith(prefix)}
    assert {name for name, p in model.trained().items() if p.requires_grad} == set(chosen)


def scales_of(seed=0, dof=6):
    generator = torch.Generator().manual_seed(seed)
    return {
        "vector": torch.randn(2, 1, dof, generator=generator),
        "chunk": torch.randn(2, 8, dof, generator=generator),
        "trajectory": torch.randn(2, 16, dof, generator=generator),
        "late": torch.randn(2, 40, dof, generator=generator),
    }


def test_the_residual_is_the_sum_of_its_scales():
    scales = scales_of()
    whole = compose(**scales, horizon=50)
    for step in range(16):
        expected = scales["trajectory"][:, step] + scales["late"][:, step]
        if step < 8:
            expected = expected + scales["chunk"][:, step]
        if step == 0:
            expected = expected + scales["vector"][:, 0]
        torch.testing.assert_close(whole[:, step], expected)


def test_behind_the_steps_it_was_trained_on_the_residual_is_held_and_never_fades():
    scales = scales_of()
    whole = compose(**scales, horizon=50)
    for step in range(16, 50):
        held = scales["trajectory"][:, 15] + scales["late"][:, min(step, 39)]
        torch.testing.assert_close(whole[:, step], held)


@whatever(horizon=st.integers(40, 80))
def test_the_residual_always_spans_the_horizon(horizon):
    assert compose(**scales_of(), horizon=horizon).shape == (2, horizon, 6)
