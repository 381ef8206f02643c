# SPDX-License-Identifier: Apache-2.0
"""Laws of the losses, whatever the numbers."""

import math
from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tiny_sigma import tiny_sigma

from sigma_ros.model.residual import Residual
from sigma_ros.model.settings import SigmaConfig
from sigma_ros.model.sigma import SigmaTelepathyVLA
from sigma_ros.model.telepathy import Recurrence, TelepathyInput, TelepathyOutput, mean_text
from training.losses import (
    FORESIGHT_TICKS,
    HARD_WEIGHT,
    Foresight,
    LossWeights,
    SigmaLossModule,
    action_losses,
    action_terms,
    curriculum,
    intent_loss,
    semantic_loss,
    tau_loss,
    total,
    traf_weights,
    where_present,
    with_corrections,
)
from training.streams import Windows

CONFIG = SigmaConfig.small()


def telepathy_output(seed: int = 0, batch: int = 4) -> TelepathyOutput:
    blank = TelepathyOutput.blank(CONFIG, batch=batch)
    generator = torch.Generator().manual_seed(seed)
    filled = {name: torch.randn(getattr(blank, name).shape, generator=generator) for name in TelepathyOutput.__slots__}
    return TelepathyOutput(**filled)


def losses(composite, base, target, *, known=None, delay=0):
    known = torch.ones(target.shape[:2], dtype=torch.bool) if known is None else known
    residual = Residual(composite=composite, config=CONFIG)
    return action_losses(residual, base, target, known, torch.full((len(base),), delay))


errors = st.lists(st.floats(0.0, 1e3), min_size=1, max_size=40)


@given(errors, st.data())
def test_weights_have_mean_one_over_what_is_there_and_favour_the_hardest_quarter(values, draw):
    present = torch.tensor(draw.draw(st.lists(st.booleans(), min_size=len(values), max_size=len(values))))
    weights = traf_weights(torch.tensor(values), present)
    assert not weights[~present].any()
    if present.any():
        assert float(weights[present].mean()) == pytest.approx(1.0, abs=1e-5)
        hard = weights[present] > float(weights[present].min()) * 1.5
        count = int(present.sum())
        assert int(hard.sum()) == (round(0.25 * count) if round(0.25 * count) < count else 0)
        if hard.any():
            ratio = float(weights[present].max() / weights[present].min())
            assert ratio == pytest.approx(HARD_WEIGHT)
            assert torch.tensor(values)[present][hard].min() >= torch.tensor(values)[present][~hard].max()


@given(errors)
def test_without_traf_every_sample_counts_one(values):
    weights = traf_weights(torch.tensor(values), torch.ones(len(values), dtype=torch.bool), enabled=False)
    torch.testing.assert_close(weights, torch.ones(len(values)))


@given(st.lists(st.tuples(st.floats(0.0, 4.0), st.booleans()), min_size=1, max_size=40), st.floats(0.0, 8.0))
def test_law_a_corrected_sample_counts_so_much_more_than_one_that_was_as_heavy_and_all_together_stay(samples, factor):
    weights = torch.tensor([weight for weight, _ in samples], dtype=torch.float64)
    corrected = torch.tensor([by_hand for _, by_hand in samples])
    raised = with_corrections(weights, corrected, factor=factor)
    if not corrected.any():
        assert raised is weights, "data without corrections are trained bit for bit as before"
        return
    assert not raised[weights == 0.0].any()
    if float(torch.where(corrected, factor * weights, weights).sum()) > 1e-6:
        assert float(raised.sum()) == pytest.approx(float(weights.sum()))
    i, j = int(corrected.double().argmax()), int((~corrected).double().argmax())
    if not corrected.all() and weights[i] > 1e-3 and weights[j] > 1e-3:
        assert float(raised[i] * weights[j]) == pytest.approx(factor * float(raised[j] * weights[i]))


@given(st.floats(0.0, 1.0), st.floats(0.0, 1.0))
def test_the_curriculum_rises_from_nothing_to_all(a, b):
    low, high = sorted((a, b))
    assert 0.0 <= curriculum(low) <= curriculum(high) <= 1.0
    assert curriculum(0.1) == 0.0
    assert curriculum(0.6) == 1.0
    assert curriculum(a, enabled=False) == 1.0


def test_a_residual_that_is_what_the_base_lacks_costs_nothing_and_any_other_does():
    base, target = torch.randn(3, 50, 6), torch.randn(3, 16, 6)
    composite = torch.nn.functional.pad(target - base[:, :16], (0, 0, 0, 34))
    perfect = losses(composite, base, target)
    assert all(not loss.any() for loss in perfect.values())
    off = composite.clone()
    off[:, 12] += 1.0
    worse = losses(off, base, target)
    assert not worse["act_vec"].any()
    assert not worse["act_chk"].any()
    torch.testing.assert_close(worse["act_trj"], torch.full((3,), 1.0 / 16))


@pytest.mark.parametrize(
    ("delay", "step", "counts"), [(0, 15, 1), (0, 16, 0), (9, 8, 0), (9, 9, 1), (9, 24, 1), (9, 25, 0)]
)
def test_a_late_chunk_is_judged_where_it_is_executed(delay, step, counts):
    base, target = torch.randn(3, 50, 6), torch.randn(3, 50, 6)
    off = target - base
    off[:, step] += 1.0
    worse = losses(off, base, target, delay=delay)
    torch.testing.assert_close(worse["act_trj"], torch.full((3,), counts / 16))
    torch.testing.assert_close(worse["act_far"], torch.full((3,), 1.0 / 50))


def test_what_was_not_recorded_costs_nothing():
    base, target = torch.randn(2, 50, 6), torch.randn(2, 50, 6)
    off, known = target - base, torch.ones(2, 50, dtype=torch.bool)
    off[:, 20:30] += 1.0
    known[:, 20:30] = False
    assert all(not loss.any() for loss in losses(off, base, target, known=known, delay=9).values())


def test_only_what_trembles_is_not_smooth():
    base, target = torch.randn(3, 50, 6), torch.randn(3, 16, 6)
    lacking = torch.nn.functional.pad(target - base[:, :16], (0, 0, 0, 34))
    steps = torch.arange(50.0)[None, :, None]

    def smooth(error):
        return losses(lacking + error, base, target)["act_smooth"]

    torch.testing.assert_close(smooth(0.3 + 0.01 * steps), torch.zeros(3), atol=1e-9, rtol=0.0)
    torch.testing.assert_close(smooth(0.1 * (-1.0) ** steps), torch.full((3,), 0.16))


def test_the_contrast_is_zero_for_one_text_and_falls_when_the_memory_fits_its_own():
    one = telepathy_output()
    own = one.text[:1].expand(4, -1)
    single = replace(one, text=own)
    torch.testing.assert_close(semantic_loss(single, own[:1]), 1.0 - single.sem_align)
    torch.testing.assert_close(semantic_loss(single, own), 1.0 - single.sem_align)
    fitting = replace(one, memory_as_text=one.text)
    swapped = replace(one, memory_as_text=one.text.roll(1, dims=0))
    assert bool((semantic_loss(fitting, one.text) < semantic_loss(swapped, one.text)).all())


def test_the_other_terms_are_zero_at_their_aim():
    one = telepathy_output()
    aligned = replace(one, factors_aligned=3.0 * one.intent_aligned)
    torch.testing.assert_close(intent_loss(aligned), torch.zeros(4), atol=1e-6, rtol=0.0)
    norm = float(one.tau_l2[0])
    assert float(tau_loss(one, tau_target=norm)[0]) == pytest.approx(0.0, abs=1e-10)
    assert float(tau_loss(one, tau_target=norm / 2)[0]) == pytest.approx(1.0, rel=1e-5)


def test_the_parts_add_up_and_what_is_absent_does_not_count_even_when_it_is_not_finite():
    names = ("act_vec", "act_chk", "act_trj", "act_far", "act_smooth", "sem", "int", "tau")
    present = torch.tensor([True, True, False, True])
    terms = {name: torch.tensor([1.0, 2.0, math.nan, 3.0]) for name in names}
    weights = LossWeights(far=1.0, smooth=1.0, semantic=0.5, intent=0.25, tau=0.125)
    loss, parts = total(terms, present.float(), present, weights, progress=1.0, count=3.0)
    assert {name: float(part) for name, part in parts.items()} == pytest.approx(dict.fromkeys(names, 2.0))
    assert float(loss) == pytest.approx(2.0 * (5 + 0.5 + 0.25 + 0.125))
    early, _ = total(terms, present.float(), present, weights, progress=0.0, count=3.0)
    assert float(early) == pytest.approx(2.0 * (5 + 0.125))


TASKS = ("put the brick into the box", "go home")


def a_window(model: SigmaTelepathyVLA, *, absent: bool) -> Windows:
    """Two rows of noise, the second with an old base; `absent`: its episode has ended."""
    config, steps = model.config, model.config.residual_steps
    seen = torch.rand(2, 16, config.cameras) > 0.2
    return Windows(
        pooled=torch.randn(2, 16, config.cameras, config.pooled_grid**2, config.width),
        seen=seen,
        states=torch.rand(2, 16, config.dof),
        valid=torch.rand(2, 16) > 0.1,
        base=torch.rand(2, config.horizon, config.dof),
        old_base=torch.rand(2, config.horizon, config.dof),
        age=torch.tensor([0.0, 5.0]),
        delay=torch.tensor([3, 0]),
        target=torch.rand(2, steps, config.dof),
        known=torch.rand(2, steps) > 0.1,
        corrected=torch.tensor([False, True]),
        present=torch.tensor([True, not absent]),
        tasks=TASKS,
        names=("", ""),
    )


def one_by_one(model: SigmaTelepathyVLA, windows: list[Windows]) -> dict[str, torch.Tensor]:
    """As the robot computes: each window for itself, the text padded to its full length."""
    text, mask = model.read_text(TASKS)
    candidates = mean_text(text, mask)
    previous, steps = Recurrence.start(model.config, batch=2), []
    for window in windows:
        parts = {name: getattr(window, name) for name in ("pooled", "seen", "states", "valid")}
        belief = model.believe(TelepathyInput(**parts, text=text, text_mask=mask), previous)
        previous = where_present(window.present, belief.recurrence, previous)
        terms = action_terms(model, belief, window)
        terms |= {"sem": semantic_loss(belief, candidates), "int": intent_loss(belief)}
        steps.append(terms | {"tau": tau_loss(belief, tau_target=SigmaLossModule(model).tau_target)})
    return {name: torch.cat([terms[name] for terms in steps]) for name in steps[0]}


@pytest.mark.parametrize("gradient_checkpointing", [False, True])
def test_law_windows_that_are_looked_at_together_give_the_losses_and_the_gradient_of_one_by_one(gradient_checkpointing):
    model = tiny_sigma(lora_dropout=0.0).train()
    torch.manual_seed(0)
    windows = [a_window(model, absent=step == 3) for step in range(4)]
    module = SigmaLossModule(model, gradient_checkpointing=gradient_checkpointing)

    def gradient(terms: dict[str, torch.Tensor]) -> torch.Tensor:
        model.zero_grad()
        torch.stack([values.mean() for values in terms.values()]).sum().backward()
        return torch.cat([parameter.grad.double().flatten() for parameter in model.trained().values()])

    expected = one_by_one(model, windows)
    wanted = gradient(expected)
    together = module(windows, Recurrence.start(model.config, batch=2), TASKS).terms
    for name, values in expected.items():
        torch.testing.assert_close(together[name], values, rtol=1e-6, atol=1e-6)
    assert float((gradient(together) - wanted).norm() / wanted.norm()) < 1e-6


def test_law_foresight_at_a_late_window_teaches_the_memory_what_an_early_one_showed():
    """Its gradient alone, from the last window's factors through the memory to the first window's pictures."""
    model = tiny_sigma(lora_dropout=0.0).eval()
    torch.manual_seed(0)
    windows = [a_window(model, absent=False) for _ in range(4)]
    windows[0] = replace(windows[0], pooled=windows[0].pooled.requires_grad_())
    foresight = Foresight(model.config)
    torch.nn.init.normal_(foresight.to_later.weight)
    later = torch.rand(8, len(FORESIGHT_TICKS), model.config.dof)
    module = SigmaLossModule(model, foresight=foresight)
    start = Recurrence.start(model.config, batch=2)
    terms = module(windows, start, TASKS, later).terms
    terms["fore"].unflatten(0, (4, 2))[-1, 0].backward()
    reached = windows[0].pooled.grad.flatten(1).norm(dim=1)
    assert reached[0] > 0.0
    assert reached[1] == 0.0  # another episode's
    assert "fore" not in module(windows, start, TASKS).terms


def test_foresight_costs_nothing_where_the_poses_are_told_and_begins_by_telling_the_middle():
    model = tiny_sigma()
    foresight = Foresight(model.config)
    factors, state = torch.randn(3, model.config.factor_count, model.config.factor_width), torch.rand(3, 6)
    later = torch.rand(3, len(FORESIGHT_TICKS), 6)
    assert torch.equal(foresight(factors, state, later), later.square().mean(dim=(1, 2)))
    foresight.to_later.bias.data = later[0].flatten()
    assert foresight(factors, state, later)[0] == 0.0
